"""What was answered, written behind the requests' back into the table `predictions`.

A request is never slowed down or failed by it: rows wait in a bounded queue, one thread writes them, and rows that
find no place (or no store) are counted as lost.
"""

import logging
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines_lib.data.tables import Tables
from pipelines_lib.store import StorePath
from pipelines_lib.use_case import ColumnType

log = logging.getLogger("sluice.serving")

FLUSH_SECONDS = 1.0
FLUSH_ROWS = 5_000
MAX_ROWS = 50_000
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


@dataclass(frozen=True)
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
    model_version: int


def logged_types(features: Mapping[str, ColumnType], keys: Mapping[str, ColumnType]) -> dict[str, ColumnType]:
    """Types of the log's columns. A table keeps its types, and a feature that was whole may be a fraction in the next version:
    every number is kept as float64, which is as much as the model sees. Keys stay exact, for they are compared."""
    return {**{name: "number" if kind == "integer" else kind for name, kind in features.items()}, **keys}


def as_table(batch: Iterable[Answers]) -> pa.Table:
    """Rows of `predictions`. Answers alike in their columns are joined first: an array for each request would be slow."""
    alike: dict[tuple[Any, ...], list[Answers]] = {}
    for answers in batch:
        alike.setdefault((tuple(answers.types.items()), tuple(answers.columns), isinstance(answers.predictions[0], str)), []).append(
            answers
        )
    # Versions with other features have other columns; the table holds both.
    return pa.concat_tables([_joined(group) for group in alike.values()], promote_options="default")


def _joined(group: Sequence[Answers]) -> pa.Table:
    def column(name: str) -> list[Any]:
        return [value for answers in group for value in answers.columns[name]]

    first = group[0]
    return pa.table(
        {
            "row_id": pa.array([row for answers in group for row in answers.row_ids], pa.string()),
            "partition_key": pa.array([answers.partition_key for answers in group for _ in answers.row_ids], pa.string()),
            **{name: _column(column(name), first.types[name]) for name in first.columns},
            "prediction": pa.array(
                [value for answers in group for value in answers.predictions],
                pa.string() if isinstance(first.predictions[0], str) else pa.float64(),
            ),
            "score": pa.array([score for answers in group for score in answers.scores], pa.float64()),
            "model_version": pa.array([answers.model_version for answers in group for _ in answers.row_ids], pa.int64()),
        }
    )


def _column(values: list[Any], kind: ColumnType) -> pa.Array:
    if kind == "number":
        # Arrow refuses a whole number that float64 must round.
        values = [None if value is None else float(value) for value in values]
    return pa.array(values, ARROW[kind])


class PredictionLog:
    """The queue and the thread that empties it. `add` never blocks and never raises."""

    def __init__(self, root: StorePath, flush_seconds: float = FLUSH_SECONDS, max_rows: int = MAX_ROWS) -> None:
        self._tables = Tables(root)
        self._flush_seconds = flush_seconds
        self._max_rows = max_rows
        self._queue: deque[Answers] = deque()
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
            self._queue.append(answers)
            self.rows_waiting += n
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
            rows = sum(len(answers.row_ids) for answers in batch)
            written = self._write(batch)
            with self._changed:
                self.rows_waiting -= rows
                self.rows_logged += written
                self.rows_lost += rows - written

    def _next(self) -> list[Answers]:
        """What is to be written next; empty when the log is closed and everything is written."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            self._changed.wait_for(lambda: self.rows_waiting >= FLUSH_ROWS or self._closing, timeout=self._flush_seconds)
            batch = list(self._queue)
            self._queue.clear()
            return batch

    def _write(self, batch: Sequence[Answers]) -> int:
        """Append the batch, one commit; returns the rows that got there."""
        self._n_batches += 1
        for attempt in range(1, ATTEMPTS + 1):
            try:
                rows = as_table(batch)
                self._tables.append("predictions", rows, batch=(self._name, self._n_batches))
                return int(rows.num_rows)
            except Exception:  # whatever the store says, the service goes on answering
                log.exception("predictions could not be written (attempt %d of %d)", attempt, ATTEMPTS)
                if attempt < ATTEMPTS and not self._closing:
                    time.sleep(self._flush_seconds)
        return 0
