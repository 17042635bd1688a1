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
    assert '<a href="data_docs.html">' in (sandbox.project.home / "store" / result.links["Data quality"]).read_text()
    assert "unexpected" in (sandbox.project.home / "store" / result.links["Data Docs"]).read_text()
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
    assert "type: count is not an integer: 1 rows, such as 2026-01-01:000000005 ('many')" in held.value.reason
    assert "`sluice quarantine show shop --partition 2026-01-01` lists the rows" in held.value.reason
    assert "secret-person" not in held.value.reason
    assert held.value.figures["n_quarantined"] == 1
    page = (sandbox.project.home / "store" / held.value.links["Data quality"]).read_text()
    assert "<strong>Held</strong>" in page
    assert "secret-person" not in page
    assert Tables(root).read("quarantine", [KEY]).num_rows == 1
    history = {row["kind"]: row for row in Tables(root).read("quality", [KEY]).to_pylist()}
    assert history["partition"]["success"] is False
    assert (history["partition"]["n_checked"], history["partition"]["n_failed"], history["partition"]["share"]) == (4, 1, 0.25)
    assert history["rule"]["name"] == "type: count is not an integer"
    assert read_json(root / "status" / "data.json")["verdict"] == "hold"


def test_a_table_expectation_holds_the_partition(sandbox, make_use_case):
    use_case = make_use_case(quality={"expectations": [{"expect_table_row_count_to_be_between": {"min_value": 100}}]})

    with pytest.raises(Held, match=r"expect_table_row_count_to_be_between failed \(observed 3\)"):
        run(sandbox, use_case, HEADER + lines(3))


def test_no_rows_hold_the_partition(sandbox, make_use_case):
    with pytest.raises(Held, match=r"it has no rows\. Mend the source and run ingest again$"):
        run(sandbox, make_use_case(), HEADER)


def test_without_its_ingest_it_says_so(sandbox, make_use_case):
    with pytest.raises(DataError, match="run ingest for this run first"):
        sandbox.run(validate.main, "validate", make_use_case(), KEY)


PERSONAL = {"type": "string", "role": "entity", "privacy": "sensitive"}


def test_personal_values_are_in_no_message_page_or_status(sandbox, make_use_case):
    columns = make_use_case().model_dump(exclude_defaults=True)["columns"]
    columns["who"] = PERSONAL
    columns["price"] = {"type": "number", "privacy": "sensitive"}
    expectations = [
        {"expect_column_values_to_be_in_set": {"column": "who", "value_set": ["u1"]}},
        {"expect_column_values_to_be_in_set": {"column": "who", "value_set": ["u1"], "mostly": 0.9}},
        {"expect_column_max_to_be_between": {"column": "price", "max_value": 5}},
    ]
    use_case = make_use_case(columns=columns, quality={"expectations": expectations})

    with pytest.raises(Held) as held:
        run(sandbox, use_case, HEADER + "e1,secret-person,2026-01-01,987654,1,red,buy\ne2,u1,2026-01-01,secret-price,1,red,buy\n")

    root = sandbox.stage("validate", use_case, KEY).root
    assert "(▒▒▒)" in held.value.reason
    written = held.value.reason + str(Tables(root).read("quality", [KEY]).to_pylist())
    written += "".join(path.read_text() for path in [*root.rglob("*.html"), *(root / "status").glob("*.json")])
    assert "secret" not in written
    assert "987654" not in written


def test_columns_that_come_and_go_are_reported(sandbox, make_use_case):
    use_case = make_use_case(quality={"upstream": {"lost_columns": "empty"}})
    result = run(sandbox, use_case, HEADER.replace("price", "prize") + lines(3))

    assert result.figures["upstream"] == ["new column: prize", "lost column: price"]
    history = Tables(sandbox.stage("validate", use_case, KEY).root).read("quality", [KEY]).to_pylist()
    assert [row["name"] for row in history if row["kind"] == "upstream"] == ["lost column: price", "new column: prize"]


def test_a_column_whose_type_has_changed_holds_the_partition(sandbox, make_use_case):
    use_case = make_use_case(quality={"max_quarantined": 1})

    with pytest.raises(
        Held, match=r"changed type 'price': 100.0% of its values are no number any more, such as 2026-01-01:000000002 \('€0'\)"
    ):
        run(sandbox, use_case, HEADER + "".join(line.replace("01-01,", "01-01,€") for line in lines(20).splitlines(keepends=True)))
    rows_alone = make_use_case(quality={"max_quarantined": 1, "upstream": {"changed_types": "quarantine"}})
    assert sandbox.run(validate.main, "validate", rows_alone, KEY).figures["n_quarantined"] == 20


def test_a_column_that_was_declared_after_ingest_asks_for_ingest(sandbox, make_use_case):
    run(sandbox, make_use_case(), HEADER + lines(4))
    columns = {**make_use_case().model_dump(mode="json")["columns"], "size": {"type": "string"}}

    with pytest.raises(DataError, match=r"no column 'size', of which columns\.size of shop is made.*Run ingest again"):
        sandbox.run(validate.main, "validate", make_use_case(columns=columns), KEY)


def test_a_label_is_judged_as_cleaning_leaves_it(sandbox, make_use_case):
    steps = [{"normalise": {"action": ["lower"]}}, {"to_missing": {"action": ["?"]}}, {"drop": {"action": ["test"]}}]
    use_case = make_use_case(clean=steps, quality={"max_quarantined": 0.5})
    actions = ["BUY", "view ", "?", "Test", "", "other"]

    run(sandbox, use_case, HEADER + "".join(f"e{n},u,2026-01-01,1,1,red,{action}\n" for n, action in enumerate(actions)))

    rows = Tables(sandbox.stage("validate", use_case, KEY).root).read("quarantine", [KEY]).to_pylist()
    assert [(row["row_id"], row["reasons"]) for row in rows] == [(f"{KEY}:000000007", ["label: action is none of the values of label.map"])]


def test_what_other_partitions_brought_does_not_show(sandbox, make_use_case):
    use_case = make_use_case(quality={"max_quarantined": 0.5})
    header = HEADER.rstrip("\n")
    for key, more in (("2026-01-02", ",extra"), ("2026-01-01", "")):
        rows = "".join(f"{line}{',x' if more else ''}\n" for line in [*lines(9).splitlines(), "e9,u,2026-01-01,many,1,red,buy"])
        run(sandbox, use_case, f"{header}{more}\n{rows}", key)

    tables = Tables(sandbox.stage("validate", use_case, KEY).root)
    [row] = tables.read("quarantine", [KEY]).to_pylist()
    assert list(json.loads(row["raw"])) == header.split(",")
    assert [part.column_names for part in tables.scan("raw", KEY)] == [["row_id", *header.split(","), "partition_key"]]
