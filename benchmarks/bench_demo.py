"""How long the demo takes from a fresh state, step by step, and how much of it no job is running.

One run: it takes minutes. Memory is the sum of the proportional set sizes (PSS: a page that n processes share counts
1/n) of everything the demo started, sampled every two seconds.
"""

import json
import os
import socket
import tempfile
import threading
import time
from pathlib import Path

import psutil
from record import record

from pipelines_lib.config import Project
from pipelines_lib.local.demo import Demo
from pipelines_lib.local.progress import Progress
from pipelines_lib.local.services import down


def main() -> None:
    """Run the demo in a temporary folder, on free ports."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SLUICE_HOME"] = folder
        for name in ("AIRFLOW", "MLFLOW"):
            os.environ[f"SLUICE_{name}_URL"] = f"http://127.0.0.1:{_free_port()}"
        project, progress, memory = Project.from_environment(), Progress(), _Memory()
        started = time.time()
        try:
            with memory:
                Demo(project, progress).run()
            ended = time.time()
            idle = _seconds_without_job(Path(project.profile().store), started, ended)
        finally:
            down(project, print)
    figures = {f"seconds_{step.replace(' ', '_')}": seconds for step, seconds in progress.seconds.items()}
    figures |= {"seconds": round(ended - started, 1), "peak_memory_mib": memory.peak_mib}
    record("demo", figures, {"share_not_in_a_job": round(idle / (ended - started), 3)})


def _seconds_without_job(store: Path, started: float, ended: float) -> float:
    """Length of [started, ended] in which no stage was at work."""
    spans = []
    for path in store.glob("*/runs/*/*/*/result.json"):
        at = path.stat().st_mtime
        spans.append((at - json.loads(path.read_text(encoding="utf-8"))["seconds"], at))
    busy, reached = 0.0, started
    for begin, end in sorted(spans):
        busy += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return ended - started - busy


class _Memory:
    """The peak of what this process and its descendants, wherever they have moved to, hold."""

    def __init__(self) -> None:
        self.peak_mib = 0
        self._ended = threading.Event()
        self._home = os.environ["SLUICE_HOME"]

    def __enter__(self) -> None:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(2):
            total = 0
            for process in psutil.process_iter():
                try:
                    if process.pid == os.getpid() or process.environ().get("SLUICE_HOME") == self._home:
                        total += process.memory_full_info().pss
                except (psutil.Error, OSError):
                    continue
            self.peak_mib = max(self.peak_mib, round(total / 2**20))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
