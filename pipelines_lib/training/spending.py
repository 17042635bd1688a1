"""What a training spends: told to its meter, and held against the budget of its run."""

import time

import torch

from pipelines_lib.cost.budget import Budget
from pipelines_lib.cost.meter import Meter
from pipelines_lib.errors import Held
from pipelines_lib.training.distributed import World
from pipelines_lib.training.observer import Observer, Pace
from pipelines_lib.training.progress import Progress


class Spending(Observer):
    """Ends a training whose budget is spent, or would be in the next epoch, by the epochs before. A checkpoint keeps what was done."""

    def __init__(self, meter: Meter, budget: Budget) -> None:
        self._meter, self._budget = meter, budget
        self._epoch: int | None = None
        self._begun = 0.0
        self._whole = False
        """Whether this process has begun the running epoch, so that its time says what one takes."""

    def started(self, progress: Progress, step: int) -> None:  # noqa: ARG002 - the signature of an observer
        """A resumed training may begin in the middle of an epoch."""
        self._whole = progress.step_in_epoch == 0

    def progress(self, pace: Pace) -> Held | None:
        """About once a second. An epoch that begins is asked for here: the last one's end does not know that none follows."""
        try:
            if self._epoch is not None and pace.epoch != self._epoch and self._whole:
                self._budget.check_next(time.monotonic() - self._begun, f"epoch {pace.epoch}")
            else:
                self._budget.check()
        except Held as held:
            return held
        if pace.epoch != self._epoch:
            self._whole = self._whole or self._epoch is not None
            self._epoch, self._begun = pace.epoch, time.monotonic()
        return None

    def saved(self, moment: float) -> None:
        """What was done up to then is kept."""
        self._meter.kept(moment)


def meter_devices(meter: Meter, world: World) -> None:
    """Let the meter count the GPU that this rank holds."""
    if world.device.type == "cuda":
        meter.holds_gpus(1, torch.cuda.get_device_name(world.device))
