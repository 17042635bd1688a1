"""Finds the rank that hangs, and names it.

Each rank's main thread says `beat(step)` as it goes; a thread beside it tells the other ranks, and ends the process where
the main thread has not moved for `training.timeout`. A rank that waits for another in a collective does not move either,
so ranks compare: the one that hangs is the one that lags behind, or that waits for nobody, or that has fallen silent (a
stopped process, a lost machine), for which the others speak. What takes long by its nature says so with `busy`.
"""

import datetime as dt
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn, Self

import psutil
import torch.distributed as dist

from pipelines_lib import failures
from pipelines_lib.store import StorePath
from pipelines_lib.training.distributed import Absent

log = logging.getLogger("sluice")

COLLECTIVES_WAIT_LONGER = dt.timedelta(minutes=1)
"""Than `training.timeout`: the watchdog names the rank that hangs, a collective that gives up can't."""

_KEEPER = 0
"""The rank whose process keeps the store."""
_TICKS = 10
"""In the timeout; at most a second apart."""
_QUEUE_OF_GRADIENTS = "/pipelines_lib/training/parameter_server.py"
_THE_END = "done"
_TICKS_TO_SPEAK = 4
"""How long the others leave to a rank that hangs to say so itself, with its stack."""


@dataclass(frozen=True)
class Sign:
    """What a rank tells the others."""

    count: int
    """Of its signs: a rank whose count stands still is stopped or gone."""
    step: int
    idle: float
    """Seconds since its main thread last moved."""
    busy: str
    """What takes it long by its nature; empty otherwise."""
    alone: float
    """Seconds since its main thread last moved or was seen to wait for another rank."""
    host: str
    pid: int


@dataclass(frozen=True)
class Seen:
    """The last sign of a rank, and how many seconds ago it came."""

    sign: Sign
    age: float


def silent(seen: Mapping[int, Seen], timeout: float) -> set[int]:
    """The ranks that have given no sign for `timeout` seconds. A busy one gives signs: they come from a thread of its own."""
    return {rank for rank, last in seen.items() if last.age >= timeout and last.sign.busy != _THE_END}


def hanging(signs: Mapping[int, Sign], timeout: float) -> set[int]:
    """The ranks that keep the others waiting, from the signs of all; none as long as one moves that the others may wait for."""
    stuck = {rank for rank, sign in signs.items() if sign.idle >= timeout and not sign.busy}
    at_fault = {rank for rank in stuck if signs[rank].alone >= timeout}
    suspects = at_fault or (stuck if len(stuck) == len(signs) else set())
    behind = min((signs[rank].step for rank in suspects), default=0)
    return {rank for rank in suspects if signs[rank].step == behind}


class Unwatched:
    """Of a process that nobody watches."""

    def beat(self, step: int | None = None) -> None:
        """The main thread has come to `step`, or a bit further within the one that it said last."""

    def busy(self, what: str) -> AbstractContextManager[None]:  # noqa: ARG002 - for those who watch
        """Around what may take longer than the timeout, such as a compilation: it is not taken for a hang."""
        return nullcontext()


UNWATCHED = Unwatched()


class Watchdog(Unwatched):
    """Watches this rank's main thread, which has to call `beat`. As a context manager: it watches inside.

    `store` is what the ranks share (None for a process alone), `stage_dir` where failures are kept. On an accelerator the
    main thread can wait for another rank anywhere (`sees_waiting` is false), so that a rank is at fault only where all are stuck.
    """

    def __init__(
        self,
        timeout: dt.timedelta,
        stage_dir: StorePath,
        store: dist.Store | None = None,
        rank: int = 0,
        size: int = 1,
        *,
        sees_waiting: bool = True,
    ) -> None:
        self._timeout = timeout.total_seconds()
        self._tick = min(1.0, self._timeout / _TICKS)
        self._stage_dir = stage_dir
        self._store = store
        self._rank, self._size = rank, size
        self._sees_waiting = sees_waiting
        self._watched = threading.get_ident()
        self._step = 0
        self._moved = self._waited = time.monotonic()
        self._busy: list[str] = []
        self._count = 0
        self._seen: dict[int, tuple[Sign, float]] = {}
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._watched, self._moved = threading.get_ident(), time.monotonic()
        work = [self._judge] + ([self._exchange] if self._size > 1 else [])
        self._meet()
        self._threads = [threading.Thread(target=each, name=f"watchdog-{each.__name__}", daemon=True) for each in work]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(2 * self._tick)  # the store may hang with the rank that keeps it

    def beat(self, step: int | None = None) -> None:
        """The main thread has come to `step`, or a bit further within the one that it said last."""
        self._step = self._step if step is None else step
        self._moved = time.monotonic()

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """Around what may take longer than the timeout, such as a compilation: it is not taken for a hang."""
        self._busy.append(what)
        try:
            yield
        finally:
            self._moved = time.monotonic()
            self._busy.pop()

    def _sign(self) -> Sign:
        busy = self._busy[-1] if self._busy else _THE_END if self._over.is_set() else ""
        now = time.monotonic()
        if not self._sees_waiting or _in_a_collective(self._frame()):
            self._waited = now
        idle = now - self._moved
        return Sign(self._count, self._step, idle, busy, min(idle, now - self._waited), failures.host_name(), os.getpid())

    def _frame(self) -> FrameType | None:
        return sys._current_frames().get(self._watched)

    def _meet(self) -> None:
        """Wait for a first sign of every rank: one that hangs later is known then, with its process."""
        if self._store is not None:
            self._tell(self._store)
            self._hear(self._store)

    def _exchange(self) -> None:
        """Tell the others, and hear of them, in a thread of its own: with a stopped keeper of the store, a call never returns."""
        assert self._store is not None
        store = self._store.clone()
        try:
            while not self._over.wait(self._tick):
                self._tell(store)
                self._hear(store)
            self._tell(store)
        except dist.DistError:
            return  # the keeper's process is gone; the main thread hears of it in its next collective

    def _tell(self, store: dist.Store) -> None:
        self._count += 1
        store.set(_key(self._rank), json.dumps(asdict(self._sign())))

    def _hear(self, store: dist.Store) -> None:
        texts = store.multi_get([_key(rank) for rank in range(self._size)])
        now = time.monotonic()
        for rank, text in enumerate(texts):
            sign = Sign(**json.loads(text))
            if rank not in self._seen or self._seen[rank][0].count != sign.count:
                self._seen[rank] = (sign, now)

    def _judge(self) -> None:
        patience = _TICKS_TO_SPEAK
        while not self._over.wait(self._tick):
            own = self._sign()
            if own.busy or own.idle < self._timeout:
                patience = _TICKS_TO_SPEAK
                continue
            if self._size == 1:
                self._hangs(own)
            seen = self._others()
            if quiet := self._silent(seen):
                self._speak_for(quiet, seen)
            at_fault = hanging({self._rank: own} | {rank: last.sign for rank, last in seen.items()}, self._timeout)
            if self._rank in at_fault:
                self._hangs(own)
            if at_fault:
                patience -= 1
                if not patience:
                    self._lost(at_fault)

    def _others(self) -> dict[int, Seen]:
        now = time.monotonic()
        return {rank: Seen(sign, now - since) for rank, (sign, since) in list(self._seen.items()) if rank != self._rank}

    def _silent(self, seen: Mapping[int, Seen]) -> set[int]:
        quiet = silent(seen, self._timeout)
        # Where nobody is heard of, it is the store that does not answer.
        deaf = time.monotonic() - self._seen[self._rank][1] >= self._timeout
        return quiet & {_KEEPER} if deaf else quiet

    def _hangs(self, own: Sign) -> NoReturn:
        frame = self._frame()
        stack = "".join(traceback.format_stack(frame)) if frame else ""
        where = _place(frame) if frame else "a thread that has ended"
        message = f"no progress for {self._timeout:.0f} s (training.timeout) after step {own.step:,}; it is in {where}"
        _leave(self._stage_dir, failures.of_hang(self._rank, failures.host_name(), message, stack))

    def _speak_for(self, quiet: set[int], seen: Mapping[int, Seen]) -> None:
        for rank in sorted(quiet):
            sign = seen[rank].sign
            message = (
                f"no sign of it for {self._timeout:.0f} s (training.timeout), the last at step {sign.step:,}: process {sign.pid} is stopped, or its "
                f"machine is gone; rank {self._rank} waited for it"
            )
            failure = failures.of_hang(rank, sign.host, message)
            failures.leave(self._stage_dir, failure)
            log.error("%s", failure.sentence)
            if sign.host == failures.host_name():
                # A stopped process hears no SIGTERM; the agent would wait half a minute for it.
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(sign.pid, signal.SIGKILL)
        self._lost(quiet)

    def _lost(self, others: set[int]) -> NoReturn:
        _leave(self._stage_dir, failures.of_loss(f"waited for rank {', '.join(map(str, sorted(others)))}, which hangs"))


def end_without(stage_dir: StorePath, absent: Absent) -> NoReturn:
    """Name the ranks that have not come to the meeting of all, end those of this machine, and end this process.

    They started with the others, so that they are stopped, or hang before they have said anything.
    """
    for rank in sorted(absent.ranks):
        process = _of_this_machine(rank)
        where = "its machine, or its process," if process is None else f"process {process.pid} is stopped, or"
        message = f"it has not met the other ranks in {absent.seconds:.0f} s: {where} hangs at its start"
        failure = failures.of_hang(rank, "another machine" if process is None else failures.host_name(), message)
        failures.leave(stage_dir, failure)
        log.error("%s", failure.sentence)
        if process is not None:
            with suppress(psutil.Error):
                process.kill()  # a stopped process hears no SIGTERM; the agent would wait half a minute for it
    _leave(stage_dir, failures.of_loss(str(absent)))  # at once: a thread may still wait for the store, where nothing can end it


def _leave(stage_dir: StorePath, failure: failures.Failure) -> NoReturn:
    """Keep `failure` and end the process: its main thread can't."""
    log.error("%s", failure.sentence)
    if failure.traceback:
        log.error("the stack of rank %d:\n%s", failure.rank, failure.traceback.rstrip())
    try:
        failures.leave(stage_dir, failure)
    finally:
        os._exit(failure.exit_code)


def _of_this_machine(rank: int) -> psutil.Process | None:
    """The process of `rank`, where this process's agent has started it too."""
    for process in psutil.Process(os.getppid()).children():
        with suppress(psutil.Error):
            if process.environ().get("RANK") == str(rank):
                return process
    return None


def _key(rank: int) -> str:
    return f"watchdog/{rank}"


def _in_a_collective(frame: FrameType | None) -> bool:
    """Whether a thread waits for other ranks: in torch's code for talking to them, a backward pass, which exchanges gradients, or
    the parameter server's queue."""
    while frame is not None and Path(frame.f_code.co_filename).name == "threading.py":
        frame = frame.f_back  # what waits on a lock waits for what the lock's owner waits for
    if frame is None:
        return False
    file = frame.f_code.co_filename.replace(os.sep, "/")
    return file.endswith(_QUEUE_OF_GRADIENTS) or "/torch/distributed/" in file or frame.f_code.co_name == "_engine_run_backward"


def _place(frame: FrameType) -> str:
    """The innermost line outside torch, since that is whose it is."""
    inner = frame
    while "/torch/" in inner.f_code.co_filename.replace(os.sep, "/") and inner.f_back is not None:
        inner = inner.f_back
    return f"{Path(inner.f_code.co_filename).name}:{inner.f_lineno}, {inner.f_code.co_name}"
