"""Mergeable summaries of one column: quantiles of numbers, counts of categories.

Both are deterministic, so a stage that runs again writes the same bytes. (The KLL sketches of the datasketches
library toss an unseedable coin at each compaction and differ from run to run; datasketches-cpp issue 361.)
"""

import base64
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pipelines_lib.errors import DataError

Floats = npt.NDArray[np.float64]

MAX_POINTS = 256
MAX_CATEGORIES = 1000


@dataclass(frozen=True, eq=False)
class Quantiles:
    """Up to `MAX_POINTS` weighted points that stand for a column of finite numbers.

    With no more distinct values than that it is exact. Otherwise the points are the values at evenly spaced ranks, the
    summary of Manku, Rajagopalan and Lindsay (SIGMOD 1998) with all rows at hand: a rank is off by at most
    1 / (2 MAX_POINTS), about 0.2 %, after the first compaction, and each merge adds at most as much again. `merged`
    compacts once however many parts there are, so a window merged at once is off by no more than 0.4 %.
    (A KLL sketch with k = 200, of about the same size, is off by up to 1.3 %.)
    """

    n: int
    """Numbers summarised."""
    low: float
    high: float
    """Smallest and largest, exact; 0 where there are none."""
    values: Floats
    """Ascending and distinct, shape [p]."""
    weights: Floats
    """How many numbers each value stands for, shape [p]; they sum to `n`."""

    @classmethod
    def of(cls, numbers: Floats) -> Self:
        """Summary of finite `numbers`, shape [n]."""
        if not len(numbers):
            return cls(0, 0.0, 0.0, np.empty(0), np.empty(0))
        ordered = np.sort(numbers) + 0.0  # -0.0 and 0.0 are one value
        starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
        weights = np.diff(np.append(starts, len(ordered))).astype(np.float64)
        return cls._compacted(ordered[starts], weights, len(ordered), float(ordered[0]), float(ordered[-1]))

    @classmethod
    def merged(cls, parts: Sequence["Quantiles"]) -> Self:
        """Summary of everything that `parts` summarise."""
        parts = [part for part in parts if part.n]
        if not parts:
            return cls.of(np.empty(0))
        values, inverse = np.unique(np.concatenate([part.values for part in parts]), return_inverse=True)
        weights = np.bincount(inverse, np.concatenate([part.weights for part in parts])).astype(np.float64)
        return cls._compacted(
            values, weights, sum(part.n for part in parts), min(part.low for part in parts), max(part.high for part in parts)
        )

    @classmethod
    def _compacted(cls, values: Floats, weights: Floats, n: int, low: float, high: float) -> Self:
        if len(values) > MAX_POINTS:
            ranks = (np.arange(MAX_POINTS) + 0.5) * (n / MAX_POINTS)
            at = np.minimum(np.searchsorted(np.cumsum(weights), ranks), len(values) - 1)
            kept, counts = np.unique(at, return_counts=True)
            values, weights = values[kept], counts.astype(np.float64) * (n / MAX_POINTS)
        return cls(n, low, high, values, weights)

    def quantile(self, rank: float) -> float:
        """The smallest value that at least the share `rank` of the numbers does not exceed. There must be numbers."""
        assert self.n, "an empty column has no quantiles"
        at = int(np.searchsorted(np.cumsum(self.weights), rank * self.n - 1e-9 * self.n))
        return float(self.values[min(at, len(self.values) - 1)])

    def counts(self, edges: Sequence[float]) -> Floats:
        """How many numbers fall into `(-inf, e0], (e0, e1], …, (ek, inf)`, shape [len(edges) + 1]."""
        below = np.concatenate(([0.0], np.cumsum(self.weights)))[np.searchsorted(self.values, np.asarray(edges), side="right")]
        return np.diff(np.concatenate(([0.0], below, [float(self.n)])))

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"n": self.n, "low": self.low, "high": self.high, "values": _encode(self.values), "weights": _encode(self.weights)}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """The reverse of `to_dict`. Raises `DataError`."""
        values, weights = _decode(document["values"]), _decode(document["weights"])
        if len(values) != len(weights):
            raise DataError(
                f"a quantile summary has {len(values)} values and {len(weights)} weights; the profile is damaged, make it again"
            )
        return cls(int(document["n"]), float(document["low"]), float(document["high"]), values, weights)


@dataclass(frozen=True, eq=False)
class Categories:
    """How often each category occurs: exact up to `MAX_CATEGORIES`, then the most frequent and the sum of the rest."""

    counts: Mapping[str, int]
    n_other: int
    """Rows of categories that are not in `counts`."""

    @classmethod
    def of(cls, values: Iterable[str], repeats: Iterable[int] = itertools.repeat(1)) -> Self:
        """Counts of `values`, each of which stands for as many rows as `repeats` says."""
        counts: Counter[str] = Counter()
        for value, times in zip(values, repeats, strict=False):
            counts[value] += times
        return cls._compacted(counts, 0)

    @classmethod
    def merged(cls, parts: Sequence["Categories"]) -> Self:
        """Counts of everything that `parts` count."""
        total: Counter[str] = Counter()
        for part in parts:
            total.update(part.counts)
        return cls._compacted(total, sum(part.n_other for part in parts))

    @classmethod
    def _compacted(cls, counts: Mapping[str, int], n_other: int) -> Self:
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return cls(dict(ranked[:MAX_CATEGORIES]), n_other + sum(count for _, count in ranked[MAX_CATEGORIES:]))

    @property
    def n(self) -> int:
        """Rows counted."""
        return sum(self.counts.values()) + self.n_other

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"counts": dict(self.counts), "n_other": self.n_other}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """The reverse of `to_dict`."""
        return cls._compacted({str(k): int(v) for k, v in document["counts"].items()}, int(document["n_other"]))


def _encode(array: Floats) -> str:
    return base64.b64encode(array.astype("<f8").tobytes()).decode("ascii")


def _decode(text: str) -> Floats:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f8").astype(np.float64)
