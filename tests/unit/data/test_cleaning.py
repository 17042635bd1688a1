import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.data.cleaning import Change, clean
from pipelines_lib.errors import ConfigError
from pipelines_lib.use_case import CleaningStep


def step(**setting):
    return CleaningStep.model_validate(setting)


ROWS = pa.table(
    {
        "row_id": ["1", "2", "3", "4", "5"],
        "key": ["a", "b", "a", None, None],
        "price": pa.array([1.0, 0.0, 9.0, None, 200.0]),
        "count": pa.array([1, 2, 3, None, 50]),
    }
)


def test_the_first_of_the_equal_stays_and_rows_without_a_key_are_no_equals():
    rows, changes = clean(ROWS, [step(deduplicate=["key"])])

    assert rows["row_id"].to_pylist() == ["1", "2", "4", "5"]
    assert changes == [Change("0: deduplicate", 1, 0)]


def test_steps_run_in_the_order_written():
    rows, changes = clean(ROWS, [step(to_missing={"price": [0, "****"]}), step(fill={"price": 5}), step(clip={"price": [2, 100]})])

    assert rows["price"].to_pylist() == [2.0, 5.0, 9.0, 5.0, 100.0]
    assert [change.values_changed for change in changes] == [1, 2, 2]


def test_bounds_of_integers_are_integers():
    rows, _ = clean(ROWS, [step(clip={"count": [1.5, 9.5]})])

    assert rows["count"].to_pylist() == [2, 2, 3, None, 9]
    assert rows["count"].type == pa.int64()


def test_missing_rows_are_dropped():
    rows, changes = clean(ROWS, [step(drop_missing=["price", "key"])])

    assert rows["row_id"].to_pylist() == ["1", "2", "3"]
    assert changes[0].rows_dropped == 2


def test_a_constant_of_another_type_is_the_use_case_s_fault():
    with pytest.raises(ConfigError, match=r"clean\.0: fill: .*write a value of the column's type"):
        clean(ROWS, [step(fill={"count": "none"})])


def test_no_rows_are_fine():
    steps = [step(deduplicate=["key"]), step(fill={"price": 1}), step(clip={"count": [0, 1]}), step(drop_missing=["key"])]
    assert clean(ROWS.slice(0, 0), steps)[0].num_rows == 0


@given(st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.none() | st.floats(-10, 10)), max_size=20))
def test_cleaning_twice_is_cleaning_once(cells):
    rows = pa.table(
        {
            "row_id": pa.array([f"{i:03d}" for i in range(len(cells))], pa.string()),
            "key": pa.array([key for key, _ in cells], pa.string()),
            "price": pa.array([price for _, price in cells], pa.float64()),
        }
    )
    before = rows.to_pylist()
    steps = [step(deduplicate=["key", "price"]), step(clip={"price": [-5, 5]}), step(fill={"price": 1.0}), step(drop_missing=["key"])]

    once, _ = clean(rows, steps)

    # The rows that clipping and filling made equal go in the second pass; after it nothing moves.
    twice, _ = clean(once, steps)
    assert clean(twice, steps)[0].equals(twice)
    assert once["row_id"].to_pylist() == sorted(once["row_id"].to_pylist())
    assert rows.to_pylist() == before
