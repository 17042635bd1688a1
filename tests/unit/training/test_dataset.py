"""Data order and shares."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.training.dataset import order, share


@given(st.integers(0, 500), st.integers(0, 2**31), st.integers(0, 1000))
def test_an_epoch_sees_every_row_once_in_an_order_of_its_own(n_rows, seed, epoch):
    assert sorted(order(n_rows, seed, epoch)) == list(range(n_rows))
    np.testing.assert_array_equal(order(n_rows, seed, epoch), order(n_rows, seed, epoch))


def test_epochs_differ():
    assert order(100, 0, 0).tolist() != order(100, 0, 1).tolist() != order(100, 1, 1).tolist()


@given(st.integers(0, 200), st.integers(1, 9))
def test_the_shares_of_the_ranks_make_the_batch(n_rows, world_size):
    batch = order(n_rows, 0, 0)
    shares = [share(batch, rank, world_size) for rank in range(world_size)]
    np.testing.assert_array_equal(np.concatenate(shares), batch)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
