"""How several processes train one model. Each strategy says what a rank does next, and what becomes of its gradients.

ddp        one gradient a step: that of the mean loss over the global batch
fsdp       the same, with parameters, gradients and optimizer in shards (ZeRO; Rajbhandari et al. 2020)
local_sgd  each rank takes steps of its own; every few steps the models are averaged, M = Σ wᵢMᵢ (Stich 2019, Local SGD
           Converges Fast and Communicates Little), each weighted by the rows it has learned from, which follow its capability
async      a parameter server with bounded staleness: `parameter_server.py`
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from pipelines_lib.training.distributed import CPU, World
from pipelines_lib.training.shares import Shares, cut
from pipelines_lib.use_case import Training

Places = NDArray[np.int64]
Tensors = dict[str, torch.Tensor]
BatchOf = Callable[[int], Places]
"""Step → the rows of its global batch."""


@dataclass(frozen=True)
class Work:
    """What a rank does next: the gradient of the mean loss over `n_rows` rows, of which it has those at `places`."""

    step: int
    places: Places
    n_rows: int
    stand_in: Places
    """One row of the global batch, for a rank that has none of it: a row that is not finite then ends the training by its owner's word, and
    no other row can."""


class Strategy:
    """One process alone, which is also what the strategies have in common."""

    stride = 1
    """Every so many steps all ranks hold the same weights; only then do they meet."""
    looks_ahead = True
    """Whether what a rank does next is known before it has done what comes first."""
    times = 1
    """What a rank's gradient must be multiplied with for the strategy's sum."""
    writes = True
    """Whether this rank holds a part of what a checkpoint holds."""

    def __init__(self, model: nn.Module, world: World, settings: Training) -> None:
        self.model = model
        self.world = world
        self.settings = settings
        self.shares: Shares = (1.0,)
        self.module = self._wrapped(model)
        """What is called; `model` holds the weights."""
        self.optimizer = self._optimizer(model)

    def work(self, batch_of: BatchOf, first: int, upto: int) -> Iterator[Work]:
        """What this rank does of the steps `first` … `upto` - 1."""
        for step in range(first, upto):
            batch = batch_of(step)
            yield Work(step, cut(batch, self.shares, self.world.rank), len(batch), batch[:1])

    def syncing(self, last: bool) -> AbstractContextManager[None]:  # noqa: ARG002 - one process has no gradients to exchange
        """Around the backward pass of one part of a rank's work; gradients are exchanged in the last."""
        return nullcontext()

    def stepped(self, work: Work) -> None:  # noqa: ARG002 - for those that count what was done
        """After the optimizer's step."""
        if self.world.device.type == "xla":
            import torch_xla  # noqa: PLC0415 - there on TPUs alone

            torch_xla.sync()

    def settle(self) -> None:
        """Make every rank hold the same weights; at a multiple of `stride`."""
        for buffer in _learned_buffers(self.model):
            if self.world.size > 1:
                dist.broadcast(buffer, src=0)

    def tensors(self) -> Tensors:
        """All that a checkpoint must hold beside the best weights, by name; filling them in place restores it."""
        return {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()} | optimizer_tensors(self.optimizer, self.model)

    def restored(self) -> None:
        """After `tensors` were filled."""

    def _wrapped(self, model: nn.Module) -> nn.Module:
        return model

    def _optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return adamw(model, self.settings, self.world.device)


class DataParallel(Strategy):
    """DistributedDataParallel: the gradients are averaged while the backward pass goes on."""

    def __init__(self, model: nn.Module, world: World, settings: Training) -> None:
        super().__init__(model, world, settings)
        self.times = world.size  # it averages over the ranks, so times the ranks gives the sum

    def syncing(self, last: bool) -> AbstractContextManager[None]:
        """Exchange in the last part alone."""
        assert isinstance(self.module, DistributedDataParallel)
        return nullcontext() if last else self.module.no_sync()

    def _wrapped(self, model: nn.Module) -> nn.Module:
        return DistributedDataParallel(
            model,
            device_ids=[self.world.device.index] if self.world.device.type == "cuda" else None,
            # Constants need no sending, which would double the messages of a step.
            forward_sync_buffers=bool(_learned_buffers(model)),
            gradient_as_bucket_view=True,
        )


class Sharded(Strategy):
    """torch's fully_shard: every rank holds a part of each parameter, and gathers a layer's when it is needed."""

    def __init__(self, model: nn.Module, world: World, settings: Training) -> None:
        super().__init__(model, world, settings)
        self.times = world.size

    @contextmanager
    def syncing(self, last: bool) -> Iterator[None]:
        """Scatter the gradients in the last part alone."""
        assert isinstance(self.module, FSDPModule)
        self.module.set_requires_gradient_sync(last)
        yield

    def _wrapped(self, model: nn.Module) -> nn.Module:
        mesh = init_device_mesh(self.world.device.type, (self.world.size,))
        for part in _layers(model):
            fully_shard(part, mesh=mesh)
        return fully_shard(model, mesh=mesh)


class LocalSGD(Strategy):
    """Steps of one's own, and an average every `training.sync_steps`: of weights, and of the optimizer's moments, which belong to them."""

    def __init__(self, model: nn.Module, world: World, settings: Training) -> None:
        super().__init__(model, world, settings)
        self.stride = settings.sync_steps
        self._n_rows = 0

    def work(self, batch_of: BatchOf, first: int, upto: int) -> Iterator[Work]:
        """This rank's share of each batch; its gradient is the mean over the share."""
        for work in super().work(batch_of, first, upto):
            yield replace(work, n_rows=max(1, len(work.places)))

    def stepped(self, work: Work) -> None:
        """Average, where it is time."""
        super().stepped(work)
        self._n_rows += len(work.places)
        if (work.step + 1) % self.stride == 0:
            self.settle()

    @torch.no_grad()
    def settle(self) -> None:
        """Average what ranks have learned since the last time, each by its number of rows."""
        [total] = self.world.sum(self._n_rows)
        if not total:
            return
        weight, self._n_rows = self._n_rows / total, 0
        # Each has taken as many steps; an average of equal counts may miss them by a rounding.
        mixed = [tensor for name, tensor in self.tensors().items() if tensor.is_floating_point() and not name.endswith(".step")]
        flat = torch.cat([tensor.reshape(-1).to(self.world.device, torch.float32) for tensor in mixed]).mul_(weight)
        dist.all_reduce(flat)
        for tensor, average in zip(mixed, flat.split([tensor.numel() for tensor in mixed]), strict=True):
            tensor.copy_(average.view_as(tensor))


def adamw(model: nn.Module, settings: Training, device: torch.device) -> torch.optim.AdamW:
    """AdamW with its state made at once, so that a checkpoint has the same tensors at every step."""
    fused = device.type in ("cpu", "cuda")
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=fused)
    for parameter in model.parameters():
        step = torch.zeros((), dtype=torch.float32, device=parameter.device if fused else CPU)
        optimizer.state[parameter] = {"step": step, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
    return optimizer


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> Tensors:
    """The optimizer's state, flat: `optimizer.<parameter>.<key>`."""
    return {
        f"optimizer.{name}.{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }


def _learned_buffers(model: nn.Module) -> list[torch.Tensor]:
    """Buffers that training changes, such as a batch norm's: those that are saved, and are no whole numbers."""
    saved = model.state_dict(keep_vars=True)
    return [buffer for name, buffer in model.named_buffers() if name in saved and buffer.is_floating_point()]


def _layers(model: nn.Module) -> list[nn.Module]:
    """What is gathered at once: the members of each list or sequence of layers that have parameters."""
    holders = [module for module in model.modules() if isinstance(module, nn.Sequential | nn.ModuleList)]
    inside = {id(part) for holder in holders for module in holder for part in module.modules()}
    return [module for holder in holders if id(holder) not in inside for module in holder if any(True for _ in module.parameters())]
