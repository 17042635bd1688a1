"""What somebody did before: features of a row that are made of the same entity's earlier events.

Strictly earlier: an event says nothing of itself, of others at the same moment, or of what came after, so a feature is the same when a row is learned
from as when a service is asked, with what was known then. Arrow in, Arrow out, without a loop over rows: n log n in their number.

In `land()` of a `hooks.py`:

    week = Past(entity="user", time="at", within=dt.timedelta(days=7), kind="event", kinds=("click",), positive="buy", item="item")
    made = history(events, today, week)  # `events` of this day and of the seven before it, `today` the rows of this day

and the same at request time, where `today` is the request's rows: an entity and a time are all that they need.
"""

import datetime as dt
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines_lib.errors import DataError

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Past:
    """Which columns say what, and how far back is looked."""

    entity: str
    """Whose event it is. Where it is missing the event is nobody's: such a row has no past, and is in nobody's."""
    time: str
    """When it happened, as a timestamp or date. Where it is missing, likewise."""
    within: dt.timedelta
    """Events at most so long before the row count."""
    kind: str | None = None
    """The column with the kind of the event …"""
    kinds: tuple[str, ...] = ()
    """… of which these are counted, each by itself …"""
    positive: str | None = None
    """… and the share of this one is told."""
    known_after: dt.timedelta = dt.timedelta(0)
    """How long after an event its kind is known. Where the kind is the label, this is the label's horizon: before it nobody could have counted."""
    item: str | None = None
    """The column with what the event was about."""


def history(events: pa.Table, rows: pa.Table, past: Past) -> pa.Table:
    """Of each of `rows`, in their order, what its entity's events within `past.within` before it were.

    `n_before` their number and `since_last` the seconds since the last of them; `n_<kind>` the number of a kind and `share_<positive>` the share
    of the positive, of the events whose kind was known; `n_items` the number of different items. Without an event the numbers are 0 and
    the others missing. Raises `DataError` where a column is absent, or the time is none.
    """
    _check_columns(events, rows, past)
    line = _Line.of(events, rows, past)
    made: dict[str, NDArray[Any]] = {
        "n_before": line.high - line.low,
        "since_last": np.where(line.high > line.low, (line.at - line.last()) / 1e6, np.nan),
    }
    if past.kind is not None:
        kinds = pc.cast(events[past.kind], pa.string())
        known = np.clip(line.before(_microseconds(past.known_after)), line.low, line.high)
        for name in past.kinds:
            made[f"n_{name}"] = line.count(_true(pc.equal(kinds, name)), known)
        if past.positive is not None:
            n = line.count(_true(pc.equal(kinds, past.positive)), known).astype(np.float64)
            made[f"share_{past.positive}"] = np.divide(n, known - line.low, out=np.full(len(n), np.nan), where=known > line.low)
    if past.item is not None:
        made["n_items"] = line.distinct(events[past.item])
    return pa.table({name: line.in_order(column, rows.num_rows) for name, column in made.items()})


@dataclass(frozen=True)
class _Line:
    """Events and rows as ascending whole numbers: one entity after the other, each with room before it that is as wide as the window."""

    events: Integers
    """Places of the events that have an entity and a time, in the order of their numbers."""
    numbers: Integers
    """Their numbers …"""
    owners: Integers
    """… and whose they are."""
    rows: Integers
    """Places of the rows that have both, in the order of their numbers."""
    at: Integers
    """Their numbers …"""
    low: Integers
    """… and where among the events their window begins …"""
    high: Integers
    """… and ends; both ascend, too."""

    @classmethod
    def of(cls, events: pa.Table, rows: pa.Table, past: Past) -> "_Line":
        owner = pc.dictionary_encode(pa.chunked_array([*_texts(events[past.entity]), *_texts(rows[past.entity])], pa.string()))
        owners = np.concatenate([np.zeros(0, np.int64), *(pc.fill_null(chunk.indices, -1).to_numpy() for chunk in owner.chunks)]).astype(
            np.int64
        )
        times = pa.chunked_array([*_times(events[past.time]), *_times(rows[past.time])], pa.int64())
        there = (owners >= 0) & _true(pc.is_valid(times))
        time = np.asarray(pc.fill_null(times, 0).to_numpy(), np.int64)
        window, first = _microseconds(past.within), int(time[there].min(initial=np.iinfo(np.int64).max))
        room = (int(time[there].max(initial=first)) - first) + window + 2
        if (int(owners.max(initial=0)) + 1) * room >= np.iinfo(np.int64).max:
            raise DataError(
                "history: the times of all entities, one after the other, reach further than 64 bits count; correct times that lie "
                "centuries apart, or take the events of fewer partitions"
            )
        numbers = owners * room + window + 1 + (time - first)
        n = events.num_rows
        mine, theirs = (part[np.argsort(numbers[part], kind="stable")] for part in np.split(np.flatnonzero(there), [int(there[:n].sum())]))
        sorted_, at = numbers[mine], numbers[theirs]
        low, high = (np.searchsorted(sorted_, at - back).astype(np.int64) for back in (window, 0))
        return cls(mine, sorted_, owners[mine], theirs - n, at, low, high)

    def before(self, back: int) -> Integers:
        """Where among the events those end that happened longer than `back` before each row."""
        return np.searchsorted(self.numbers, self.at - back).astype(np.int64)

    def last(self) -> Integers:
        """Number of the last event before each row; of any, where it has none."""
        return self.numbers[np.maximum(self.high, 1) - 1] if len(self.numbers) else np.zeros(len(self.at), np.int64)

    def count(self, marked: NDArray[np.bool_], upto: Integers) -> Integers:
        """The marked events of each row's window that lie before `upto`."""
        sums = np.concatenate([[0], np.cumsum(marked[self.events])]).astype(np.int64)
        return sums[upto] - sums[self.low]

    def distinct(self, items: pa.ChunkedArray) -> Integers:
        """Different items in each row's window.

        An event is the first of its item in a window that begins after the one before it with that item, and no later than the event itself.
        Windows ascend, so these are windows in a row, and adding up where they start and end counts them all.
        """
        code = pc.dictionary_encode(pa.chunked_array(_texts(items), pa.string()))
        codes = np.concatenate([np.zeros(0, np.int64), *(pc.fill_null(chunk.indices, -1).to_numpy() for chunk in code.chunks)]).astype(
            np.int64
        )
        codes = codes[self.events]
        places = np.flatnonzero(codes >= 0)
        places = places[np.lexsort((places, codes[places], self.owners[places]))]
        again = (codes[places[1:]] == codes[places[:-1]]) & (self.owners[places[1:]] == self.owners[places[:-1]])
        earlier = np.concatenate([[-1], np.where(again, places[:-1], -1)])[: len(places)]
        first = np.maximum(np.searchsorted(self.low, earlier, "right"), np.searchsorted(self.high, places, "right"))
        behind = np.searchsorted(self.low, places, "right")
        counted = first < behind
        steps = np.zeros(len(self.at) + 1, np.int64)
        np.add.at(steps, first[counted], 1)
        np.add.at(steps, behind[counted], -1)
        return np.cumsum(steps)[:-1]

    def in_order(self, column: NDArray[Any], n_rows: int) -> pa.Array:
        """A value of each row in the order in which they came; of a row that is nobody's, as of one without a past."""
        empty = np.nan if column.dtype.kind == "f" else 0
        values = np.full(n_rows, empty, column.dtype)
        values[self.rows] = column
        return pa.array(values, from_pandas=True)


def _check_columns(events: pa.Table, rows: pa.Table, past: Past) -> None:
    own = [past.entity, past.time]
    told = [name for name in (past.kind, past.item) if name is not None]
    for what, table, wanted in (("events", events, [*own, *told]), ("rows", rows, own)):
        if absent := [name for name in wanted if name not in table.column_names]:
            raise DataError(
                f"history: the {what} have no column {absent[0]!r}; they have {', '.join(table.column_names)}. Correct the name"
            )
        if not (pa.types.is_timestamp(kind := table[past.time].type) or pa.types.is_date(kind)):
            raise DataError(f"history: the column {past.time!r} of the {what} is {kind}; make it timestamps, which say what is earlier")


def _times(column: pa.ChunkedArray) -> list[pa.Array]:
    """Microseconds since 1970."""
    return list(pc.cast(pc.cast(column, pa.timestamp("us"), safe=False), pa.int64()).chunks)


def _texts(column: pa.ChunkedArray) -> list[pa.Array]:
    return list(pc.cast(column, pa.string()).chunks)


def _true(values: pa.ChunkedArray) -> NDArray[np.bool_]:
    return np.asarray(pc.fill_null(values, False).to_numpy(), np.bool_)


def _microseconds(span: dt.timedelta) -> int:
    return span // dt.timedelta(microseconds=1)
