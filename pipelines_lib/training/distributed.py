"""The processes that train together: who am I, on what device, and how do we meet. Without torchrun there is one, and nothing to set up."""

import datetime as dt
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from pipelines_lib.errors import ConfigError
from pipelines_lib.use_case.training import Device

MEETING_TIMEOUT = dt.timedelta(minutes=2)
"""How long ranks wait for each other at the start; afterwards `training.timeout` counts."""
_LONGEST_WRITE = dt.timedelta(hours=6)
"""How long ranks wait for one that writes a large part of a checkpoint, beside the training, to a slow store."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class World:
    """This process among those that train together."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU
    store: dist.Store | None = None
    """Small texts for all ranks; None for a single process."""
    control: dist.ProcessGroup | None = None
    """A gloo group for what ranks tell each other beside gradients; None for a single process."""

    @property
    def is_first(self) -> bool:
        """Whether this rank writes and logs."""
        return self.rank == 0

    def sum(self, *values: float) -> list[float]:
        """Each value summed over the ranks, in float64: the same numbers, bit for bit, on every rank."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, group=self.control)
        return [float(value) for value in total]

    def all(self, value: float) -> list[float]:
        """The value of each rank, in the order of ranks."""
        return self.sum(*(value if rank == self.rank else 0.0 for rank in range(self.size)))

    def from_first(self, value: float) -> float:
        """Rank 0's `value`, on every rank."""
        return self.sum(value if self.is_first else 0.0)[0]

    def told(self, rank: int, text: str) -> str:
        """`text` of `rank`, on every rank."""
        if self.size == 1:
            return text
        mine = bytearray(text.encode()) if self.rank == rank else bytearray()
        [length] = self.sum(len(mine))
        box = torch.frombuffer(mine, dtype=torch.uint8) if mine else torch.zeros(int(length), dtype=torch.uint8)
        dist.broadcast(box, src=rank, group=self.control)
        return bytes(box.tolist()).decode()

    def group(self) -> dist.ProcessGroup | None:
        """Another gloo group of all ranks, for collectives of a thread of their own. Every rank calls this."""
        return None if self.size == 1 else dist.new_group(backend="gloo", timeout=_LONGEST_WRITE)

    def seed(self, seed: int) -> None:
        """Seed what draws random numbers for this rank's device."""
        # torch.manual_seed seeds every kind of device there may be, which takes half a millisecond.
        torch.default_generator.manual_seed(seed)
        if self.device.type in ("cuda", "mps"):
            getattr(torch, self.device.type).manual_seed(seed)

    def synchronize(self) -> None:
        """Wait until the device has done what it was given, so that a clock means something."""
        if self.device.type == "xla":
            import torch_xla  # noqa: PLC0415 - there on TPUs alone

            torch_xla.sync(wait=True)
        if self.device.type in ("cuda", "mps"):
            getattr(torch, self.device.type).synchronize()


@contextmanager
def world(device: Device = "auto", timeout: dt.timedelta = MEETING_TIMEOUT) -> Iterator[World]:
    """Meet the other ranks (torchrun's environment says who they are) and part from them at the end.

    `timeout` is how long a rank waits in a collective for the others. Raises `ConfigError` where there is no such device.
    """
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local_rank, local_size = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(max(1, _cores() // local_size))
    place = _device(device, local_rank, local_size, size)
    if size == 1:
        yield World(device=place)
        return
    store, _, _ = next(rendezvous("env://", rank, size, timeout=max(timeout, MEETING_TIMEOUT)))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # Under torchrun itself keys of killed ranks stay in the agent's store, and who reads them waits for the dead. Our agent
        # has a store for each start: its count of starts would keep a machine that came back later from meeting the others.
        store = dist.PrefixStore(f"restart-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    backend = {"cuda": "nccl", "xla": "xla"}.get(place.type, "gloo")
    own = place if place.type == "cuda" else None  # NCCL then knows from the start which GPU is whose
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout, device_id=own)
    try:
        control = dist.new_group(backend="gloo", timeout=timeout)
        yield World(rank, size, place, dist.PrefixStore("sluice", store), control)
    finally:
        dist.destroy_process_group()


def _device(wanted: Device, local_rank: int, local_size: int, size: int) -> torch.device:
    """The device of this rank: what is asked for, or the best that every rank of the machine can have one of."""
    has = {
        "cuda": torch.cuda.is_available() and torch.cuda.device_count() >= local_size,
        "xla": find_spec("torch_xla") is not None,
        "mps": torch.backends.mps.is_available() and size == 1,  # torch has no collectives for it
        "cpu": True,
    }
    kind = next(kind for kind, there in has.items() if there) if wanted == "auto" else wanted
    if not has[kind]:
        why = {
            "cuda": f"this machine has {torch.cuda.device_count()} CUDA device(s) for {local_size} process(es)",
            "xla": "torch_xla is not installed",
            "mps": f"it needs a Mac with Metal and one process (here: {size})",
        }[kind]
        raise ConfigError(f"training.device is {kind}, and {why}; set another device, `auto`, or fewer training.workers")
    if kind == "cuda":
        torch.cuda.set_device(local_rank)
        return torch.device("cuda", local_rank)
    if kind == "xla":
        import torch_xla  # noqa: PLC0415 - there on TPUs alone

        return torch.device(torch_xla.device())
    return torch.device(kind)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
