"""Shares of rows, and how far two lie apart: intervals that hold where rows are few, too.

The bootstrap would draw a share of 0 as 0 each time. Wilson's interval does not, and Newcombe's method combines two of them: for a difference (Newcombe 1998),
and for a ratio (Donner and Zou, Closed-form confidence intervals for functions of the normal mean and standard deviation, 2012).
"""

from dataclasses import dataclass
from math import nan, sqrt

import numpy as np
from numpy.typing import NDArray

from pipelines_lib.evaluation.compare import t_quantile

Gap = tuple[float | None, float | None, float | None]
"""A figure and the ends of its interval; None where it is undefined."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """The share of some rows that are chosen."""

    value: float
    """NaN of no rows."""
    n_rows: int
    n_owners: int
    """Whom they belong to; as many as rows where each stands for itself."""
    n_alone: float
    """How many rows, each of its own owner, would say as much: rows of one owner are alike (design effect; Kish 1965)."""

    @classmethod
    def of(cls, chosen: NDArray[np.bool_], owners: NDArray[np.int64] | None) -> "Rate":
        """The rate of rows that are `chosen` or not [n], each of one of the `owners` [n]; of itself, when None."""
        n = len(chosen)
        value = float(chosen.mean()) if n else nan
        if owners is None or not n:
            return cls(value=value, n_rows=n, n_owners=n, n_alone=n)
        _, place = np.unique(owners, return_inverse=True)
        excess = np.bincount(place, chosen - value)
        n_owners = len(excess)
        if not 0 < value < 1:  # nothing varies, so nothing tells how alike rows of one owner are
            return cls(value=value, n_rows=n, n_owners=n_owners, n_alone=n_owners)
        variance, alone = float(excess @ excess) / n**2 * n_owners / max(n_owners - 1, 1), value * (1 - value)
        return cls(value=value, n_rows=n, n_owners=n_owners, n_alone=n if n * variance <= alone else alone / variance)

    def interval(self, confidence: float) -> tuple[float, float]:
        """Wilson's, with Student's quantile, since how alike rows of one owner are is an estimate. Of at least two owners."""
        z2 = t_quantile((1 + confidence) / 2, self.n_owners - 1) ** 2
        middle = (self.value + z2 / (2 * self.n_alone)) / (1 + z2 / self.n_alone)
        half = sqrt(z2 * self.value * (1 - self.value) / self.n_alone + (z2 / (2 * self.n_alone)) ** 2) / (1 + z2 / self.n_alone)
        return max(0.0, middle - half), min(1.0, middle + half)


def shortfall(rate: Rate, best: Rate, confidence: float) -> Gap:
    """How far `rate` lies below `best`."""
    (low, high), (best_low, best_high) = rate.interval(confidence), best.interval(confidence)
    gap = best.value - rate.value
    down = sqrt((best.value - best_low) ** 2 + (high - rate.value) ** 2)
    up = sqrt((best_high - best.value) ** 2 + (rate.value - low) ** 2)
    return gap, gap - down, gap + up


def ratio(rate: Rate, best: Rate, confidence: float) -> Gap:
    """`rate` over `best`; undefined where `best` is 0."""
    if not best.value:
        return None, None, None
    (low, high), (best_low, best_high) = rate.interval(confidence), best.interval(confidence)
    product = rate.value * best.value

    def root(end: float, of_best: float) -> float:
        return sqrt(max(0.0, product**2 - end * of_best * (2 * rate.value - end) * (2 * best.value - of_best)))

    lower = low * (2 * rate.value - low) / (product + root(low, best_high)) if product else 0.0
    upper = (product + root(high, best_low)) / (best_low * (2 * best.value - best_low))
    return rate.value / best.value, lower, upper
