import json

import pytest

from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import DataError, Held
from pipelines_lib.jobs import ingest, validate
from pipelines_lib.store import read_json

HEADER = "id,who,when,price,count,colour,action\n"
KEY = "2026-01-01"
EXPECTATIONS = [{"expect_column_values_to_be_between": {"column": "price", "min_value": 0}}]


def lines(n):
    return "".join(f"e{i},u{i},2026-01-01,{i},1,red,buy\n" for i in range(n))


def run(sandbox, use_case, text, key=KEY):
    sandbox.source(key, text)
    sandbox.run(ingest.main, "ingest", use_case, key)
    return sandbox.run(validate.main, "validate", use_case, key)


def test_bad_rows_go_to_quarantine_with_every_reason(sandbox, make_use_case):
    use_case = make_use_case(quality={"expectations": EXPECTATIONS, "max_quarantined": 0.1})
    result = run(sandbox, use_case, HEADER + lines(40) + "ragged\nx,u,2026-01-01,-5,many,red,buy\n")

    stage = sandbox.stage("validate", use_case, KEY)
    rows = Tables(stage.root).read("quarantine", [KEY]).to_pylist()
    assert [(row["row_id"], row["reasons"]) for row in rows] == [
        (f"{KEY}:000000042", ["unreadable: not the header's number of cells"]),
        (f"{KEY}:000000043", ["expect_column_values_to_be_between(price)", "type: count is not an integer"]),
    ]
    assert rows[0]["raw"] == "ragged"
    assert json.loads(rows[1]["raw"]) == {
        "id": "x", "who": "u", "when": "2026-01-01", "price": "-5", "count": "many", "colour": "red", "action": "buy",
    }  # fmt: skip
    assert result.figures == {"n_rows": 42, "n_quarantined": 2, "share_quarantined": 0.0476}
    assert (sandbox.project.home / "store" / result.links["Data quality"]).read_text().startswith("<!doctype html>")
    assert read_json(stage.root / "status" / "data.json")["verdict"] == "pass"


def test_judging_again_changes_nothing(sandbox, make_use_case):
    use_case = make_use_case(quality={"expectations": EXPECTATIONS, "max_quarantined": 0.1})
    first = run(sandbox, use_case, HEADER + lines(40) + "ragged\n")
    quality = Tables(sandbox.stage("validate", use_case, KEY).root).version("quality")

    assert sandbox.run(validate.main, "validate", use_case, KEY) == first
    assert Tables(sandbox.stage("validate", use_case, KEY).root).version("quality") == quality


def test_rows_that_are_mended_leave_quarantine(sandbox, make_use_case):
    run(sandbox, make_use_case(quality={"max_quarantined": 0.5}), HEADER + lines(4) + "ragged\n")
    result = run(sandbox, make_use_case(quality={"max_quarantined": 0.5}), HEADER + lines(5))

    root = sandbox.stage("validate", make_use_case(), KEY).root
    assert result.figures["n_quarantined"] == 0
    assert Tables(root).read("quarantine", [KEY]).num_rows == 0


def test_too_many_bad_rows_hold_the_partition_and_are_kept(sandbox, make_use_case):
    with pytest.raises(Held) as held:
        run(sandbox, make_use_case(), HEADER + lines(3) + "x,secret-person,2026-01-01,1,many,red,buy\n")

    root = sandbox.stage("validate", make_use_case(), KEY).root
    assert "type: count is not an integer: 1 rows, such as 2026-01-01:000000005" in held.value.reason
    assert "secret-person" not in held.value.reason
    assert held.value.figures["n_quarantined"] == 1
    page = (sandbox.project.home / "store" / held.value.links["Data quality"]).read_text()
    assert "<strong>Held</strong>" in page
    assert "secret-person" not in page
    assert Tables(root).read("quarantine", [KEY]).num_rows == 1
    assert Tables(root).read("quality", [KEY])["verdict"].to_pylist() == ["hold"]
    assert read_json(root / "status" / "data.json")["verdict"] == "hold"


def test_a_table_expectation_holds_the_partition(sandbox, make_use_case):
    use_case = make_use_case(quality={"expectations": [{"expect_table_row_count_to_be_between": {"min_value": 100}}]})

    with pytest.raises(Held, match=r"expect_table_row_count_to_be_between failed \(observed 3\)"):
        run(sandbox, use_case, HEADER + lines(3))


def test_no_rows_hold_the_partition(sandbox, make_use_case):
    with pytest.raises(Held, match="it has no rows"):
        run(sandbox, make_use_case(), HEADER)


def test_without_its_ingest_it_says_so(sandbox, make_use_case):
    with pytest.raises(DataError, match="run ingest for this run first"):
        sandbox.run(validate.main, "validate", make_use_case(), KEY)
