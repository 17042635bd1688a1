import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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


def days(horizon: int) -> dict:
    return {"label": {"column": "action", "map": {"buy": "yes", "view": "no"}, "positive": "yes", "horizon": horizon}}


def key(day: int) -> str:
    return f"2026-01-{day:02d}"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.permutations(range(1, 13)), st.sets(st.integers(1, 12)), st.sets(st.integers(1, 12)), st.integers(0, 5))
def test_every_closed_partition_is_labelled_whatever_the_order_and_whichever_are_held_or_empty(make_use_case, order, held, empty, horizon):
    use_case = make_use_case(**days(horizon))
    clean, done = set(), set()
    for day in order:
        if day in held:
            continue
        clean |= {key(day)} - {key(day) for day in empty}
        done |= set(due(use_case, key(day), sorted(clean), sorted(done & clean)))

    closed = {one for one in clean if use_case.shift(one, horizon) <= max(clean)}
    assert done & clean == closed


def test_a_day_that_is_held_costs_no_other_day_its_labels(make_use_case):
    use_case = make_use_case(**days(2))
    done: list[str] = []
    for day in (1, 2, 3, 5, 6, 7, 8):
        done += due(use_case, key(day), [key(d) for d in range(1, day + 1) if d != 4], done)

    assert done == [key(day) for day in (1, 2, 3, 5, 6)]


def test_a_partition_that_runs_again_is_labelled_again_and_no_other(make_use_case):
    assert due(make_use_case(**days(1)), key(1), [key(1), key(2), key(5)], [key(1), key(2)]) == [key(1)]


def test_a_first_partition_without_rows_leaves_nothing_to_label(make_use_case):
    assert due(make_use_case(**days(1)), key(1), [], []) == []


def test_without_a_horizon_only_the_partition_itself_is_due(make_use_case):
    assert due(make_use_case(), key(3), [key(1), key(5)], []) == [key(3)]
