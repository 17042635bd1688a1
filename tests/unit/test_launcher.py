"""The launcher: exit codes, streamed output, and no process left behind, warm or cold."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipelines_lib.config import Project
from pipelines_lib.contracts import JobSpec, Pipeline
from pipelines_lib.launcher import Job, command, warm_socket

# A stage that does what its parameters say, in place of a real one.
STAGE = """
import json, os, subprocess, sys, time
spec = json.load(open(sys.argv[sys.argv.index("--spec") + 1]))["params"]
print("你好 from", spec["what"], flush=True)
if spec["what"] == "exit":
    sys.exit(spec["code"])
if spec["what"] == "environment":
    print(json.dumps({k: v for k, v in os.environ.items()}), flush=True)
if spec["what"] == "hang":
    # A worker in a session of its own, as torchrun makes them, that does not mind SIGTERM.
    child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"], start_new_session=not spec["warm"])
    print("child", child.pid, flush=True)
    time.sleep(600)
if spec["what"] == "boom":
    raise RuntimeError("boom")
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    folder = tmp_path / "project"
    (folder / "pipelines_lib" / "jobs").mkdir(parents=True)
    for name in ("pipelines_lib/__init__.py", "pipelines_lib/jobs/__init__.py"):
        (folder / name).touch()
    (folder / "pipelines_lib" / "jobs" / "ingest.py").write_text(STAGE, encoding="utf-8")
    return Project(folder=folder, home=tmp_path / "h", use_cases=folder / "cases", profile_name="local")


@pytest.fixture(params=["cold", "warm"])
def launched(request: pytest.FixtureRequest, project: Project) -> Iterator[Project]:
    """The project, with and without a warm interpreter."""
    if request.param == "cold":
        yield project
        return
    socket = warm_socket(project)
    code = "from pipelines_lib import warm; warm.LIBRARIES = (); import sys; del sys.modules['pipelines_lib'], sys.modules['pipelines_lib.warm']; warm.main()"
    root = str(Path(__file__).parents[2])
    # The server finds its own code in the repository, and the jobs' in the made project.
    code = f"import sys; sys.path.insert(0, {root!r}); {code.replace('warm.main()', f'sys.path.remove({root!r}); warm.main()')}"
    server = subprocess.Popen(
        [sys.executable, "-c", code, str(socket)], env={**os.environ, "PYTHONPATH": str(project.folder)}, cwd=project.folder
    )
    deadline = time.monotonic() + 20
    while not socket.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    yield project
    server.terminate()
    server.wait(10)


def job(project: Project, **params: object) -> Job:
    spec = JobSpec(
        stage="ingest",
        pipeline=Pipeline.DATA,
        use_case="demo",
        partition_key="2026-01-01",
        run_id="r",
        store=str(project.home / "store"),
        params=params,
    )
    return Job(spec, project, grace_seconds=0.5)


@pytest.mark.parametrize("code", [0, 1, 2, 3, 77])
def test_the_exit_code_is_the_contract(launched: Project, code: int) -> None:
    lines: list[str] = []
    assert job(launched, what="exit", code=code).run(lines.append) == code
    assert lines == ["你好 from exit"]


def test_an_exception_is_shown_and_means_retry(launched: Project) -> None:
    lines: list[str] = []
    assert job(launched, what="boom").run(lines.append) == 1
    assert lines[-1] == "RuntimeError: boom"


def test_a_job_is_not_told_airflows_secrets(launched: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql://secret")
    lines: list[str] = []
    job(launched, what="environment").run(lines.append)
    environment = json.loads(lines[1])
    assert not [key for key in environment if key.startswith("AIRFLOW")]
    assert environment["SLUICE_HOME"] == str(launched.home)


def test_cancel_leaves_no_process_behind(launched: Project) -> None:
    running = job(launched, what="hang", warm=warm_socket(launched).exists())
    lines: list[str] = []
    result: list[int] = []
    thread = threading.Thread(target=lambda: result.append(running.run(lines.append)))
    thread.start()
    child = psutil.Process(int(_wait_for(lines, "child").split()[1]))
    running.cancel()
    thread.join(20)
    assert result == [-signal.SIGTERM]
    assert _gone(child)


def test_a_job_ends_when_its_launcher_is_killed(launched: Project, tmp_path: Path) -> None:
    script = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from pipelines_lib.config import Project
from pipelines_lib.contracts import JobSpec, Pipeline
from pipelines_lib.launcher import Job
project = Project(folder=Path({str(launched.folder)!r}), home=Path({str(launched.home)!r}), use_cases=Path("x"), profile_name="local")
spec = JobSpec(stage="ingest", pipeline=Pipeline.DATA, use_case="demo", partition_key="2026-01-01", run_id="r", store={str(launched.home)!r}, params={{"what": "hang", "warm": True}})
Job(spec, project).run(lambda line: print(line, flush=True))
"""
    launcher = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    launcher.stdout.readline()
    stage = psutil.Process(int(launcher.stdout.readline().split()[1])).parent()
    assert stage is not None
    launcher.kill()
    launcher.wait()
    launcher.stdout.close()
    assert _gone(stage)


def test_a_retry_ends_what_the_last_try_left(project: Project) -> None:
    first = job(project, what="hang", warm=False)
    lines: list[str] = []
    thread = threading.Thread(target=lambda: first.run(lines.append))
    thread.start()
    child = psutil.Process(int(_wait_for(lines, "child").split()[1]))
    said: list[str] = []
    assert job(project, what="exit", code=0).run(said.append) == 0
    assert said[0].startswith("ended 2 process(es)")
    assert _gone(child)
    thread.join(20)


def test_training_goes_through_torchrun() -> None:
    spec = JobSpec(stage="train", pipeline=Pipeline.TRAINING, use_case="demo", partition_key="2026-01-01", run_id="r", store="s", workers=2)
    assert command(spec, Path("spec.json"))[1:] == [
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
        *("-m", "pipelines_lib.jobs.train", "--spec", "spec.json"),
    ]


def _wait_for(lines: list[str], word: str) -> str:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for line in list(lines):
            if line.startswith(word):
                return line
        time.sleep(0.02)
    raise AssertionError(f"no line with {word!r} in {lines}")


def _gone(process: psutil.Process) -> bool:
    _, alive = psutil.wait_procs([process], timeout=10)
    return not alive or process.status() == psutil.STATUS_ZOMBIE
