"""Stages as pods of a played node: a use case's data, and a training of two machines that loses one, with the real commands of the pods."""

import asyncio
import csv
import json
import random
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred
from kubernetes.config import new_client_from_config

from pipelines_lib import failures
from pipelines_lib.contracts import Pipeline
from pipelines_lib.orchestration.operators import StageOperator
from pipelines_lib.orchestration.pods.operator import PodJobOperator
from pipelines_lib.orchestration.pods.rendezvous import SetUpOperator, TearDownOperator
from pipelines_lib.orchestration.pods.trigger import PodTrigger
from pipelines_lib.store import read_json
from tests.kube_api.node import Node, usable
from tests.kube_api.server import ApiServer

from .conftest import ROOT

pytestmark = pytest.mark.timeout(300)

DAY = "2026-01-01"
USE_CASE: dict[str, Any] = {
    "name": "shop",
    "title": "Shop",
    "owner": "tests",
    "task": "binary",
    "start": DAY,
    "columns": {
        "visit": {"type": "string", "role": "key", "nullable": False},
        "who": {"type": "string", "role": "entity"},
        "price": {"type": "number"},
        "town": {"type": "string"},
        "bought": {"type": "string", "role": "label"},
    },
    "label": {"column": "bought", "positive": "yes"},
    "split": {"by": "entity"},
    "training": {
        "nodes": 2,
        "epochs": 40,
        "patience": 40,
        "batch_size": 20,
        "checkpoint_steps": 5,
        "shares": "equal",
        "model": {"hidden": [8]},
    },
    "gate": {"metric": "roc_auc", "floor": 0.6},
}


class TaskInstance:
    """What of Airflow's task instance the operators see."""

    dag_id = "shop__training"
    try_number = 1
    state = "running"

    def __init__(self, task_id: str, map_index: int, left: dict[str, Any]) -> None:
        self.task_id, self.map_index, self.left = task_id, map_index, left
        self.start_date = datetime.now(UTC)

    def xcom_push(self, key: str, value: Any) -> None:
        """The operator's notes."""

    def get_task_states(self, *, run_ids: list[str], task_ids: list[str], **_: Any) -> dict[str, Any]:
        """As the API server has them; `state` is this one's."""
        return {run_ids[0]: {task_ids[0] if self.map_index < 0 else f"{task_ids[0]}_{self.map_index}": self.state}}

    def xcom_pull(self, task_ids: str) -> Any:
        return self.left.get(task_ids)


class Runs:
    """A run of a DAG whose tasks are pods, without Airflow's scheduler."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "store"
        self.left: dict[str, Any] = {}

    def context(self, task: StageOperator) -> dict[str, Any]:
        node = getattr(task, "node", None)
        ti = TaskInstance(task.task_id, -1 if node is None else node, self.left)
        return {"ti": ti, "run_id": "manual__1", "partition_key": DAY, "params": {}, "dag": None, "outlet_events": {}}

    def stage(self, pipeline: Pipeline, stage: str, **machine: Any) -> dict[str, Any]:
        """One try of a stage, to its end."""
        kwargs: dict[str, Any] = {"task_id": stage, "use_case_name": "shop", "pipeline": str(pipeline), "stage": stage, **machine}
        task = PodJobOperator(**kwargs)
        with pytest.raises(TaskDeferred) as deferred:
            task.execute(self.context(task))
        _, arguments = deferred.value.trigger.serialize()

        async def first() -> dict[str, Any]:
            [event] = [event async for event in PodTrigger(**arguments).run()]
            return dict(event.payload)

        event = json.loads(json.dumps(asyncio.run(first())))
        again = PodJobOperator(**kwargs)
        return again.trigger_reentry(self.context(again), event)

    def rank(self, node: int, tries: list[str]) -> dict[str, Any]:
        """A machine's task with its retries; `tries` gets the message of each that failed."""
        while True:
            try:
                return self.stage(Pipeline.TRAINING, "train", node=node, nodes=(2, 2))
            except AirflowFailException:
                raise
            except AirflowException as error:
                tries.append(str(error))
                if len(tries) > 4:
                    raise

    def between(self, kind: type[StageOperator], task_id: str) -> Any:
        """The task before, or the one after."""
        task = kind(task_id=task_id, use_case_name="shop", pipeline=str(Pipeline.TRAINING), stage="train")
        return task.execute(self.context(task))


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ApiServer, Node]]:
    """An API server and a node, and a project whose profile names them."""
    if (missing := usable()) is not None:
        pytest.skip(missing)
    folder = tmp_path / "use_cases" / "shop"
    folder.mkdir(parents=True)
    source = {"source": {"path": f"{tmp_path}/in/{{partition}}.csv"}}
    (folder / "use_case.yaml").write_text(yaml.safe_dump(USE_CASE | source), encoding="utf-8")
    shutil.copytree(ROOT / "include" / "pod_templates", tmp_path / "include" / "pod_templates")
    kubernetes = {
        "connection": "cluster",
        "namespace": "sluice",
        "images": {"cpu": "example.org/job:1"},
        "resources": {"default": {"cpu": 1}},
        "grace": "5s",
        "startup_timeout": "1min",
        "join_timeout": "1min",
    }
    profile = {"name": "pods", "launcher": "kubernetes", "store": str(tmp_path / "store"), "kubernetes": kubernetes}
    (tmp_path / "include" / "profiles").mkdir()
    (tmp_path / "include" / "profiles" / "pods.yaml").write_text(
        yaml.safe_dump(profile | {"tracking_uri": f"sqlite:///{tmp_path}/mlflow.db"}), encoding="utf-8"
    )
    write_rows(tmp_path / "in" / f"{DAY}.csv")
    environment = {"SLUICE_PROJECT": str(tmp_path), "SLUICE_USE_CASES": str(tmp_path / "use_cases"), "SLUICE_PROFILE": "pods"}
    for name, value in {**environment, "SLUICE_HOME": str(tmp_path / "home")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(PodTrigger, "POLL_SECONDS", 0.2)
    with ApiServer() as api:
        kubeconfig = api.kubeconfig(tmp_path / "kubeconfig")
        way = {"conn_type": "kubernetes", "extra": {"kube_config_path": str(kubeconfig)}}
        monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", json.dumps(way))
        with Node(new_client_from_config(str(kubeconfig)), tmp_path / "node", {**environment, "PYTHONPATH": str(ROOT)}) as node:
            yield api, node
            for pod in api.all("pods"):  # of a test that failed: nobody waits for them
                api.vanish(pod["metadata"]["name"])
            assert node.failure is None


def write_rows(path: Path) -> None:
    """A label that follows from the price."""
    path.parent.mkdir()
    chance = random.Random(1)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["visit", "who", "price", "town", "bought"])
        for number in range(400):
            price = chance.gauss()
            rows.writerow(
                [f"v{number}", f"w{number // 2}", f"{price:.4f}", chance.choice("ab"), "yes" if price + chance.gauss() / 2 > 0 else "no"]
            )


def test_two_machines_train_and_one_that_is_lost_comes_back(cluster: tuple[ApiServer, Node], tmp_path: Path) -> None:
    api, _ = cluster
    runs = Runs(tmp_path)
    for stage in ("ingest", "validate", "prepare"):
        runs.stage(Pipeline.DATA, stage)
    runs.stage(Pipeline.TRAINING, "snapshot")
    runs.left["train_setup"] = runs.between(SetUpOperator, "train_setup")
    folder = runs.store / "shop" / "runs" / "training" / "manual__1" / "train"
    tries: list[list[str]] = [[], []]
    with ThreadPoolExecutor(2) as threads:
        ranks = [threads.submit(runs.rank, number, tries[number]) for number in range(2)]
        deadline = time.monotonic() + 120
        while not list((folder / "checkpoints").rglob("manifest.json")):
            assert time.monotonic() < deadline, [str(rank) for rank in ranks]
            assert not any(rank.done() for rank in ranks), [rank.exception() for rank in ranks if rank.done()]
            time.sleep(0.05)
        before = {pod["metadata"]["labels"]["rank"]: pod["metadata"]["name"] for pod in api.all("pods")}
        api.vanish(before["1"])
        figures = [rank.result(180) for rank in ranks]
    assert api.all("pods") == []
    runs.between(TearDownOperator, "train_teardown")

    assert api.all("services") == []
    assert figures[0] == figures[1]
    assert tries[0] == [], "the machine that was left goes on where it is"
    assert len(tries[1]) == 1
    assert "Deleted" in tries[1][0]
    result: Any = read_json(folder / "result.json")
    assert result["launch"] == runs.left["train_setup"]
    assert not failures.left(folder)
