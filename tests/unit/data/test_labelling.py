import pyarrow as pa
import pytest

from pipelines_lib.data.labelling import due, labelled


def clean(**columns):
    return pa.table({"row_id": [str(i) for i in range(len(next(iter(columns.values()))))], **columns})


def test_values_become_classes_and_rows_without_one_stay_out(make_use_case):
    rows = labelled(clean(action=["buy", None, "view"]), make_use_case())

    assert rows["label"].to_pylist() == ["yes", "no"]
    assert rows["row_id"].to_pylist() == ["0", "2"]


def test_without_a_map_the_value_is_the_class(make_use_case):
    columns = {"x": {"type": "number"}, "quality": {"type": "integer", "role": "label"}}
    gate = {"metric": "accuracy", "floor": 0.1}
    use_case = make_use_case(task="multiclass", columns=columns, label={"column": "quality"}, split={}, gate=gate)

    assert labelled(clean(quality=pa.array([5, 6, None])), use_case)["label"].to_pylist() == ["5", "6"]


def test_a_regression_keeps_the_number(make_use_case):
    columns = {"x": {"type": "number"}, "power": {"type": "integer", "role": "label"}}
    gate = {"metric": "rmse", "floor": 10}
    use_case = make_use_case(task="regression", columns=columns, label={"column": "power"}, split={}, gate=gate)

    labels = labelled(clean(power=pa.array([5, None, 7])), use_case)["label"]

    assert (labels.to_pylist(), labels.type) == ([5.0, 7.0], pa.float64())


def test_a_whole_number_beyond_what_a_float_keeps_is_rounded(make_use_case):
    columns = {"x": {"type": "number"}, "power": {"type": "integer", "role": "label"}}
    use_case = make_use_case(task="regression", columns=columns, label={"column": "power"}, split={}, gate={"metric": "rmse", "floor": 10})

    assert labelled(clean(power=pa.array([2**53 + 1])), use_case)["label"].to_pylist() == [2.0**53]


@pytest.mark.parametrize("order", [[1, 2, 3, 4], [4, 3, 2, 1], [3, 1, 4, 2], [2, 4, 1, 3, 2]])
def test_every_partition_is_labelled_once_its_horizon_has_passed_whatever_the_order(make_use_case, order):
    label = {"column": "action", "map": {"buy": "yes", "view": "no"}, "positive": "yes", "horizon": 2}
    use_case = make_use_case(label=label)
    there, done = set(), set()
    for day in order:
        there.add(f"2026-01-0{day}")
        done |= set(due(use_case, f"2026-01-0{day}", sorted(there)))

    assert done == {"2026-01-01", "2026-01-02"}


def test_a_partition_that_runs_again_is_labelled_again(make_use_case):
    label = {"column": "action", "map": {"buy": "yes", "view": "no"}, "positive": "yes", "horizon": 1}
    assert due(make_use_case(label=label), "2026-01-01", ["2026-01-01", "2026-01-05"]) == ["2026-01-01"]


def test_without_a_horizon_only_the_partition_itself_is_due(make_use_case):
    assert due(make_use_case(), "2026-01-03", ["2026-01-01", "2026-01-05"]) == ["2026-01-03"]
