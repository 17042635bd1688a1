"""The stage snapshot: the right rows, or a reason."""

import json

import pytest

from pipelines_lib.data import snapshot
from pipelines_lib.data.labelling.due import Marks
from pipelines_lib.data.sides import SIDES
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import DataError
from pipelines_lib.jobs.snapshot import snapshot_of


def test_the_newest_partitions_up_to_the_runs_own_are_pinned(house, make_credit):
    use_case = make_credit(training={"window": 2})
    result = house.run("snapshot", key="2026-01-03", use_case=use_case)
    ref = snapshot_of(house.stage("snapshot", key="2026-01-03", use_case=use_case))
    assert ref.partitions == ("2026-01-02", "2026-01-03")
    assert (ref.n_rows, ref.version) == (320, 3)
    assert result.figures["train_rows"] + result.figures["validation_rows"] + result.figures["test_rows"] == 320


def test_what_is_pinned_is_read_whatever_is_written_later(house, write_day):
    house.run("snapshot")
    stage = house.stage("train")
    ref = snapshot_of(stage)
    before = snapshot.load(house.use_case, Tables(house.root), ref).side(*SIDES)
    write_day(house.root, "2026-01-02", 10)
    write_day(house.root, "2026-01-09", 10)
    assert snapshot.load(house.use_case, Tables(house.root), ref).side(*SIDES).equals(before)


def test_the_hash_follows_the_rows_and_settings_and_nothing_else(house, write_day, make_credit):
    def ref(use_case=house.use_case):
        house.run("snapshot", use_case=use_case)
        return snapshot_of(house.stage("train"))

    first = ref()
    write_day(house.root, "2026-01-09")  # beyond the window
    again = ref()
    assert again.content_hash == first.content_hash
    assert again.version > first.version
    assert ref(make_credit(split={"by": "row"})).content_hash != first.content_hash
    write_day(house.root, "2026-01-02", sharp=-2.0)
    assert ref().content_hash != first.content_hash


def test_the_last_partitions_judge_where_the_use_case_says_so(house, make_credit):
    use_case = make_credit(split={"by": "time", "validation": 0.25, "test": 0.25})
    result = house.run("snapshot", use_case=use_case)
    assert result.outputs["snapshot"]["sides"] == {
        "2026-01-01": "train",
        "2026-01-02": "train",
        "2026-01-03": "validation",
        "2026-01-04": "test",
    }
    loaded = snapshot.load(use_case, Tables(house.root), snapshot_of(house.stage("train")))
    assert set(loaded.side("test")["partition_key"].to_pylist()) == {"2026-01-04"}
    assert (result.figures["train_rows"], result.figures["test_rows"]) == (320, 160)


def test_no_partition_up_to_the_runs_own(house):
    with pytest.raises(DataError, match="no labelled partition up to 2025-12-31"):
        house.run("snapshot", key="2025-12-31")


def test_a_side_without_rows(house, write_day):
    for day in ("2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04"):
        write_day(house.root, day, side="train")
    with pytest.raises(DataError, match="no rows for validation"):
        house.run("snapshot")


def test_one_class_only(house, write_day):
    for day in ("2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04"):
        write_day(house.root, day, only="good")
    with pytest.raises(DataError, match=r"one class, \['good'\]"):
        house.run("snapshot")


def test_a_third_class(house, write_day):
    write_day(house.root, "2026-01-04", only="unknown")
    with pytest.raises(DataError, match="two classes"):
        house.run("snapshot")


def test_a_column_that_the_table_lacks(house, make_credit):
    columns = make_credit().model_dump()["columns"] | {"height": {"type": "number"}}
    with pytest.raises(DataError, match=r"height.*run the data pipeline again"):
        house.run("snapshot", use_case=make_credit(columns=columns))


def test_settings_changed_after_the_snapshot(house, make_credit):
    house.run("snapshot")
    with pytest.raises(DataError, match="run the stage snapshot again"):
        snapshot.load(make_credit(split={"by": "row"}), Tables(house.root), snapshot_of(house.stage("train")))


def test_running_it_again_says_the_same(house):
    assert house.run("snapshot") == house.run("snapshot")
    json.dumps(house.run("snapshot").model_dump(mode="json"))


def test_partitions_under_other_settings_are_told(house, caplog):
    marks = Marks(house.root)
    now = house.use_case.data_hash()
    marks.add("prepared", "2026-01-01", now)
    marks.add("prepared", "2026-01-02", "others")
    marks.set_labelled_from("2026-01-02", {}, now)
    marks.set_labelled_from("2026-01-03", {}, "others")
    marks.set_labelled_from("2026-01-03", {"clean/2026-01-03": "newer"})

    result = house.run("snapshot")

    assert result.figures["partitions_under_other_settings"] == 2
    assert "partitions were cleaned or labelled under other settings than those of now (2026-01-02 … 2026-01-03)" in caplog.text
