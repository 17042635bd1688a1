"""The ranks of a group with real processes: who failed first, what is started again, and what the group ends with."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from pipelines_lib import failures, launcher
from pipelines_lib.contracts import ExitCode, JobSpec
from pipelines_lib.store import write_json
from pipelines_lib.training import agent

ROOT = Path(__file__).parents[3]

# A stage whose ranks do what BEHAVE says for "<restart>.<rank>"; what it does not name waits for the others, then is done.
STAGE = """
import atexit, json, os, signal, sys, time
from pathlib import Path
import psutil
from pipelines_lib.contracts import JobResult
from pipelines_lib.errors import DataError, Held, Interrupted
from pipelines_lib.jobs.stage import run_stage

rank, restart = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]
print(f"rank {rank} starts ({restart})", flush=True)


def work(stage):
    what = json.loads(os.environ["BEHAVE"]).get(f"{restart}.{rank}", "wait")
    meet = Path(stage.spec.stage_dir)
    names = [meet / f"{os.environ['MASTER_PORT']}.{other}" for other in range(int(os.environ["WORLD_SIZE"]))]
    names[int(rank)].write_text(str(os.getpid()))
    deadline = time.monotonic() + 30
    while not all(name.exists() for name in names) and time.monotonic() < deadline:
        time.sleep(0.02)
    print(f"rank {rank} met the others", flush=True)
    if what == "lose when lost":
        while psutil.pid_exists(int(names[1 - int(rank)].read_text() or os.getpid())):
            time.sleep(0.05)
        what = "lose"
    if what == "raise":
        raise ValueError(f"boom of rank {rank}")
    if what == "raise later":
        time.sleep(0.05)
        raise ValueError(f"boom of rank {rank}")
    if what == "lose":
        atexit.register(time.sleep, 1.5)  # its record is there before the other's, and its end is seen after it
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
    if what == "wait" or (what == "wait for another" and os.environ["WORLD_SIZE"] == "1"):
        time.sleep(30)
    return JobResult(stage="train", reason="done")


run_stage(work)
"""


@pytest.fixture
def spec(tmp_path: Path, cases: Path) -> JobSpec:
    """Of a training whose project is below `tmp_path`; it lies where it has to."""
    (tmp_path / "include" / "profiles").mkdir(parents=True)
    (tmp_path / "include" / "profiles" / "local.yaml").write_text('name: local\nstore: "{home}/store"\ntracking_uri: ""\n')
    (tmp_path / "worker.py").write_text(STAGE, encoding="utf-8")
    spec = JobSpec(
        stage="train", pipeline="training", use_case="shop", partition_key="2026-01-01", run_id="r", store=str(tmp_path / "home" / "store")
    )
    write_json(Path(spec.stage_dir) / "spec.json", spec)
    return spec


def environment(folder: Path, behaviour: dict[str, str]) -> dict[str, str]:
    """Of the processes of a training whose ranks behave so."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "SLUICE_PROJECT": str(folder),
        "SLUICE_HOME": str(folder / "home"),
        "SLUICE_USE_CASES": str(folder / "cases"),
        "BEHAVE": json.dumps(behaviour),
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture
def group(tmp_path: Path, spec: JobSpec) -> Callable[..., tuple[int, str, Path]]:
    """Returns `group(behaviour, asked=False)`: runs two ranks; gives exit code, output and the stage's folder. `asked` sends SIGTERM."""

    def run(behaviour: dict[str, str], asked: bool = False) -> tuple[int, str, Path]:
        ranks = ["--standalone", "--nproc-per-node=2", "--max-restarts=2"]
        stage = [str(tmp_path / "worker.py"), "--spec", f"{spec.stage_dir}/spec.json"]
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines_lib.training.agent", *ranks, *stage],
            env=environment(tmp_path, behaviour), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
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


class Machine:
    """One machine of a training, on this one: an agent and its ranks."""

    def __init__(self, process: "subprocess.Popen[str]", output: Path) -> None:
        self._process = process
        self._output = output

    def said(self) -> str:
        return self._output.read_text()

    def waits_for(self, text: str) -> None:
        """Until it has said `text`."""
        deadline = time.monotonic() + 60
        while text not in self.said():
            assert time.monotonic() < deadline, self.said()
            assert self._process.poll() is None, self.said()
            time.sleep(0.05)

    def dies(self) -> None:
        """As when it loses its power."""
        own = psutil.Process(self._process.pid)
        for process in [*own.children(recursive=True), own]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()

    def ends(self) -> int:
        """Its exit code, when it has ended."""
        return self._process.wait(timeout=60)


@pytest.fixture
def machine(tmp_path: Path, spec: JobSpec, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Machine]]:
    """Returns `machine(node, behaviour, nodes=(2, 2), join_seconds=60)`, which starts it."""
    monkeypatch.setattr(launcher, "_LAST_CALL", 1)
    started: list[Machine] = []
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"

    def start(node: int, behaviour: dict[str, str], nodes: tuple[int, int] = (2, 2), join_seconds: int = 60) -> Machine:
        gang = launcher.Gang(node, nodes, address, "r", join_seconds, own_address="127.0.0.1")
        full = launcher.command(spec, f"{spec.stage_dir}/spec.json", gang)
        stage = full.index("pipelines_lib.jobs.train")
        command = [*full[: stage - 1], str(tmp_path / "worker.py"), *full[stage + 1 :]]
        output = tmp_path / f"{node}-{len(started)}.log"
        with output.open("w") as file:
            process = subprocess.Popen(command, env=environment(tmp_path, behaviour), stdout=file, stderr=subprocess.STDOUT, text=True)
        started.append(Machine(process, output))
        return started[-1]

    yield start
    for each in started:
        with suppress(psutil.NoSuchProcess):
            each.dies()


END = {f"{restart}.{rank}": "end" for restart in range(3) for rank in range(2)}


def test_machines_meet_whichever_comes_first(machine):
    second = machine(1, END)
    second.waits_for("waiting for the first machine of this training, 127.0.0.1:")
    first = machine(0, END)

    assert first.ends() == 0, first.said()
    assert second.ends() == 0, second.said()
    together = first.said() + second.said()
    assert sorted(rank for rank in range(2) if f"rank {rank} starts (0)" in together) == [0, 1]


def test_a_machine_that_is_lost_is_replaced_while_the_others_wait(machine):
    first = machine(0, {"0.0": "lose when lost", "1.0": "end", "1.1": "end"})
    second = machine(1, {"0.1": "wait"})
    second.waits_for("rank 1 met the others")
    second.dies()
    # Its count of starts begins anew; the first machine's does not.
    replaced = machine(1, {"0.1": "end"})

    assert first.ends() == 0, first.said()
    assert replaced.ends() == 0, replaced.said()
    assert "all ranks start again, from the newest checkpoint (start 2 of 3)" in first.said()


def test_a_machine_that_comes_when_all_is_done_has_nothing_to_do(machine):
    first = machine(0, {"0.0": "end alone"}, nodes=(1, 2))
    assert first.ends() == 0, first.said()
    late = machine(1, {}, nodes=(1, 2))

    assert late.ends() == 0, late.said()
    assert "the training has ended without this machine" in late.said()
    assert "starts" not in late.said()


def test_machines_that_are_too_few_step_back_and_try_again(machine):
    first = machine(0, END, join_seconds=3)
    alone = machine(1, END, nodes=(2, 2), join_seconds=2)

    first.dies()
    assert alone.ends() == failures.TRY_AGAIN, alone.said()
    again = machine(0, END, join_seconds=3)
    assert again.ends() == failures.TRY_AGAIN, again.said()
    assert "this machine and the others of the training are apart" in again.said()
    assert "starts" not in again.said()


def test_bad_input_on_one_machine_ends_the_others(machine):
    first, second = machine(0, {"0.0": "lose when lost"}), machine(1, {"0.1": "bad input"})

    assert second.ends() == ExitCode.BAD_INPUT, second.said()
    assert first.ends() == ExitCode.BAD_INPUT, first.said()


def test_a_machine_that_comes_later_is_taken_in(machine):
    first = machine(0, {"0.0": "wait for another"}, nodes=(1, 2))
    first.waits_for("rank 0 starts (0)")
    second = machine(1, END, nodes=(1, 2))

    assert first.ends() == 0, first.said()
    assert second.ends() == 0, second.said()


@pytest.mark.parametrize(("rank", "endpoint", "conf"), [
    ("0", "10.0.0.7:29500", "join_timeout=9,last_call_timeout=30,is_host=1"),
    ("1", "train-node-0-0.train:29500", "join_timeout=9,last_call_timeout=30,is_host=0"),
])  # fmt: skip
def test_machines_that_kubeflow_numbers_meet_where_it_says(spec, monkeypatch, rank, endpoint, conf):
    told = {"NODE_RANK": rank, "MASTER_ADDR": "train-node-0-0.train", "MASTER_PORT": "29500", "NNODES": "2", "NPROC_PER_NODE": "2"}
    for name, value in told.items():
        monkeypatch.setenv(f"PET_{name}", value)
    gang = launcher.Gang(None, (2, 2), None, "r", 9, own_address="10.0.0.7")
    _, _, _, *arguments = launcher.command(spec, "spec.json", gang)
    parsed = agent._parsed(arguments)
    assert (parsed.rdzv_endpoint, parsed.rdzv_conf, parsed.local_addr) == (endpoint, conf, "10.0.0.7")
