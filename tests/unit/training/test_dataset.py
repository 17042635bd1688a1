"""Data order and shares, and what the transform is fitted on."""

import threading
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines_lib.contracts import DatasetRef
from pipelines_lib.data.snapshot import Snapshot, choose, opened
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import DataError
from pipelines_lib.features.transform import FeatureTransform
from pipelines_lib.training import dataset
from pipelines_lib.training.dataset import BLOCK_ROWS, WINDOW_BLOCKS, order, prefetch, prepare, rows_of
from pipelines_lib.use_case import UseCase

REF = DatasetRef(use_case="shop", table="labelled", version=0, partitions=("p",), n_rows=9, config_hash="c", content_hash="d")


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


def test_figures_of_the_cleaning_come_from_the_training_rows_alone(make_use_case, tmp_path):
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

    data = prepare(Snapshot(REF, rows), make_use_case(clean=steps), tmp_path)

    flag, price, colour = data.transform.fitted
    # Quartiles 1.75 and 2.25 of 1, 2, 2, 3.
    assert (flag.low, flag.high) == (1.0, 3.0)
    assert (price.value, colour.value) == (2.0, "blue")
    # Price, count and the flag; the price that is missing in validation is the training rows' mean.
    assert data.validation.inputs["numeric"].shape == (2, 3)
    assert data.validation.inputs["numeric"][1, 0] == 0.0
    assert data.objective.classes == ("no", "yes")


def big_rows(n):
    random = np.random.default_rng(1)
    return pa.table(
        {
            "row_id": [f"{i:05d}" for i in range(n)],
            "partition_key": ["p"] * n,
            "price": [None if i % 7 == 0 else float(x) for i, x in enumerate(random.normal(size=n))],
            "count": random.integers(0, 9, n),
            "colour": random.choice(["red", "blue", " ", "西安"], n),
            "note": [None if i % 5 == 0 else f"a {i % 11} note" for i in range(n)],
            "label": random.choice(["yes", "no"], n),
            "split": random.choice(["train", "validation", "test", "gap"], n),
        }
    )


@pytest.fixture
def noted(make_use_case):
    """The shop with a text."""
    return make_use_case(columns=make_use_case().model_dump()["columns"] | {"note": {"type": "text"}})


def test_arrays_in_files_are_those_of_the_transform_however_the_rows_are_cut(noted, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "_PIECE_ROWS", 17)
    table = big_rows(300)

    data = prepare(Snapshot(REF, table), noted, tmp_path)

    types = {name: noted.columns[name].type for name in noted.features()}
    of = {side: table.filter(pc.equal(table["split"], side)) for side in ("train", "validation")}
    asked = {"pieces": noted.training.model.pieces, "grams": noted.training.model.text == "grams"}
    transform = FeatureTransform.fit({name: of["train"][name].to_pylist() for name in types}, types, noted.clean, **asked)
    assert data.transform == transform
    for side, rows in (("train", data.train), ("validation", data.validation)):
        expected = transform.apply({name: of[side][name].to_pylist() for name in types})
        assert list(rows.inputs) == list(expected)
        for name, array in expected.items():
            assert rows.inputs[name].dtype == torch.from_numpy(array).dtype
            np.testing.assert_array_equal(rows.inputs[name].numpy(), array)
        assert rows.labels.tolist() == [("no", "yes").index(label) for label in of[side]["label"].to_pylist()]
        assert rows.ids(np.arange(len(rows))) == of[side]["row_id"].to_pylist()
        inputs, labels = rows.take(np.array([5, 0]))
        assert inputs["numeric"].tolist() == rows.inputs["numeric"].numpy()[[5, 0]].tolist()
        assert labels.tolist() == rows.labels.numpy()[[5, 0]].tolist()
    assert {name: len(rows) for name, rows in data.sample.items()} == dict.fromkeys(data.train.inputs, 64 + min(64, len(data.validation)))


def test_another_process_and_another_try_take_the_arrays_that_are_there(noted, tmp_path, monkeypatch):
    snapshot = Snapshot(REF, big_rows(100))
    first = prepare(snapshot, noted, tmp_path)
    monkeypatch.setattr(dataset, "_write", None)
    again = prepare(snapshot, noted, tmp_path)
    monkeypatch.setenv("LOCAL_RANK", "1")
    other = prepare(snapshot, noted, tmp_path)
    for data in (again, other):
        assert (data.transform, data.objective) == (first.transform, first.objective)
        assert all(torch.equal(tensor, first.train.inputs[name]) for name, tensor in data.train.inputs.items())


def test_other_rows_or_settings_make_arrays_of_their_own(noted, tmp_path):
    snapshot = Snapshot(REF, big_rows(100))
    prepare(snapshot, noted, tmp_path)
    [before] = tmp_path.glob("*/transform.json")
    prepare(replace(snapshot, ref=REF.model_copy(update={"content_hash": "other"})), noted, tmp_path)
    [after] = tmp_path.glob("*/transform.json")
    assert before.parent != after.parent
    columns = noted.model_dump()["columns"] | {"note": {"type": "string"}}
    data = prepare(
        snapshot, noted.model_copy(update={"columns": UseCase.model_validate(noted.model_dump() | {"columns": columns}).columns}), tmp_path
    )
    assert "text" not in data.train.inputs


def test_rows_that_were_changed_are_refused_before_anything_is_left(noted, tmp_path):
    tables = Tables(tmp_path / "shop")
    tables.write("labelled", "2026-01-01", big_rows(100).drop_columns(["partition_key"]).append_column("who", pa.array(["u"] * 100)))
    ref = choose(noted, tables, "2026-01-01", 14).ref
    with pytest.raises(DataError, match="gives other values"):
        prepare(opened(noted, tables, ref.model_copy(update={"content_hash": "other"})), noted, tmp_path / "arrays")
    assert not (tmp_path / "arrays").exists()
    snapshot = opened(noted, tables, ref)
    assert len(prepare(snapshot, noted, tmp_path / "arrays").train) == snapshot.sizes()["train"]
