"""Data order and shares, and what the transform is fitted on."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.contracts import DatasetRef
from pipelines_lib.data.snapshot import Snapshot
from pipelines_lib.training.dataset import order, prepare


@given(st.integers(0, 500), st.integers(0, 2**31), st.integers(0, 1000))
def test_an_epoch_sees_every_row_once_in_an_order_of_its_own(n_rows, seed, epoch):
    assert sorted(order(n_rows, seed, epoch)) == list(range(n_rows))
    np.testing.assert_array_equal(order(n_rows, seed, epoch), order(n_rows, seed, epoch))


def test_epochs_differ():
    assert order(100, 0, 0).tolist() != order(100, 0, 1).tolist() != order(100, 1, 1).tolist()


def test_figures_of_the_cleaning_come_from_the_training_rows_alone(make_use_case):
    steps = [{"outliers": {"columns": ["price"], "method": "iqr", "action": "flag"}}, {"impute": {"price": "mean", "colour": "mode"}}]
    sides = ["train"] * 5 + ["gap", "validation", "validation", "test"]
    rows = pa.table(
        {
            "row_id": [f"{i}" for i in range(9)],
            "price": pa.array([1.0, 2.0, 3.0, None, 2.0, 1e6, 1e6, None, 1e6]),
            "count": [1] * 9,
            "colour": ["red", "red", "blue", None, "blue", "green", "green", "green", "green"],
            "label": ["yes", "no", "yes", "no", "yes", "maybe", "no", "yes", "no"],
            "split": sides,
        }
    )
    ref = DatasetRef(use_case="shop", table="labelled", version=0, partitions=("p",), n_rows=9, config_hash="c", content_hash="d")

    data = prepare(Snapshot(ref, rows), make_use_case(clean=steps))

    flag, price, colour = data.transform.fitted
    # Quartiles 1.75 and 2.25 of 1, 2, 2, 3.
    assert (flag.low, flag.high) == (1.0, 3.0)
    assert (price.value, colour.value) == (2.0, "blue")
    # Price, count and the flag; the price that is missing in validation is the training rows' mean.
    assert data.validation.inputs["numeric"].shape == (2, 3)
    assert data.validation.inputs["numeric"][1, 0] == 0.0
    assert data.objective.classes == ("no", "yes")
