"""Who trains, who stops the training early, who judges: `split:`."""

import datetime as dt
from typing import Literal, Self

from pydantic import Field, model_validator

from pipelines_lib.use_case.base import Settings


class Split(Settings):
    """Who trains, who stops the training early, who judges: never the same entity, or group, twice."""

    by: Literal["entity", "group", "row", "time"] = "row"
    """`entity`: all rows of an entity fall on one side; `group`: all rows that share a value of `group`; `row`: each row by
    itself; `time`: the newest partitions judge, those before them stop the training, and the older ones train."""
    group: str | None = None
    """The column that `by: group` goes by (a site, a household, a machine)."""
    stratify: bool = False
    """With `by: row`: every class of a partition has its share of each side, to within three rows in 10,000. Left to chance, a
    class of ten rows has no test row in one partition of ten."""
    validation: float = Field(default=0.15, gt=0, lt=0.5)
    test: float = Field(default=0.2, gt=0, lt=0.5)
    validation_from: dt.date | None = None
    """With `by: time`, instead of shares: the day from which partitions stop the training …"""
    test_from: dt.date | None = None
    """… and the day from which they judge."""
    gap: int | None = Field(default=None, ge=0)
    """With `by: time`: partitions left out before validation and before test. A label is made of what happens within its
    horizon, so without a gap the last training rows would know the first test days; the horizon, when absent."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Decides which row, entity or group falls on which side; another one shares them out anew."""

    @model_validator(mode="after")
    def _what_goes_with_by(self) -> Self:
        if self.by == "group" and self.group is None:
            raise ValueError("`by: group` needs `group`: the column whose values keep together")
        for name in ("group", "stratify", "validation_from", "gap"):
            owner = {"group": "group", "stratify": "row"}.get(name, "time")
            if getattr(self, name) not in (None, False) and self.by != owner:
                raise ValueError(
                    f"`{name}` goes with `by: {owner}`, and this is `by: {self.by}`; remove one of the two{_WHY.get(name, '')}"
                )
        if (self.validation_from is None) != (self.test_from is None):
            raise ValueError("`validation_from` and `test_from` go together; say both, or neither to have the newest partitions judge")
        if self.validation_from is not None and self.test_from is not None and self.validation_from >= self.test_from:
            raise ValueError(
                f"validation starts ({self.validation_from}) no earlier than test ({self.test_from}); swap them, or set them apart"
            )
        return self


_WHY = {
    "stratify": " (entities and groups keep together across partitions, so their classes can't be shared out; a split by time takes days as they are)"
}
