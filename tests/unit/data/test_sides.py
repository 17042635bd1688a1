import datetime as dt

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipelines_lib.data.sides import sides_of_partitions
from pipelines_lib.errors import DataError
from pipelines_lib.use_case import Split

DAYS = [str(dt.date(2026, 1, 1) + dt.timedelta(days=i)) for i in range(60)]
SHARES = st.floats(0.01, 0.39)


@given(st.integers(3, 60), SHARES, SHARES, st.integers(0, 9))
def test_no_future_in_training(n, validation, test, gap):
    assume(n - 2 * gap >= 3)
    sides = sides_of_partitions(DAYS[:n], Split(by="time", validation=validation, test=test), gap)
    in_order = [sides[key] for key in DAYS[:n]]

    first = {side: in_order.index(side) for side in ("train", "validation", "test")}
    last = {side: n - 1 - in_order[::-1].index(side) for side in first}
    # A label reaches `gap` partitions ahead: none of one side reaches into the next.
    assert last["train"] + gap < first["validation"]
    assert last["validation"] + gap < first["test"]
    assert in_order.count("gap") == 2 * gap
    assert in_order[0] == "train"
    assert in_order[-1] == "test"


@given(st.integers(3, 60), SHARES, SHARES)
def test_the_shares_are_near_those_asked_for(n, validation, test):
    sides = list(sides_of_partitions(DAYS[:n], Split(by="time", validation=validation, test=test)).values())

    assert abs(sides.count("test") - test * n) <= 0.5 or sides.count("test") == 1
    assert abs(sides.count("validation") - validation * n) <= 0.5 or sides.count("validation") == 1


@given(st.sets(st.sampled_from(DAYS), min_size=3), st.integers(0, 3))
def test_days_that_are_missing_let_nothing_through(keys, gap):
    assume(len(keys) - 2 * gap >= 3)
    sides = sides_of_partitions(sorted(keys), Split(by="time"), gap)
    place = {key: i for i, key in enumerate(DAYS)}

    train, validation, test = ([place[key] for key, side in sides.items() if side == name] for name in ("train", "validation", "test"))
    assert max(train) + gap < min(validation)
    assert max(validation) + gap < min(test)


def test_the_shares_are_met():
    sides = sides_of_partitions([f"{i:02d}" for i in range(14)], Split(by="time", validation=0.15, test=0.2))
    assert [list(sides.values()).count(side) for side in ("train", "validation", "test")] == [9, 2, 3]


@pytest.mark.parametrize("hour", ["", "T05"])
def test_days_may_be_said(hour):
    split = Split(by="time", validation_from="2026-01-05", test_from="2026-01-08")
    sides = sides_of_partitions([day + hour for day in DAYS[:10]], split, 1)

    assert list(sides.values()) == ["train"] * 3 + ["gap"] + ["validation"] * 2 + ["gap"] + ["test"] * 3


@pytest.mark.parametrize(
    ("n", "gap", "dates", "says"),
    [
        (2, 0, {}, "three partitions or more"),
        (6, 2, {}, "beside the 2 left out before validation and before test"),
        (9, 0, {"validation_from": "2026-01-05", "test_from": "2026-01-10"}, "leave a side of the window"),
        (9, 0, {"validation_from": "2026-01-01", "test_from": "2026-01-05"}, "move them, or raise training.window"),
        (9, 2, {"validation_from": "2026-01-05", "test_from": "2026-01-07"}, "the last 2 before each are left out"),
    ],
)
def test_a_side_that_would_be_empty(n, gap, dates, says):
    with pytest.raises(DataError, match=says):
        sides_of_partitions(DAYS[:n], Split(by="time", **dates), gap)
