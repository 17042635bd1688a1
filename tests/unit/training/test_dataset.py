"""Data order and shares, and what the transform is fitted on."""

import threading

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines_lib.contracts import DatasetRef
from pipelines_lib.data.snapshot import Snapshot
from pipelines_lib.training import dataset
from pipelines_lib.training.dataset import BLOCK_ROWS, WINDOW_BLOCKS, order, prefetch, prepare, rows_of


@given(st.integers(0, 500), st.integers(0, 2**31), st.integers(0, 1000))
def test_an_epoch_sees_every_row_once_in_an_order_of_its_own(n_rows, seed, epoch):
    assert sorted(order(n_rows, seed, epoch)) == list(range(n_rows))
    np.testing.assert_array_equal(order(n_rows, seed, epoch), order(n_rows, seed, epoch))


def test_epochs_differ():
    assert order(100, 0, 0).tolist() != order(100, 0, 1).tolist() != order(100, 1, 1).tolist()


@settings(max_examples=20)
@given(st.integers(0, 70 * BLOCK_ROWS), st.integers(0, 2**31), st.integers(0, 1000))
def test_an_epoch_of_blocks_sees_every_row_once_however_it_is_cut(n_rows, seed, epoch):
    whole = order(n_rows, seed, epoch, "blocks")
    assert len(whole) == n_rows
    seen = whole[:]
    assert np.array_equal(np.sort(seen), np.arange(n_rows))
    # As a loop that resumes asks for them: slices from somewhere in the middle, of an object that has seen none before.
    again, cut = order(n_rows, seed, epoch, "blocks"), n_rows // 3
    np.testing.assert_array_equal(np.concatenate([again[cut : cut + 1000], again[cut + 1000 :], again[:cut]]), np.roll(seen, -cut))


def test_blocks_are_read_one_window_after_another_and_mixed_within_it():
    n_rows = 3 * WINDOW_BLOCKS * BLOCK_ROWS
    places = order(n_rows, 7, 0, "blocks")
    windows = [places[start : start + WINDOW_BLOCKS * BLOCK_ROWS] for start in range(0, n_rows, WINDOW_BLOCKS * BLOCK_ROWS)]
    for window in windows:
        assert len(np.unique(window // BLOCK_ROWS)) == WINDOW_BLOCKS
        # A batch of 256 is from many blocks, not from one.
        assert len(np.unique(window[:256] // BLOCK_ROWS)) > WINDOW_BLOCKS * 0.8
    assert not np.array_equal(places[:256], order(n_rows, 7, 1, "blocks")[:256])
    assert not np.array_equal(places[:256], order(n_rows, 8, 0, "blocks")[:256])


@pytest.fixture
def rows():
    return rows_of(
        {"numeric": np.arange(24, dtype=np.float32).reshape(12, 2)}, np.arange(12), pa.chunked_array([[f"r{i}" for i in range(12)]])
    )


BATCHES = [np.array([3, 1]), np.array([0]), np.array([], np.int64), np.array([11, 2, 5]), np.array([4]), np.array([6]), np.array([7])]


@pytest.mark.parametrize("memory", [1 << 40, 0])
def test_batches_come_in_order_with_and_without_a_thread(rows, memory, monkeypatch):
    monkeypatch.setattr(dataset, "memory", lambda: memory)
    before = threading.active_count()
    found = []
    for inputs, labels in prefetch(rows, iter(BATCHES), torch.device("cpu")):
        found.append(labels.tolist())
        assert inputs["numeric"].tolist() == [[2.0 * label, 2.0 * label + 1] for label in labels.tolist()]
        assert threading.active_count() == before + (memory == 0)
    assert found == [batch.tolist() for batch in BATCHES]
    assert threading.active_count() == before


def test_what_the_thread_raises_is_raised_in_its_turn_and_it_ends(rows, monkeypatch):
    monkeypatch.setattr(dataset, "memory", lambda: 0)
    before, found = threading.active_count(), []
    batches = prefetch(rows, [np.array([1]), np.array([2]), np.array([99]), np.array([3])], torch.device("cpu"))
    with pytest.raises(IndexError):
        found.extend(labels.tolist() for _, labels in batches)
    assert found == [[1], [2]]
    assert threading.active_count() == before


def test_the_thread_ends_with_whoever_takes_the_batches(rows, monkeypatch):
    monkeypatch.setattr(dataset, "memory", lambda: 0)
    before = threading.active_count()
    batches = prefetch(rows, BATCHES, torch.device("cpu"))
    next(batches)
    assert threading.active_count() == before + 1
    batches.close()
    assert threading.active_count() == before


def test_memory_is_what_the_control_group_allows(monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(dataset, "LIMIT", limit)
    whole = dataset.memory()
    for text, expected in (("max\n", whole), ("1048576\n", 1 << 20), (f"{1 << 60}\n", whole)):
        limit.write_text(text)
        assert dataset.memory() == expected


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
