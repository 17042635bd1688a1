"""A real Airflow, MLflow and model services on free ports of this machine, over which the demo has run once."""

import contextlib
import json
import os
import shutil
import socket
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipelines_lib.config import Project
from pipelines_lib.local.airflow_api import AirflowApi
from pipelines_lib.local.demo import Demo
from pipelines_lib.local.progress import Progress
from pipelines_lib.local.services import down, up
from pipelines_lib.local.settings_file import load_settings
from tests.e2e.cluster import Cluster, missing
from tests.e2e.machine import ROOT, Machine

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

# Daily monitoring of answers that the tests log themselves, without an end to retrainings but what is to be proven.
STORM = """\
name: storm
title: Storm
owner: test@example.com
task: binary
start: 2026-01-01
end: 2026-06-30
schedule: {data: null, training: null, monitoring: "0 2 * * *"}
source: {path: "{home}/landing/storm/{partition}.csv"}
columns:
  amount: {type: number}
  age: {type: integer}
  member: {type: boolean}
  country: {type: string}
  customer: {type: integer, role: key}
  action: {type: string, role: label}
label: {column: action, positive: "yes"}
split: {by: row}
monitoring: {min_rows: 50, loss: null, cooldown: 0, max_retrainings: 100}
gate: {metric: roc_auc, floor: 0.6}
"""

Place = Machine | Cluster

_PLACE = pytest.StashKey[Place]()


@dataclass(frozen=True)
class Webhook:
    """Whom the profile's alerts reach."""

    url: str
    told: list[dict[str, Any]] = field(default_factory=list)
    """The messages, in the order in which they came."""

    def events(self, use_case: str, event: str) -> list[str]:
        """The text of each message of a kind."""
        return [message["text"] for message in self.told if (message["use_case"], message["event"]) == (use_case, event)]


@pytest.fixture(scope="session")
def webhook() -> Iterator[Webhook]:
    """A server on this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            made.told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        made = Webhook(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield made
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session", params=["local", pytest.param("kubernetes", marks=pytest.mark.cluster)])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, webhook: Webhook) -> Place:
    """Where stages and services run: the launcher of the profile."""
    if request.param == "kubernetes":
        if (why := missing()) is not None:
            pytest.skip(why)
        made: Place = Cluster(tmp_path_factory.mktemp("cluster"))
    else:
        made = Machine(tmp_path_factory.mktemp("machine"), webhook.url)
    request.session.stash[_PLACE] = made
    return made


@pytest.fixture(scope="session")
def installation(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The project with its services, which run until the last test has ended."""
    folder = tmp_path_factory.mktemp("e2e")
    use_cases = folder / "use_cases"
    for name in ("recommendation", "diagnosis"):
        shutil.copytree(ROOT / "include" / "use_cases" / name, use_cases / name, ignore=shutil.ignore_patterns("__pycache__"))
    _write(use_cases / "clockwork", {"use_case.yaml": CLOCKWORK, "hooks.py": LAND})
    _write(use_cases / "storm", {"use_case.yaml": STORM})
    _write(use_cases / "broken", {"use_case.yaml": "name: broken\ntitel: Broken\n"})
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as ends:
        project = None
        ends.callback(lambda: place.close(project))
        place.prepare(use_cases)
        environment = place.environment | {
            "SLUICE_PROJECT": str(place.project),
            "SLUICE_HOME": str(folder / "home"),
            "SLUICE_USE_CASES": str(place.project / "include" / "use_cases"),
            "SLUICE_AIRFLOW_URL": f"http://127.0.0.1:{_free_port()}",
            # The key decides which patient judges; always the same one, so that a run can be told from the next by the code alone.
            "SLUICE_CONN_SLUICE_PRIVACY": json.dumps({"conn_type": "generic", "password": "the key of the tests, no secret of anyone"}),
        }
        if place.name == "local":
            environment["SLUICE_MLFLOW_URL"] = f"http://127.0.0.1:{_free_port()}"
        for key, value in environment.items():
            patch.setenv(key, value)
        project = Project.from_environment()
        place.settle(project)
        ends.callback(down, project, print)
        up(project, print)
        load_settings(project.folder / "airflow_settings.yaml", AirflowApi(os.environ["SLUICE_AIRFLOW_URL"]))
        yield project


@pytest.fixture(scope="session")
def project(installation: Project, place: Place) -> Project:
    """The project after the demo."""
    Demo(installation, Progress(), place.replay).run()
    return installation


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say of a failure what the place looked like."""
    report = yield
    place = item.session.stash.get(_PLACE, None)
    if report.failed and place is not None:
        report.sections.append((f"the place, {place.name}", place.told()))
    return report


@pytest.fixture(scope="session")
def api(installation: Project) -> AirflowApi:
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
