"""What a step that looked at the whole partition leaves behind: small arrays, by the row's place in the partition."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines_lib.data.hashing import hash_rows

PLACE = "row's place"
"""The column, of the working tables alone, that holds a row's place among the partition's accepted rows. No column of a use
case has a blank in its name."""

_SEED = 2
"""Of the hashes that buckets go by: not those that rows are compared by within a bucket."""

Stream = Callable[[], Iterator[pa.Table]]
"""Starts the partition from its first row again."""


class Plan(Protocol):
    """What a step will do to the rows of any batch."""

    def applied(self, rows: pa.Table) -> tuple[pa.Table, int]:
        """(rows afterwards, values changed)."""
        ...

    def within(self, places: range) -> Self:
        """As much of it as is about rows at these places."""
        ...

    def with_others(self, others: Sequence[Self]) -> Self:
        """One plan for what this one and `others`, which are about other rows, will do."""
        ...


@dataclass(frozen=True)
class Bucket:
    """A share of a partition's rows: rows that a step compares with one another are in one bucket."""

    number: int
    of: int

    def rows(self, rows: pa.Table, keys: Sequence[str]) -> pa.Table:
        """Those of `rows` that are in the bucket; the columns `keys` are what the step compares."""
        if self.of == 1:
            return rows
        mine = hash_rows([rows[name].combine_chunks() for name in keys], seed=_SEED) % np.uint64(self.of) == self.number
        return rows.filter(pa.array(mine))


@dataclass(frozen=True, eq=False)
class Dropped:
    """Rows that go."""

    places: NDArray[np.int64]
    """Ascending."""

    def applied(self, rows: pa.Table) -> tuple[pa.Table, int]:
        """The others."""
        places = places_of(rows)
        gone = self.places[_within(self.places, places)]
        return (rows.filter(pa.array(~np.isin(places, gone))) if gone.size else rows), 0

    def within(self, places: range) -> "Dropped":
        """As much of it as is about rows at these places."""
        return Dropped(self.places[_between(self.places, places)].copy())

    def with_others(self, others: Sequence["Dropped"]) -> "Dropped":
        """One plan for all."""
        return Dropped(np.sort(np.concatenate([self.places, *(other.places for other in others)])))


@dataclass(frozen=True, eq=False)
class Replaced:
    """Values that stand in for missing ones."""

    columns: Mapping[str, tuple[NDArray[np.int64], pa.Array]]
    """Column to places, ascending, and their values."""

    def applied(self, rows: pa.Table) -> tuple[pa.Table, int]:
        """All rows, with the values in those of the columns that are there."""
        places, n_changed = places_of(rows), 0
        for name in [name for name in self.columns if name in rows.column_names]:
            at, values = self.columns[name]
            mine = _within(at, places)
            # Rows that an earlier step dropped were dropped before this one looked, too: every place is there.
            mask = np.isin(places, at[mine])
            n_changed += int(mask.sum())
            column: Any = pc.replace_with_mask(rows[name].combine_chunks(), pa.array(mask), values[mine.start : mine.stop])
            rows = rows.set_column(rows.column_names.index(name), rows.schema.field(name), column)
        return rows, n_changed

    def within(self, places: range) -> "Replaced":
        """As much of it as is about rows at these places."""
        columns = {}
        for name, (at, values) in self.columns.items():
            mine = _between(at, places)
            # Copies, so that the rest is let go.
            columns[name] = at[mine].copy(), values.take(pa.array(np.arange(mine.start, mine.stop)))
        return Replaced(columns)

    def with_others(self, others: Sequence["Replaced"]) -> "Replaced":
        """One plan for all."""
        columns = {}
        for name in dict.fromkeys(name for plan in (self, *others) for name in plan.columns):
            parts = [plan.columns[name] for plan in (self, *others) if name in plan.columns]
            at = np.concatenate([part for part, _ in parts])
            order = np.argsort(at)
            columns[name] = (at[order], pa.concat_arrays([values for _, values in parts]).take(pa.array(order)))
        return Replaced(columns)


def places_of(rows: pa.Table) -> NDArray[np.int64]:
    """Each row's place, ascending."""
    places: NDArray[np.int64] = rows[PLACE].to_numpy()
    return places


def _between(ordered: NDArray[np.int64], places: range) -> slice:
    return slice(int(np.searchsorted(ordered, places.start)), int(np.searchsorted(ordered, places.stop)))


def _within(ordered: NDArray[np.int64], places: NDArray[np.int64]) -> slice:
    """The part of `ordered` that lies within the range of `places`."""
    if not places.size:
        return slice(0, 0)
    return slice(int(np.searchsorted(ordered, places[0])), int(np.searchsorted(ordered, places[-1], side="right")))
