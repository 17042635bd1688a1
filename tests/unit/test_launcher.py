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
from pipelines_lib.launcher import MARK, Job, command, warm_socket

# A stage that does what its parameters say, in place of a real one.
STAGE = """
import json, os, subprocess, sys, time
spec = json.load(open(sys.argv[sys.argv.index("--spec") + 1]))["params"]
print("你好 from", spec["what"], flush=True)
if spec["what"] == "exit":
    sys.exit(spec["code"])
if spec["what"] == "environment":
    print(json.dumps({k: v for k, v in os.environ.items()}), flush=True)
if spec["what"] == "parent":
    print(open(f"/proc/{os.getppid()}/cmdline").read().replace(chr(0), " "), flush=True)
if spec["what"] == "hang":
    # A worker in a session of its own, as torchrun makes them, that does not mind SIGTERM; it says so once that is true.
    deaf = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('child', os.getpid(), flush=True); time.sleep(600)"
    subprocess.Popen([sys.executable, "-c", deaf], start_new_session=not spec["warm"])
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
    assert socket.exists()
    yield project
    server.terminate()
    server.wait(10)


def job(project: Project, secrets: dict[str, str] | None = None, **params: object) -> Job:
    spec = JobSpec(
        stage="ingest",
        pipeline=Pipeline.DATA,
        use_case="demo",
        partition_key="2026-01-01",
        run_id="r",
        store=str(project.home / "store"),
        params=params,
    )
    return Job(spec, project, grace_seconds=0.5, secrets=secrets)


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


def test_a_secret_reaches_the_job_and_nothing_else(launched: Project) -> None:
    lines: list[str] = []
    running = job(launched, {"SLUICE_CONN_SHOP_DB": "postgresql://u:s3cret@h/d"}, what="environment")
    assert running.run(lines.append) == 0

    assert json.loads(lines[1])["SLUICE_CONN_SHOP_DB"] == "postgresql://u:s3cret@h/d"
    assert "SLUICE_CONN_SHOP_DB" not in os.environ
    for path in launched.folder.parent.rglob("*"):
        assert not path.is_file() or b"s3cret" not in path.read_bytes(), f"{path} holds the secret"


def test_cancel_leaves_no_process_behind(launched: Project) -> None:
    running, thread, result, child = _hanging(launched)
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


def test_a_job_ends_with_its_leader(launched: Project) -> None:
    """What outlives the first process (torchrun's workers, were torchrun killed) would hold the output open for good."""
    _, thread, result, child = _hanging(launched)
    leader = child.parent()
    assert leader is not None
    leader.kill()
    thread.join(20)
    assert result == [-signal.SIGKILL]
    assert _gone(child)


def test_a_warm_job_comes_from_the_server(launched: Project) -> None:
    lines: list[str] = []
    job(launched, what="parent").run(lines.append)
    parent = lines[1]
    assert ("pipelines_lib import warm" in parent) == warm_socket(launched).exists()


def test_without_a_server_behind_the_socket_the_job_runs_and_says_so(project: Project) -> None:
    import socket

    path = warm_socket(project)
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    lines: list[str] = []
    assert job(project, what="exit", code=0).run(lines.append) == 0
    assert "no warm interpreter answers" in lines[0]


def test_the_server_outlives_a_request_it_cannot_read(launched: Project) -> None:
    import socket

    path = warm_socket(launched)
    if not path.exists():
        pytest.skip("cold")
    for request in (b"[]\n", b"nonsense\n", b'{"module": "os"}\n', b"{"):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(request)
    assert job(launched, what="exit", code=0).run(lambda _: None) == 0


def test_a_long_home_gets_a_short_socket(tmp_path: Path) -> None:
    home = tmp_path / ("x" * 120)
    path = warm_socket(Project(folder=tmp_path, home=home, use_cases=tmp_path, profile_name="local"))
    assert len(os.fsencode(path)) < 100


def test_the_warm_libraries_start_no_thread_that_a_fork_would_lose() -> None:
    code = (
        "import os, sys; from pipelines_lib.warm import import_libraries; import_libraries(); assert 'pyspark' not in sys.modules;"
        "print(sorted({open(f'/proc/self/task/{t}/comm').read().strip() for t in os.listdir('/proc/self/task') if int(t) != os.getpid()}))"
    )
    if not Path("/proc/self/task").exists():
        pytest.skip("needs /proc")
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] in ("[]", "['jemalloc_bg_thd']")


def test_a_retry_ends_what_the_last_try_left_and_whoever_waits_for_that_leaves_the_retry_alone(project: Project) -> None:
    _, thread, _, child = _hanging(project)
    said: list[str] = []
    assert job(project, what="exit", code=0).run(said.append) == 0
    assert said[0].startswith("ended 2 process(es)")
    assert _gone(child)
    thread.join(20)


def test_a_process_that_shows_its_mark_late_is_ended_too(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel shows no environment while a process turns into another program, and a job may be ended just then."""
    running = job(project, what="exit", code=0)
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env={**os.environ, MARK: running._try})
    is_marked, seen = Job._is_marked, set[int]()

    def is_marked_late(self: Job, found: psutil.Process, mark: str) -> bool:
        before = found.pid in seen
        seen.add(found.pid)
        return before and is_marked(self, found, mark)

    monkeypatch.setattr(Job, "_is_marked", is_marked_late)
    running.cancel()
    assert process.wait(10) == -signal.SIGKILL


def test_training_goes_through_torchrun() -> None:
    spec = JobSpec(stage="train", pipeline=Pipeline.TRAINING, use_case="demo", partition_key="2026-01-01", run_id="r", store="s", workers=2)
    assert command(spec, Path("spec.json"))[1:] == [
        *("-m", "pipelines_lib.training.agent", "--standalone", "--nproc-per-node=2", "--max-restarts=2"),
        *("-m", "pipelines_lib.jobs.train", "--spec", "spec.json"),
    ]


def _hanging(project: Project) -> tuple[Job, threading.Thread, list[int], psutil.Process]:
    """A job that hangs, the thread that waits for it, where its exit code will be, and its child."""
    running = job(project, what="hang", warm=warm_socket(project).exists())
    lines: list[str] = []
    result: list[int] = []
    thread = threading.Thread(target=lambda: result.append(running.run(lines.append)))
    thread.start()
    return running, thread, result, psutil.Process(int(_wait_for(lines, "child").split()[1]))


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
