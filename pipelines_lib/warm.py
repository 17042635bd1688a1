"""A warm interpreter for short jobs: it has the heavy libraries imported, and forks a child for each job.

    python -m pipelines_lib.warm <socket>

Importing Great Expectations alone takes longer than checking a day of data with it, and a backfill pays that once a
task. The server imports libraries and nothing of ours, so a change to the project's code holds from the next job on.
It makes no thread and opens nothing but its socket, which is what makes forking it safe: the only threads its libraries
start on import are jemalloc's, which registers its own fork handlers (a test looks). Where it does not run, the launcher
starts jobs the ordinary way; nothing but the time differs.

A client sends one line of JSON (module, arguments, folder, environment) with the file descriptor for the job's
output, and gets `{"pid": …}`, then `{"returncode": …}`. A client that goes away takes its job with it.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import re
import runpy
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NoReturn

# In the order of what costs most; a library that is not installed is simply not warm.
LIBRARIES = ("great_expectations", "mlflow", "pandas", "pyarrow.csv", "pyarrow.dataset", "deltalake", "httpx", "clevercsv")

_JOB = re.compile(r"pipelines_lib\.jobs\.[a-z]+")
_GRACE_SECONDS = 3.0
_TICK_SECONDS = 0.02
_LONGEST_REQUEST = 1 << 20


class WarmProcess:
    """A job in a child of the server, with as much of `subprocess.Popen`'s face as the launcher needs."""

    def __init__(self, path: Path, module: str, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        """Raises `OSError` where no server listens at `path`."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        read, write = os.pipe()
        try:
            self._socket.connect(str(path))
            request = {"module": module, "arguments": list(arguments), "folder": str(folder), "environment": dict(environment)}
            socket.send_fds(self._socket, [json.dumps(request).encode() + b"\n"], [write])
            self._answers = self._socket.makefile("r", encoding="utf-8")
            self.pid: int = json.loads(self._answers.readline())["pid"]
        except (OSError, ValueError, KeyError) as error:
            self._socket.close()
            os.close(read)
            raise OSError(f"no warm interpreter answers at {path} ({error})") from error
        finally:
            os.close(write)
        self.stdout: IO[str] = os.fdopen(read, "r", encoding="utf-8", errors="replace")

    def wait(self) -> int:
        """The exit code (negative: the signal that ended it)."""
        with self._socket, self._answers:
            line = self._answers.readline()
        return int(json.loads(line)["returncode"]) if line else -int(signal.SIGKILL)


@dataclass
class _Client:
    connection: socket.socket
    received: bytes = b""
    descriptors: list[int] = field(default_factory=list)
    pid: int = 0
    kill_at: float | None = None


class Server:
    """One thread: accept, fork, wait."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        self._path = path
        self._selector = selectors.DefaultSelector()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _only_for_the_owner():
            self._listener.bind(str(path))
        self._listener.listen(64)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._clients: dict[int, _Client] = {}

    def serve(self) -> NoReturn:
        """Until SIGTERM."""
        while True:
            for key, _ in self._selector.select(_TICK_SECONDS if self._clients else None):
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    self._read(key.data)
            self._reap()

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        self._selector.register(connection, selectors.EVENT_READ, _Client(connection))

    def _read(self, client: _Client) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(client.connection, 1 << 16, 1)
        except OSError:
            data, descriptors = b"", []
        client.descriptors += descriptors
        client.received += data
        if not data or len(client.received) > _LONGEST_REQUEST or len(client.descriptors) > 1:
            self._gone(client)
        elif client.received.endswith(b"\n") and not client.pid:
            try:
                self._start(client)
            except (OSError, ValueError, KeyError, TypeError) as error:
                print(f"refused a request: {error!r}", flush=True)  # noqa: T201 - the service's log
                self._gone(client)

    def _gone(self, client: _Client) -> None:
        self._selector.unregister(client.connection)
        client.connection.close()
        while client.descriptors:
            os.close(client.descriptors.pop())
        if self._clients.get(client.pid) is client:
            _signal_session(client.pid, signal.SIGTERM)
            client.kill_at = time.monotonic() + _GRACE_SECONDS

    def _start(self, client: _Client) -> None:
        request = json.loads(client.received)
        if not _JOB.fullmatch(request["module"]):
            raise ValueError(f"{request['module']!r} is no job")
        [output] = client.descriptors
        client.pid = os.fork()
        if client.pid == 0:
            self._selector.close()
            self._listener.close()
            client.connection.close()
            _be_the_job(request, output)
        os.close(client.descriptors.pop())
        self._clients[client.pid] = client
        _send(client, {"pid": client.pid})

    def _reap(self) -> None:
        for client in list(self._clients.values()):
            if client.kill_at is not None and time.monotonic() > client.kill_at:
                _signal_session(client.pid, signal.SIGKILL)
            pid, status = os.waitpid(client.pid, os.WNOHANG)
            if pid:
                del self._clients[pid]
                if client.kill_at is None:
                    _send(client, {"returncode": os.waitstatus_to_exitcode(status)})
                else:
                    _signal_session(pid, signal.SIGKILL)


def _be_the_job(request: Mapping[str, Any], output: int) -> NoReturn:
    """In the child: become what `python -m <module> <arguments>` would have been."""
    code = 1
    try:
        os.setsid()
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: end with the server
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv = [request["module"], *request["arguments"]]
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - what Python itself does at the end of a program: show the traceback, exit with 1
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _send(client: _Client, message: Mapping[str, int]) -> None:
    with contextlib.suppress(OSError):
        client.connection.sendall(json.dumps(message).encode() + b"\n")


def _signal_session(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


@contextlib.contextmanager
def _only_for_the_owner() -> Iterator[None]:
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def import_libraries() -> None:
    """All that are installed. Great Expectations would import PySpark too, for an engine that no job uses: it takes seconds."""
    sys.modules["pyspark"] = None  # type: ignore[assignment]
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    del sys.modules["pyspark"]


def main() -> NoReturn:
    """Import, listen, serve."""
    import_libraries()
    gc.collect()
    gc.freeze()  # the collector leaves shared pages alone, so children go on sharing them
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    Server(Path(sys.argv[1])).serve()


if __name__ == "__main__":
    main()
