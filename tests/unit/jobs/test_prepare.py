import subprocess
import sys

import pytest

from pipelines_lib.data.labelling.due import Marks
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import DataError, Held
from pipelines_lib.jobs import ingest, prepare, validate

HEADER = "id,who,when,price,count,colour,action\n"


def run(sandbox, use_case, key, text):
    sandbox.source(key, text)
    sandbox.run(ingest.main, "ingest", use_case, key)
    sandbox.run(validate.main, "validate", use_case, key)
    return sandbox.run(prepare.main, "prepare", use_case, key)


def lines(n):
    return "".join(f"e{i},u{i % 9},2026-01-01T10:00:00Z,{i},1,red,{'buy' if i % 3 else 'view'}\n" for i in range(n))


def tables(sandbox, use_case):
    return Tables(sandbox.stage("prepare", use_case, "2026-01-01").root)


def test_what_passes_is_cleaned_labelled_and_split(sandbox, make_use_case):
    use_case = make_use_case(clean=[{"deduplicate": ["id"]}, {"clip": {"price": [0, 10]}}], quality={"max_quarantined": 0.2})
    twice = lines(30).splitlines(keepends=True)[5]

    result = run(sandbox, use_case, "2026-01-01", HEADER + lines(30) + twice + "ragged\nx,u,2026-01-01,1,1,red,steal\n")

    clean = tables(sandbox, use_case).read("clean")
    labelled = tables(sandbox, use_case).read("labelled")
    assert (clean.num_rows, labelled.num_rows) == (30, 30)
    assert max(clean["price"].to_pylist()) == 10.0
    assert set(labelled["label"].to_pylist()) == {"yes", "no"}
    assert labelled.column_names == [*clean.column_names[:-1], "label", "split", "partition_key"]
    assert result.figures["changes"] == {
        "0: deduplicate": {"rows_dropped": 1, "values_changed": 0},
        "1: clip": {"rows_dropped": 0, "values_changed": 19},
    }
    assert result.outputs == {"clean_version": 0, "labelled_version": 0, "labelled_partitions": ["2026-01-01"]}


def test_preparing_again_changes_nothing(sandbox, make_use_case):
    first = run(sandbox, make_use_case(), "2026-01-01", HEADER + lines(10))

    assert sandbox.run(prepare.main, "prepare", make_use_case(), "2026-01-01") == first


def test_a_backfill_gives_the_rows_that_the_daily_run_gave(sandbox, make_use_case):
    run(sandbox, make_use_case(), "2026-01-01", HEADER + lines(10))
    before = tables(sandbox, make_use_case()).read("labelled", ["2026-01-01"])
    run(sandbox, make_use_case(), "2026-01-02", HEADER + lines(20))
    run(sandbox, make_use_case(), "2026-01-01", HEADER + lines(10))

    assert tables(sandbox, make_use_case()).read("labelled", ["2026-01-01"]).equals(before)
    assert tables(sandbox, make_use_case()).version("labelled") == 1


def test_labels_wait_for_their_horizon(sandbox, make_use_case):
    label = {"column": "action", "map": {"buy": "yes", "view": "no"}, "positive": "yes", "horizon": 1}
    use_case = make_use_case(label=label)

    first = run(sandbox, use_case, "2026-01-01", HEADER + lines(10))
    second = run(sandbox, use_case, "2026-01-02", HEADER + lines(12))

    assert first.outputs["labelled_partitions"] == []
    assert first.outputs["labelled_version"] is None
    assert second.outputs["labelled_partitions"] == ["2026-01-01"]
    assert tables(sandbox, use_case).partitions("labelled") == ["2026-01-01"]


def test_labels_wait_past_a_day_that_is_missing_and_an_empty_first_one(sandbox, make_use_case):
    label = {"column": "action", "map": {"buy": "yes", "view": "no"}, "positive": "yes", "horizon": 2}
    use_case = make_use_case(label=label, clean=[{"drop_missing": ["price"]}])

    run(sandbox, use_case, "2026-01-01", HEADER + "e,u,2026-01-01,,1,red,buy\n")
    for day in (2, 3, 5, 6):
        run(sandbox, use_case, f"2026-01-0{day}", HEADER + lines(10))

    assert tables(sandbox, use_case).partitions("labelled") == ["2026-01-02", "2026-01-03"]


def test_what_is_held_is_not_prepared(sandbox, make_use_case):
    with pytest.raises(Held):
        run(sandbox, make_use_case(), "2026-01-01", HEADER)

    with pytest.raises(DataError, match=r"validate held this partition.*it has no rows"):
        sandbox.run(prepare.main, "prepare", make_use_case(), "2026-01-01")


def test_the_light_stages_import_nothing_heavy():
    code = (
        "import sys, pipelines_lib.jobs.ingest, pipelines_lib.jobs.prepare, pipelines_lib.jobs.validate;"
        "print([m for m in ('pandas', 'torch', 'mlflow', 'great_expectations', 'sklearn') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_steps_that_look_at_the_whole_partition_go_through_the_stages(sandbox, make_use_case):
    steps = [
        {"normalise": {"colour": ["lower"]}},
        {"fill_forward": {"columns": ["price"], "by": "who", "order": "when"}},
        {"deduplicate": ["who", "colour"]},
        {"drop": {"colour": ["grey"]}},
        {"outliers": {"columns": ["price"], "method": "iqr", "action": "flag"}},
    ]
    rows = ["e1,u1,2026-01-01T10:00,5,1,Red,buy", "e2,u1,2026-01-01T11:00,,1,red,view", "e3,u1,2026-01-01T09:00,,1,blue,view"]
    rows += ["e4,u2,2026-01-01T12:00,,1,GREY,view", "e5,u2,2026-01-01T13:00,,1,blue,buy", "e6,u1,2026-01-01T12:00,,1,green,buy"]

    result = run(sandbox, make_use_case(clean=steps), "2026-01-01", HEADER + "\n".join(rows) + "\n")

    clean = tables(sandbox, make_use_case()).read("clean")
    assert clean.select(["id", "price", "colour"]).to_pylist() == [
        {"id": "e1", "price": 5.0, "colour": "red"},
        {"id": "e3", "price": None, "colour": "blue"},
        {"id": "e5", "price": None, "colour": "blue"},
        {"id": "e6", "price": 5.0, "colour": "green"},
    ]
    assert result.figures["changes"] == {
        "0: normalise": {"rows_dropped": 0, "values_changed": 2},
        "1: fill_forward": {"rows_dropped": 0, "values_changed": 2},
        "2: deduplicate": {"rows_dropped": 1, "values_changed": 0},
        "3: drop": {"rows_dropped": 1, "values_changed": 0},
    }


def test_the_settings_are_kept_with_the_partition(sandbox, make_use_case):
    use_case = make_use_case()
    run(sandbox, use_case, "2026-01-01", HEADER + "e1,u1,2026-01-01,1,1,red,buy\n")

    assert Marks(sandbox.stage("prepare", use_case, "2026-01-01").root).settings_of("2026-01-01") == {use_case.data_hash()}


def test_a_row_may_have_any_number_of_classes(sandbox, make_use_case):
    use_case = make_use_case(
        task="multilabel", label={"column": "action", "separator": ";"}, gate={"metric": "micro_f1", "floor": 0.5}, split={"by": "row"}
    )
    rows = [f"e{i},u{i},2026-01-01T10:00:00Z,{i},1,red,{tags}\n" for i, tags in enumerate(["view;buy", "", "buy", "buy; view ;buy"])]

    run(sandbox, use_case, "2026-01-01", HEADER + "".join(rows))

    labelled = tables(sandbox, use_case).read("labelled").sort_by("id")
    assert labelled["label"].to_pylist() == ["buy;view", "", "buy", "buy;view"]
