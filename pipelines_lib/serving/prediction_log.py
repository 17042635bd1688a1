"""What was answered, written behind the requests' back into the table `predictions`.

A request is never slowed down or failed by it: rows wait in a bounded queue, one thread writes them, and rows that
find no place (or no store) are counted as lost.
"""

import logging
import secrets
import socket
import threading
import time
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import pyarrow as pa

from pipelines_lib.data.tables import Layer, Tables
from pipelines_lib.serving.rows import MAX_ROWS
from pipelines_lib.store import StorePath
from pipelines_lib.use_case import ColumnType

log = logging.getLogger("sluice.serving")

FLUSH_SECONDS = 1.0
FLUSH_ROWS = 5_000
MAX_WAITING = 2 * MAX_ROWS
ATTEMPTS = 3

# Features and keys as they are kept.
ARROW: dict[ColumnType, pa.DataType] = {
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "string": pa.string(),
    "text": pa.string(),
    "timestamp": pa.string(),  # of a key: kept as it was sent
}

SCORES = pa.list_(pa.float32())


@dataclass(slots=True)
class Answers:
    """The rows of one request and what the model said to them."""

    row_ids: list[str]
    partition_key: str
    columns: dict[str, list[Any]]
    """Features and keys, one value a row."""
    types: dict[str, ColumnType]
    """Of the features and keys. A feature that is a whole number is logged as "number" (see `logged_types`)."""
    predictions: list[str] | list[float]
    scores: list[float]
    """Of the predictions, one a row."""
    model_version: int
    all_scores: list[list[float]] | None = None
    """Those of all classes [n, C], where the table keeps them."""


def logged_types(features: Mapping[str, ColumnType], keys: Mapping[str, ColumnType]) -> dict[str, ColumnType]:
    """Types of the log's columns. A table keeps its types, and a feature that was whole may be a fraction in the next version:
    every number is kept as float64, which is as much as the model sees. Keys stay exact, for they are compared."""
    return {**{name: "number" if kind == "integer" else kind for name, kind in features.items()}, **keys}


class _Waiting:
    """Answers alike in their columns, as they wait: a tuple a row, which is soon made and which the garbage collector soon leaves alone."""

    def __init__(self, types: dict[str, ColumnType], names: Sequence[str], prediction: pa.DataType, *, with_scores: bool) -> None:
        self._names, self._prediction, self._with_scores = names, prediction, with_scores
        self.types = types
        self._rows: list[tuple[Any, ...]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, answers: Answers) -> None:
        """Rows more."""
        key, version = repeat(answers.partition_key), repeat(answers.model_version)
        scores = [] if answers.all_scores is None else [answers.all_scores]
        told = (answers.row_ids, key, answers.predictions, answers.scores, version, *answers.columns.values(), *scores)
        self._rows.extend(zip(*told, strict=False))

    def table(self) -> pa.Table:
        """Rows of `predictions`."""
        row_ids, partition_keys, predictions, scores, versions, *columns = zip(*self._rows, strict=True)
        all_scores = {"scores": pa.array(columns.pop(), SCORES)} if self._with_scores else {}
        return pa.table(
            {
                "row_id": pa.array(row_ids, pa.string()),
                "partition_key": pa.array(partition_keys, pa.string()),
                **{name: _column(values, self.types[name]) for name, values in zip(self._names, columns, strict=True)},
                "prediction": pa.array(predictions, self._prediction),
                "score": pa.array(scores, pa.float64()),
                **all_scores,
                "model_version": pa.array(versions, pa.int64()),
            }
        )


class _Batch:
    """What is written in one commit. Versions with other features have other columns; the table holds both."""

    def __init__(self) -> None:
        self._alike: dict[Hashable, _Waiting] = {}

    def __len__(self) -> int:
        return sum(map(len, self._alike.values()))

    def add(self, answers: Answers) -> None:
        """Rows more."""
        is_class = isinstance(answers.predictions[0], str)
        # The types are a served version's own; while they are held here no other dictionary has their id.
        with_scores = answers.all_scores is not None
        key = (id(answers.types), is_class, with_scores, *answers.columns)
        if (waiting := self._alike.get(key)) is None:
            prediction = pa.string() if is_class else pa.float64()
            waiting = self._alike[key] = _Waiting(answers.types, [*answers.columns], prediction, with_scores=with_scores)
        waiting.add(answers)

    def table(self) -> pa.Table:
        """Rows of `predictions`."""
        return pa.concat_tables([waiting.table() for waiting in self._alike.values()], promote_options="default")


def as_table(batch: Iterable[Answers]) -> pa.Table:
    """Rows of `predictions`."""
    together = _Batch()
    for answers in batch:
        together.add(answers)
    return together.table()


def _column(values: Sequence[Any], kind: ColumnType) -> pa.Array:
    try:
        return pa.array(values, ARROW[kind])
    except pa.ArrowInvalid:
        if kind != "number":
            raise
        # A whole number that float64 must round.
        return pa.array([None if value is None else float(value) for value in values], ARROW[kind])


class PredictionLog:
    """The queue and the thread that empties it. `add` never blocks and never raises."""

    def __init__(
        self, root: StorePath, flush_seconds: float = FLUSH_SECONDS, max_rows: int = MAX_WAITING, layer: Layer = "predictions"
    ) -> None:
        self._tables = Tables(root)
        self._layer = layer
        self._flush_seconds = flush_seconds
        self._max_rows = max_rows
        self._batch = _Batch()
        self._name = f"{socket.gethostname()}-{secrets.token_hex(8)}"
        self._n_batches = 0
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="prediction-log", daemon=True)
        self.rows_logged = 0
        self.rows_lost = 0
        self.rows_waiting = 0
        """Rows in the queue, and those being written."""

    def start(self) -> None:
        """Start writing."""
        self._thread.start()

    def add(self, answers: Answers) -> None:
        """Queue `answers`, or count them as lost where the queue is full."""
        n = len(answers.row_ids)
        with self._changed:
            if self._closing or self.rows_waiting + n > self._max_rows:
                self.rows_lost += n
                return
            is_first = not self._batch
            self._batch.add(answers)
            self.rows_waiting += n
            # Woken for each answer, the thread would take the interpreter from the requests for more time than an answer takes.
            if is_first or self.rows_waiting >= FLUSH_ROWS:
                self._changed.notify()

    def close(self) -> None:
        """Write what waits, then stop."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        while batch := self._next():
            rows, written = len(batch), self._write(batch)
            with self._changed:
                self.rows_waiting -= rows
                self.rows_logged += written
                self.rows_lost += rows - written

    def _next(self) -> _Batch:
        """What is to be written next; empty when the log is closed and everything is written."""
        with self._changed:
            self._changed.wait_for(lambda: self._batch or self._closing)
            self._changed.wait_for(lambda: self.rows_waiting >= FLUSH_ROWS or self._closing, timeout=self._flush_seconds)
            batch, self._batch = self._batch, _Batch()
            return batch

    def _write(self, batch: _Batch) -> int:
        """Append the batch, one commit; returns the rows that got there."""
        self._n_batches += 1
        for attempt in range(1, ATTEMPTS + 1):
            try:
                rows = batch.table()
                self._tables.append(self._layer, rows, batch=(self._name, self._n_batches))
                return int(rows.num_rows)
            except Exception:  # whatever the store says, the service goes on answering
                log.exception("predictions could not be written (attempt %d of %d)", attempt, ATTEMPTS)
                if attempt < ATTEMPTS and not self._closing:
                    time.sleep(self._flush_seconds)
        return 0
