"""Starting, stopping and forgetting the services of one machine, without starting the slow ones."""

import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from pipelines_lib.config import Project
from pipelines_lib.errors import BadInput, Unavailable
from pipelines_lib.local import services
from pipelines_lib.store import write_json

ROOT = Path(__file__).parents[3]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(folder=ROOT, home=tmp_path / "home", use_cases=tmp_path / "cases", profile_name="local")


def record(project: Project, name: str, pid: int, create_time: float) -> Path:
    path = project.home / "services" / f"{name}.json"
    write_json(path, {"pid": pid, "create_time": create_time, "url": None})
    return path


def test_a_port_that_is_taken_is_named_with_the_way_out(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("SLUICE_AIRFLOW_URL", url)
        monkeypatch.setenv("SLUICE_MLFLOW_URL", "http://127.0.0.1:1")
        with pytest.raises(BadInput, match=r"the port is taken.*SLUICE_AIRFLOW_URL=") as error:
            services._check_port(services._airflow(project, project.profile())[0])
        assert url in str(error.value)


def test_a_full_disk_stops_the_start(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services.shutil, "disk_usage", lambda _: SimpleNamespace(free=5 * 2**20))
    with pytest.raises(BadInput, match="only 5 MiB are free"):
        services.up(project, print)


def test_every_server_listens_on_loopback_alone(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLUICE_AIRFLOW_URL", "SLUICE_MLFLOW_URL"):
        monkeypatch.delenv(name, raising=False)
    for service in services.services(project, project.profile()):
        text = " ".join(service.command) + str(service.environment)
        assert "0.0.0.0" not in text
        if service.name in ("airflow-scheduler", "airflow-triggerer"):
            assert "--skip-serve-logs" in service.command  # they would listen on every interface


def test_down_ends_a_service_and_its_children_and_forgets_it(project: Project) -> None:
    code = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); print('up', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        parent = psutil.Process(process.pid)
        family = [parent, *parent.children(recursive=True)]
        assert len(family) == 2
        path = record(project, "mlflow", process.pid, parent.create_time())
        assert services.running(project, "mlflow") == parent
        services.down(project, print)
        assert not path.exists()
        assert not psutil.wait_procs(family, timeout=5)[1]


def test_a_recycled_process_id_is_not_taken_for_the_service(project: Project) -> None:
    me = psutil.Process()
    record(project, "mlflow", me.pid, me.create_time() - 3600)
    assert services.running(project, "mlflow") is None
    services.down(project, print)
    assert me.is_running()


def test_a_service_that_died_is_named_with_the_end_of_its_log(project: Project) -> None:
    (project.home / "logs").mkdir(parents=True)
    (project.home / "logs" / "mlflow.log").write_text("out of luck\n", encoding="utf-8")
    with pytest.raises(Unavailable, match=r"mlflow has ended(.|\n)*out of luck"):
        services.check_alive(project)


def test_clean_deletes_a_home_and_nothing_else(project: Project) -> None:
    (project.home / "store").mkdir(parents=True)
    services.clean(project, print)
    assert not project.home.exists()
    services.clean(project, print)

    project.home.mkdir()
    (project.home / "thesis.tex").touch()
    with pytest.raises(BadInput, match=r"thesis\.tex.*Nothing was deleted"):
        services.clean(project, print)
    assert (project.home / "thesis.tex").exists()
    shutil.rmtree(project.home)
