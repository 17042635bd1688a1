"""The training loop: plain PyTorch, the same for one process and for many.

Data order, dropout and the decision to stop follow from the seed and the step, so a training that was killed and resumed
ends in the same weights as one that was not. The gradient is that of the mean loss over the global batch, whatever
the shares of the ranks: each rank sums its losses and divides by the rows of the whole batch.
"""

import logging
import math
import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import nn

from pipelines_lib.errors import DataError
from pipelines_lib.training.checkpoint import Checkpoint, Checkpoints, Tensors, load_optimizer, optimizer_tensors
from pipelines_lib.training.dataset import Rows, order, share
from pipelines_lib.training.distributed import World
from pipelines_lib.training.objective import Objective
from pipelines_lib.use_case import Training

log = logging.getLogger("sluice")

_VALIDATION_BATCH = 4096


@dataclass(frozen=True)
class Progress:
    """Where the loop stands; what a checkpoint's `state.json` holds."""

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

    def finished(self, settings: Training) -> bool:
        """Whether the epochs are done, or the validation loss has stopped falling."""
        return self.epoch >= settings.epochs or self.epoch - self.best_epoch >= settings.patience

    def to_state(self) -> dict[str, Any]:
        """As JSON; infinity, before the first epoch's end, as null."""
        return asdict(self) | {"best_loss": None if math.isinf(self.best_loss) else self.best_loss}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Progress":
        """The reverse of `to_state`."""
        return cls(**(state | {"best_loss": math.inf if state["best_loss"] is None else state["best_loss"]}))


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
    ) -> None:
        self._world = world
        self._settings = settings
        self._train, self._validation = train, validation
        self._checkpoints = checkpoints
        self._model = model
        self._wrapped = world.wrap(model)
        self._optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=world.device.type in ("cpu", "cuda")
        )
        self._loss = objective.loss
        self._progress = Progress()
        self._best: Tensors = _copy(model)
        self._n_steps = math.ceil(len(train) / settings.batch_size)

    def run(self) -> Progress:
        """Train to the end, from the newest checkpoint where there is one; leaves the best epoch's weights in the model."""
        self._resume()
        while not self._progress.finished(self._settings):
            self._epoch()
        self._model.load_state_dict(self._best)
        return self._progress

    def _epoch(self) -> None:
        progress, settings = self._progress, self._settings
        started, first_step = time.monotonic(), progress.step_in_epoch
        places = order(len(self._train), settings.seed, progress.epoch, settings.shuffle)
        self._wrapped.train()
        # What the other ranks had summed before a checkpoint is in it once: the first rank carries it on.
        loss_sum = progress.loss_sum if self._world.is_first else 0.0
        for step in range(first_step, self._n_steps):
            loss_sum += self._step(places[step * settings.batch_size : (step + 1) * settings.batch_size], progress.epoch, step)
            if (step + 1) % settings.checkpoint_steps == 0 and step + 1 < self._n_steps:
                [total] = self._world.sum(loss_sum)
                self._progress = replace(progress, step_in_epoch=step + 1, loss_sum=total)
                self._write_checkpoint()
        [total] = self._world.sum(loss_sum)
        self._finish_epoch(progress, total / len(self._train), self._validation_loss())
        n_rows = len(self._train) - first_step * settings.batch_size
        self._report(n_rows, time.monotonic() - started)

    def _step(self, batch: Any, epoch: int, step: int) -> float:
        """One update; returns the sum of the losses of this rank's rows."""
        mine = share(batch, self._world.rank, self._world.size)
        inputs, labels = self._train.take(mine)
        torch.manual_seed(_dropout_seed(self._settings.seed, epoch * self._n_steps + step, self._world.rank))
        loss = self._loss(self._wrapped(**self._to_device(inputs)), labels.to(self._world.device)).sum()
        value = float(loss.item())
        if not math.isfinite(value):
            raise DataError(self._not_finite(value, mine, epoch, step))
        self._optimizer.zero_grad(set_to_none=True)
        # DistributedDataParallel averages over the ranks, so times the ranks gives the sum.
        (loss * (self._world.size / len(batch))).backward()
        self._optimizer.step()
        return value

    @torch.no_grad()
    def _validation_loss(self) -> float:
        """Mean loss over the validation rows; each rank does its share."""
        self._model.eval()
        total = 0.0
        for start in range(self._world.rank * _VALIDATION_BATCH, len(self._validation), self._world.size * _VALIDATION_BATCH):
            stop = start + _VALIDATION_BATCH
            inputs = {name: tensor[start:stop] for name, tensor in self._validation.inputs.items()}
            labels = self._validation.labels[start:stop].to(self._world.device)
            total += self._loss(self._model(**self._to_device(inputs)), labels).sum().item()
        return self._world.sum(total)[0] / len(self._validation)

    def _finish_epoch(self, progress: Progress, train_loss: float, validation_loss: float) -> None:
        if not math.isfinite(validation_loss):
            raise DataError(
                f"the validation loss after epoch {progress.epoch + 1} is {validation_loss}; lower training.learning_rate, or look for extreme labels"
            )
        epoch = progress.epoch + 1
        better = validation_loss < progress.best_loss
        if better:
            self._best = _copy(self._model)
        self._progress = Progress(
            epoch=epoch,
            best_loss=validation_loss if better else progress.best_loss,
            best_epoch=epoch if better else progress.best_epoch,
            history=[*progress.history, {"epoch": epoch, "train_loss": train_loss, "validation_loss": validation_loss}],
        )
        self._write_checkpoint()

    def _resume(self) -> None:
        newest = self._checkpoints.newest() if self._world.is_first else None
        step = self._world.from_first(-1 if newest is None else newest)
        if step < 0:
            return
        checkpoint = self._checkpoints.read(step)
        self._model.load_state_dict(checkpoint.tensors["model"])
        self._best = checkpoint.tensors["best"]
        load_optimizer(self._optimizer, checkpoint.tensors["optimizer"])
        self._progress = Progress.from_state(checkpoint.state)
        if self._world.is_first:
            log.info("resumed from the checkpoint of epoch %d, step %d", self._progress.epoch + 1, self._progress.step_in_epoch)

    def _write_checkpoint(self) -> None:
        if self._world.is_first:
            step = self._progress.epoch * self._n_steps + self._progress.step_in_epoch
            tensors = {"model": dict(self._model.state_dict()), "best": self._best, "optimizer": optimizer_tensors(self._optimizer)}
            self._checkpoints.write(Checkpoint(step, self._progress.to_state(), tensors))

    def _report(self, n_rows: int, seconds: float) -> None:
        if not self._world.is_first:
            return
        progress, settings = self._progress, self._settings
        last = progress.history[-1]
        left = seconds * (len(self._train) / max(1, n_rows)) * (settings.epochs - progress.epoch)
        log.info(
            "epoch %d/%d  loss %.4f  validation %.4f%s  %s rows/s  %s",
            *(progress.epoch, settings.epochs, last["train_loss"], last["validation_loss"]),
            *(" (best)" if progress.best_epoch == progress.epoch else "", f"{n_rows / max(seconds, 1e-9):,.0f}"),
            "done" if progress.finished(settings) else f"at most {left:.0f} s left",
        )

    def _to_device(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor.to(self._world.device) for name, tensor in inputs.items()}

    def _not_finite(self, value: float, mine: Any, epoch: int, step: int) -> str:
        ids = ", ".join(self._train.ids(mine[:20]))
        more = f" and {len(mine) - 20} more" if len(mine) > 20 else ""
        return (
            f"the loss is {value} in epoch {epoch + 1}, step {step + 1}, in the batch of the rows {ids}{more}; "
            "look for extreme labels among them, or lower training.learning_rate"
        )


def _dropout_seed(seed: int, step: int, rank: int) -> int:
    """A seed of its own for each step and rank, so that a resumed training drops what it would have dropped."""
    return ((seed * 1_000_003 + step) * 1_009 + rank) % 2**63


def _copy(model: nn.Module) -> Tensors:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
