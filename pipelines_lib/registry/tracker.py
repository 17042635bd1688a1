"""The tracker: a process beside a training that carries its journal to MLflow and to TensorBoard's files as it grows.

    python -m pipelines_lib.registry.tracker

It is told what to do by one line of JSON on its standard input, and that the training is over, or dead, by the input's end.
In a process of its own, importing MLflow and waiting for a server take nothing from the training.
"""

import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from pipelines_lib.config import Project
from pipelines_lib.contracts import Contract
from pipelines_lib.registry.journal import Journal, Status
from pipelines_lib.store import opened, write_bytes

log = logging.getLogger("sluice")

_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_BETWEEN_TRIES = 15.0
"""After the server did not answer."""
_SECONDS_BETWEEN_COPIES = 10.0


# A server that does not answer is to be found out soon: MLflow's client would try for minutes, and the tracker tries again by itself.
_SHORT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}


class Task(Contract):
    """What the tracker is told."""

    journal: str
    kept: str | None = None
    """Address in a bucket that the journal is copied to, for whoever goes on when this machine is gone."""
    tracking_uri: str
    """May hold a password, so it comes by a pipe and stands on no command line."""
    system_metrics_seconds: float
    """Between two samples of the machine's load; 0 for none."""
    tensorboard: str | None
    """Folder for TensorBoard's event files."""


class Sink(Protocol):
    """Where the journal goes. Both methods may be called with lines that they have seen."""

    def take(self, journal: Journal) -> None:
        """Log what is new in `journal`."""

    def end(self, journal: Journal, status: Status) -> None:
        """Log the rest, and how it ended."""


class Patient:
    """A sink that may fail: it says so once, and is tried again now and then."""

    def __init__(self, name: str, make: Callable[[], Sink], *, later: str = "it is tried again") -> None:
        """`later`: what becomes of what is not logged now."""
        self._name, self._make, self._later = name, make, later
        self._sink: Sink | None = None
        self._not_before = 0.0
        self._told = False

    def take(self, journal: Journal) -> None:
        """Log what is new, unless it failed a moment ago."""
        if time.monotonic() >= self._not_before:
            self._try(lambda sink: sink.take(journal))

    def end(self, journal: Journal, status: Status) -> None:
        """Log the rest, and how it ended, unless it failed a moment ago: the end of a training does not wait for a dead server."""
        if time.monotonic() >= self._not_before:
            self._try(lambda sink: sink.end(journal, status))

    def _try(self, what: Callable[[Sink], None]) -> None:
        try:
            self._sink = self._sink or self._make()
            what(self._sink)
        except Exception as error:  # noqa: BLE001 - whatever a server's client raises, the training goes on
            self._not_before = time.monotonic() + _SECONDS_BETWEEN_TRIES
            if not self._told:
                self._told = True
                # No more of the message: an address in it may hold a password.
                log.warning("%s can't be written now (%s); the training goes on, and %s", self._name, _kind(error), self._later)


def follow(path: Path, sinks: Sequence[Patient], ended: Callable[[float], bool]) -> None:
    """Carry the journal to the sinks until `ended`, which waits so many seconds, says so."""
    size, journal, over = 0, Journal([]), False
    while not over:
        over = ended(_SECONDS_BETWEEN_LOOKS)
        if path.exists() and path.stat().st_size != size:
            size, journal = path.stat().st_size, Journal.read(path)
        if journal.about is None:
            continue
        for sink in sinks:
            if over:
                # A training that was killed could not say how it ended.
                sink.end(journal, journal.status or "FAILED")
            else:
                sink.take(journal)


def input_ended(seconds: float) -> bool:
    """Whether the standard input ends within `seconds`."""
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return bool(ready) and not os.read(sys.stdin.fileno(), 1)


def _kind(error: BaseException) -> str:
    """The exception's class, and that of what lies behind it."""
    cause = error.__cause__ or error.__context__
    return type(error).__name__ + (f", {_kind(cause)}" if cause is not None else "")


class _Kept:
    """Copies the journal into the store, now and then."""

    def __init__(self, journal: Path, address: str) -> None:
        self._journal = journal
        self._kept = opened(address, Project.from_environment())
        self._not_before = 0.0

    def take(self, journal: Journal) -> None:
        if time.monotonic() >= self._not_before:
            self.end(journal, "FINISHED")

    def end(self, journal: Journal, status: Status) -> None:  # noqa: ARG002 - the signature of a sink
        write_bytes(self._kept, self._journal.read_bytes())
        self._not_before = time.monotonic() + _SECONDS_BETWEEN_COPIES


def _sinks(task: Task) -> list[Patient]:
    sinks = []
    if (kept := task.kept) is not None:
        # First, since the launcher gives what is left of a killed try a few seconds.
        sinks.append(Patient(f"the copy of the journal, {kept},", lambda: _Kept(Path(task.journal), kept)))
    sinks.append(Patient("MLflow", lambda: _mlflow(task), later="the stage evaluate logs it"))
    if task.tensorboard is not None:
        folder = Path(task.tensorboard)
        sinks.append(Patient(f"TensorBoard's files in {folder}", lambda: _event_files(folder)))
    return sinks


def _mlflow(task: Task) -> Sink:
    from pipelines_lib.registry.tracking import LiveRun  # noqa: PLC0415 - 2.5 s, in which the training goes on

    return LiveRun(task.tracking_uri, task.system_metrics_seconds)


def _event_files(folder: Path) -> Sink:
    from pipelines_lib.registry.tensorboard import EventFiles  # noqa: PLC0415 - it need not be installed

    return EventFiles(folder)


def main() -> None:
    """The process's whole life. It ends with its input, and not by the signal that ends the training: that has to be logged."""
    logging.basicConfig(level=logging.WARNING, format="[tracker] %(levelname)s %(message)s", stream=sys.stdout)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.nice(5)  # the training comes first
    os.environ.update(_SHORT)
    task = Task.model_validate_json(sys.stdin.readline())
    follow(Path(task.journal), _sinks(task), input_ended)


if __name__ == "__main__":
    main()
