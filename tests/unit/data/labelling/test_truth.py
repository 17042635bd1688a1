import pyarrow as pa
import pytest

from pipelines_lib.data.labelling.truth import collect, joined
from pipelines_lib.data.sources import SourceContext
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import DataError


def test_a_key_may_have_any_name_that_a_column_may_have(make_use_case):
    join = {"source": {"path": "{partition}.csv"}, "on": ["place"], "column": "outcome"}
    columns = {"place": {"type": "string", "role": "key"}, "price": {"type": "number"}}
    use_case = make_use_case(columns=columns, label={"join": join, "positive": "yes"}, split={})
    rows = pa.table({"row_id": ["1", "2"], "place": ["Bonn", "Köln"]})

    [found] = joined([rows], pa.table({"place": ["Köln"], "label": ["yes"]}), use_case)

    assert found["label"].to_pylist() == [None, "yes"]


def test_no_name_is_told_where_a_row_about_a_person_may_stand(make_use_case, sandbox):
    """The header is missing, and the first row is in its place."""
    join = {"source": {"path": "{home}/truth/{partition}.csv"}, "on": {"who": "person"}, "column": "outcome"}
    columns = {"who": {"type": "string", "role": "entity", "privacy": "identifier"}, "price": {"type": "number"}}
    use_case = make_use_case(columns=columns, label={"join": join, "positive": "yes"})
    path = sandbox.project.home / "truth" / "2026-01-01.csv"
    path.parent.mkdir(parents=True)
    path.write_text("persona,yes\nada,no\n")

    with pytest.raises(DataError, match="has no column 'person'") as raised:
        collect(SourceContext(sandbox.project, use_case, "2026-01-01"), Tables(sandbox.project.home))
    assert "persona" not in str(raised.value)
