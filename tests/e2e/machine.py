"""This machine, as a place where the end-to-end suite runs: stages and services are its processes."""

import json
import signal
from pathlib import Path
from typing import Any, ClassVar

import httpx
import psutil

from pipelines_lib.config import Project
from pipelines_lib.local.demo import replay_here
from pipelines_lib.store import read_json, store_of

ROOT = Path(__file__).parents[2]


class Machine:
    """Nothing is asked of it but Python."""

    name = "local"
    patience = 1.0
    """How much longer things may take here than with the local launcher."""
    machines = 1
    """On how many the training of `recommendation` runs."""
    project = ROOT
    """SLUICE_PROJECT."""
    environment: ClassVar = {"SLUICE_PROFILE": "local"}
    """What else is set for whoever works on the project."""
    replay = staticmethod(replay_here)

    def prepare(self, use_cases: Path) -> None:
        """Make the place ready for the use cases of a folder."""

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
