"""A task that runs its stage as a pod of the API server's double, and what Airflow does with such a task."""

import asyncio
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import tenacity
import yaml
from airflow.sdk.exceptions import TaskDeferred

from pipelines_lib.contracts import JobResult, JobSpec, Pipeline
from pipelines_lib.orchestration.operators import StageOperator
from pipelines_lib.orchestration.pods.operator import PodJobOperator
from pipelines_lib.orchestration.pods.trigger import PodTrigger
from pipelines_lib.store import write_json
from tests.kube_api.server import ApiServer

TEMPLATES = Path(__file__).parents[4] / "include" / "pod_templates"
CANARY = "c4nary-of-a-password"


class TaskInstance:
    """What of Airflow's task instance the operator sees."""

    dag_id = "shop__data"
    state = "running"
    start_date = datetime.now(UTC)

    def __init__(self, task_id: str, map_index: int, try_number: int, left: dict[str, Any] | None = None) -> None:
        self.task_id, self.map_index, self.try_number = task_id, map_index, try_number
        self.xcoms: dict[str, Any] = {}
        self.left = left or {}

    def get_task_states(self, *, run_ids: list[str], task_ids: list[str], **_: Any) -> dict[str, Any]:
        """As the API server has them; `state` is this one's."""
        return {run_ids[0]: {task_ids[0] if self.map_index < 0 else f"{task_ids[0]}_{self.map_index}": self.state}}

    def xcom_pull(self, task_ids: str) -> Any:
        return self.left.get(task_ids)

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = value


class Launch:
    """One task and its tries. `ingest` of the shop reads from the connection `shop_db`, whose password is `CANARY`."""

    def __init__(self, api: ApiServer, folder: Path) -> None:
        self.api = api
        self.folder = folder
        self.run_id = "scheduled__2026-01-02T00:00:00+00:00"
        self.params: dict[str, Any] = {}
        self.tries = 0
        self.left: dict[str, Any] = {}
        """What tasks of the run have returned."""
        self.tasks: list[PodJobOperator] = []
        self.timers: list[threading.Timer] = []
        self.settings()

    def settings(self, **kubernetes: Any) -> None:
        """Write the profile, with other settings of its cluster."""
        own = {"connection": "cluster", "namespace": "sluice", "images": {"cpu": "example.org/job:1"}, "grace": "1s", **kubernetes}
        profile = {"name": "pods", "launcher": "kubernetes", "store": "{home}/store", "tracking_uri": "http://mlflow", "kubernetes": own}
        (self.folder / "include" / "profiles" / "pods.yaml").write_text(yaml.safe_dump(profile), encoding="utf-8")

    def token(self, token: str) -> None:
        """Write `token` into the connection's kubeconfig."""
        self.api.kubeconfig(self.folder / "kubeconfig", token)

    def task(self, stage: str = "ingest", **kwargs: Any) -> PodJobOperator:
        """A task of Airflow's, as a process that runs one try of it has it."""
        self.tasks.append(PodJobOperator(task_id=stage, use_case_name="shop", pipeline=str(Pipeline.DATA), stage=stage, **kwargs))
        return self.tasks[-1]

    def answered(self, path: str, code: int) -> int:
        """How many requests whose path ends in `path` were answered with `code`."""
        return sum(request.path.endswith(path) and request.code == code for request in self.api.requests)

    def until_answered(self, path: str, code: int, n: int = 1) -> None:
        """Wait until `n` of them were."""
        deadline = time.monotonic() + 30
        while self.answered(path, code) < n:
            assert time.monotonic() < deadline, f"{path} was not answered {n} times with {code}"
            time.sleep(0.01)

    def later(self, seconds: float, call: Callable[[], object]) -> None:
        """Call `call` in `seconds`, whatever goes on then."""
        self.timers.append(threading.Timer(seconds, call))
        self.timers[-1].start()

    def close(self) -> None:
        """Wait for what was to come later, and close what the end of a task's process closes."""
        for timer in self.timers:
            timer.join()
        for task in self.tasks:
            if "client" in vars(task):
                task.client.api_client.rest_client.pool_manager.clear()

    def context(self, task: StageOperator) -> dict[str, Any]:
        """The context of the next try."""
        self.tries += 1
        ti = TaskInstance(task.task_id, -1 if task.shard is None else task.shard, self.tries, self.left)
        params = {"partition": None, **self.params}
        return {"ti": ti, "run_id": self.run_id, "partition_key": "2026-01-02", "params": params, "dag": None, "outlet_events": {}}

    def start(self, task: PodJobOperator, context: dict[str, Any] | None = None) -> PodTrigger:
        """Execute the task until it is deferred; returns the trigger as the triggerer has it, made anew from the database."""
        with pytest.raises(TaskDeferred) as deferred:
            task.execute(context or self.context(task))
        assert deferred.value.method_name == "trigger_reentry"
        _, kwargs = deferred.value.trigger.serialize()
        return PodTrigger(**json.loads(json.dumps(kwargs)))

    def wait(self, trigger: PodTrigger) -> dict[str, Any]:
        """The event of a trigger, as it comes back from the database."""

        async def first() -> dict[str, Any]:
            [event] = [event async for event in trigger.run()]
            return event.payload

        return json.loads(json.dumps(asyncio.run(first())))

    def event(self, play: Callable[[str], None], task: PodJobOperator | None = None) -> dict[str, Any]:
        """The event of one try, whose pod does what `play(name)` does."""
        trigger = self.start(task or self.task())
        with ThreadPoolExecutor(1) as thread:
            played = thread.submit(play, trigger.pod_name)
            played.add_done_callback(lambda done: done.exception() and self.api.vanish(trigger.pod_name))
            event = self.wait(trigger)
            played.result()
        return event

    def run(self, play: Callable[[str], None], task: PodJobOperator | None = None) -> dict[str, Any]:
        """One whole try; returns what the task returns."""
        event = self.event(play, task)
        again = self.task()
        return again.trigger_reentry(self.context(again), event)

    def leave_result(self, name: str, **changes: Any) -> None:
        """Leave what the stage of a pod leaves in the store when it has done its work."""
        result = JobResult.model_validate({"stage": "ingest", "reason": "fine", "figures": {"n_rows": 5}, "launch": name} | changes)
        write_json(self.stage_folder(name) / "result.json", result)

    def stage_folder(self, name: str) -> Path:
        """Where the stage of a pod leaves what it has done."""
        specs = (self.folder / "home").rglob("spec.json")
        return next(spec.parent for spec in specs if JobSpec.model_validate_json(spec.read_text(encoding="utf-8")).launch == name)

    def done(self, name: str) -> None:
        """What a pod does where all is well."""
        self.api.run(name)
        self.leave_result(name)
        self.api.end(name)


@pytest.fixture
def launch(kube_api: ApiServer, tmp_path: Path, cases: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launch]:
    """A task, its project and its cluster, where seconds are short."""
    for name, value in {"PROJECT": tmp_path, "HOME": tmp_path / "home", "USE_CASES": cases, "PROFILE": "pods"}.items():
        monkeypatch.setenv(f"SLUICE_{name}", str(value))
    monkeypatch.setenv("AIRFLOW_CONN_SHOP_DB", f"postgres://reader:{CANARY}@db/shop")
    extra = {"kube_config_path": str(kube_api.kubeconfig(tmp_path / "kubeconfig"))}
    monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", json.dumps({"conn_type": "kubernetes", "extra": extra}))
    use_case = cases / "shop" / "use_case.yaml"
    sql = "{sql: {connection: shop_db, query: 'SELECT * FROM t WHERE day = :partition', order_by: [id]}}"
    use_case.write_text(use_case.read_text(encoding="utf-8").replace('{path: "{home}/{partition}.csv"}', sql), encoding="utf-8")
    (tmp_path / "include" / "profiles").mkdir(parents=True)
    shutil.copytree(TEMPLATES, tmp_path / "include" / "pod_templates")

    for name, seconds in {
        "POLL_SECONDS": 0.02,
        "LOG_SECONDS": 0.05,
        "PATIENCE_SECONDS": 1.0,
        "REFUSAL_SECONDS": 0.3,
        "REQUEST_SECONDS": 1.0,
    }.items():
        monkeypatch.setattr(PodTrigger, name, seconds)
    for name, seconds in {"POLL_SECONDS": 0.02, "QUOTA_SECONDS": 0.05, "KILL_SECONDS": 0.3, "POST_TERMINATION_TIMEOUT": 0}.items():
        monkeypatch.setattr(PodJobOperator, name, seconds)
    for method in ("_pods", "_create", "_create_secret", "_delete"):
        monkeypatch.setattr(getattr(PodJobOperator, method).retry, "wait", tenacity.wait_none())
    launch = Launch(kube_api, tmp_path)
    yield launch
    launch.close()
    assert kube_api.all("pods") == [], "a task leaves no pod"
    assert kube_api.all("secrets") == [], "a task leaves no Secret"
