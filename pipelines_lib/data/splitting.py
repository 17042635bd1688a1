"""Which rows train, which stop the training early, which judge.

A row's side follows from a hash of its owner (its entity or group; where the split goes by row, the row itself) and the seed
alone. So no owner stands on two sides, a row keeps its side however many others come, and, while these settings stay, a
later training never judges by rows that an earlier one learned from. Where they change, or where the split goes by time, such
rows exist; the evaluation knows each champion's settings and leaves them out (`evaluation.holdout.new_to`).

With `stratify` the rows of each class of a partition take points on a circle in the order of the source, each a golden
section further than the one before: the most even spread there is at every length (Kronecker's sequence). A side is an arc,
so its share of a class is off by three rows in ten thousand and by five in twenty million (measured), and rows that come
later move none that are there.

With `by: time` the side depends on the window, which only a snapshot knows: here every row is `train`, and the snapshot
turns the newest partitions of its window into `validation` and `test` (`data.sides`).
"""

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines_lib.data.hashing import hash_rows
from pipelines_lib.use_case import Split, UseCase

_STEP = 0x9E3779B97F4A7C15
"""The golden section of a circle of 2⁶⁴ points."""


class Splitter:
    """Adds the column `split` to the labelled rows of one partition, batch by batch, in row order."""

    def __init__(self, use_case: UseCase, partition_key: str) -> None:
        self._use_case = use_case
        self._partition_key = partition_key
        self._seen: dict[str, int] = {}
        """Rows of each class so far."""

    def apply(self, rows: pa.Table) -> pa.Table:
        """`rows` with their sides: train, validation or test. Needs `row_id`, the owner and, to stratify, `label`."""
        split = self._use_case.split
        if split.by == "time":
            sides = pa.array(["train"]).take(pa.array(np.zeros(rows.num_rows, np.int64)))
        elif split.stratify:
            sides = self._stratified(rows["label"].combine_chunks())
        else:
            sides = _by_hash(rows, self._use_case)
        return rows.append_column("split", sides)

    def _stratified(self, labels: pa.Array) -> pa.Array:
        coded = labels.dictionary_encode()
        codes = np.asarray(coded.indices, np.int64)
        classes: list[str] = coded.dictionary.to_pylist()
        points = np.empty(len(labels), np.uint64)
        for code, name in enumerate(classes):
            mine = np.flatnonzero(codes == code)
            first = self._seen.get(name, 0)
            ranks = np.arange(first, first + len(mine), dtype=np.uint64)
            points[mine] = ranks * np.uint64(_STEP) + _points([f"{self._partition_key}\x1f{name}"], self._use_case.split.seed)
            self._seen[name] = first + len(mine)
        return _sides(points, self._use_case.split)


def with_split(rows: pa.Table, use_case: UseCase) -> pa.Table:
    """The whole labelled rows of one partition or several (then with `partition_key`), with the column `split`."""
    if not use_case.split.stratify or "partition_key" not in rows.column_names:
        return Splitter(use_case, "").apply(rows)
    keys = rows["partition_key"]
    parts = [Splitter(use_case, key).apply(rows.filter(pc.equal(keys, key))) for key in sorted(keys.unique().to_pylist())]
    return pa.concat_tables(parts) if parts else Splitter(use_case, "").apply(rows)


def side(owner: str, split: Split) -> str:
    """The side of an entity, or of a group, by its name."""
    place: str = _sides(_points([owner], split.seed), split)[0].as_py()
    return place


def _by_hash(rows: pa.Table, use_case: UseCase) -> pa.Array:
    """By row: a hash of `row_id` alone. Otherwise by owner; a row that has none stands for itself."""
    split, column = use_case.split, use_case.owner_column
    ids = rows["row_id"].combine_chunks()
    if column is None:
        return _sides(hash_rows([ids], split.seed), split)
    owners: pa.Array = pc.coalesce(rows[column].combine_chunks().cast(pa.string()), ids)
    distinct = owners.dictionary_encode()
    return _sides(_points(distinct.dictionary.to_pylist(), split.seed), split).take(distinct.indices)


def _points(names: list[str], seed: int) -> NDArray[np.uint64]:
    """Each name's place [n] on a circle of 2⁶⁴ points."""
    prefix, blake2b = f"{seed}:".encode(), hashlib.blake2b
    digests = b"".join([blake2b(prefix + name.encode(), digest_size=8).digest() for name in names])
    return np.frombuffer(digests, ">u8").astype(np.uint64)


def _sides(points: NDArray[np.uint64], split: Split) -> pa.Array:
    shares = points / 2.0**64
    places: NDArray[Any] = (shares >= split.test).astype(np.int8) + (shares >= split.test + split.validation)
    return pa.array(["test", "validation", "train"]).take(pa.array(places))
