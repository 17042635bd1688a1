"""The steps from accepted rows to clean ones: `clean:`.

Two kinds of steps share the list. Row steps make the `clean` layer and need nothing but the partition. Fitted steps
(`outliers`, `impute`) need figures of the training rows, so they come last, are fitted with the model's feature transform,
and go wherever it goes: training, evaluation, service, edge.
"""

import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pipelines_lib.spelling import normal
from pipelines_lib.use_case.base import Settings

Constant = str | float | int
Columns = Annotated[list[str], Field(min_length=1)]
Normal = Literal["nfkc", "lower", "blanks"]
Statistic = Literal["median", "mean", "mode"]


class FillForward(Settings):
    """The last known value of the same entity stands in for a missing one; never one of another entity, never a later one.

    It looks no further back than the partition begins. A served row has no rows before it, so what is missing there stays
    missing: follow it with `impute` where that matters.
    """

    columns: Columns
    """The columns to fill."""
    by: str
    """The column that says whose row it is. A row that lacks it is left as it is."""
    order: str | None = None
    """The column that says when it was; equals keep the source's order, and a row that lacks it is left as it is. The source's
    order alone, when absent."""


class Outliers(Settings):
    """Numbers far from the rest of the training rows, or from what is possible."""

    columns: Columns
    """Features of type `integer` or `number`."""
    method: Literal["bounds", "iqr", "zscore"]
    """`bounds`: outside `low` and `high`; `iqr`: more than `times` interquartile ranges below the first or above the third
    quartile (Tukey's fences); `zscore`: more than `times` standard deviations from the mean. Quartiles, mean and deviation
    are those of the training rows."""
    low: float | None = None
    """Lower bound of `bounds`; none when absent."""
    high: float | None = None
    """Upper bound of `bounds`; none when absent."""
    times: float | None = Field(default=None, gt=0)
    """How far is too far: 1.5 for `iqr` and 3 for `zscore` when absent."""
    action: Literal["clip", "flag", "to_missing"]
    """`clip`: moved to the bound; `to_missing`: imputed like a missing value; `flag`: kept, and one more input,
    `<column>_outlier`, tells the model."""

    @model_validator(mode="after")
    def _what_the_method_takes(self) -> Self:
        if self.method == "bounds":
            if self.times is not None:
                raise ValueError("`times` is for `iqr` and `zscore`; with `method: bounds` say `low`, `high` or both")
            if self.low is None and self.high is None:
                raise ValueError("`method: bounds` needs `low`, `high` or both")
            if self.low is not None and self.high is not None and self.low > self.high:
                raise ValueError(f"low ({self.low:g}) lies above high ({self.high:g}); swap them")
        elif self.low is not None or self.high is not None:
            raise ValueError(
                f"`low` and `high` are for `method: bounds`; {self.method} takes its bounds from the training rows, remove them"
            )
        return self


class CleaningStep(Settings):
    """One step, done in the order written; exactly one of the fields is set."""

    deduplicate: Columns | None = None
    """Keep the first of the rows that agree on these columns."""
    to_missing: dict[str, list[Constant]] | None = None
    """Column to the values that mean "missing" in it (zeros, "****")."""
    normalise: dict[str, Annotated[list[Normal], Field(min_length=1)]] | None = None
    """Column of strings or text to what makes its spellings alike. `nfkc`: one form of each character (Ａ is A); `lower`: lower
    case; `blanks`: one space for each run of blanks. Done in this order, whatever the order written."""
    fill: dict[str, Constant] | None = None
    """Column to the constant that stands in for a missing value."""
    fill_forward: FillForward | None = None
    """Fill from earlier rows of the same entity."""
    clip: dict[str, tuple[float, float]] | None = None
    """Column to the lower and upper bound its values are moved to."""
    drop: dict[str, Annotated[list[Constant], Field(min_length=1)]] | None = None
    """Column to values: rows that have one of them are dropped."""
    drop_missing: Columns | None = None
    """Drop the rows that lack any of these columns."""
    drop_columns: Columns | None = None
    """Columns (`role: other`) that earlier steps needed and nobody does afterwards; they are not written to `clean`."""
    outliers: Outliers | None = None
    """Fitted: clip, flag or forget numbers far from the training rows."""
    impute: dict[str, Statistic] | None = None
    """Fitted: feature to the statistic of the training rows that stands in for a missing value. Without this step a number
    gets the median, and a category is known to be missing."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a cleaning step does one thing, this one names {given or 'none'}; write one list item a step")
        return self

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        for name, (low, high) in (self.clip or {}).items():
            if low > high:
                raise ValueError(f"clip: the lower bound of {name!r} ({low:g}) lies above the upper ({high:g}); swap them")
        return self

    @property
    def kind(self) -> str:
        """What the step does: the name of the field that is set."""
        [name] = [name for name in type(self).model_fields if getattr(self, name) is not None]
        return name

    @property
    def fitted(self) -> bool:
        """Whether it belongs to the feature transform."""
        return self.kind in ("outliers", "impute")

    def columns(self) -> list[str]:
        """The columns the step names."""
        match getattr(self, self.kind):
            case FillForward() as forward:
                return [*forward.columns, forward.by, *([forward.order] if forward.order else [])]
            case Outliers() as outliers:
                return outliers.columns
            case names:
                return list(names)


def undone(steps: Iterable[CleaningStep], name: str, whole: bool) -> list[Any]:
    """A value, None for a missing one, that the steps make in column `name` (`whole`: of whole numbers) and don't leave alone
    when it comes again; empty where there is none.

    Between the constants of the steps a value is left alone or moved to one of them, so the constants and their
    neighbours are all there is to try.
    """
    steps = [step for step in steps if step.kind in ("to_missing", "normalise", "fill", "clip") and name in step.columns()]
    constants = [value for step in steps for value in _constants(getattr(step, step.kind)[name])]
    spellings = [way(value) for value in constants if isinstance(value, str) for way in (str.lower, str.upper, str.title)]
    beside = [value + by for value in constants if isinstance(value, int | float) for by in (-1, 1)]
    for tried in [None, *constants, *spellings, *beside]:
        made = _after(steps, name, tried, whole)
        if _after(steps, name, made, whole) != made:
            return [made]
    return []


def _constants(setting: Any) -> list[Any]:
    return list(setting) if isinstance(setting, list | tuple) else [setting]


def _after(steps: list[CleaningStep], name: str, value: Any, whole: bool) -> Any:
    """`value` after the steps, None where it is missing."""
    for step in steps:
        setting: Any = getattr(step, step.kind)[name]
        if step.kind == "fill":
            value = setting if value is None else value
        elif step.kind == "to_missing":
            value = None if value in setting else value
        elif step.kind == "normalise":
            value = normal(value, setting) or None if isinstance(value, str) else value
        elif isinstance(value, int | float):
            low, high = (math.ceil(setting[0]), math.floor(setting[1])) if whole else setting
            value = min(max(value, low), high)
    return value
