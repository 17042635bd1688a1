"""The processes that train together: who am I, and how do we meet. Without torchrun there is one, and nothing to set up."""

import datetime as dt
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

COLLECTIVE_TIMEOUT = dt.timedelta(seconds=60)
"""How long a rank waits for the others before it gives up; torch's default of 30 minutes hides a dead rank for as long."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class World:
    """This process among those that train together."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    @property
    def is_first(self) -> bool:
        """Whether this rank writes and logs."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model whose backward pass averages gradients over the ranks."""
        model = model.to(self.device)
        if self.size == 1:
            return model
        return DistributedDataParallel(
            model,
            device_ids=[self.device.index] if self.device.type == "cuda" else None,
            forward_sync_buffers=False,  # they are constants; sending them would double the messages of a step
            gradient_as_bucket_view=True,
        )

    def sum(self, *values: float) -> list[float]:
        """Each value summed over the ranks, in float64: the same numbers, bit for bit, on every rank."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return [float(value) for value in total]

    def from_first(self, value: int) -> int:
        """Rank 0's `value`, on every rank."""
        if self.size == 1:
            return value
        box = torch.tensor([value], dtype=torch.int64, device=self.device)
        dist.broadcast(box, src=0)
        return int(box)


@contextmanager
def world(timeout: dt.timedelta = COLLECTIVE_TIMEOUT) -> Iterator[World]:
    """Meet the other ranks (torchrun's environment says who they are) and part from them at the end."""
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local_rank, local_size = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(max(1, _cores() // local_size))
    cuda = torch.cuda.is_available() and torch.cuda.device_count() >= local_size
    device = torch.device("cuda", local_rank) if cuda else CPU
    if cuda:
        torch.cuda.set_device(device)
    if size == 1:
        yield World(device=device)
        return
    store, _, _ = next(rendezvous("env://", rank, size, timeout=timeout))
    # Keys of an attempt that was killed stay in the agent's store: ranks that read them wait for the dead.
    store = dist.PrefixStore(f"restart-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    dist.init_process_group("nccl" if cuda else "gloo", store=store, rank=rank, world_size=size, timeout=timeout)
    try:
        yield World(rank, size, device)
    finally:
        dist.destroy_process_group()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
