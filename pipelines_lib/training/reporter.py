"""Tells MLflow and TensorBoard of a training while it runs, by a journal that a process of its own carries there."""

import atexit
import logging
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from pydantic import JsonValue

from pipelines_lib.contracts import DatasetRef
from pipelines_lib.errors import Held, Interrupted, SluiceError
from pipelines_lib.registry.journal import JOURNAL, About, Status, Writer, environment, identity, parameters
from pipelines_lib.registry.tracker import Task
from pipelines_lib.s3 import S3Path
from pipelines_lib.store import StorePath, write_bytes
from pipelines_lib.training.distributed import World
from pipelines_lib.training.observer import Observer, Pace
from pipelines_lib.training.progress import Progress

log = logging.getLogger("sluice")

_SECONDS_BETWEEN_POINTS = 10.0
_PATIENCE = 20.0
"""Seconds that the end of a training waits for its tracker. What is missing then, the stage evaluate logs."""


class Reporter(Observer):
    """An observer that keeps the journal of a training in `folder`. As a context manager: the tracker runs inside.

    `kept` is where it has to be in the end, for another machine to find it: that folder, or one in a bucket.
    """

    def __init__(
        self, folder: Path, project: Path, *, kept: StorePath, tracking_uri: str, system_metrics_seconds: float, tensorboard: bool
    ) -> None:
        self._folder, self._project = folder, project
        self._writer = Writer(folder / JOURNAL)
        self._kept = kept if isinstance(kept, S3Path) else None
        self._task = Task(
            journal=str(folder / JOURNAL),
            kept=None if self._kept is None else str(self._kept / JOURNAL),
            tracking_uri=tracking_uri,
            system_metrics_seconds=system_metrics_seconds,
            tensorboard=str(folder / "tensorboard") if tensorboard else None,
        )
        self._about: About | None = None
        self._tracker: subprocess.Popen[str] | None = None
        self._pace: Pace | None = None
        self._told = 0.0

    def __enter__(self) -> Self:
        self._tracker = subprocess.Popen(
            [sys.executable, "-m", "pipelines_lib.registry.tracker"],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,  # whoever ends this process's group must not end the one that tells of it
        )
        assert self._tracker.stdin is not None
        self._tracker.stdin.write(self._task.model_dump_json() + "\n")
        self._tracker.stdin.flush()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._about is not None:
            with _told("the end of the training could not be written into its journal"):
                self._writer.end(_status(error))
        assert self._tracker is not None
        assert self._tracker.stdin is not None
        self._tracker.stdin.close()
        if error is None:
            self._wait()
        else:
            # What went wrong is kept first: whoever ends the ranks that are left may not wait.
            atexit.register(self._wait)

    def _wait(self) -> None:
        assert self._tracker is not None
        try:
            self._tracker.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._tracker.kill()
            self._tracker.wait()
            log.warning("MLflow took longer than %.0f s at the end; the stage evaluate logs what is missing", _PATIENCE)
        if self._kept is not None:
            with _told("the last points of its journal could not be kept, so MLflow may lack them"):
                for path in (self._folder / JOURNAL, *self._folder.glob("tensorboard/*")):
                    if path.exists():
                        write_bytes(self._kept / path.relative_to(self._folder).as_posix(), path.read_bytes())

    def describe(
        self,
        settings: Mapping[str, JsonValue],
        *,
        task: str,
        dataset: DatasetRef,
        run_id: str,
        tags: Mapping[str, str],
        artifacts: str | None,
        ranks: World,
    ) -> None:
        """Say which training it is, before it starts."""
        use_case = dataset.use_case
        here = {"sluice.ranks": str(ranks.size), "sluice.device": _device(ranks), "sluice.strategy": str(settings["strategy"])}
        self._about = About(
            use_case=use_case,
            run_id=run_id,
            artifacts=artifacts,
            trained=identity(settings, use_case, task, dataset),
            parameters=parameters(settings, use_case, task),
            tags={**environment(self._project), **here, **tags},
            dataset=dataset,
        )

    def started(self, progress: Progress, step: int) -> None:  # noqa: ARG002 - the signature of an observer
        """Begin the journal, or go on with it."""
        assert self._about is not None
        if self._kept is not None:
            with suppress(FileNotFoundError):
                kept, path = (self._kept / JOURNAL).read_bytes(), self._writer.path
                # It only grows: a longer one is of another machine, which went on meanwhile.
                if not path.exists() or path.stat().st_size < len(kept):
                    write_bytes(path, kept)
        self._writer.start(self._about)
        self._told = time.monotonic()

    def progress(self, pace: Pace) -> None:
        """A point about every ten seconds."""
        self._pace = pace
        if time.monotonic() - self._told >= _SECONDS_BETWEEN_POINTS:
            self._told = time.monotonic()
            values = {"loss": pace.loss, "rows_per_second": pace.rows_per_second, "learning_rate": pace.learning_rate}
            self._writer.figures(pace.step, {f"steps/{name}": value for name, value in values.items()})

    def epoch(self, entry: Mapping[str, float]) -> None:
        """A point of each curve."""
        values = {name: float(value) for name, value in entry.items() if name != "epoch"}
        if self._pace is not None:
            values |= {"rows_per_second": self._pace.rows_per_second, "learning_rate": self._pace.learning_rate}
        self._writer.figures(int(entry["epoch"]), values)


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Go on where the disk or the store refuses: how a training ended, well or not, is worth more than its record."""
    try:
        yield
    except (OSError, SluiceError) as error:
        log.warning("%s (%s)", what, error)


def _status(error: BaseException | None) -> Status:
    if error is None:
        return "FINISHED"
    return "KILLED" if isinstance(error, Interrupted | Held) else "FAILED"


def _device(ranks: World) -> str:
    if ranks.device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(ranks.device)}"
    return str(ranks.device.type)
