"""What a training says of itself while it runs: one line of JSON after the other, in its stage's folder.

The training writes a line and goes on; the tracker, a process of its own, reads them as they come, and the stage evaluate once
more when all are there. So a tracking server that is slow or gone costs a training nothing, and no line is lost. This module
is cheap to import: it knows nothing of MLflow.
"""

import hashlib
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, JsonValue, ValidationError

from pipelines_lib.contracts import Contract, DatasetRef
from pipelines_lib.store import StorePath

JOURNAL = "journal.jsonl"
"""The file's name in the stage's folder."""

Status = Literal["FINISHED", "FAILED", "KILLED"]
"""How a training ended, in MLflow's words; KILLED is one that was asked to end and goes on later."""

_PACKAGES = ("torch", "numpy", "pyarrow", "onnx", "mlflow")
"""Whose versions may change what a training comes to."""
_GIT_SECONDS = 10
SQLITE = "sqlite:///"
"""What the address of a tracking server that is a file begins with."""


class About(Contract):
    """Which training it is. Two with equal `run_id` and `trained` are one, and have one MLflow run."""

    use_case: str
    run_id: str
    artifacts: str | None
    """URI of the artefacts of the use case's experiment; None where the server says where they go."""
    trained: dict[str, JsonValue]
    """The settings, and the rows."""
    parameters: dict[str, JsonValue]
    tags: dict[str, str]
    """What may differ from try to try: devices, versions, the commit."""
    dataset: DatasetRef


class Line(Contract):
    """One line: a start (`about`), figures at a step, or an end (`status`)."""

    moment: float
    """Seconds since 1970. No result depends on it."""
    about: About | None = None
    step: int = 0
    values: dict[str, float] = Field(default_factory=dict)
    status: Status | None = None


class Journal:
    """The lines so far. `curves` has a figure's values by step; where a step was done again, its first value stands."""

    def __init__(self, lines: list[Line]) -> None:
        self.lines = lines
        self.about = next((line.about for line in reversed(lines) if line.about is not None), None)
        self.status = next((line.status for line in reversed(lines) if line.status is not None or line.about is not None), None)
        """How the newest try ended; None where it has not said."""
        self.curves: dict[str, dict[int, float]] = {}
        for line in lines:
            for name, value in line.values.items():
                self.curves.setdefault(name, {}).setdefault(line.step, value)

    @classmethod
    def read(cls, path: StorePath) -> "Journal":
        """The journal at `path`; empty where there is none. A line that a killed process left half is passed over."""
        lines = []
        for text in path.read_text(encoding="utf-8").split("\n") if path.exists() else []:
            try:
                lines.append(Line.model_validate_json(text))
            except ValidationError:
                continue
        return cls(lines)

    @property
    def digest(self) -> str:
        """Equal for equal lines."""
        return hashlib.sha256("\n".join(line.model_dump_json() for line in self.lines).encode()).hexdigest()[:32]


class Writer:
    """Adds lines to the journal at `path`, which one process does at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def start(self, about: About) -> None:
        """A training begins, or goes on: the journal of another one makes way for its own."""
        before = Journal.read(self.path).about
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if before is None or (before.run_id, before.trained) != (about.run_id, about.trained):
            self.path.unlink(missing_ok=True)
        self._add(about=about)

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """Figures at `step`."""
        self._add(step=step, values=dict(values))

    def end(self, status: Status) -> None:
        """The training is over, or will be started again."""
        self._add(status=status)

    def _add(self, **fields: Any) -> None:
        text = Line(moment=time.time(), **fields).model_dump_json(exclude_defaults=True)
        # A line that a killed process left half ends here.
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"\n{text}\n")


def identity(settings: Mapping[str, JsonValue], use_case: str, task: str, dataset: DatasetRef) -> dict[str, JsonValue]:
    """What makes a training the one it is: the settings of `training:`, the use case, and the rows."""
    return {**parameters(settings, use_case, task), "snapshot": dataset.content_hash}


def parameters(settings: Mapping[str, JsonValue], use_case: str, task: str) -> dict[str, JsonValue]:
    """A training's parameters for MLflow."""
    return {**settings, "use_case": use_case, "task": task}


def database_of(tracking_uri: str) -> Path | None:
    """The file that the tracking server is; None of one that is asked over the network."""
    return Path(tracking_uri.removeprefix(SQLITE).split("?")[0]) if tracking_uri.startswith(SQLITE) else None


def artifacts_of(root: StorePath, tracking_uri: str) -> str | None:
    """Where the artefacts of a use case's experiment go: into its folder `root` of the store. None: where the server keeps them.

    MLflow would need a way of its own into a bucket: where that is the store, they lie beside the database, or with the server.
    """
    if isinstance(root, Path):
        return (root / "mlflow").resolve().as_uri()
    database = database_of(tracking_uri)
    return None if database is None else (database.parent / "artifacts" / root.name).resolve().as_uri()


def environment(folder: Path) -> dict[str, str]:
    """What of this machine may change a training's outcome: versions of packages, and the commit of `folder`, where git knows one."""
    tags = {"sluice.version.python": ".".join(map(str, sys.version_info[:3]))}
    for name in _PACKAGES:
        try:
            tags[f"sluice.version.{name}"] = version(name)
        except PackageNotFoundError:
            continue
    commit = _git(folder, "rev-parse", "HEAD")
    if commit:
        tags["mlflow.source.git.commit"] = commit
        tags["sluice.git_changed"] = str(bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))).lower()
    return tags


def _git(folder: Path, *arguments: str) -> str:
    """What git says; nothing where there is no git, or no repository."""
    try:
        command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
        said = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return said.stdout.strip() if said.returncode == 0 else ""
