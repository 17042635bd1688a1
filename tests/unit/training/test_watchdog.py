"""Which rank hangs: the rule, and real processes that stop, sleep, or wait for each other."""

import datetime as dt
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib import failures
from pipelines_lib.training import watchdog
from pipelines_lib.training.watchdog import Seen, Sign, Watchdog, hanging, silent

ROOT = Path(__file__).parents[3]


def sign(step=5, idle=0.0, busy="", waits=False, count=1):
    return Sign(count, step, idle, busy, 0.0 if waits else idle, "a", 1)


@pytest.mark.parametrize(("signs", "found"), [
    ([sign(idle=9)], {0}),
    ([sign(idle=9, waits=True), sign(idle=9)], {1}),  # one waits, one sleeps
    ([sign(idle=9, waits=True), sign(idle=1)], set()),  # one waits for one that moves
    ([sign(idle=9, waits=True), sign(idle=9, busy="compiling")], set()),
    ([sign(idle=9, waits=True), sign(idle=9, waits=True)], {0, 1}),  # each waits for the other
    ([sign(6, idle=9, waits=True), sign(5, idle=9, waits=True)], {1}),  # an accelerator: who lags behind
    ([sign(6, idle=9), sign(5, idle=9)], {1}),
    ([sign(idle=9, waits=True), sign(idle=9, waits=True), sign(idle=9, busy="exporting")], set()),
    ([sign(6, idle=9, waits=True), sign(5, idle=9, waits=True), sign(7, idle=0)], set()),
])  # fmt: skip
def test_the_rank_that_keeps_the_others_waiting(signs, found):
    assert hanging(dict(enumerate(signs)), timeout=8) == found


SIGNS = st.lists(
    st.builds(sign, step=st.integers(0, 3), idle=st.floats(0, 20), busy=st.sampled_from(["", "compiling"]), waits=st.booleans()),
    min_size=1, max_size=6,
)  # fmt: skip


@given(SIGNS)
def test_nobody_is_blamed_that_moves_or_is_busy_and_somebody_is_where_all_are_stuck(signs):
    found = hanging(dict(enumerate(signs)), timeout=8)

    assert all(signs[rank].idle >= 8 and not signs[rank].busy for rank in found)
    stuck = [one for one in signs if one.idle >= 8 and not one.busy]
    if len(stuck) == len(signs) or any(one.alone >= 8 for one in stuck):
        assert found
    else:
        assert not found


def test_a_rank_that_gives_no_sign_is_silent_unless_it_is_done():
    seen = {1: Seen(sign(), 9.0), 2: Seen(sign(), 1.0), 3: Seen(sign(busy="compiling"), 9.0), 4: Seen(sign(busy="done"), 9.0)}
    assert silent(seen, timeout=8) == {1, 3}


def test_who_waits_for_other_ranks_is_seen_in_the_stack(monkeypatch):
    def frame(*files):
        inner = None
        for file in reversed(files):
            inner = type("F", (), {"f_back": inner, "f_code": type("C", (), {"co_filename": file, "co_name": "f"})})
        return inner

    waits = watchdog._in_a_collective
    assert waits(frame("/v/torch/distributed/distributed_c10d.py", "/x/loop.py"))
    assert waits(frame("/u/threading.py", "/u/threading.py", "/x/pipelines_lib/training/parameter_server.py"))
    assert not waits(frame("/u/threading.py", "/x/pipelines_lib/training/dataset.py"))
    assert not waits(frame("/x/hooks.py", "/v/torch/distributed/x.py"))
    assert not waits(None)


def test_a_process_that_moves_is_left_alone(tmp_path):
    with Watchdog(dt.timedelta(seconds=0.2), tmp_path) as watching:
        for step in range(10):
            watching.beat(step)
            time.sleep(0.05)
        with watching.busy("compiling"):
            time.sleep(0.5)
    assert failures.left(tmp_path) == []


ALONE = """
import datetime as dt, pathlib, sys, time
from pipelines_lib.training.watchdog import Watchdog

def forever():
    time.sleep(30)

with Watchdog(dt.timedelta(seconds=0.5), pathlib.Path(sys.argv[1])) as watching:
    watching.beat(41)
    forever()
"""

# Two ranks that meet at each step; rank `who` does `what` at step 3.
TOGETHER = """
import datetime as dt, faulthandler, logging, os, pathlib, signal, sys, time
import torch, torch.distributed as dist
from pipelines_lib.training.distributed import world
from pipelines_lib.training.watchdog import Watchdog

folder, who, what = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
logging.basicConfig(stream=sys.stdout)
faulthandler.enable(sys.stdout)

def sleeps():
    time.sleep(60)

with world("cpu", dt.timedelta(seconds=60)) as ranks:
    with Watchdog(dt.timedelta(seconds=1.5), folder, ranks.store, ranks.rank, ranks.size) as watching:
        for step in range(20):
            watching.beat(step)
            if (step, ranks.rank) == (3, who):
                if what == "stop":
                    os.kill(os.getpid(), signal.SIGSTOP)
                elif what == "busy":
                    with watching.busy("exporting"):
                        time.sleep(4)
                else:
                    sleeps()
            ranks.sum(1.0)
            time.sleep(0.05)
print("rank", ranks.rank, "is done", flush=True)
"""


# Two ranks that start; rank `who` is stopped before it meets the other.
STARTING = """
import datetime as dt, logging, os, pathlib, signal, sys
from pipelines_lib.training import distributed
from pipelines_lib.training.distributed import Absent, meet
from pipelines_lib.training.watchdog import end_without

logging.basicConfig(stream=sys.stdout)
distributed.MEETING_TIMEOUT = dt.timedelta(seconds=4)
if int(os.environ["RANK"]) == int(sys.argv[2]):
    if sys.argv[3] == "keeping":
        store, distributed._store = distributed._store, lambda *given: (store(*given), os.kill(os.getpid(), signal.SIGSTOP))[0]
    else:
        os.kill(os.getpid(), signal.SIGSTOP)
try:
    meet("cpu", dt.timedelta(seconds=1))
except Absent as absent:
    end_without(pathlib.Path(sys.argv[1]), absent)
"""


def launch(tmp_path, text, *arguments):
    (tmp_path / "worker.py").write_text(textwrap.dedent(text), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return environment, [sys.executable, str(tmp_path / "worker.py"), str(tmp_path), *arguments]


def test_a_process_alone_that_hangs_is_ended_with_its_stack(tmp_path):
    environment, command = launch(tmp_path, ALONE)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)

    assert done.returncode == 1
    [failure] = failures.left(tmp_path)
    assert failure.kind == "hang"
    assert failure.message == "no progress for 0 s (training.timeout) after step 41; it is in worker.py:6, forever"
    assert "time.sleep(30)" in failure.traceback
    assert "no progress for" in done.stderr


def together(tmp_path, who, what, text=TOGETHER):
    environment, command = launch(tmp_path, text, str(who), what)
    meeting = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port()}
    ranks = [
        subprocess.Popen(
            command, env=environment | meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    timers = [threading.Timer(60, process.kill) for process in ranks]
    for timer in timers:
        timer.start()
    said = [process.communicate()[0] for process in ranks]
    for timer in timers:
        timer.cancel()
    return [process.returncode for process in ranks], said


def _free_port():
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.mark.parametrize("who", [0, 1])
def test_a_stopped_rank_is_named_by_the_other_and_killed(tmp_path, who):
    codes, said = together(tmp_path, who, "stop")

    assert codes[who] == -signal.SIGKILL
    assert codes[1 - who] == 1
    first, second = failures.left(tmp_path)
    assert (first.rank, first.kind) == (who, "hang")
    assert re.match(r"no sign of it for 2 s \(training.timeout\), the last at step [0-3]: process \d+ is stopped", first.message)
    assert (second.rank, second.kind) == (1 - who, "lost")
    assert f"rank {who} on {failures.host_name()}: Hang: no sign of it" in said[1 - who]


def test_a_rank_that_sleeps_says_so_itself_with_its_stack(tmp_path):
    codes, said = together(tmp_path, 1, "sleep")

    assert codes == [1, 1]
    first = failures.left(tmp_path)[0]
    assert (first.rank, first.kind) == (1, "hang")
    assert "it is in worker.py" in first.message
    assert first.message.endswith(", sleeps")
    assert "time.sleep(60)" in first.traceback
    assert "Hang" not in said[0]


def test_a_rank_that_is_busy_is_waited_for(tmp_path):
    codes, said = together(tmp_path, 1, "busy")

    assert codes == [0, 0], said
    assert failures.left(tmp_path) == []


@pytest.mark.parametrize(("who", "what"), [(0, "stop"), (0, "keeping"), (1, "stop")])
def test_a_rank_that_is_stopped_at_its_start_is_named_by_the_other_and_killed(tmp_path, who, what):
    began = time.monotonic()
    codes, said = together(tmp_path, who, what, STARTING)

    assert codes[who] == -signal.SIGKILL
    assert codes[1 - who] == 1
    first, second = failures.left(tmp_path)
    assert (first.rank, first.kind, first.host) == (who, "hang", failures.host_name())
    assert re.match(r"it has not met the other ranks in 4 s: process \d+ is stopped, or hangs", first.message)
    assert (second.rank, second.kind, second.message) == (1 - who, "lost", f"rank {who} has not met the others in 4 s")
    assert f"rank {who} on {failures.host_name()}: Hang: it has not met" in said[1 - who]
    assert time.monotonic() - began < 40
