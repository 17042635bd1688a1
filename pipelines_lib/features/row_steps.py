"""The cleaning steps that look at one value, done to served rows as `data.cleaning` does them to the rows of the `clean` layer.

A model must meet what it was trained on: where training rows had their zeros taken for missing and their spellings made
alike, a request's are too. Rows of the `clean` layer come through as they are, since a use case's steps leave alone what
they made (`use_case.rules`). Numbers and words alone, numpy and Python alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipelines_lib.features.values import Column, as_booleans, as_numbers, as_strings, each
from pipelines_lib.spelling import normal

if TYPE_CHECKING:  # pydantic stays out of an edge device
    from pipelines_lib.use_case import CleaningStep, ColumnType

Floats = NDArray[np.float64]
Kind = Literal["to_missing", "normalise", "fill", "clip"]
_KINDS: tuple[Kind, ...] = ("to_missing", "normalise", "fill", "clip")


@dataclass(frozen=True, kw_only=True)
class RowStep:
    """One step on one feature."""

    name: str
    kind: Kind
    values: tuple[float | str, ...]
    """`to_missing`: the markers; `normalise`: what is wanted; `fill`: the constant; `clip`: lower and upper bound."""

    def numbers(self, column: Floats) -> Floats:
        """The column afterwards, NaN where a value is missing."""
        match self.kind:
            case "to_missing":
                return np.where(np.isin(column, self.values), np.nan, column)
            case "fill":
                return np.where(np.isnan(column), self.values[0], column)
            case "clip":
                low, high = (float(bound) for bound in self.values)
                return np.minimum(np.maximum(column, low), high)
        raise AssertionError(f"{self.kind} is for strings")

    def texts(self, column: Sequence[str | None]) -> list[str | None]:
        """The column afterwards, None where a value is missing."""
        match self.kind:
            case "to_missing":
                markers = frozenset(self.values)
                return [None if text in markers else text for text in column]
            case "fill":
                return [str(self.values[0]) if text is None else text for text in column]
            case "normalise":
                wanted = frozenset(map(str, self.values))
                return [None if text is None else normal(text, wanted) or None for text in column]
        raise AssertionError(f"{self.kind} is for numbers")


def row_steps(steps: Iterable[CleaningStep], types: Mapping[str, ColumnType]) -> tuple[RowStep, ...]:
    """What a use case's steps do to single values of its features, whose types are `types`."""
    found = []
    for step in steps:
        for kind in (kind for kind in _KINDS if kind == step.kind):
            for name, setting in getattr(step, kind).items():
                if name in types and (values := _values(kind, setting, types[name])):
                    found.append(RowStep(name=name, kind=kind, values=values))
    return tuple(found)


def _values(kind: Kind, setting: Any, type_: ColumnType) -> tuple[float | str, ...]:
    """The setting as values of the column's type; a marker that is none ("****" for a number) is dealt with before."""
    if kind == "normalise":
        return tuple(setting)
    given = list(setting) if kind != "fill" else [setting]
    if kind == "clip" and type_ == "integer":
        given = [math.ceil(setting[0]), math.floor(setting[1])]
    if type_ in ("string", "text"):
        return tuple(_text(value) for value in given)
    return tuple(float(number) for number in read_numbers(type_, given) if not math.isnan(number))


def _text(value: Any) -> str:
    """A constant of a string column: 1.0 is "1", as Arrow writes it in the `clean` layer."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def after_row_steps(column: Column, type_: ColumnType, steps: Sequence[RowStep]) -> Column:
    """A feature's column after its steps: float64 [n] with NaN, or texts with None."""
    done: Column = each(column, lambda values: _after_row_steps(values, type_, steps))
    return done


def _after_row_steps(column: Column, type_: ColumnType, steps: Sequence[RowStep]) -> Column:
    if type_ in ("string", "text"):
        texts: list[str | None] = as_strings(column)
        for step in steps:
            texts = step.texts(texts)
        return texts
    numbers = read_numbers(type_, column)
    for step in steps:
        numbers = step.numbers(numbers)
    return numbers


def read_numbers(type_: ColumnType, column: Column) -> Floats:
    """A column of numbers or booleans as float64 [n], NaN where a value is missing."""
    return as_booleans(column) if type_ == "boolean" else as_numbers(column)
