"""Where a training stands, how it may end, and what follows from where it stands."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pipelines_lib.use_case import Training

_WARM_UP = 0.05
"""Share of the steps in which a cosine schedule's learning rate rises."""


class Stopped(Exception):
    """An observer, on the first rank, ended the training; `why` is its reason, which other ranks do not know."""

    def __init__(self, why: Exception | None) -> None:
        super().__init__(f"ended: {why or 'the first rank says why'}")
        self.why = why


@dataclass(frozen=True)
class Progress:
    """Where the loop stands; what a checkpoint says beside its tensors."""

    epoch: int = 0
    """Epochs finished."""
    step_in_epoch: int = 0
    """Global batches of the running epoch that are done."""
    loss_sum: float = 0.0
    """Sum of the running epoch's training losses over rows and ranks."""
    best_loss: float = math.inf
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    """One entry an epoch: epoch, train_loss, validation_loss."""
    shares: tuple[float, ...] = ()
    """Of the ranks in a batch."""
    loss_scale: dict[str, Any] = field(default_factory=dict)
    """Of fp16; empty otherwise."""

    @property
    def where(self) -> str:
        """In words: `in epoch 2`, or `after epoch 2` where the next has not begun."""
        return f"after epoch {self.epoch}" if self.epoch and not self.step_in_epoch else f"in epoch {self.epoch + 1}"

    def finished(self, settings: Training) -> bool:
        """Whether the epochs are done, or the validation loss has stopped falling."""
        return self.epoch >= settings.epochs or self.epoch - self.best_epoch >= settings.patience

    def to_state(self) -> dict[str, Any]:
        """As JSON; infinity, before the first epoch's end, as null."""
        return asdict(self) | {"best_loss": None if math.isinf(self.best_loss) else self.best_loss, "shares": list(self.shares)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Progress":
        """The reverse of `to_state`."""
        best = math.inf if state["best_loss"] is None else state["best_loss"]
        return cls(**{**state, "best_loss": best, "shares": tuple(state["shares"])})


def learning_rate(settings: Training, step: int, n_steps: int) -> float:
    """Of step `step` of `n_steps`, counted from 0 over all epochs (Loshchilov and Hutter 2017, SGDR, without restarts)."""
    if settings.schedule == "constant":
        return settings.learning_rate
    done = (step + 1) / n_steps
    if done < _WARM_UP:
        return settings.learning_rate * done / _WARM_UP
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (done - _WARM_UP) / (1 - _WARM_UP)))
