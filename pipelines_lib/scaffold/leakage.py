"""Columns that know too much: written after the fact, or the target in other words.

A model that may read them looks perfect and is worth nothing, since they are not known when a prediction is due
(Kaufman et al., "Leakage in Data Mining", 2012). Nobody can tell from the file alone, so what is found is set aside
with the reason, and a person decides.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from pipelines_lib.scaffold.survey import Facts
from pipelines_lib.use_case import Task

_KNOWS = 0.995
"""Share of the rows whose class a column must give away alone (and by itself, not by the majority), or its R² for a number."""
_RANKS = 0.995
"""ROC AUC of a single number from which it is suspect."""
_SURE = 0.95
"""Share of the rows with one value that are of one rare class."""
_RARE = 0.2
"""Share of the rows up to which a class is rare; to give away a frequent one is no feat."""
_REACHES = 0.05
"""Share of the rare class that such a value must cover, and at least so many rows: below that it is chance."""
_ROWS = 10
_FEW = 50
"""Distinct values up to which a column is read as groups."""


@dataclass(frozen=True)
class Target:
    """What is predicted, for comparing columns with it."""

    facts: Facts
    task: Task

    @property
    def codes(self) -> NDArray[np.int64]:
        """Place of each row's class, -1 where it has none."""
        return _codes(self.facts)


def leaks(target: Target, columns: list[Facts]) -> dict[str, str]:
    """Column name to what gives it away, for the columns that are suspect. `columns` are in the file's order."""
    found = {column.name: why for column in columns if (why := _alone(target, column))}
    if target.task != "regression":
        found |= _pairs(target, [column for column in columns if column.name not in found])
    return found | _companions(columns, found)


def _alone(target: Target, column: Facts) -> str | None:
    if column.source == target.facts.source:
        return None
    if target.task == "regression":
        r2 = _r_squared(target.facts.numbers, column.numbers) if column.is_number else 0.0
        return f"follows the target in a straight line (R² {r2:.4f})" if r2 >= _KNOWS else None
    if column.n_distinct <= _FEW:
        return _tells(target, _codes(column), column.n_distinct)
    if column.is_number and target.facts.n_distinct == 2:
        auc = _auc(target.codes, column.numbers)
        return f"ranks the classes all but perfectly by itself (ROC AUC {auc:.4f})" if auc >= _RANKS else None
    return None


def _tells(target: Target, groups: NDArray[np.int64], n_groups: int) -> str | None:
    """Whether the groups give the class away: all of them, or one of them a rare class."""
    known = (target.codes >= 0) & (groups >= 0)
    table = np.zeros((n_groups, target.facts.n_distinct), np.int64)
    np.add.at(table, (groups[known], target.codes[known]), 1)
    n = table.sum()
    if n == 0:
        return None
    right, majority = table.max(axis=1).sum() / n, table.sum(axis=0).max() / n
    if right >= _KNOWS and 1 - right <= 0.1 * (1 - majority):
        return f"gives the target away by itself ({right:.1%} of the rows)"
    if target.task != "binary":
        # Where there are many classes each is rare, and a category that names one is a good feature.
        return None
    sizes, classes = table.sum(axis=1), table.sum(axis=0)
    for group, class_ in np.argwhere(table >= _SURE * np.maximum(sizes, 1)[:, None]):
        reached = table[group, class_] / classes[class_]
        if classes[class_] <= _RARE * n and reached >= _REACHES and sizes[group] >= _ROWS:
            return f"one of its values stands for one class in {table[group, class_] / sizes[group]:.0%} of {sizes[group]} rows"
    return None


def _pairs(target: Target, columns: list[Facts]) -> dict[str, str]:
    """The later of two number columns whose being equal gives the class away (an amount that empties a balance)."""
    numbers = [column for column in columns if column.is_number and column.n_distinct > _FEW][:60]
    found = {}
    for first, second in combinations(numbers, 2):
        equal = first.numbers == second.numbers
        if equal.sum() >= _ROWS and (why := _tells(target, equal.astype(np.int64), 2)):
            found[second.name] = f"compared with {first.name}: where the two are equal, {why}"
    return found


def _companions(columns: list[Facts], found: dict[str, str]) -> dict[str, str]:
    """What stands beside the columns found and is of their kind: flags in one row of flags, names made of the same word."""
    more = {}
    for column, leak in _neighbours(columns, found):
        more[column.name] = f"a flag among flags that leak ({leak})"
    for column in columns:
        for name in found:
            if column.name not in found and column.is_number and _share_a_word(column.name, name):
                more.setdefault(column.name, f"its name is like that of {name}, which leaks")
    return more


def _neighbours(columns: list[Facts], found: dict[str, str]) -> Iterator[tuple[Facts, str]]:
    run: list[Facts] = []
    for column in [*columns, None]:
        if column is not None and column.n_distinct == 2:
            run.append(column)
            continue
        leaking = [flag.name for flag in run if flag.name in found]
        if 2 * len(leaking) > len(run):
            yield from ((flag, ", ".join(leaking)) for flag in run if flag.name not in found)
        run = []


def _share_a_word(first: str, second: str) -> bool:
    shared = SequenceMatcher(None, first, second, autojunk=False).find_longest_match().size
    return shared >= 6 and 2 * shared >= min(len(first), len(second))


def _codes(column: Facts) -> NDArray[np.int64]:
    """Place of each row's text among the column's, -1 where it is missing."""
    encoded = column.texts.dictionary_encode()
    return np.asarray(encoded.indices.fill_null(-1)).astype(np.int64)


def _r_squared(target: NDArray[np.float64], numbers: NDArray[np.float64]) -> float:
    known = np.isfinite(target) & np.isfinite(numbers)
    if known.sum() < _ROWS or np.ptp(numbers[known]) == 0 or np.ptp(target[known]) == 0:
        return 0.0
    # Brought to a width of 1 first: the squares of very small numbers would be zero.
    x, y = ((values - values.mean()) / np.ptp(values) for values in (numbers[known], target[known]))
    return float((x @ y) ** 2 / ((x @ x) * (y @ y)))


def _auc(classes: NDArray[np.int64], numbers: NDArray[np.float64]) -> float:
    """ROC AUC of a number as a score, whichever way it points (Mann-Whitney U, ties count half)."""
    known = (classes >= 0) & np.isfinite(numbers)
    positive = classes[known] == 1
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if n_positive < _ROWS or n_negative < _ROWS:
        return 0.5
    _, places, counts = np.unique(numbers[known], return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    auc = (ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)
    return float(max(auc, 1 - auc))
