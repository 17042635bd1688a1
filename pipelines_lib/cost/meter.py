"""The meter of a stage's process: a thread that writes down every few seconds what the process has used, so that a killed try counts too."""

import logging
import os
import resource
import threading
import time
import uuid
from types import TracebackType
from typing import Self

import psutil

from pipelines_lib.cost.usage import Outcome, Requests, Usage, of_folder
from pipelines_lib.errors import SluiceError
from pipelines_lib.s3 import S3Path
from pipelines_lib.store import StorePath, create_json, write_json

log = logging.getLogger("sluice")

BEAT_SECONDS = 5.0
"""Between two beats; a SIGKILL leaves at most so much uncounted."""
_BEAT_SECONDS_OF_A_BUCKET = 10.0
"""The same where each beat is a request that is paid for."""
REQUESTS = "SLUICE_REQUESTS"
"""Environment variable: what a launcher reserved for the process, as `{"cpus": 4, "memory_gib": 16}`. Without it, what is used counts."""

_GIB = float(1 << 30)


class Meter:
    """Counts what this process uses while it is entered. Made without a folder it counts and writes nothing down."""

    def __init__(self, stage_dir: StorePath | None = None) -> None:
        self._process = psutil.Process()
        self._begun = self._process.create_time()
        # The wall clock may be set while we run, so it is asked once.
        self._offset = max(0.0, time.time() - self._begun) - time.monotonic()
        self._lock, self._over = threading.RLock(), threading.Event()  # a signal's handler may ask, too
        self._writing = threading.RLock()  # apart, since a store may keep a writer waiting
        self._outcome: Outcome = "failed"
        self._path: StorePath | None = None
        self._n_gpus = 0
        self._last_memory: tuple[float, float] | None = None
        self._usage = Usage(
            attempt=1, rank=0, launch="", started=self._begun, seconds=0, cpu_seconds=0, memory_gib_seconds=0, requests=_requests()
        )
        if stage_dir is not None:
            self._usage = self._usage.model_copy(update={"launch": _launch(), "rank": int(os.environ.get("RANK", "0"))})
            try:
                self._path = self._claim(stage_dir)
            except (OSError, SluiceError) as error:
                self._say_that_it_is_lost(stage_dir, error)

    def __enter__(self) -> Self:
        self.now()
        if self._path is not None:
            threading.Thread(target=self._beat, name="meter", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        with self._lock:
            self._over.set()
            self._usage = self.now().model_copy(update={"outcome": self._outcome})
        self._write()

    def ends(self, outcome: Outcome) -> None:
        """How the try ends; it has failed where nobody says so."""
        self._outcome = outcome

    def kept(self, moment: float) -> None:
        """A checkpoint is complete: what was done up to `moment` (of time.monotonic) is kept, whatever happens."""
        with self._lock:
            self._usage = self._usage.model_copy(update={"kept_seconds": moment + self._offset})

    def holds_gpus(self, number: int, name: str) -> None:
        """The process holds so many GPUs, and does from its beginning: nobody else could have them."""
        with self._lock:
            self._n_gpus = number
            self._usage = self._usage.model_copy(update={"gpu": name})

    def now(self) -> Usage:
        """What was used up to this moment."""
        with self._lock:
            seconds = self._seconds()
            cpu, memory = self._cpu_and_memory()
            at, before = self._last_memory or (0.0, memory)
            self._last_memory = (seconds, memory)
            self._usage = self._usage.model_copy(
                update={
                    "seconds": seconds,
                    # A child that ends between two looks may be missed by both, and what was used is not given back.
                    "cpu_seconds": max(cpu, self._usage.cpu_seconds),
                    "memory_gib_seconds": self._usage.memory_gib_seconds + (seconds - at) * (before + memory) / 2,
                    "gpu_seconds": seconds * self._n_gpus,
                }
            )
            return self._usage

    def beat(self) -> None:
        """Write down what was used up to this moment."""
        self.now()
        self._write()

    def _seconds(self) -> float:
        return time.monotonic() + self._offset

    def _cpu_and_memory(self) -> tuple[float, float]:
        """CPU-seconds and resident GiB of this process and its descendants."""
        own = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        cpu = sum(used.ru_utime + used.ru_stime for used in own)
        memory = self._process.memory_info().rss
        for child in self._process.children(recursive=True):
            try:
                times = child.cpu_times()
                cpu += times.user + times.system + times.children_user + times.children_system
                memory += child.memory_info().rss
            except psutil.Error:
                continue  # it has just ended, and its time is among our children's
        return cpu, memory / _GIB

    def _beat(self) -> None:
        seconds = _BEAT_SECONDS_OF_A_BUCKET if isinstance(self._path, S3Path) else BEAT_SECONDS
        while not self._over.wait(seconds):
            self.beat()

    def _write(self) -> None:
        with self._writing:
            if self._path is None:
                return
            try:
                write_json(self._path, self._usage)
            except (OSError, SluiceError) as error:
                self._say_that_it_is_lost(self._path, error)

    def _say_that_it_is_lost(self, path: StorePath, error: Exception) -> None:
        # What a try used is worth knowing, and not worth losing the try for.
        log.warning("%s can't be written (%s), so what this process uses may go uncounted", path, error)

    def _claim(self, stage_dir: StorePath) -> StorePath:
        """A file of this process's own: of the try that the other ranks of its launch have, else of the next."""
        records = of_folder(stage_dir)
        attempt = next((usage.attempt for usage in records if usage.launch == self._usage.launch), None)
        attempt = attempt or max((usage.attempt for usage in records), default=0) + 1
        while True:
            self._usage = self._usage.model_copy(update={"attempt": attempt})
            path = stage_dir / "usage" / f"{attempt}-{self._usage.rank}.json"
            try:
                create_json(path, self._usage)
            except FileExistsError:
                attempt += 1
            else:
                return path


def _launch() -> str:
    """The same for the ranks that torchrun has started together, and for no other process."""
    together = os.environ.get("TORCHELASTIC_RUN_ID")
    return f"{together}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}" if together else str(uuid.uuid4())


def _requests() -> Requests:
    given = os.environ.get(REQUESTS)
    return Requests.model_validate_json(given) if given else Requests()
