"""The piecewise-linear encoding."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipelines_lib.training.models.numbers import PiecewiseLinear

scaled = st.floats(-10, 10, width=32)
rising = st.lists(scaled, min_size=3, max_size=12, unique=True).map(lambda edges: tuple(sorted(map(float, np.float32(edges)))))


@settings(deadline=None)
@given(st.lists(rising | st.just(()), min_size=1, max_size=3).filter(any), st.integers(0, 5), st.data())
def test_each_piece_says_how_much_of_it_lies_below_the_value(edges, n_rows, data):
    numeric = data.draw(arrays(np.float32, (n_rows, len(edges)), elements=scaled))
    encode = PiecewiseLinear(edges)
    found = encode(torch.from_numpy(numeric)).numpy()

    assert found.shape == (n_rows, encode.width) == (n_rows, sum(len(mine) - 1 for mine in edges if mine))
    start = 0
    for place, mine in enumerate(edges):
        pieces = found[:, start : start + max(0, len(mine) - 1)]
        start += pieces.shape[1]
        assert ((pieces >= 0) & (pieces <= 1)).all()
        # Each piece is full where the next has begun, so nothing is said twice.
        assert (np.diff(pieces, axis=1) <= 0).all()
        assert ((pieces[:, :-1] == 1) | (pieces[:, 1:] == 0)).all()
        if mine:
            # Within the range the value can be read back.
            back = mine[0] + pieces @ np.diff(np.float64(mine))
            np.testing.assert_allclose(back, np.clip(numeric[:, place], mine[0], mine[-1]), atol=1e-4)


def test_the_edges_are_no_part_of_what_a_checkpoint_holds():
    assert not PiecewiseLinear([(0.0, 1.0, 2.0)]).state_dict()
