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
from itertools import chain
from typing import Any, NamedTuple, Self

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
    model_version: int


def logged_types(features: Mapping[str, ColumnType], keys: Mapping[str, ColumnType]) -> dict[str, ColumnType]:
    """Types of the log's columns. A table keeps its types, and a feature that was whole may be a fraction in the next version:
    every number is kept as float64, which is as much as the model sees. Keys stay exact, for they are compared."""
    return {**{name: "number" if kind == "integer" else kind for name, kind in features.items()}, **keys}


class _Packed(NamedTuple):
    """Answers as they wait: one tuple holds all values, column after column. An object a value would keep the garbage collector busy."""

    row_ids: tuple[str, ...]
    partition_key: str
    names: tuple[str, ...]
    types: dict[str, ColumnType]
    values: tuple[Any, ...]
    predictions: tuple[str, ...] | tuple[float, ...]
    scores: tuple[float, ...]
    model_version: int

    @classmethod
    def of(cls, answers: Answers) -> Self:
        """The same answers."""
        return cls(
            row_ids=tuple(answers.row_ids),
            partition_key=answers.partition_key,
            names=tuple(answers.columns),
            types=answers.types,
            values=tuple(chain.from_iterable(answers.columns.values())),
            predictions=tuple(answers.predictions),  # type: ignore[arg-type] # of the one kind or the other
            scores=tuple(answers.scores),
            model_version=answers.model_version,
        )


def as_table(batch: Iterable[Answers]) -> pa.Table:
    """Rows of `predictions`."""
    return _as_table([_Packed.of(answers) for answers in batch])


def _as_table(batch: Iterable[_Packed]) -> pa.Table:
    # Answers alike in their columns are joined first: an array for each request would be slow.
    alike: dict[tuple[Any, ...], list[_Packed]] = {}
    for answers in batch:
        alike.setdefault((tuple(answers.types.items()), answers.names, isinstance(answers.predictions[0], str)), []).append(answers)
    # Versions with other features have other columns; the table holds both.
    return pa.concat_tables([_joined(group) for group in alike.values()], promote_options="default")


def _joined(group: Sequence[_Packed]) -> pa.Table:
    first, sizes = group[0], [len(answers.row_ids) for answers in group]
    columns: list[list[Any]]
    if max(sizes) == 1:
        columns = list(map(list, zip(*(answers.values for answers in group), strict=True)))
    else:
        columns = [
            [value for n, answers in zip(sizes, group, strict=True) for value in answers.values[place * n : (place + 1) * n]]
            for place in range(len(first.names))
        ]

    def repeated(name: str) -> list[Any]:
        return [getattr(answers, name) for n, answers in zip(sizes, group, strict=True) for _ in range(n)]

    def together(name: str) -> list[Any]:
        return list(chain.from_iterable(getattr(answers, name) for answers in group))

    return pa.table(
        {
            "row_id": pa.array(together("row_ids"), pa.string()),
            "partition_key": pa.array(repeated("partition_key"), pa.string()),
            **{name: _column(values, first.types[name]) for name, values in zip(first.names, columns, strict=True)},
            "prediction": pa.array(together("predictions"), pa.string() if isinstance(first.predictions[0], str) else pa.float64()),
            "score": pa.array(together("scores"), pa.float64()),
            "model_version": pa.array(repeated("model_version"), pa.int64()),
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
        self._queue: deque[_Packed] = deque()
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
            self._queue.append(_Packed.of(answers))
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

    def _next(self) -> list[_Packed]:
        """What is to be written next; empty when the log is closed and everything is written."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            self._changed.wait_for(lambda: self.rows_waiting >= FLUSH_ROWS or self._closing, timeout=self._flush_seconds)
            batch = list(self._queue)
            self._queue.clear()
            return batch

    def _write(self, batch: Sequence[_Packed]) -> int:
        """Append the batch, one commit; returns the rows that got there."""
        self._n_batches += 1
        for attempt in range(1, ATTEMPTS + 1):
            try:
                rows = _as_table(batch)
                self._tables.append("predictions", rows, batch=(self._name, self._n_batches))
                return int(rows.num_rows)
            except Exception:  # whatever the store says, the service goes on answering
                log.exception("predictions could not be written (attempt %d of %d)", attempt, ATTEMPTS)
                if attempt < ATTEMPTS and not self._closing:
                    time.sleep(self._flush_seconds)
        return 0
