"""When drift is worth a retraining: `monitoring:`."""

import datetime as dt
from typing import Literal, Self

from pydantic import Field, model_validator

from pipelines_lib.use_case.base import Settings

SHOWN_ALONE = {"calibration_error"}
"""Metrics of whose loss a partition says nothing, since they grow by chance where rows are few."""


class QuietPeriod(Settings):
    """Days on which no retraining is fired: a freeze, a sale, a holiday whose data is like no other."""

    first: dt.date
    last: dt.date
    """The last day of it."""
    why: str = ""

    @model_validator(mode="after")
    def _ends_after_it_begins(self) -> Self:
        if self.last < self.first:
            raise ValueError(f"the period's last day ({self.last}) lies before its first ({self.first}); swap them")
        return self


class Monitoring(Settings):
    """When drift is worth a retraining."""

    answers: Literal["service", "batch"] | None = None
    """Whose answers are looked at: what the service was asked, or the table of scores; that one when absent where `deployment.batch` asks for it."""
    min_rows: int = Field(default=200, ge=1)
    """Rows a partition needs before its figures count."""
    psi: float = Field(default=0.2, gt=0)
    """Population stability index from which a column has drifted."""
    share: float = Field(default=0.25, gt=0, le=1)
    """How much of the inputs must have drifted, by what they are worth to the model; drift of the predictions, or of all inputs together, counts alone."""
    loss: float | None = Field(default=0.05, gt=0)
    """Share of the champion's hold-out metric (`gate.metric`) whose loss counts, whatever the inputs do; and without which drift of the
    inputs is only told. null: performance is shown, and decides nothing."""
    need: int = Field(default=2, ge=1)
    """Drifted partitions …"""
    of: int = Field(default=3, ge=1)
    """… among the last so many that make a retraining."""
    cooldown: int = Field(default=5, ge=0)
    """Partitions after a retraining in which no other is fired; at least one, and twice as many each time, while the champion it was to
    replace still serves."""
    max_retrainings: int = Field(default=4, ge=0)
    """Retrainings fired in any 30 days."""
    max_cost: float | None = Field(default=None, gt=0)
    """What they may cost in any 30 days, in the currency of the profile's `cloud`; the next one is expected to cost what the newest training did."""
    min_gain: float | None = Field(default=None, gt=0)
    """Share of the metric that a retraining must be expected to win back: what the drifted partitions lost on average, where that is known."""
    quiet: tuple[QuietPeriod, ...] = ()
    """Periods in which no retraining is fired."""

    @model_validator(mode="after")
    def _need_within_of(self) -> Self:
        if self.need > self.of:
            raise ValueError(f"need ({self.need}) of the last {self.of} partitions can never be met; lower need or raise of")
        return self
