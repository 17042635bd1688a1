"""A window of one sensor: the columns that hold it in the order of time, as one channel of the array `series`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from pipelines_lib.features.row_steps import read_numbers
from pipelines_lib.features.values import Column

if TYPE_CHECKING:  # pydantic stays out of an edge device
    from pipelines_lib.use_case import ColumnType

MAX_SCALED = 10.0
"""A standardised value is moved to within ±this, as a number's is."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One channel. Its steps share one scale, so that a rise stays a rise; a step that is missing says so in a channel of its own."""

    name: str
    columns: tuple[str, ...]
    """Oldest first."""
    types: tuple[ColumnType, ...]
    mean: float
    deviation: float

    @classmethod
    def fit(cls, name: str, columns: Sequence[str], types: Mapping[str, ColumnType], values: Mapping[str, Column]) -> Self:
        """Mean and deviation of the values there are, over all steps."""
        kinds = tuple(types[column] for column in columns)
        known = _window(columns, kinds, values)
        known = known[~np.isnan(known)]
        mean, deviation = (float(known.mean()), float(known.std())) if known.size else (0.0, 0.0)
        constant = deviation <= 1e-12 * max(1e-300, float(np.abs(known).max(initial=0.0)))
        return cls(name=name, columns=tuple(columns), types=kinds, mean=mean, deviation=1.0 if constant else deviation)

    def apply(self, values: Mapping[str, Column]) -> NDArray[np.float32]:
        """float32 [n, T, 2]: the standardised value (0, the mean, where it is missing) and whether it is there."""
        window = _window(self.columns, self.types, values)
        there = ~np.isnan(window)
        with np.errstate(over="ignore"):
            scaled = np.where(there, (window - self.mean) / self.deviation, 0.0)
        return np.stack([np.clip(scaled, -MAX_SCALED, MAX_SCALED), there], axis=2).astype(np.float32)


def _window(columns: Sequence[str], types: Sequence[ColumnType], values: Mapping[str, Column]) -> NDArray[np.float64]:
    """float64 [n, T], NaN where a step is missing."""
    return np.stack([read_numbers(type_, values[column]) for column, type_ in zip(columns, types, strict=True)], axis=1)
