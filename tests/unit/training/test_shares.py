"""Who does how much of a batch."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipelines_lib.errors import ConfigError
from pipelines_lib.training.dataset import order
from pipelines_lib.training.distributed import World
from pipelines_lib.training.objective import Objective
from pipelines_lib.training.shares import agreed, better, cut, equal, measured
from pipelines_lib.use_case import Training

SPEEDS = st.lists(st.floats(1.0, 1e6), min_size=1, max_size=9)


@given(st.integers(0, 300), SPEEDS)
def test_the_parts_of_the_ranks_make_the_batch_and_each_is_within_a_row_of_its_share(n_rows, speeds):
    batch, shares = order(n_rows, 0, 0), [speed / sum(speeds) for speed in speeds]
    parts = [cut(batch, tuple(shares), rank) for rank in range(len(shares))]
    np.testing.assert_array_equal(np.concatenate(parts), batch)
    for part, share in zip(parts, shares, strict=True):
        assert abs(len(part) - share * n_rows) <= 1 + 1e-6


@given(st.lists(st.floats(95, 105), min_size=2, max_size=9))
def test_machines_that_differ_by_noise_alone_keep_equal_shares(speeds):
    assert better(equal(len(speeds)), speeds) == equal(len(speeds))


def test_a_worker_of_a_third_of_the_speed_gets_a_third_as_much():
    assert better((0.5, 0.5), [300.0, 100.0]) == (0.75, 0.25)


@given(SPEEDS)
def test_shares_that_were_measured_stay_where_the_same_is_measured_again(speeds):
    found = better(equal(len(speeds)), speeds)
    assert better(found, speeds) == found


def test_shares_of_a_checkpoint_hold_for_as_many_ranks_alone():
    settings = Training(workers=2)
    assert agreed(settings, World(), (0.75, 0.25), None) == (1.0,)
    assert agreed(settings, World(), (1.0,), None) == (1.0,)


def test_shares_may_be_given():
    assert agreed(Training(shares=[3, 1], workers=2), World(size=2), None, None) == (0.75, 0.25)


def test_shares_for_another_number_of_workers_are_refused():
    with pytest.raises(ConfigError, match=r"training.shares has 2 proportions, and this training was started with 3 worker"):
        agreed(Training(shares=[3, 1], workers=2), World(size=3), None, None)


class Slow(nn.Module):
    """Takes ten milliseconds a pass."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(1, 1)

    def forward(self, numeric):
        time.sleep(0.01)
        return self.head(numeric)


def test_a_measured_speed_is_that_of_the_model_and_leaves_it_as_it_was(make_rows, monkeypatch):
    monkeypatch.setattr(World, "sum", lambda self, *values: list(values))
    model = Slow()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    settings = Training(batch_size=64, workers=2)
    speed = measured(model, Objective(), make_rows(100), settings, World(size=2))
    # 32 rows in ten milliseconds at the least.
    assert 0 < speed <= 3200
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.head.weight.grad is None
    assert measured(model, Objective(), make_rows(100), settings, World()) is None
    assert measured(model, Objective(), make_rows(100), Training(shares="equal"), World(size=2)) is None


@pytest.fixture
def make_rows():
    import pyarrow as pa

    from pipelines_lib.training.dataset import rows_of

    def make(n):
        numbers = np.random.default_rng(0).normal(size=(n, 1)).astype(np.float32)
        return rows_of({"numeric": numbers}, numbers[:, 0].copy(), pa.chunked_array([[f"row{i}" for i in range(n)]]))

    return make
