"""The command `sluice` in a project of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines_lib.config import Project
from pipelines_lib.launcher import warm_socket

ROOT = Path(__file__).parents[2]


class Shell:
    """Commands as a user's shell runs them, each a process."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.home = folder / "home"
        self.use_cases = folder / "use_cases"
        self.use_cases.mkdir(exist_ok=True)
        # A file, since PySpark, which Great Expectations imports where it is installed, ends an interpreter that runs `-c`.
        self._sluice = folder / "command.py"
        self._sluice.write_text("from pipelines_lib.cli import main\n\nmain()\n", encoding="utf-8")
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "SLUICE_PROJECT": str(ROOT),
            "SLUICE_HOME": str(self.home),
            "SLUICE_USE_CASES": str(self.use_cases),
            "SLUICE_PROFILE": "local",
            **environment,
        }

    def with_environment(self, **environment: str) -> "Shell":
        """The same shell with more variables."""
        return Shell(self.home.parent, **self.environment | environment)

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """What `sluice <arguments>` prints; asserts its exit code."""
        return self.python(str(self._sluice), *arguments, code=code)

    def python(self, *arguments: str, code: int = 0) -> str:
        """What `python <arguments>` prints; asserts its exit code."""
        command = [sys.executable, *arguments]
        done = subprocess.run(command, env=self.environment, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    @contextmanager
    def warm(self) -> Iterator[None]:
        """Meanwhile jobs come from a warm interpreter, as they do after `sluice up`: a stage does not wait for its imports."""
        socket = warm_socket(Project(folder=ROOT, home=self.home, use_cases=self.use_cases, profile_name="local"))
        server = subprocess.Popen([sys.executable, "-m", "pipelines_lib.warm", str(socket)], env=self.environment, cwd=ROOT)
        try:
            deadline = time.monotonic() + 60
            while not socket.exists():
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield
        finally:
            server.terminate()
            server.wait(10)
            socket.unlink(missing_ok=True)
