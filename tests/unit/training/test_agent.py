"""The ranks of a group with real processes: who failed first, what is started again, and what the group ends with."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines_lib import failures
from pipelines_lib.contracts import ExitCode, JobSpec
from pipelines_lib.store import write_json

ROOT = Path(__file__).parents[3]

# A stage whose ranks do what BEHAVE says for "<restart>.<rank>"; what it does not name waits for the others, then is done.
STAGE = """
import json, os, signal, sys, time
from pathlib import Path
from pipelines_lib.contracts import JobResult
from pipelines_lib.errors import DataError, Held, Interrupted
from pipelines_lib.jobs.stage import run_stage

rank, restart = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]
print(f"rank {rank} starts ({restart})", flush=True)


def work(stage):
    what = json.loads(os.environ["BEHAVE"]).get(f"{restart}.{rank}", "wait")
    meet = Path(stage.spec.stage_dir)
    (meet / f"{restart}.{rank}").touch()
    deadline = time.monotonic() + 30
    while not all((meet / f"{restart}.{other}").exists() for other in (0, 1)) and time.monotonic() < deadline:
        time.sleep(0.02)
    if what == "raise":
        raise ValueError(f"boom of rank {rank}")
    if what == "raise later":
        time.sleep(0.05)
        raise ValueError(f"boom of rank {rank}")
    if what == "lose":
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer")
    if what == "bad input":
        raise DataError("the label is empty")
    if what == "hold":
        raise Held("too dear")
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "until asked":
        signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(Interrupted("kept")))
        (meet / f"ready.{rank}").touch()
        time.sleep(30)
    if what == "wait":
        time.sleep(30)
    return JobResult(stage="train", reason="done")


run_stage(work)
"""


@pytest.fixture
def group(tmp_path: Path, cases: Path) -> Callable[..., tuple[int, str, Path]]:
    """Returns `group(behaviour, asked=False)`: runs two ranks; gives exit code, output and the stage's folder. `asked` sends SIGTERM."""
    (tmp_path / "include" / "profiles").mkdir(parents=True)
    (tmp_path / "include" / "profiles" / "local.yaml").write_text('name: local\nstore: "{home}/store"\ntracking_uri: ""\n')
    (tmp_path / "worker.py").write_text(STAGE, encoding="utf-8")
    spec = JobSpec(
        stage="train", pipeline="training", use_case="shop", partition_key="2026-01-01", run_id="r", store=str(tmp_path / "home" / "store")
    )
    write_json(Path(f"{spec.stage_dir}/spec.json"), spec)

    def run(behaviour: dict[str, str], asked: bool = False) -> tuple[int, str, Path]:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "SLUICE_PROJECT": str(tmp_path),
            "SLUICE_HOME": str(tmp_path / "home"),
            "SLUICE_USE_CASES": str(cases),
            "BEHAVE": json.dumps(behaviour),
            "OMP_NUM_THREADS": "1",
        }
        ranks = ["--standalone", "--nproc-per-node=2", "--max-restarts=2"]
        stage = [str(tmp_path / "worker.py"), "--spec", f"{spec.stage_dir}/spec.json"]
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines_lib.training.agent", *ranks, *stage],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        folder = Path(spec.stage_dir)
        if asked:
            deadline = time.monotonic() + 60
            while not all((folder / f"ready.{rank}").exists() for rank in (0, 1)):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output, folder

    return run


def test_the_rank_that_failed_is_named_and_not_the_one_that_lost_it(group):
    everywhere = {f"{restart}.{rank}": what for restart in range(3) for rank, what in ((0, "lose"), (1, "raise later"))}
    code, output, folder = group(everywhere)

    assert code == 1, output
    assert [output.count(f"rank {rank} starts ({restart})") for restart in range(3) for rank in range(2)] == [1] * 6
    last = output[output.rindex("ERROR first failure") :]
    assert last.startswith(f"ERROR first failure: rank 1 on {failures.host_name()}: ValueError: boom of rank 1\n")
    assert 'raise ValueError(f"boom of rank {rank}")' in last
    assert "start again" not in last
    assert output.count("all ranks start again, from the newest checkpoint") == 2
    assert failures.left(folder)[0].rank == 1


def test_a_killed_rank_is_named_and_the_group_goes_on(group):
    code, output, folder = group({"0.1": "kill", "1.0": "end", "1.1": "end"})

    assert code == 0, output
    assert f"first failure: rank 1 on {failures.host_name()}: SIGKILL: killed" in output
    assert "all ranks start again, from the newest checkpoint (start 2 of 3)" in output
    assert failures.left(folder) == []
    assert json.loads((folder / "result.json").read_text())["status"] == "done"


def test_bad_input_of_one_rank_is_not_tried_again(group):
    code, output, _ = group({"0.1": "bad input"})

    assert code == ExitCode.BAD_INPUT, output
    assert "first failure: rank 1 on" in output
    assert "DataError: the label is empty" in output
    assert "starts (1)" not in output


def test_a_held_training_is_held_and_not_tried_again(group):
    code, output, folder = group({"0.1": "hold"})

    assert code == ExitCode.HELD, output
    assert "starts (1)" not in output
    assert json.loads((folder / "result.json").read_text())["reason"] == "too dear"


def test_of_two_that_fail_the_first_is_named(group):
    everywhere = {f"{restart}.{rank}": what for restart in range(3) for rank, what in ((0, "raise later"), (1, "raise"))}
    code, output, _ = group(everywhere)

    assert code == 1, output
    assert "first failure: rank 1 on" in output
    assert "first failure: rank 0 on" not in output


def test_asked_to_end_it_waits_for_what_the_ranks_keep(group):
    code, output, _ = group({"0.0": "until asked", "0.1": "until asked"}, asked=True)

    assert code == ExitCode.INTERRUPTED, output
    assert output.count("INTERRUPTED: kept") == 2
    assert "asked to end by SIGTERM; the ranks have ended by themselves" in output
    assert "starts (1)" not in output
