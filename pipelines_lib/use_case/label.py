"""What is predicted, and where the label comes from: `label:`."""

import datetime as dt
import math
from typing import Literal, Self

from pydantic import Field, JsonValue, model_validator

from pipelines_lib.use_case.base import Duration, Settings
from pipelines_lib.use_case.source import Source

LIKELY = 0.5
"""Of several classes those with at least this probability are predicted."""


def classes_in(text: str, separator: str) -> list[str]:
    """The classes of a label that may have several, sorted, each once; none for an empty text."""
    return sorted({name for part in text.split(separator) if (name := part.strip())})


class Threshold(Settings):
    """A number becomes one of two classes. A missing number has no label."""

    at: float = Field(allow_inf_nan=False)
    """The first number that is `above`."""
    above: str
    """Class of the numbers from `at` on."""
    below: str
    """Class of the smaller ones."""

    @model_validator(mode="after")
    def _two_classes(self) -> Self:
        if self.above == self.below:
            raise ValueError(f"`above` and `below` are both {self.above!r}, so there is nothing to tell apart; name two classes")
        return self


class EventWithin(Settings):
    """Whether an event follows for the same entity, later than the row's time t and no later than t + `within`.

    A row is labelled when every partition that its window reaches into is there; of a window with a gap nobody can say
    that nothing happened in it.
    """

    column: str
    """The column that shows the event."""
    values: list[JsonValue] = Field(min_length=1)
    """Its values that mean: the event happened at this row's time."""
    within: Duration
    """How far ahead is looked, such as 24h or 7d. The horizon in partitions follows from it."""
    follows: str
    """Class of the rows that the event follows."""
    otherwise: str
    """Class of the others."""

    @model_validator(mode="after")
    def _two_classes(self) -> Self:
        if self.follows == self.otherwise:
            raise ValueError(f"`follows` and `otherwise` are both {self.follows!r}, so there is nothing to tell apart; name two classes")
        return self


class Join(Settings):
    """Ground truth that comes by itself, later: found by key, each partition bringing what arrived in it.

    Of several truths for a key the one that arrived last counts; of two in one partition, the later record.
    """

    source: Source
    """Where the truths of a partition are read, as at the use case's own `source`."""
    on: list[str] | dict[str, str]
    """The key: columns that bear the same name in the ground truth, or column: its name there."""
    column: str
    """The outcome's column in the ground truth."""
    missing: str | None = None
    """Class of a row for which no truth has come when its horizon closes; null leaves it without a label."""
    late: int = Field(default=30, ge=0, le=3660)
    """For how many partitions after the horizon truths are still taken and change the labels that were given."""

    @property
    def keys(self) -> dict[str, str]:
        """Column of the use case to its name in the ground truth."""
        return self.on if isinstance(self.on, dict) else {name: name for name in self.on}

    @model_validator(mode="after")
    def _has_a_key(self) -> Self:
        if not self.on or len(set(self.keys.values())) < len(self.on):
            raise ValueError("`on` names the columns that identify a row, each once; write one or more")
        if self.source.land:
            raise ValueError("`land` is for the use case's own source; let something else bring the ground truth, and remove `land`")
        return self


class Rules(Settings):
    """Labelling functions of `hooks.py`, each of which gives a row a class or leaves it to the others.

    A function takes a pyarrow Table of clean rows and returns a class or None for each; what it says of a row must not
    depend on the other rows, since it is given them in batches.
    """

    functions: list[str] = Field(min_length=1)
    """Their names."""
    classes: list[str] = Field(min_length=2)
    """Every class that they may return."""
    aggregate: Literal["majority", "dawid_skene"] = "majority"
    """How votes become a label: the class with the most of them (none where two have as many), or the likeliest class when
    each function's error rates are estimated from the partition's votes (Dawid and Skene, 1979)."""
    min_votes: int = Field(default=1, ge=1)
    """Functions that must have spoken for a row to be labelled."""
    min_agreement: float = Field(default=0.0, ge=0, le=1)
    """Least confidence of a label: the share of the votes that agree, or the class's estimated probability."""

    @model_validator(mode="after")
    def _can_be_counted(self) -> Self:
        for field in ("functions", "classes"):
            if len(set(names := getattr(self, field))) < len(names):
                raise ValueError(f"`{field}` names one twice: {names}; name each once")
        if self.min_votes > len(self.functions):
            raise ValueError(
                f"`min_votes` is {self.min_votes} and there are {len(self.functions)} functions, so no row would be labelled; lower it"
            )
        if self.aggregate == "dawid_skene" and len(self.functions) < 3:
            raise ValueError(
                "`dawid_skene` estimates error rates from how functions agree, which takes three of them or more; "
                "add functions, or set `aggregate: majority`"
            )
        return self


class Review(Settings):
    """Rows that people are asked about. What they say goes before any other label."""

    below: float | None = Field(default=None, gt=0, le=1)
    """With `rules`: rows that got no label, or one whose confidence is lower, are asked for, the least certain first. Null asks
    for a sample of all rows, always the same."""
    per_partition: int = Field(default=50, ge=1, le=10_000)
    """How many rows of a partition people are asked for at most."""
    in_airflow: bool = False
    """Whether the data DAG waits for a person who says that the rows were reviewed, and labels the partition again then."""
    timeout: Duration = dt.timedelta(hours=20)
    """How long the DAG waits before it goes on without."""


class Label(Settings):
    """What is predicted. The label comes from one of `column`, `event_within`, `join` and `rules`."""

    column: str | None = None
    """The column the label is made from; its role must be `label`."""
    event_within: EventWithin | None = None
    """Whether an event follows within a time."""
    join: Join | None = None
    """Ground truth from a source of its own, which comes later than the rows."""
    rules: Rules | None = None
    """The votes of labelling functions."""
    map: dict[str, str] | None = None
    """Value of `column` or of the ground truth to class. A row whose value is not listed is quarantined."""
    threshold: Threshold | None = None
    """A number in `column` or in the ground truth as one of two classes."""
    separator: str | None = Field(default=None, min_length=1)
    """What stands between the classes of one value; multilabel tasks only, and required there. A row without a value has no class."""
    positive: str | None = None
    """The class whose probability is predicted; binary tasks only, and required there."""
    horizon: int = Field(default=0, ge=0)
    """Partitions that must have passed before the label is known."""
    review: Review | None = None
    """Which rows people are asked about."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = [name for name in ("column", "event_within", "join", "rules") if getattr(self, name) is not None]
        if len(ways) != 1:
            raise ValueError(
                f"a label comes from one of `column`, `event_within`, `join` and `rules`; this one names {' and '.join(ways) or 'none'}. Keep one"
            )
        given = [name for name in ("map", "threshold") if getattr(self, name) is not None]
        if given and ways[0] not in ("column", "join"):
            raise ValueError(f"`{given[0]}` makes classes of values, and `{ways[0]}` gives classes already; remove it")
        if len(given) == 2:
            raise ValueError("`map` and `threshold` both make classes of the same values; keep one")
        if self.event_within is not None and self.horizon:
            raise ValueError("the horizon of `event_within` follows from `within`; remove `horizon`")
        if self.review is not None and self.review.below is not None and self.rules is None:
            raise ValueError("`review.below` is about the confidence of `rules`, and a label of another kind has none; remove `below`")
        return self

    @property
    def classes(self) -> list[str] | None:
        """The classes that the settings name, in their order; None where they name none, so that any value is one."""
        if self.map is not None:
            named = list(self.map.values())
        elif self.threshold is not None:
            named = [self.threshold.above, self.threshold.below]
        elif self.event_within is not None:
            named = [self.event_within.follows, self.event_within.otherwise]
        elif self.rules is not None:
            named = self.rules.classes
        else:
            return None
        missing = [] if self.join is None or self.join.missing is None else [self.join.missing]
        return list(dict.fromkeys([*named, *missing]))

    def horizon_of(self, partition: dt.timedelta) -> int:
        """Partitions of this length that must have passed before the label is known."""
        return self.horizon if self.event_within is None else math.ceil(self.event_within.within / partition)

    def reach_of(self, partition: dt.timedelta) -> int:
        """How many partitions later something may still come that changes the label."""
        return self.horizon_of(partition) + (0 if self.join is None else self.join.late)
