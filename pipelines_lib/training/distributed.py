"""The processes that train together: who am I, on what device, and how do we meet. Without torchrun there is one, and nothing to set up."""

import datetime as dt
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec

import torch
import torch.distributed as dist

from pipelines_lib.errors import ConfigError
from pipelines_lib.failures import Lost
from pipelines_lib.use_case.training import Device

MEETING_TIMEOUT = dt.timedelta(minutes=1)
"""How long ranks wait for each other at the start, at least: a machine that is busy imports torch slowly."""
_LONGEST_WORK = dt.timedelta(hours=6)
"""How long ranks wait for one that does alone what all need: writes a large part of a checkpoint to a slow store, or the arrays of a machine."""
_SECONDS_BETWEEN_LOOKS = 0.02
CPU = torch.device("cpu")


class Absent(Lost):
    """Some ranks have not come to the meeting of all."""

    def __init__(self, ranks: set[int], seconds: float) -> None:
        told = ", ".join(map(str, sorted(ranks)))
        super().__init__(f"rank {told} has not met the others in {seconds:.0f} s")
        self.ranks, self.seconds = ranks, seconds


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
        """Another gloo group of all ranks, for collectives of a thread of their own. Every rank calls this, and waits for the others."""
        return None if self.size == 1 else dist.new_group(backend="gloo", timeout=_LONGEST_WORK)

    def wait_for_all(self) -> None:
        """Until every rank has come here, however long one works before it does: who hangs meanwhile is the watchdog's to find."""
        if self.size > 1:
            dist.barrier(self.group())

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

    `timeout` is how long a rank waits in a collective for the others. Raises what `meet` does.
    """
    with joined(meet(device, timeout), timeout) as ranks:
        yield ranks


def meet(device: Device = "auto", timeout: dt.timedelta = MEETING_TIMEOUT) -> World:
    """Wait for the other ranks, and share a store with them; there are no collectives yet.

    Raises `Absent` where some have not come after `timeout`, or after a minute where that is longer, and `ConfigError` where there is no
    such device.
    """
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local_rank, local_size = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(max(1, _cores() // local_size))
    place = _device(device, local_rank, local_size, size)
    return World(rank, size, place, None if size == 1 else _met(rank, size, max(timeout, MEETING_TIMEOUT)))


@contextmanager
def joined(met: World, timeout: dt.timedelta) -> Iterator[World]:
    """`met` with collectives, in which a rank waits `timeout` for the others."""
    if met.store is None:
        yield met
        return
    backend = {"cuda": "nccl", "xla": "xla"}.get(met.device.type, "gloo")
    own = met.device if met.device.type == "cuda" else None  # NCCL then knows from the start which GPU is whose
    dist.init_process_group(
        backend, store=dist.PrefixStore("groups", met.store), rank=met.rank, world_size=met.size, timeout=timeout, device_id=own
    )
    try:
        yield replace(met, control=dist.new_group(backend="gloo", timeout=timeout))
    finally:
        dist.destroy_process_group()


def _met(rank: int, size: int, timeout: dt.timedelta) -> dist.Store:
    """The store of all ranks, once all have come. In a thread: with a stopped keeper of the store no call returns, whatever its timeout."""
    come: set[int] = set()
    found: list[dist.Store | Exception] = []

    def look() -> None:
        try:
            store = _store(rank, size, timeout)
            store.set(f"met/{rank}", "")
            while missing := set(range(size)) - come:
                come.update(other for other in missing if store.check([f"met/{other}"]))
                time.sleep(_SECONDS_BETWEEN_LOOKS)
            found.append(store)
        except Exception as error:  # noqa: BLE001 - it is raised where the main thread waits
            found.append(error)

    looking = threading.Thread(target=look, name="meeting", daemon=True)
    looking.start()
    looking.join(timeout.total_seconds())
    if found and isinstance(found[0], dist.Store):
        return found[0]
    if found and isinstance(found[0], Exception) and not isinstance(found[0], dist.DistError):
        raise found[0]
    # The keeper of the store, rank 0, is the one that is missed where the store does not answer.
    raise Absent(set(range(size)) - come if come else {0}, timeout.total_seconds())


def _store(rank: int, size: int, timeout: dt.timedelta) -> dist.Store:
    """Small texts for all ranks: kept by rank 0's process, or by the agent of torchrun itself."""
    of_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store: dist.Store = dist.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        size,
        is_master=rank == 0 and not of_agent,
        timeout=timeout,
        wait_for_workers=False,
        multi_tenant=True,
    )
    # Under torchrun itself keys of killed ranks stay in the agent's store, and who reads them waits for the dead. Our agent
    # has a store for each start: its count of starts would keep a machine that came back later from meeting the others.
    return dist.PrefixStore(f"restart-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}" if of_agent else "sluice", store)


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
