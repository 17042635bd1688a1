"""When drift is worth a retraining: `monitoring:`."""

from typing import Self

from pydantic import Field, model_validator

from pipelines_lib.use_case.base import Settings


class Monitoring(Settings):
    """When drift is worth a retraining."""

    min_rows: int = Field(default=200, ge=1)
    """Rows a partition needs before its figures count."""
    psi: float = Field(default=0.2, gt=0)
    """Population stability index from which a column has drifted."""
    share: float = Field(default=0.25, gt=0, le=1)
    """Share of the input columns that must have drifted; drift of the predictions counts alone."""
    need: int = Field(default=2, ge=1)
    """Drifted partitions …"""
    of: int = Field(default=3, ge=1)
    """… among the last so many that make a retraining."""
    cooldown: int = Field(default=3, ge=0)
    """Partitions after a retraining in which no other is fired."""
    max_retrainings: int = Field(default=4, ge=0)
    """Retrainings fired in any 30 days."""

    @model_validator(mode="after")
    def _need_within_of(self) -> Self:
        if self.need > self.of:
            raise ValueError(f"need ({self.need}) of the last {self.of} partitions can never be met; lower need or raise of")
        return self
