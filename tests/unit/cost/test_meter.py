"""The meter counts CPU, memory and time of a process and its children, keeps each try's file, and survives a SIGKILL."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines_lib.cost import meter as meters
from pipelines_lib.cost.meter import Meter
from pipelines_lib.cost.usage import of_folder

ROOT = Path(__file__).parents[3]

BUSY = """
import sys, time
from pathlib import Path
from pipelines_lib.cost import meter
meter.BEAT_SECONDS = 0.05
with meter.Meter(Path(sys.argv[1])) as counts:
    block = bytearray(64 << 20)
    until = time.process_time() + 0.3
    while time.process_time() < until:
        pass
    counts.kept(time.monotonic())
    print("kept", flush=True)
    time.sleep(60 if sys.argv[2] == "hang" else 0)
    counts.ends("done")
"""


def start(folder: Path, what: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", BUSY, str(folder), what],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_killed_try_counts_and_the_next_has_a_file_of_its_own(tmp_path: Path):
    process = start(tmp_path, "hang")
    assert process.stdout is not None
    assert process.stdout.readline() == "kept\n"
    deadline = time.monotonic() + 30
    while of_folder(tmp_path)[0].kept_seconds == 0 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    second = start(tmp_path, "end")
    second.communicate()
    assert second.returncode == 0

    killed, done = of_folder(tmp_path)
    assert (killed.attempt, killed.outcome) == (1, "running")
    assert (done.attempt, done.outcome) == (2, "done")
    for used in (killed, done):
        assert used.cpu_seconds >= 0.3
        assert used.seconds >= used.kept_seconds >= 0.3
        # 64 MiB and the interpreter, for as long as it ran.
        assert used.memory_gib_seconds >= 0.01
    assert killed.started < done.started


def test_ranks_of_one_launch_are_one_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "abc")
    for restart in ("0", "1"):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restart)
        for rank in ("1", "0"):
            monkeypatch.setenv("RANK", rank)
            with Meter(tmp_path) as counts:
                counts.ends("done")

    assert [(used.attempt, used.rank) for used in of_folder(tmp_path)] == [(1, 0), (1, 1), (2, 0), (2, 1)]


def test_children_count_those_that_run_and_those_that_have_ended():
    counts = Meter()
    before = counts.now().cpu_seconds
    burn = "import time\nwhile time.process_time() < 0.3: pass\n"
    subprocess.run([sys.executable, "-c", burn], check=True)
    ended = counts.now().cpu_seconds
    assert ended - before >= 0.29

    running = subprocess.Popen([sys.executable, "-c", burn + "print(flush=True)\ntime.sleep(60)"], stdout=subprocess.PIPE)
    assert running.stdout is not None
    running.stdout.readline()
    try:
        assert counts.now().cpu_seconds - ended >= 0.27  # the kernel counts a running process in ticks of 10 ms
    finally:
        running.kill()
        running.communicate()


def test_gpus_count_from_the_beginning():
    counts = Meter()
    counts.holds_gpus(2, "NVIDIA H100 80GB HBM3")
    used = counts.now()

    assert used.gpu_seconds == pytest.approx(2 * used.seconds)
    assert used.gpu == "NVIDIA H100 80GB HBM3"


def test_what_a_launcher_reserved_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(meters.REQUESTS, '{"cpus": 4, "memory_gib": 16}')

    assert Meter().now().requests.model_dump() == {"cpus": 4.0, "memory_gib": 16.0}


def test_an_exception_is_a_failed_try_and_a_full_disk_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog):
    with pytest.raises(RuntimeError), Meter(tmp_path):
        raise RuntimeError
    assert of_folder(tmp_path)[0].outcome == "failed"

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(meters, "write_json", full)
    with Meter(tmp_path) as counts:
        counts.ends("done")
    assert "so what this process uses may go uncounted" in caplog.text
