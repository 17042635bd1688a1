import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines_lib.data.labelling.due import Marks, Seen, due, inputs, missing, new_truths

EVENT = {"event_within": {"column": "count", "values": [1], "within": "36h", "follows": "yes", "otherwise": "no"}, "positive": "yes"}
JOIN = {
    "join": {"source": {"path": "truth/{partition}.csv"}, "on": ["id"], "column": "outcome", "late": 2},
    "horizon": 1,
    "positive": "yes",
}


def days(horizon: int) -> dict:
    return {"column": "action", "map": {"buy": "yes", "view": "no"}, "positive": "yes", "horizon": horizon}


def key(day: int) -> str:
    return f"2026-01-{day:02d}"


def seen(clean=(), truths=(), reviews=(), labelled=(), empty=()) -> Seen:
    """Tables whose partitions hold what their day says, and partitions that were prepared and left no rows."""
    contents = {"clean": clean, "ground_truth": truths, "reviews": reviews, "labelled": labelled}
    return Seen(
        versions=dict.fromkeys(contents, 0),
        contents={layer: {key(day): f"{layer} of {day}" for day in of} for layer, of in contents.items()},
        collected={key(day) for day in truths},
        prepared={key(day) for day in (*clean, *empty)},
    )


def test_without_a_horizon_a_run_looks_after_its_own_partition_alone(make_use_case, tmp_path):
    assert due(make_use_case(), key(3), seen(clean=[1, 3, 5]), Marks(tmp_path)) == [key(3)]


def test_a_first_partition_without_rows_leaves_nothing_else_to_label(make_use_case, tmp_path):
    assert due(make_use_case(label=days(1)), key(1), seen(empty=[1]), Marks(tmp_path)) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.permutations(range(1, 13)), st.sets(st.integers(1, 12)), st.integers(0, 5))
def test_every_closed_partition_is_labelled_whatever_the_order_and_whichever_are_held(
    make_use_case, tmp_path_factory, order, held, horizon
):
    use_case, marks = make_use_case(label=days(horizon)), Marks(tmp_path_factory.mktemp("marks"))
    clean: set[int] = set()
    done: set[str] = set()
    for day in order:
        if day in held:
            continue
        clean.add(day)
        now = seen(clean=clean)
        for one in due(use_case, key(day), now, marks):
            marks.set_labelled_from(one, inputs(use_case, one, now))
            done.add(one)

    assert done == {key(day) for day in clean if day + horizon <= max(clean)}


def test_a_day_that_is_held_costs_no_other_day_its_labels(make_use_case, tmp_path):
    now = seen(clean=[1, 2, 3, 5, 6, 7, 8])

    assert due(make_use_case(label=days(2)), key(8), now, Marks(tmp_path)) == [key(day) for day in (1, 2, 3, 5, 6)]


@pytest.mark.parametrize(
    ("now", "waits_for"),
    [
        (seen(clean=[1]), [2, 3]),
        (seen(clean=[1, 3]), [2]),
        (seen(clean=[1, 3], empty=[2]), []),
        (seen(clean=[1, 2, 3]), []),
        (seen(clean=[1, 2, 4]), [3]),
    ],
)
def test_a_window_of_events_has_no_gaps(make_use_case, now, waits_for):
    assert missing(make_use_case(label=EVENT), key(1), now) == [key(day) for day in waits_for]


def test_ground_truth_waits_for_its_horizon_though_it_is_there(make_use_case):
    use_case = make_use_case(label=JOIN)

    assert missing(use_case, key(1), seen(clean=[1], truths=[1])) == [key(2)]
    assert missing(use_case, key(1), seen(clean=[1], truths=[1, 2])) == []


def test_what_labels_are_made_from(make_use_case):
    now = seen(clean=range(1, 9), truths=range(1, 9), reviews=[1], labelled=[1, 2])

    assert set(inputs(make_use_case(), key(1), now)) == {f"clean/{key(1)}", f"labelled/{key(1)}"}
    assert set(inputs(make_use_case(label=EVENT), key(2), now)) == {f"clean/{key(day)}" for day in (2, 3, 4)} | {f"labelled/{key(2)}"}
    assert set(inputs(make_use_case(label=JOIN), key(3), now)) == {f"clean/{key(3)}"} | {f"ground_truth/{key(day)}" for day in (3, 4, 5, 6)}
    assert f"reviews/{key(1)}" in inputs(make_use_case(label={**days(0), "review": {}}), key(1), now)


@pytest.mark.parametrize(
    ("before", "now", "added"),
    [
        (None, {"clean/1": "a"}, None),
        ({"clean/1": "a"}, {"clean/1": "a", "ground_truth/2": "b"}, ["2"]),
        ({"clean/1": "a"}, {"clean/1": "b", "ground_truth/2": "b"}, None),
        ({"clean/1": "a", "ground_truth/2": "b"}, {"clean/1": "a", "ground_truth/2": "c"}, None),
        ({"clean/1": "a", "ground_truth/2": "b"}, {"clean/1": "a"}, None),
        ({"clean/1": "a"}, {"clean/1": "a", "ground_truth/2": "b", "reviews/1": "c"}, None),
        ({"clean/1": "a"}, {"clean/1": "a"}, []),
    ],
)
def test_whether_ground_truth_is_all_that_is_new(before, now, added):
    assert new_truths(before, now) == added
