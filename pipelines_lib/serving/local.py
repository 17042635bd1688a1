"""The service of a use case as a process of this machine, on 127.0.0.1; beside it another, for a candidate while it is verified.

`<home>/services/serving-<use_case>.json` remembers its process and port, `serving-<use_case>-candidate.json` the other's. A process is only ever taken for the service (and
ended) when its id, its start time and its command line all agree, so a recycled id can't be mistaken for it.
"""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from pydantic import ValidationError

import pipelines_lib
from pipelines_lib.config import Project
from pipelines_lib.contracts import Contract
from pipelines_lib.errors import Unavailable
from pipelines_lib.launcher import MARK
from pipelines_lib.serving.access import token_of
from pipelines_lib.serving.replica import Replica
from pipelines_lib.store import StorePath, read_json, write_json
from pipelines_lib.use_case import UseCase

HOST = "127.0.0.1"
PORTS = range(8800, 9000)
STOP_SECONDS = 10.0
_STARTS = 5
"""Ports tried where others take them first."""
_MODULE = "pipelines_lib.serving.server"
PREFIX, CANDIDATE = "serving-", "-candidate"
"""Airflow and MLflow have their records in the same folder, and a use case may be called mlflow."""

_children: list["subprocess.Popen[bytes]"] = []
"""What this process started: kept so that an ended one is reaped and not taken for a running one."""


class Record(Contract):
    """What is remembered of a service; kept when it stops, for its port."""

    use_case: str
    root: str
    url: str
    port: int
    pid: int
    create_time: float
    """When the process started, by the machine's clock."""
    candidate: bool = False
    """Whether it serves what is being verified, and no user."""

    @property
    def name(self) -> str:
        """Of its files."""
        return _name(self.use_case, candidate=self.candidate)


@dataclass(frozen=True)
class Service:
    """A running service."""

    use_case: str
    url: str
    port: int
    pid: int


def ensure(use_case: UseCase, project: Project, root: StorePath, *, candidate: bool = False, timeout: float = 60) -> Service:
    """The running service of `use_case`, whose folder in the store is `root`; started where there is none. With `candidate`
    the one that serves what is being verified.

    It listens on `deployment.port`, or, where that is not set, on its last port or a free one of 8800 to 8999.
    Raises `Unavailable` where it can't listen or does not come up within `timeout` seconds, and `ConfigError` where its token is missing.
    """
    token = token_of(use_case.deployment.token)
    port = None if candidate else use_case.deployment.port
    with _lock(project):
        record = _read(_name(use_case.name, candidate=candidate), project)
        fits = record and _process(record) and record.root == str(root) and port in (None, record.port)
        if record and fits and _is_live(record) and _asks_for(token, record):
            return _service(record)
        if record:
            _end(record)
        for _ in range(_STARTS):
            record, child = _start(use_case, project, root, _pick_port(port, record, project), candidate=candidate)
            if _comes_up(record, child, project, timeout):
                return _service(record)
        raise _did_not_start(
            use_case.name, _name(use_case.name, candidate=candidate), project, f"another process took each of the {_STARTS} ports tried"
        )


def stop(use_case: str, project: Project, *, candidate: bool = False) -> bool:
    """End the service of `use_case`, or its candidate's; its prediction log is written first. Returns whether there was one."""
    with _lock(project):
        record = _read(name := _name(use_case, candidate=candidate), project)
        ended = record is not None and _end(record)
        if candidate:
            _path(name, project).unlink(missing_ok=True)
        return ended


def running(project: Project) -> list[Service]:
    """Every service of the project that users may ask, by use case."""
    return [_service(record) for record in _records(project) if not record.candidate and _process(record)]


def ask(port: int, path: str, document: Any = None, timeout: float = 30) -> tuple[int, Any]:
    """Status and JSON of a request to a local service: GET, or POST of `document`. Raises `OSError` where nobody answers."""
    return Replica(HOST, port).ask(path, document, timeout)


class Processes:
    """The servers of a use case as processes of this machine: one for its users, and one for a candidate while it is verified."""

    seconds = 60.0

    def __init__(self, use_case: UseCase, project: Project, root: StorePath) -> None:
        self._use_case = use_case
        self._project = project
        self._root = root

    def put_up(self, *, candidate: bool) -> str:
        """Start the process where it does not run; returns its address."""
        return ensure(self._use_case, self._project, self._root, candidate=candidate).url

    def replicas(self, *, candidate: bool) -> tuple[list[Replica], str]:
        """The process, where it runs."""
        record = _read(_name(self._use_case.name, candidate=candidate), self._project)
        if record is None or _process(record) is None:
            return [], "its process does not run"
        return [Replica(HOST, record.port, token_of(self._use_case.deployment.token))], ""

    def admit(self, share: float) -> bool:  # noqa: ARG002
        """Users ask one address, and one process answers there."""
        return False

    def end(self, *, candidate: bool) -> None:
        """End the process."""
        stop(self._use_case.name, self._project, candidate=candidate)


# --- the process ------------------------------------------------------------------------------------------------


def _start(use_case: UseCase, project: Project, root: StorePath, port: int, *, candidate: bool) -> "tuple[Record, subprocess.Popen[bytes]]":
    # The launcher ends every process with a job's mark when the job ends; the service must outlive the deploy job.
    environment = {key: value for key, value in os.environ.items() if key != MARK}
    environment["PYTHONPATH"] = str(Path(pipelines_lib.__file__).parents[1])
    token = use_case.deployment.token
    name = _name(use_case.name, candidate=candidate)
    path = _log(name, project)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                _MODULE,
                "--root",
                str(root),
                "--host",
                HOST,
                "--port",
                str(port),
                *(["--token", token.connection] if token else []),
                *(["--candidate"] if candidate else []),
            ],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _children.append(process)
    # Nobody has waited for it yet, so its id can't have gone to another process.
    started = psutil.Process(process.pid).create_time()
    record = Record(
        use_case=use_case.name, root=str(root), url=_url(port), port=port, pid=process.pid, create_time=started, candidate=candidate
    )
    write_json(_path(name, project), record)
    return record, process


def _comes_up(record: Record, child: "subprocess.Popen[bytes]", project: Project, timeout: float) -> bool:
    """Wait until the service answers. False where another process was quicker to take its port."""
    deadline = time.monotonic() + timeout
    while not _is_live(record, timeout=1):
        if child.poll() is not None:
            if not _is_free(record.port):
                return False
            raise _did_not_start(record.use_case, record.name, project, "it ended before it answered")
        if time.monotonic() > deadline:
            child.kill()
            raise _did_not_start(record.use_case, record.name, project, f"it did not answer within {timeout:.0f} s")
        time.sleep(0.05)
    return True


def _end(record: Record) -> bool:
    process = _process(record)
    if process is None:
        return False
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS)
    _reap()
    return True


def _process(record: Record) -> psutil.Process | None:
    """The record's process, if it still is the one that was started."""
    _reap()
    try:
        process = psutil.Process(record.pid)
        same = abs(process.create_time() - record.create_time) < 1 and _MODULE in process.cmdline()
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


def _reap() -> None:
    _children[:] = [child for child in _children if child.poll() is None]


def _is_live(record: Record, timeout: float = 5) -> bool:
    """Whether it is the record's own process that answers on its port."""
    try:
        status, document = ask(record.port, "/v2/health/live", timeout=timeout)
    except (OSError, ValueError):
        return False
    return status == 200 and isinstance(document, dict) and document.get("pid") == record.pid


def _asks_for(token: str | None, record: Record) -> bool:
    """Whether the process wants this token, or none: one that was started before the use case named it, or before it was changed, does not."""
    try:
        with_it, without = (Replica(HOST, record.port, given).ask("/v2", timeout=5)[0] for given in (token, None))
    except (OSError, ValueError):
        return False
    return with_it == 200 and (without == 200) == (token is None)


# --- ports and files --------------------------------------------------------------------------------------------


def _pick_port(wanted: int | None, record: Record | None, project: Project) -> int:
    if wanted is not None:
        if not _is_free(wanted):
            raise Unavailable(
                f"port {wanted} (deployment.port) is taken by another process; end that one, or set another port, or none to have one picked"
            )
        return wanted
    # A stopped service keeps its port: addresses that people wrote down stay good. One that was killed takes a moment to let go of it.
    if record is not None and _becomes_free(record.port, 2):
        return record.port
    kept = {other.port for other in _records(project) if other != record}
    for port in PORTS:
        if port not in kept and _is_free(port):
            return port
    raise Unavailable(f"every port from {PORTS.start} to {PORTS.stop - 1} is taken; stop a service with `sluice down`")


def _becomes_free(port: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not (free := _is_free(port)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return free


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the server itself does: a port that only waits for its last packets is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


@contextmanager
def _lock(project: Project) -> Iterator[None]:
    """One at a time: two deployments must not take the same port, nor start the same service twice."""
    path = _folder(project) / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _did_not_start(use_case: str, name: str, project: Project, why: str) -> Unavailable:
    path = _log(name, project)
    tail = "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
    return Unavailable(f"the service of {use_case} did not start: {why}. The end of its log, {path}:\n{tail}")


def _name(use_case: str, *, candidate: bool) -> str:
    # No use case has a hyphen in its name.
    return f"{use_case}{CANDIDATE}" if candidate else use_case


def _read(name: str, project: Project) -> Record | None:
    try:
        return Record.model_validate(read_json(_path(name, project)))
    except (FileNotFoundError, ValidationError):
        return None


def _service(record: Record) -> Service:
    return Service(record.use_case, record.url, record.port, record.pid)


def _url(port: int) -> str:
    return f"http://{HOST}:{port}"


def _records(project: Project) -> list[Record]:
    names = [path.stem.removeprefix(PREFIX) for path in sorted(_folder(project).glob(f"{PREFIX}*.json"))]
    return [record for name in names if (record := _read(name, project))]


def _folder(project: Project) -> Path:
    return project.home / "services"


def _path(name: str, project: Project) -> Path:
    return _folder(project) / f"{PREFIX}{name}.json"


def _log(name: str, project: Project) -> Path:
    return project.home / "logs" / f"{PREFIX}{name}.log"
