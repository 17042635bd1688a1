"""Numbers that may stand for "missing": zeros where nothing else comes near zero, and 999 and its kin. Suggested, never decided."""

import numpy as np
from numpy.typing import NDArray

from pipelines_lib.scaffold.survey import Facts

_NINES = frozenset({99.0, 999.0, 9999.0, 99999.0, 999999.0, -99.0, -999.0, -9999.0, -99999.0})


def suspect(column: Facts) -> tuple[int, str] | None:
    """(the number, why) where one looks like a marker."""
    if not column.is_number:
        return None
    numbers = column.numbers[np.isfinite(column.numbers)]
    distinct, counts = np.unique(numbers, return_counts=True)
    if len(distinct) <= 10:
        return None
    for place, neighbour in ((0, 1), (-1, -2)):
        value, share = float(distinct[place]), counts[place] / len(numbers)
        rest = np.delete(distinct, place)
        if value in _NINES and counts[place] >= 3 and abs(value - distinct[neighbour]) > np.ptp(rest):
            return int(value), f"{share:.1%} of the values, far from all others"
    if distinct[0] == 0 and _is_apart(distinct[1:]) and 0.001 <= counts[0] / len(numbers) <= 0.6:
        return 0, f"{counts[0] / len(numbers):.1%} of the values, the next one is {distinct[1]:.6g}"
    return None


def _is_apart(positive: NDArray[np.float64]) -> bool:
    """Whether the smallest of the other values keeps a distance from zero that they don't keep from each other."""
    lower = positive[: max(2, len(positive) // 2)]
    spacing = float(np.median(np.diff(lower)))
    return bool(positive[0] >= 5 * spacing and positive[0] >= 0.05 * np.median(positive))
