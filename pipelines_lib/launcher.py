"""The local launcher: a stage as a process group of this machine.

Its output is handed on line by line. Whoever cancels it (or dies) leaves no process behind: every process of a
job carries the job's mark in its environment, is found by it even when torchrun has put it into a session of
its own, and is ended before another try of the same job starts. The mark names the job, then the try: whoever still
waits for an earlier try ends that one alone.
"""

import contextlib
import ctypes
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipelines_lib import failures
from pipelines_lib.config import Project
from pipelines_lib.contracts import JobSpec
from pipelines_lib.s3 import S3Path
from pipelines_lib.store import StorePath, opened, write_json
from pipelines_lib.warm import WarmProcess

MARK = "SLUICE_JOB"
RESTARTS = 2
"""How often the ranks of a training start again in place, from the newest checkpoint, before the task fails and Airflow tries again."""

ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "PYTHONHASHSEED": "0", "MLFLOW_DISABLE_TELEMETRY": "true"}
"""Of the processes of every stage, wherever they run."""

_LAST_CALL = 30
"""Seconds that machines which are enough wait for more."""
_LONGEST_SOCKET_PATH = 100

_libc = ctypes.CDLL(None)


class Job:
    """One stage as a process group. `run` starts it and waits; `cancel`, from a signal handler or thread, ends it.

    `secrets` are environment variables of the stage's processes alone: they stand in no file and on no command line.
    """

    def __init__(self, spec: JobSpec, project: Project, grace_seconds: float = 3, secrets: Mapping[str, str] | None = None) -> None:
        self._spec = spec
        self._secrets = dict(secrets or {})
        self._project = project
        self.folder = opened(spec.stage_dir, project, spec.profile, os.environ | self._secrets)
        """The stage's folder in the store."""
        self._grace_seconds = grace_seconds
        self._session = 0
        self._try = f"{spec.job}-{os.urandom(4).hex()}"

    def run(self, on_line: Callable[[str], None]) -> int:
        """Run to the end and return the exit code (negative: the signal that ended it). Each line of output goes to `on_line`."""
        if leftovers := self._end(self._spec.job):
            on_line(f"ended {leftovers} process(es) that an earlier try had left behind")
        spec_path = self.folder / "spec.json"
        write_json(spec_path, self._spec)
        failures.forget(self.folder)
        process = self._start_warm(spec_path, on_line) or self._start(spec_path)
        assert process.stdout is not None
        codes: list[int] = []
        waiter = threading.Thread(target=lambda: codes.append(self._wait(process)), daemon=True)
        waiter.start()
        try:
            with process.stdout:
                for line in process.stdout:
                    on_line(line.rstrip("\n"))
        finally:
            if waiter.is_alive() and sys.exc_info()[0] is not None:
                self.cancel()
            waiter.join()
            if isinstance(self.folder, S3Path):
                # A job that was killed can't do it itself, and rows about people may lie there.
                shutil.rmtree(Path(tempfile.gettempdir(), self._spec.work_name), ignore_errors=True)
        [code] = codes
        return code

    def _wait(self, process: "subprocess.Popen[str] | WarmProcess") -> int:
        """Until the job's first process has ended; then nothing of the job is left to hold its output open."""
        code = process.wait()
        self.cancel()
        return code

    def cancel(self) -> int:
        """End every process of this try: SIGTERM, the grace period, SIGKILL. Returns how many there were."""
        return self._end(self._try)

    def _end(self, mark: str) -> int:
        processes = self._processes(mark)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGTERM)
        _still_alive(processes, self._grace_seconds)
        # Looked for anew: a process that was just being made, or was turning into another program, showed no mark before.
        while alive := self._processes(mark):
            for process in alive:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            _still_alive(alive, 5)
        return len(processes)

    def _start(self, spec_path: StorePath) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            command(self._spec, spec_path),
            cwd=self._project.folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            bufsize=1,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - it makes one system call
        )

    def _start_warm(self, spec_path: StorePath, on_line: Callable[[str], None]) -> WarmProcess | None:
        """The same in a child of the warm interpreter, where one runs and the stage is one process."""
        path = warm_socket(self._project)
        if self._spec.workers > 1 or not path.exists():
            return None
        try:
            process = WarmProcess(
                path, f"pipelines_lib.jobs.{self._spec.stage}", ["--spec", str(spec_path)], self._project.folder, self._environment()
            )
        except OSError as error:
            on_line(f"{error}; starting the ordinary way, which takes longer. `sluice up` starts a new one")
            return None
        self._session = process.pid
        return process

    def _processes(self, mark: str) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if self._is_marked(process, mark) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def _is_marked(self, process: psutil.Process, mark: str) -> bool:
        # A forked child shows the environment of the server it came from, so a warm job is known by its session.
        return (self._session != 0 and os.getsid(process.pid) == self._session) or process.environ().get(MARK, "").startswith(mark)

    def _environment(self) -> dict[str, str]:
        project = self._project
        # Airflow's own settings (its database URL among them) are none of a job's business.
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "_AIRFLOW"))}
        # torchrun warns on every start where nobody says how many threads a worker has.
        threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // self._spec.workers))} if self._spec.workers > 1 else {}
        return (
            threads
            | inherited
            | self._secrets
            | {
                MARK: self._try,
                "SLUICE_PROJECT": str(project.folder),
                "SLUICE_HOME": str(project.home),
                "SLUICE_USE_CASES": str(project.use_cases),
                "SLUICE_PROFILE": self._spec.profile,
                "PYTHONPATH": str(project.folder),
            }
            | ENVIRONMENT
        )


def _still_alive(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those of `processes` that have not ended after `seconds`. (psutil's own wait would take the exit code from `run`.)"""
    deadline = time.monotonic() + seconds
    while alive := [process for process in processes if _is_alive(process)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    return alive


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _end_with_parent() -> None:
    """In the child: ask the kernel for SIGTERM when the launcher dies, even from SIGKILL (prctl(2), PR_SET_PDEATHSIG)."""
    _libc.prctl(1, signal.SIGTERM)


def warm_socket(project: Project) -> Path:
    """Where the warm interpreter of a local installation listens. A socket's path has 100 characters or so, so a long one moves."""
    path = project.home / "warm.sock"
    if len(os.fsencode(path)) < _LONGEST_SOCKET_PATH:
        return path
    mark = hashlib.sha256(os.fsencode(project.home)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"sluice-{os.getuid()}-{mark}" / "warm.sock"


@dataclass(frozen=True)
class Gang:
    """Machines that train together, as one of them sees them."""

    node: int | None
    """This one's number, counted from 0; node 0 keeps the place where they meet. None: PET_NODE_RANK says it."""
    nodes: tuple[int, int]
    """The least and the most of them."""
    address: str | None
    """host:port of the place where they meet. None: PET_MASTER_ADDR and PET_MASTER_PORT say it."""
    name: str
    """Of this training: machines of another one that come by do not join."""
    join_seconds: int
    """How long a machine waits for the others, at the start and after one was lost."""
    own_address: str
    """Under which the others reach this machine."""


def command(spec: JobSpec, spec_path: str | StorePath, gang: Gang | None = None) -> list[str]:
    """The command of a stage: an argument list, never a shell's line. With `gang` for one of the machines that train together."""
    stage = ["-m", f"pipelines_lib.jobs.{spec.stage}", "--spec", str(spec_path)]
    if gang is None and spec.workers == 1:
        return [sys.executable, *stage]
    ranks = [f"--nproc-per-node={spec.workers}", f"--max-restarts={RESTARTS}"]
    return [sys.executable, "-m", "pipelines_lib.training.agent", *(_meeting(gang) if gang else ["--standalone"]), *ranks, *stage]


def _meeting(gang: Gang) -> list[str]:
    """torchrun's arguments for machines that meet at node 0."""
    least, most = gang.nodes
    known = {} if gang.node is None else {"is_host": int(gang.node == 0)}
    waits = {**known, "join_timeout": gang.join_seconds, "last_call_timeout": _LAST_CALL}
    return [
        f"--nnodes={least}:{most}",
        "--rdzv-backend=c10d",
        *([] if gang.address is None else [f"--rdzv-endpoint={gang.address}"]),
        f"--rdzv-id={gang.name}",
        f"--rdzv-conf={','.join(f'{name}={value}' for name, value in waits.items())}",
        f"--local-addr={gang.own_address}",
    ]
