"""How telling a partition is stands in its report, and holds it where the use case says so."""

import pytest

from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import Held
from pipelines_lib.jobs import ingest, validate

KEY = "2026-01-01"
COLUMNS = {
    "id": {"type": "string", "role": "key"},
    "age": {"type": "integer", "privacy": "quasi_identifier", "protect": {"bins": [0, 40]}, "nullable": False},
    "town": {"type": "string", "privacy": "quasi_identifier"},
    "action": {"type": "string", "role": "label", "privacy": "sensitive"},
}
# Seven in the one group, two in the other; the third of that group is quarantined, and makes nobody less telling.
ROWS = [("50", "Bonn", "buy")] * 6 + [("41", "Bonn", "view"), ("18", "Bonn", "buy"), ("39", "Bonn", "buy"), ("", "Bonn", "buy")]


def run(sandbox, use_case):
    text = "id,age,town,action\n" + "".join(f"e{i},{','.join(row)}\n" for i, row in enumerate(ROWS))
    sandbox.source(KEY, text)
    sandbox.run(ingest.main, "ingest", use_case, KEY)
    return sandbox.run(validate.main, "validate", use_case, KEY)


def test_the_report_says_how_alike_its_people_look(sandbox, make_use_case):
    result = run(sandbox, make_use_case(columns=COLUMNS, split={"by": "row"}, quality={"max_quarantined": 0.5}))

    said = "k = 2: every row shares its quasi-identifiers with at least 1 others; 2 of 9 rows are in groups smaller than 5; l = 1 in action"
    assert result.figures["k_anonymity"] == 2
    assert f"k-anonymity: {said}." in (sandbox.project.home / "store" / result.links["Data quality"]).read_text()
    rows = Tables(sandbox.stage("validate", make_use_case(), KEY).root).read("quality", [KEY]).to_pylist()
    [row] = [row for row in rows if row["kind"] == "privacy"]
    assert (row["success"], row["n_checked"], row["n_failed"], row["observed"]) == (True, 9, 2, said)


def test_a_partition_that_is_too_telling_is_held(sandbox, make_use_case):
    use_case = make_use_case(columns=COLUMNS, split={"by": "row"}, quality={"max_quarantined": 0.5}, privacy={"action": "hold"})

    with pytest.raises(Held, match=r"2 of 9 rows agree in every quasi-identifier \(age, town\) with fewer than 4 others; make `protect`"):
        run(sandbox, use_case)


def test_without_quasi_identifiers_nothing_is_said(sandbox, make_use_case):
    columns = {**COLUMNS, "age": {"type": "integer"}, "town": {"type": "string"}}

    assert "k_anonymity" not in run(sandbox, make_use_case(columns=columns, split={"by": "row"})).figures
