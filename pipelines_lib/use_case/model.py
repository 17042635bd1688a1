"""The model, its gate and where it serves: `training:`, `gate:`, `deployment:`."""

from typing import Annotated

from pydantic import Field

from pipelines_lib.use_case.base import Settings


class Training(Settings):
    """The model and the loop."""

    window: int = Field(default=14, ge=1)
    """Partitions a training reads, the newest last."""
    workers: int = Field(default=2, ge=1, le=64)
    """Processes that train together."""
    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=256, ge=1)
    """Rows of the global batch, over all workers."""
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    hidden: list[Annotated[int, Field(ge=1)]] = Field(default=[128, 64], min_length=1)
    """Widths of the hidden layers."""
    embedding: int = Field(default=8, ge=1)
    """Width of a category's embedding; text gets eight times as much."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    patience: int = Field(default=3, ge=1)
    """Epochs without a better validation loss before training stops; the best epoch's weights are kept."""
    seed: int = 0
    checkpoint_steps: int = Field(default=200, ge=1)
    """Steps between checkpoints; one is also written after each epoch."""


class Gate(Settings):
    """What a challenger must show before it serves."""

    metric: str
    """The one number that decides: roc_auc, average_precision, accuracy, macro_f1, log_loss, rmse, mae."""
    floor: float
    """The worst value of `metric` that may serve (a ceiling for losses and errors)."""
    margin: float = Field(default=0.0, ge=0)
    """How much worse than the champion the challenger may be, at the lower end of the interval, where it looks worse at all."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    resamples: int = Field(default=1000, ge=100)
    """Paired bootstrap resamples."""
    min_rows: int = Field(default=50, ge=1)
    """Rows the hold-out must have for a verdict."""


class Deployment(Settings):
    """Where the champion serves."""

    port: int | None = Field(default=None, ge=1024, le=65535)
    """Port of the local service on 127.0.0.1; a free one is picked and kept when absent."""
    approve: bool = False
    """Whether a person approves each promotion in the Airflow UI."""
    tolerance: float = Field(default=1e-3, gt=0)
    """Largest difference between a score of the evaluation and the service's answer to the same row."""
