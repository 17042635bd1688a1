"""Whoever follows a training: told on the first rank alone, and may end it."""

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

from pipelines_lib.training.progress import Progress
from pipelines_lib.use_case import Training

log = logging.getLogger("sluice")

_SECONDS_BETWEEN_LINES = 10


@dataclass(frozen=True)
class Pace:
    """Where a training stands, about once a second."""

    epoch: int
    """The running one, from 1."""
    step: int
    """Steps done, over all epochs."""
    n_steps: int
    """Steps of all epochs; early stopping may make it fewer."""
    loss: float
    """Mean training loss of the epoch so far, over this rank's rows, and those of all ranks up to the last checkpoint."""
    rows_per_second: float
    """Of all ranks, since the training began or resumed."""
    seconds_left: float
    """At most, at this pace."""
    learning_rate: float


class Observer:
    """Does nothing; subclasses overwrite what they want to hear. What is returned ends the training on every rank, after a checkpoint, and is raised."""

    def started(self, progress: Progress, step: int) -> None:
        """Before the first step: where a checkpoint had come to, and its steps over all epochs."""

    def progress(self, pace: Pace) -> Exception | None:
        """About once a second."""

    def epoch(self, entry: Mapping[str, float]) -> Exception | None:
        """After each epoch's validation: epoch, train_loss, validation_loss."""

    def saved(self, moment: float) -> None:
        """A checkpoint is complete that holds everything done up to `moment` (of time.monotonic)."""


class TaskLog(Observer):
    """A line in the task's log every ten seconds or so, and after each epoch."""

    def __init__(self, settings: Training) -> None:
        self._settings = settings
        self._told = time.monotonic()
        self._pace: Pace | None = None
        self._best = math.inf

    def started(self, progress: Progress, step: int) -> None:
        """Say where a resumed training goes on."""
        self._best = progress.best_loss
        if step:
            log.info("resumed from the checkpoint %s, step %s", progress.where, f"{step:,}")

    def progress(self, pace: Pace) -> None:
        """Now and then."""
        self._pace = pace
        if time.monotonic() - self._told < _SECONDS_BETWEEN_LINES:
            return
        self._told = time.monotonic()
        log.info(
            "epoch %d/%d  step %s/%s  loss %.4f  %s rows/s  at most %s left",
            *(pace.epoch, self._settings.epochs, f"{pace.step:,}", f"{pace.n_steps:,}", pace.loss),
            *(f"{pace.rows_per_second:,.0f}", _duration(pace.seconds_left)),
        )

    def epoch(self, entry: Mapping[str, float]) -> None:
        """Each time."""
        self._told = time.monotonic()
        better = entry["validation_loss"] < self._best
        self._best = min(self._best, entry["validation_loss"])
        pace = self._pace
        log.info(
            "epoch %d/%d  loss %.4f  validation %.4f%s%s",
            *(entry["epoch"], self._settings.epochs, entry["train_loss"], entry["validation_loss"], " (best)" if better else ""),
            f"  {pace.rows_per_second:,.0f} rows/s  at most {_duration(pace.seconds_left)} left" if pace else "",
        )


def _duration(seconds: float) -> str:
    """`90 s`, `12 min`, `3.4 h`: two digits or so."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
