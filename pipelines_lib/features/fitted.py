"""The cleaning steps that need figures of the training rows: outliers and imputation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from pipelines_lib.features.row_steps import read_numbers
from pipelines_lib.features.values import Column, Distinct, as_strings, counted_texts, each

if TYPE_CHECKING:  # pydantic stays out of an edge device
    from pydantic import JsonValue

    from pipelines_lib.use_case import CleaningStep, ColumnType, Outliers, Statistic

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """One step on one feature, with the figures of the training rows."""

    name: str
    kind: Literal["clip", "flag", "to_missing", "impute"]
    low: float | None = None
    high: float | None = None
    """An outlier is a number below `low` or above `high`; where one is None there is no outlier on that side."""
    value: float | str | None = None
    """What stands in for a missing value; None where the training rows had no value to take it from."""
    n_changed: int = 0
    """Values of the training rows that were changed, or flagged."""

    @property
    def output(self) -> str:
        """The column that the step makes: the feature itself, or its flag."""
        return f"{self.name}_outlier" if self.kind == "flag" else self.name

    def apply(self, column: Column, type_: ColumnType) -> Column:
        """The column `output`: float64 [n] with NaN where a number is missing, or texts with None."""
        if type_ == "string":
            filled: Column = each(column, lambda values: [self.value if text is None else text for text in as_strings(values)])
            return filled
        numbers = read_numbers(type_, column)
        match self.kind:
            case "impute":
                return numbers if self.value is None else np.where(np.isnan(numbers), float(self.value), numbers)
            case "clip":
                return np.minimum(np.maximum(numbers, self._low), self._high)
            case "flag":
                return self._outside(numbers).astype(np.float64)
            case "to_missing":
                return np.where(self._outside(numbers), np.nan, numbers)

    @property
    def _low(self) -> float:
        return -math.inf if self.low is None else self.low

    @property
    def _high(self) -> float:
        return math.inf if self.high is None else self.high

    def _outside(self, numbers: Floats) -> NDArray[np.bool_]:
        return np.asarray((numbers < self._low) | (numbers > self._high))


def fit_steps(steps: Iterable[CleaningStep], types: Mapping[str, ColumnType], columns: Mapping[str, Column]) -> tuple[Fitted, ...]:
    """The fitted steps among `steps`, in order, each on the training rows as the one before leaves them. One column is asked for at a time."""
    wanted = [(name, setting) for step in steps for name, setting in _settings(step).items()]
    fitted: dict[int, Fitted] = {}
    for name in dict.fromkeys(name for name, _ in wanted):
        column = columns[name]
        for place, (_, setting) in ((place, one) for place, one in enumerate(wanted) if one[0] == name):
            part = _fit(name, types[name], column, setting)
            made = part.apply(column, types[name])
            fitted[place] = replace(part, n_changed=_n_changed(part, column, made, types[name]))
            column = made if part.output == name else column
    return tuple(fitted[place] for place in range(len(wanted)))


def _settings(step: CleaningStep) -> Mapping[str, Outliers | Statistic]:
    if step.outliers is not None:
        return dict.fromkeys(step.outliers.columns, step.outliers)
    return step.impute or {}


def _fit(name: str, type_: ColumnType, column: Column, setting: Outliers | Statistic) -> Fitted:
    if isinstance(setting, str):  # the name of a statistic
        return Fitted(name=name, kind="impute", value=_statistic(setting, type_, column))
    numbers = read_numbers(type_, column)
    low, high = _bounds(setting, numbers[~np.isnan(numbers)])
    return Fitted(name=name, kind=setting.action, low=low, high=high)


def _bounds(setting: Outliers, known: Floats) -> tuple[float | None, float | None]:
    """Where the outliers begin. None where the training rows show no spread to measure by: of a column that is mostly one
    value every other one would be an outlier."""
    if setting.method == "bounds":
        return setting.low, setting.high
    if not known.size:
        return None, None
    if setting.method == "iqr":
        first, third = (float(quartile) for quartile in np.quantile(known, [0.25, 0.75]))
        reach = (1.5 if setting.times is None else setting.times) * (third - first)
        return (first - reach, third + reach) if reach > 0 else (None, None)
    mean, reach = float(known.mean()), (3.0 if setting.times is None else setting.times) * float(known.std())
    return (mean - reach, mean + reach) if reach > 0 else (None, None)


def _statistic(statistic: Statistic, type_: ColumnType, column: Column) -> float | str | None:
    """Of the values there are; of several most frequent ones the smallest. None where there are none."""
    if type_ == "string":
        seen = counted_texts(column)
        return min(seen, key=lambda text: (-seen[text], text), default=None)
    numbers = read_numbers(type_, column)
    known = numbers[~np.isnan(numbers)]
    if not known.size:
        return None
    match statistic:
        case "median":
            return float(np.median(known))
        case "mean":
            return float(known.mean())
        case "mode":
            values, counts = np.unique(known, return_counts=True)
            return float(values[counts.argmax()])


def _n_changed(part: Fitted, before: Column, after: Column, type_: ColumnType) -> int:
    if part.kind == "flag":
        return int(np.sum(np.asarray(after)))
    if type_ == "string":
        if isinstance(before, Distinct) and isinstance(after, Distinct):  # a step leaves the places as they are
            changed = [old != new for old, new in zip(as_strings(before.values), after.values, strict=True)]
            return int(before.counts[np.asarray(changed, bool)].sum())
        return sum(old != new for old, new in zip(as_strings(before), after, strict=True))
    old, new = read_numbers(type_, before), np.asarray(after)
    return int(np.sum((old != new) & ~(np.isnan(old) & np.isnan(new))))


def changes(parts: Iterable[Fitted]) -> list[dict[str, JsonValue]]:
    """What each step did to the training rows, for whoever reads the training's result. Figures alone: a word may be somebody's."""
    return [
        {
            "column": part.name,
            "step": part.kind,
            **{key: figure for key in ("low", "high", "value") if isinstance(figure := getattr(part, key), float)},
            "values_changed": part.n_changed,
        }
        for part in parts
    ]
