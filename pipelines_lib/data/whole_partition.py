"""What a step that looked at the whole partition leaves behind: small arrays, by the row's place in the partition."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

PLACE = "row's place"
"""The column, of the working tables alone, that holds a row's place among the partition's accepted rows. No column of a use
case has a blank in its name."""

Stream = Callable[[], Iterator[pa.Table]]
"""Starts the partition from its first row again."""


class Plan(Protocol):
    """What a step will do to the rows of any batch."""

    def applied(self, rows: pa.Table) -> tuple[pa.Table, int]:
        """(rows afterwards, values changed)."""
        ...


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


def places_of(rows: pa.Table) -> NDArray[np.int64]:
    """Each row's place, ascending."""
    places: NDArray[np.int64] = rows[PLACE].to_numpy()
    return places


def _within(ordered: NDArray[np.int64], places: NDArray[np.int64]) -> slice:
    """The part of `ordered` that lies within the range of `places`."""
    if not places.size:
        return slice(0, 0)
    return slice(int(np.searchsorted(ordered, places[0])), int(np.searchsorted(ordered, places[-1], side="right")))
