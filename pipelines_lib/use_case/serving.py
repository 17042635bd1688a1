"""What a model must show before it serves, and where it does: `gate:`, `deployment:`."""

from typing import Literal

from pydantic import Field

from pipelines_lib.use_case.base import Settings


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


class Deployment(Settings):
    """Where the champion serves."""

    port: int | None = Field(default=None, ge=1024, le=65535)
    """Port of the local service on 127.0.0.1; a free one is picked and kept when absent."""
    approve: bool = False
    """Whether a person approves each promotion in the Airflow UI."""
    tolerance: float = Field(default=1e-3, gt=0)
    """Largest difference between a score of the evaluation and the service's answer to the same row."""
