"""Runs stages of the data pipeline in children of a process that has imported everything and used nothing, and kills some of them.

    python stage_children.py LOG

Reads an order a line (JSON: a function below and its arguments), answers with a line. What the stages say goes to LOG. A process of its
own, because delta-rs refuses to work in a fork of a process that it has worked in; one import for all, because that takes seconds.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from pipelines_lib.contracts import STAGES, JobSpec, Pipeline
from pipelines_lib.jobs import stage as stages
from pipelines_lib.store import write_json
from pipelines_lib.warm import import_libraries

FILE_OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir", "os.chmod")

Spec = dict[str, Any]


def backfill(runs: Sequence[Sequence[Spec]], at_once: int) -> list[int]:
    """Do the runs, so many at once; each is a process that goes through its stages. Returns the exit code of each run's last stage."""
    codes: dict[int, int] = {}
    numbers: dict[int, int] = {}
    for number, specs in enumerate(runs):
        if len(numbers) == at_once:
            _collect(numbers, codes)
        numbers[_child(lambda: _run(specs))] = number  # noqa: B023 - it runs at once
    while numbers:
        _collect(numbers, codes)
    return [codes[number] for number in range(len(runs))]


def kill(spec: Spec, at: int, then: float) -> int | None:
    """Run a stage, and send it SIGKILL at its `at`-th file operation in the store, or so many seconds after that.

    Returns its exit code; None where it has fewer operations.
    """
    read, write = os.pipe()
    pid = _child(lambda: (_watch(spec["store"], at, write, then == 0), _run([spec]))[1])
    os.close(write)
    met = bool(os.read(read, 1))
    if met:
        time.sleep(then)
        os.kill(pid, signal.SIGKILL)
    os.close(read)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if met or code else None


def _collect(numbers: dict[int, int], codes: dict[int, int]) -> None:
    pid, status = os.wait()
    codes[numbers.pop(pid)] = os.waitstatus_to_exitcode(status)


def _child(work: Callable[[], int]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = work()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return pid


def _run(specs: Sequence[Spec]) -> int:
    """Each stage as `python -m pipelines_lib.jobs.<stage> --spec …` runs it, up to the first that does not end well."""
    code = 0
    for given in specs:
        spec = JobSpec.model_validate(given)
        path = Path(spec.stage_dir) / "spec.json"
        write_json(path, spec)
        sys.argv = [spec.stage, "--spec", str(path)]
        code = stages._run(import_module(f"pipelines_lib.jobs.{spec.stage}").main)
        if code:
            break
    return code


def _watch(store: str, at: int, report: int, ends_here: bool) -> None:
    left = at

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event in FILE_OPERATIONS and store in str(arguments[0]):
            left -= 1
            if left == 0:
                os.write(report, b".")
                if ends_here:
                    os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def main() -> None:
    """Until there are no more orders."""
    import_libraries()
    for stage in STAGES[Pipeline.DATA]:
        import_module(f"pipelines_lib.jobs.{stage}")
    answers = os.fdopen(os.dup(1), "w")
    log = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for line in sys.stdin:
        order = json.loads(line)
        done = {"backfill": backfill, "kill": kill}[order.pop("do")](**order)
        answers.write(json.dumps(done) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
