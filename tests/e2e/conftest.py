"""A real Airflow, MLflow and model services on free ports of this machine, over which the demo has run once."""

import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines_lib.config import Project
from pipelines_lib.local.airflow_api import AirflowApi
from pipelines_lib.local.demo import Demo
from pipelines_lib.local.progress import Progress
from pipelines_lib.local.services import down

ROOT = Path(__file__).parents[2]

# An hourly use case: Airflow runs the latest tick as soon as its DAG is unpaused, so that a test sees a scheduled run.
CLOCKWORK = """\
name: clockwork
title: Clockwork
owner: test@example.com
task: binary
partition: hour
start: 2026-01-01
schedule: {data: "0 * * * *", training: null, monitoring: null}
source: {path: "{home}/landing/clockwork/{partition}.csv", land: true}
columns:
  amount: {type: number}
  outcome: {type: string, role: label}
label: {column: outcome, positive: "1"}
gate: {metric: roc_auc, floor: 0.6}
"""
LAND = """
from pathlib import Path


def land(partition_key, path, params):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("amount,outcome\\n" + "".join(f"{i},{i % 2}\\n" for i in range(20)), encoding="utf-8")
"""


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The project after the demo; its services run until the last test has ended."""
    folder = tmp_path_factory.mktemp("e2e")
    use_cases = folder / "use_cases"
    for name in ("recommendation", "diagnosis"):
        shutil.copytree(ROOT / "include" / "use_cases" / name, use_cases / name, ignore=shutil.ignore_patterns("__pycache__"))
    _write(use_cases / "clockwork", {"use_case.yaml": CLOCKWORK, "hooks.py": LAND})
    _write(use_cases / "broken", {"use_case.yaml": "name: broken\ntitel: Broken\n"})
    environment = {
        "SLUICE_PROJECT": str(ROOT),
        "SLUICE_HOME": str(folder / "home"),
        "SLUICE_USE_CASES": str(use_cases),
        "SLUICE_PROFILE": "local",
        "SLUICE_AIRFLOW_URL": f"http://127.0.0.1:{_free_port()}",
        "SLUICE_MLFLOW_URL": f"http://127.0.0.1:{_free_port()}",
        # The key decides which patient judges; always the same one, so that a run can be told from the next by the code alone.
        "SLUICE_CONN_SLUICE_PRIVACY": json.dumps({"conn_type": "generic", "password": "the key of the tests, no secret of anyone"}),
    }
    with pytest.MonkeyPatch.context() as patch:
        for key, value in environment.items():
            patch.setenv(key, value)
        project = Project.from_environment()
        try:
            Demo(project, Progress()).run()
            yield project
        finally:
            down(project, print)


@pytest.fixture(scope="session")
def api(project: Project) -> AirflowApi:
    """Airflow's REST API."""
    return AirflowApi(os.environ["SLUICE_AIRFLOW_URL"])


def _write(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
