"""The training loop: plain PyTorch, the same for one process and for many, on every device.

Data order, dropout and the decision to stop follow from the seed and the step, so a training that was killed and resumed
ends in the same weights as one that was not. The gradient is that of the mean loss over the global batch, whatever the
shares of the ranks. What differs between strategies is in `strategies.py`.

About once a second all ranks meet: they tell each other whether one was asked to end, whether a loss was not finite, and
when to meet next. Checkpoints are written where they meet, so that what is read back never depends on the clock.
"""

import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import FrameType

import numpy as np
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from pipelines_lib.errors import DataError, Interrupted
from pipelines_lib.failures import of_another_rank
from pipelines_lib.training.checkpoints import Checkpoints
from pipelines_lib.training.dataset import Inputs, Rows, order, prefetch
from pipelines_lib.training.distributed import World
from pipelines_lib.training.objective import Objective
from pipelines_lib.training.observer import Observer, Pace
from pipelines_lib.training.parameter_server import Asynchronous
from pipelines_lib.training.precision import autocast, loss_scale, set_up
from pipelines_lib.training.progress import Progress, Stopped, learning_rate
from pipelines_lib.training.shares import agreed, measured
from pipelines_lib.training.strategies import DataParallel, LocalSGD, Places, Sharded, Strategy, Tensors, Work
from pipelines_lib.training.watchdog import UNWATCHED, Unwatched
from pipelines_lib.use_case import Training

_STRATEGIES: dict[str, type[Strategy]] = {"ddp": DataParallel, "fsdp": Sharded, "local_sgd": LocalSGD, "async": Asynchronous}
_VALIDATION_BATCH = 4096
_SECONDS_BETWEEN_MEETINGS = 1.0
_MOST_STEPS_BETWEEN_MEETINGS = 1024


class Loop:
    """One training of `model` on `train`, stopped early by the loss on `validation`."""

    def __init__(
        self,
        model: nn.Module,
        *,
        objective: Objective,
        train: Rows,
        validation: Rows,
        settings: Training,
        world: World,
        checkpoints: Checkpoints,
        observers: Sequence[Observer] = (),
        watchdog: Unwatched = UNWATCHED,
    ) -> None:
        self._world, self._settings, self._objective = world, settings, objective
        self._train, self._validation = train, validation
        self._checkpoints = checkpoints
        self._observers = observers if world.is_first else ()
        self._watchdog = watchdog
        set_up(settings, world.device)
        model.to(world.device)
        self._speed = measured(model, objective, train, settings, world)
        if settings.compile:
            model.compile()
        self._strategy = (_STRATEGIES[settings.strategy] if world.size > 1 else Strategy)(model, world, settings)
        self._scale = loss_scale(settings, world.device)
        self._best: Tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        self._progress = Progress()
        self._n_steps = math.ceil(len(train) / settings.batch_size)
        self._between = 1
        self._asked_to_end = False
        self._begun: float | None = None
        """When the checkpoint under way was begun."""
        self._looks_at_once = world.device.type == "cpu"
        self._not_finite: tuple[int, str] | None = None
        """The step of the first loss of this rank that was not finite, and what is to be said of it."""
        self._losses: list[tuple[Work, Places, torch.Tensor]] = []
        """Of each row, since they were last looked at."""

    def run(self) -> Progress:
        """Train to the end, from the newest checkpoint where there is one; leaves the best epoch's weights in the model.

        Raises `DataError` where a loss is not finite, `Interrupted` after SIGTERM, `Stopped` where an observer ends it.
        """
        with self._watchdog.busy("reading a checkpoint"):
            self._resume()
        self._started, self._rows_done = time.monotonic(), 0
        with self._told_to_end():
            compiling = self._watchdog.busy("compiling, which is over after an epoch") if self._settings.compile else nullcontext()
            while not self._progress.finished(self._settings):
                with compiling:
                    self._epoch()
                compiling = nullcontext()
            self._saved()
        self._strategy.model.load_state_dict(self._best)
        return self._progress

    def weights(self) -> Tensors:
        """The model's weights, whole, in host memory. Every rank calls this."""
        state = self._strategy.model.state_dict()
        return {name: (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu() for name, tensor in state.items()}

    def _epoch(self) -> None:
        start = self._progress
        places = order(len(self._train), self._settings.seed, start.epoch, self._settings.shuffle)
        size = self._settings.batch_size
        self._strategy.module.train()
        self._carry_on(start.loss_sum, start.step_in_epoch)
        step = start.step_in_epoch
        while step < self._n_steps:
            upto = self._next_meeting(step)
            works = self._strategy.work(lambda number: places[number * size : (number + 1) * size], step, upto)
            for work, parts in self._with_rows(works):
                self._update(work, parts)
            self._rows_done += min(upto * size, len(self._train)) - step * size
            step = upto
            self._meet(step)
        self._finish_epoch()

    def _update(self, work: Work, parts: Iterator[tuple[Places, Inputs, torch.Tensor]]) -> None:
        """One optimizer step."""
        strategy, settings = self._strategy, self._settings
        self._watchdog.beat(self._progress.epoch * self._n_steps + work.step)
        self._world.seed(self._dropout_seed(work.step))
        strategy.optimizer.zero_grad(set_to_none=True)
        for number, (places, inputs, labels) in enumerate(parts, start=1):
            with strategy.syncing(last=number == settings.accumulate):
                with autocast(settings, self._world.device):
                    losses = self._objective.loss(strategy.module(**inputs), labels)
                # A rank without rows computes one that does not count: it has to take part in the exchange.
                total = losses.sum() if len(places) else 0.0 * losses.sum()
                self._watch(work, places, losses.detach())
                self._scale.scale(total * (strategy.times / work.n_rows)).backward()
        if settings.clip_norm is not None:
            self._scale.unscale_(strategy.optimizer)
            torch.nn.utils.clip_grad_norm_(strategy.model.parameters(), settings.clip_norm)
        for group in strategy.optimizer.param_groups:
            group["lr"] = self._rate(work.step)
        self._scale.step(strategy.optimizer)
        self._scale.update()
        strategy.stepped(work)

    def _with_rows(self, works: Iterator[Work]) -> Iterator[tuple[Work, Iterator[tuple[Places, Inputs, torch.Tensor]]]]:
        """Each piece of work with its rows in as many parts as `accumulate` says, gathered ahead where it is known what comes."""
        known = list(works) if self._strategy.looks_ahead else None
        ahead = None if known is None else self._gathered(part for work in known for part in self._parts(work))
        for work in works if known is None else known:
            rows = self._gathered(self._parts(work)) if ahead is None else ahead
            yield work, (next(rows) for _ in range(self._settings.accumulate))

    def _parts(self, work: Work) -> list[tuple[Places, Places]]:
        """(rows that count, rows that are computed)."""
        return [(part, part if len(part) else work.stand_in) for part in np.array_split(work.places, self._settings.accumulate)]

    def _gathered(self, parts: Iterable[tuple[Places, Places]]) -> Iterator[tuple[Places, Inputs, torch.Tensor]]:
        todo = list(parts)
        for (part, _), (inputs, labels) in zip(todo, prefetch(self._train, (some for _, some in todo), self._world.device), strict=True):
            yield part, inputs, labels

    def _watch(self, work: Work, places: Places, losses: torch.Tensor) -> None:
        """Keep the losses until they are looked at: at once on a CPU, at the next meeting where looking would stop the device.

        One that is not finite ends a process alone at once, several where they meet, so that all end for the same reason.
        """
        if len(places):
            self._losses.append((work, places, losses))
        if self._looks_at_once:
            self._look()
            if self._not_finite and self._world.size == 1:
                raise self._what_was_not_finite()

    def _look(self) -> None:
        """Add the losses up; remember the first that is not finite."""
        totals = torch.stack([losses.sum(dtype=torch.float32) for _, _, losses in self._losses]).tolist() if self._losses else []
        for total, (work, places, losses) in zip(totals, self._losses, strict=True):
            if not math.isfinite(total) and self._not_finite is None:
                self._not_finite = (work.step, self._what_is_not_finite(work, places, losses.cpu()))
            self._loss_sum += total
            self._n_summed += len(places)
        self._losses.clear()

    def _carry_on(self, total: float, step: int) -> None:
        """From the losses of all ranks up to `step` of the epoch, as a checkpoint has them: once, so the first rank takes them over."""
        self._loss_sum = total if self._world.is_first else 0.0
        self._n_summed = min(step * self._settings.batch_size, len(self._train)) if self._world.is_first else 0

    def _meet(self, step: int) -> None:
        """Tell the other ranks how it goes; write a checkpoint where it is time; end where one was asked to."""
        self._look()
        self._strategy.settle()
        stop = self._tell(lambda observer: observer.progress(self._pace(step)))
        asked, broken, stopped, between = self._world.sum(
            self._asked_to_end, self._not_finite is not None, stop is not None, self._steps_between() if self._world.is_first else 0
        )
        self._between = int(between)
        if broken:
            raise self._what_was_not_finite()
        if asked or stopped or (step % self._checkpoint_steps == 0 and step < self._n_steps):
            [total] = self._world.sum(self._loss_sum)
            self._progress = replace(self._progress, step_in_epoch=step, loss_sum=total)
            self._save()
            # As a resumed training would have it, so that both sum in the same order.
            self._carry_on(total, step)
        self._end_where(asked, stopped, stop)

    def _end_where(self, asked: float, stopped: float, stop: Exception | None) -> None:
        if not (asked or stopped):
            return
        kept = self._saved()
        if stopped:
            raise Stopped(stop)
        raise Interrupted(
            f"asked to end {self._progress.where}; "
            + (
                "a checkpoint keeps what was done, and a retry goes on from it"
                if kept
                else "no checkpoint of this moment could be written (the first worker's log says why), so a retry goes on from an older one, or from the start"
            )
        )

    def _finish_epoch(self) -> None:
        [total] = self._world.sum(self._loss_sum)
        loss, progress = self._validation_loss(), self._progress
        if not math.isfinite(loss):
            raise DataError(
                f"the validation loss after epoch {progress.epoch + 1} is {loss}; lower training.learning_rate, or look for extreme labels"
            )
        epoch = progress.epoch + 1
        entry = {"epoch": epoch, "train_loss": total / len(self._train), "validation_loss": loss}
        better = loss < progress.best_loss
        if better:
            for name, tensor in self._strategy.model.state_dict().items():
                self._best[name].copy_(tensor)
        self._progress = replace(
            progress,
            epoch=epoch,
            step_in_epoch=0,
            loss_sum=0.0,
            best_loss=loss if better else progress.best_loss,
            best_epoch=epoch if better else progress.best_epoch,
            history=[*progress.history, entry],
        )
        self._save()
        stop = self._tell(lambda observer: observer.epoch(entry))
        asked, stopped = self._world.sum(self._asked_to_end, stop is not None)
        self._end_where(asked, stopped, stop)

    @torch.no_grad()
    def _validation_loss(self) -> float:
        """Mean loss over the validation rows; each rank does its share, in the same number of passes."""
        module, rank, size = self._strategy.module, self._world.rank, self._world.size
        module.eval()
        n_rows = len(self._validation)
        starts = range(0, n_rows, _VALIDATION_BATCH)
        mine = [np.arange(start, min(start + _VALIDATION_BATCH, n_rows)) for start in starts[rank::size]]
        mine += [np.zeros(0, np.int64)] * (math.ceil(len(starts) / size) - len(mine))
        total = 0.0
        some = (places if len(places) else np.zeros(1, np.int64) for places in mine)
        for places, (inputs, labels) in zip(mine, prefetch(self._validation, some, self._world.device), strict=True):
            self._watchdog.beat((self._progress.epoch + 1) * self._n_steps)
            with autocast(self._settings, self._world.device):
                losses = self._objective.loss(module(**inputs), labels)
            total += float(losses.sum(dtype=torch.float32)) if len(places) else 0.0
        return self._world.sum(total)[0] / n_rows

    def _resume(self) -> None:
        step = self._checkpoints.newest()
        if step is not None:
            state = self._checkpoints.load(step, self._tensors())
            self._strategy.restored()
            self._progress = Progress.from_state(state)
            self._scale.load_state_dict(self._progress.loss_scale)
        shares = agreed(self._settings, self._world, self._progress.shares or None, self._speed)
        self._strategy.shares = shares
        self._progress = replace(self._progress, shares=shares)
        done = self._progress.epoch * self._n_steps + self._progress.step_in_epoch
        for observer in self._observers:
            observer.started(self._progress, done)

    def _save(self) -> None:
        self._progress = replace(self._progress, loss_scale=self._scale.state_dict())
        step = self._progress.epoch * self._n_steps + self._progress.step_in_epoch
        self._saved()
        with self._watchdog.busy("beginning a checkpoint"):
            self._checkpoints.begin(step, self._tensors() if self._strategy.writes else {}, self._progress.to_state())
        self._begun = time.monotonic()

    def _saved(self) -> bool:
        """Wait for the checkpoint under way, and tell the observers what it keeps. Returns whether the one that was begun last is complete."""
        with self._watchdog.busy("waiting for a checkpoint"):
            complete, begun, self._begun = self._checkpoints.wait(), self._begun, None
        if complete and begun is not None:
            for observer in self._observers:
                observer.saved(begun)
        return complete

    def _tensors(self) -> Tensors:
        return self._strategy.tensors() | {f"best.{name}": tensor for name, tensor in self._best.items()}

    def _next_meeting(self, step: int) -> int:
        """The step before which all meet next: at a multiple of the strategy's stride, and not beyond a checkpoint or the epoch."""
        stride = self._strategy.stride
        soon = math.ceil((step + self._between) / stride) * stride
        checkpoint = (step // self._checkpoint_steps + 1) * self._checkpoint_steps
        return min(soon, checkpoint, self._n_steps)

    @property
    def _checkpoint_steps(self) -> int:
        """Steps between checkpoints, a multiple of the strategy's stride: half of what may be lost, since the newest is complete
        only when the next one begins."""
        stride = self._strategy.stride
        return max(1, self._settings.checkpoint_steps // 2 // stride) * stride

    def _steps_between(self) -> int:
        """Until the next meeting, at the pace of now."""
        steps = self._rows_done / self._settings.batch_size
        pace = steps / max(1e-9, time.monotonic() - self._started)
        # Not much more than last time: the first steps are slow, and say little.
        return max(1, min(4 * self._between, _MOST_STEPS_BETWEEN_MEETINGS, round(pace * _SECONDS_BETWEEN_MEETINGS)))

    def _pace(self, step: int) -> Pace:
        seconds = max(1e-9, time.monotonic() - self._started)
        n_steps = self._settings.epochs * self._n_steps
        done = self._progress.epoch * self._n_steps + step
        here = self._rows_done / self._settings.batch_size
        return Pace(
            epoch=self._progress.epoch + 1,
            step=done,
            n_steps=n_steps,
            loss=self._loss_sum / max(1, self._n_summed),
            rows_per_second=self._rows_done / seconds,
            seconds_left=(n_steps - done) * seconds / max(1e-9, here),
            learning_rate=self._rate(step - 1),
        )

    def _rate(self, step: int) -> float:
        return learning_rate(self._settings, self._progress.epoch * self._n_steps + step, self._settings.epochs * self._n_steps)

    def _dropout_seed(self, step: int) -> int:
        """Of a step and rank of its own, so that a resumed training drops what it would have dropped."""
        step += self._progress.epoch * self._n_steps
        return ((self._settings.seed * 1_000_003 + step) * 1_009 + self._world.rank) % 2**63

    def _tell(self, what: Callable[[Observer], Exception | None]) -> Exception | None:
        """What the first observer that wants to end the training gives as its reason."""
        reasons = [what(observer) for observer in self._observers]
        return next((reason for reason in reasons if reason is not None), None)

    @contextmanager
    def _told_to_end(self) -> Iterator[None]:
        """SIGTERM, which a machine that is taken away sends, ends the training at the next meeting and not at once."""

        def remember(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
            self._asked_to_end = True

        before = signal.signal(signal.SIGTERM, remember)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _what_was_not_finite(self) -> DataError:
        """The first loss of any rank that was not finite: the others' followed from it. Every rank calls this."""
        step, told = self._not_finite or (math.inf, "")
        steps = self._world.all(step)
        first = steps.index(min(steps))
        error = DataError(self._world.told(first, told))
        return error if self._world.rank == first else of_another_rank(error)

    def _what_is_not_finite(self, work: Work, places: Places, losses: torch.Tensor) -> str:
        wrong = places[(~torch.isfinite(losses)).numpy()]
        ids = ", ".join(self._train.ids(wrong[:20]))
        more = f" and {len(wrong) - 20} more" if len(wrong) > 20 else ""
        value = "inf" if torch.isinf(losses).any() and not torch.isnan(losses).any() else "nan"
        all_of_them = len(wrong) == len(places) > 1
        return f"the loss is {value} in epoch {self._progress.epoch + 1}, step {work.step + 1}, for the rows {ids}{more}; " + (
            "that is the whole batch, so the weights have exploded: lower training.learning_rate, or set training.clip_norm"
            if all_of_them
            else "look for extreme values in them, or lower training.learning_rate"
        )
