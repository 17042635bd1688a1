"""What a model must show before it serves: `gate:`."""

from typing import Literal, Self

from pydantic import Field, model_validator

from pipelines_lib.use_case.base import Settings


class Slice(Settings):
    """Parts of the hold-out, by the values of a column, or by the range of a number."""

    column: str
    """A declared column; one with `role: other` will do."""
    floor: float | None = None
    """The worst value of `gate.metric` that a part may have; `gate.floor` when absent."""
    values: list[str] = Field(default_factory=list)
    """The values that make a part each; the twenty most frequent when absent."""
    bins: int = Field(default=4, ge=2, le=20)
    """Into how many parts, of equally many rows, the range of a number is cut."""
    min_rows: int = Field(default=50, ge=2)
    """Rows that a part must have to be judged."""


class Robustness(Settings):
    """Inputs that are worse than those of the hold-out, and what the metric may lose by each kind of them."""

    loss: float = Field(gt=0)
    noise: float = Field(default=0.1, ge=0)
    """Noise on every number, as a share of its standard deviation."""
    missing: float = Field(default=0.1, ge=0, le=1)
    """Share of all values that are taken away."""
    shifted: float = Field(default=0.1, ge=0, le=1)
    """Share of the categories that become one that training never saw."""
    rows: int = Field(default=5000, ge=50)
    """Rows of the hold-out that are tried, at most; where lists are ranked, whole lists until there are as many."""

    @model_validator(mode="after")
    def _something_is_tried(self) -> Self:
        if not (self.noise or self.missing or self.shifted):
            raise ValueError("`noise`, `missing` and `shifted` are all 0, so nothing is tried; set one, or remove `robustness`")
        return self


class Fairness(Settings):
    """Groups of people, and how unlike their treatment may be."""

    column: str
    """The declared column that names the groups. The model need not see it: `role: other` will do."""
    impact: float = Field(default=0.8, gt=0, le=1)
    """The least share that a group's rate of a yes may be of the most favoured group's (disparate impact; four fifths by custom)."""
    opportunity: float = Field(default=0.1, ge=0, lt=1)
    """The most by which a group's rate of a yes among those who deserve one may lie below the best group's (equal opportunity)."""
    threshold: float | None = Field(default=None, gt=0, lt=1)
    """The score of the positive class that is a yes; the operating point when absent."""
    min_rows: int = Field(default=50, ge=2)
    """Rows that a group must have to be compared."""


class Gate(Settings):
    """What a challenger must show before it serves."""

    metric: str
    """The one number that decides; which fit a task is in docs/evaluation.md."""
    floor: float
    """The worst value of `metric` that may serve (a ceiling for losses and errors)."""
    margin: float = Field(default=0.0, ge=0)
    """How much worse than the champion the challenger may be, at the lower end of the interval, where it looks worse at all."""
    promote: Literal["not_worse", "better"] = "not_worse"
    """What a challenger must be against the champion: not worse, so that of two that look equal the fresher one serves, or proven better."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    resamples: int = Field(default=1000, ge=100)
    """Paired bootstrap resamples."""
    min_rows: int = Field(default=50, ge=1)
    """Rows the hold-out must have for a verdict."""
    k: int = Field(default=10, ge=1)
    """How many places of a list count, for `ndcg`, `recall` and `map`."""
    slices: list[Slice] = Field(default_factory=list)
    """Parts of the hold-out with a floor of their own; none when absent, as with all that follow."""
    calibration: float | None = Field(default=None, gt=0, lt=1)
    """The largest `calibration_error`."""
    robustness: Robustness | None = None
    """How much worse the metric may become where inputs are."""
    fairness: list[Fairness] = Field(default_factory=list)
    """Groups of people whom a binary answer must treat alike."""
    milliseconds: float | None = Field(default=None, gt=0)
    """The longest that one row may take (median, on the machine of the evaluation, without the network)."""
    max_bytes: int | None = Field(default=None, ge=1)
    """The largest that graph and transform may be together."""
    cost_per_point: float | None = Field(default=None, gt=0)
    """What one point of gain over the champion may have cost, in the currency of the profile's cloud. A point is 0.01 of a metric between 0 and 1, of a loss or
    an error 1 % of the champion's."""

    def columns(self) -> list[str]:
        """The columns that its parts and groups go by."""
        return list(dict.fromkeys([*(part.column for part in self.slices), *(part.column for part in self.fairness)]))
