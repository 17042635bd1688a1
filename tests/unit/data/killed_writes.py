"""Writes a partition over and over and kills the writer: at its n-th file operation for every n, then after every few milliseconds.

    python killed_writes.py FOLDER

Prints a line of JSON a try: whether the writer was killed, how many rows it wrote, how many rows are there afterwards.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pandas  # noqa: F401 - what a write imports late would be imported anew in every child
import pyarrow as pa

from pipelines_lib.data.tables import Tables

KEY, OTHER = "2026-01-01", "2026-01-02"
OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir", "os.chmod")


def rows(n: int) -> pa.Table:
    return pa.table({"row_id": [f"{i:09d}" for i in range(n)], "x": [float(i * n) for i in range(n)]})


def child(work: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    return pid


def ended(pid: int) -> bool:
    """Whether it was killed."""
    status = os.waitpid(pid, 0)[1]
    assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL, status
    return status != 0


def kill_at(point: int, folder: Path) -> None:
    left = point

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event in OPERATIONS and str(folder) in str(arguments[0]):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def show(folder: Path, killed: bool, new: int) -> None:
    def look() -> None:
        tables = Tables(folder)
        found, other = (tables.read("clean", [key]).num_rows for key in (KEY, OTHER))
        sys.stdout.write(json.dumps({"killed": killed, "new": new, "found": found, "other": other}) + "\n")
        sys.stdout.flush()

    assert not ended(child(look))


def main(folder: Path) -> None:
    ended(child(lambda: [Tables(folder).write("clean", key, rows(n)) for key, n in ((KEY, 5), (OTHER, 7))]))
    for point in count(1):
        new = 100 + point
        killed = ended(child(lambda: (kill_at(point, folder), Tables(folder).write("clean", KEY, rows(new)))))  # noqa: B023 - it runs at once
        show(folder, killed, new)
        if not killed:
            break
    for milliseconds in range(0, 100, 4):
        new = 1000 + milliseconds
        pid = child(lambda: Tables(folder).write("clean", KEY, rows(new)))  # noqa: B023
        time.sleep(milliseconds / 1000)
        os.kill(pid, signal.SIGKILL)
        show(folder, ended(pid), new)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
