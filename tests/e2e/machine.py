"""This machine, as a place where the end-to-end suite runs: stages and services are its processes."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any, ClassVar

import httpx
import psutil
import yaml

from pipelines_lib.config import Project
from pipelines_lib.local.demo import replay_here
from pipelines_lib.store import read_json, store_of

ROOT = Path(__file__).parents[2]
LATE_SECONDS = 15
"""A monitoring run that has not ended by then is late. It tells so and goes on, so the demo's may be."""


def write_project(folder: Path, use_cases: Path) -> Path:
    """A project with the checkout's `dags/` and `plugins/`. Returns its own `include/`, in which those use cases are."""
    folder.mkdir()
    for name in ("dags", "plugins", "pipelines_lib"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(use_cases, folder / "include" / "use_cases")
    (folder / "include" / "profiles").mkdir()
    return folder / "include"


def write_yaml(path: Path, document: Any) -> None:
    """Write settings."""
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


class Machine:
    """Nothing is asked of it but Python; whom its profile tells of alerts is a webhook."""

    name = "local"
    patience = 1.0
    """How much longer things may take here than with the local launcher."""
    machines = 1
    """On how many the training of `recommendation` runs."""
    environment: ClassVar = {"SLUICE_PROFILE": "local"}
    """What else is set for whoever works on the project."""
    replay = staticmethod(replay_here)

    def __init__(self, folder: Path, webhook: str) -> None:
        self.project = folder / "project"
        """SLUICE_PROJECT."""
        self._webhook = webhook

    def prepare(self, use_cases: Path) -> None:
        """Make the place ready for the use cases of a folder."""
        include = write_project(self.project, use_cases)
        profile = yaml.safe_load((ROOT / "include" / "profiles" / "local.yaml").read_text(encoding="utf-8"))
        told = {"alerts": [{"to": "webhook", "connection": "ops"}], "monitoring_late": f"{LATE_SECONDS}s"}
        write_yaml(include / "profiles" / "local.yaml", profile | told)
        settings = yaml.safe_load((ROOT / "airflow_settings.yaml").read_text(encoding="utf-8"))
        settings["airflow"]["connections"].append({"conn_id": "ops", "conn_type": "http", "conn_host": self._webhook})
        write_yaml(self.project / "airflow_settings.yaml", settings)

    def settle(self, project: Project) -> None:
        """What has to wait until the project's settings are in force."""

    def close(self, project: Project | None) -> None:
        """Take away what `prepare` has made."""

    def ask(self, project: Project, use_case: str, path: str) -> Any:
        """The JSON that the service of a use case answers at `path`."""
        deployment: Any = read_json(store_of(project.profile()) / use_case / "status" / "deployment.json")
        return httpx.get(f"{deployment['url']}{path}", timeout=10).raise_for_status().json()

    def workers(self, project: Project, use_case: str, run_id: str) -> list[str]:
        """What trains in a run at this moment: of each process its number."""
        spec = f"{store_of(project.profile())}/{use_case}/runs/training/{run_id}/train/spec.json"
        return [str(p.pid) for p in psutil.process_iter(["cmdline"]) if spec in (p.info["cmdline"] or [])]

    def busy(self) -> int:
        """How many of `workers` a training has: torchrun, and two ranks."""
        return 3

    def kill(self, worker: str) -> None:
        """SIGKILL of one of them."""
        psutil.Process(int(worker)).send_signal(signal.SIGKILL)

    def left(self, project: Project, use_case: str, run_id: str) -> list[str]:
        """What a run that is over has left behind."""
        return self.workers(project, use_case, run_id)

    def told(self) -> str:
        """What is to be known of the place where a test failed."""
        return json.dumps({"load": psutil.getloadavg(), "memory": psutil.virtual_memory().percent})
