import pyarrow as pa
import pytest

from pipelines_lib.data.tables import Tables
from pipelines_lib.jobs import profile
from pipelines_lib.monitoring.sketch import DataProfile

DAY = "2026-01-05"


@pytest.fixture
def tables(sandbox):
    return Tables(sandbox.project.home / "store" / "shop")


def test_a_day_is_summarised_once(sandbox, shop, answer, tables):
    answer(DAY)
    result = sandbox.run(profile.main, "profile", shop, DAY)
    assert result.figures == {"n_rows": 200, "columns": 6, "versions": {"1": 200}}
    [row] = tables.read("profiles", [DAY]).to_pylist()
    made = DataProfile.from_json(row["profile_json"])
    assert (row["n_rows"], made.n_rows) == (200, 200)
    assert set(made.columns) == {"amount", "age", "member", "country", "score", "prediction"}
    version = tables.version("profiles")
    assert sandbox.run(profile.main, "profile", shop, DAY) == result
    assert tables.version("profiles") == version, "again, and nothing was written"


def test_a_request_that_was_answered_twice_counts_once(sandbox, shop, answer, tables):
    answer(DAY, version=1)
    answer(DAY, version=2, n=50)
    result = sandbox.run(profile.main, "profile", shop, DAY)
    assert result.figures["n_rows"] == 200
    assert result.figures["versions"] == {"1": 150, "2": 50}


def test_a_day_without_requests_has_a_profile_of_no_rows(sandbox, shop, tables):
    result = sandbox.run(profile.main, "profile", shop, DAY)
    assert result.figures["n_rows"] == 0
    [row] = tables.read("profiles", [DAY]).to_pylist()
    assert DataProfile.from_json(row["profile_json"]).n_rows == 0


def test_a_feature_that_no_request_carried_is_missing(sandbox, shop, answer, tables):
    answer(DAY)
    rows = tables.read("predictions", [DAY]).drop_columns(["age"])
    tables.write("predictions", "2026-01-06", rows)
    wider = shop.model_copy(update={"columns": {**shop.columns, "height": shop.columns["amount"]}})
    sandbox.run(profile.main, "profile", wider, "2026-01-06")
    [row] = tables.read("profiles", ["2026-01-06"]).to_pylist()
    made = DataProfile.from_json(row["profile_json"])
    assert [made.columns[name].missing_share for name in ("age", "height", "amount")] == [1.0, 1.0, 0.0]
    assert isinstance(rows, pa.Table)
