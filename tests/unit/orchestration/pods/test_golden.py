"""Each kind of pod, word for word, as the operator asks for it with the profile and the templates that are shipped."""

import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubeflow_trainer_api import models
from kubernetes.client import ApiClient, V1Pod

from pipelines_lib.config import Project
from pipelines_lib.contracts import JobSpec, Pipeline
from pipelines_lib.orchestration.pods.manifest import service
from pipelines_lib.orchestration.pods.operator import PodJobOperator
from pipelines_lib.orchestration.pods.trainjob import TrainJobOperator, manifests
from tests.unit.orchestration.pods.conftest import TaskInstance

INCLUDE = Path(__file__).parents[4] / "include"
LAUNCH = "training-00000000"
"""What `train_setup` returns."""
VERSIONS = ("1.32", "1.37")
Build = Callable[..., dict[str, Any]]


class _AskedForError(Exception):
    """The pod that a try would have made."""

    def __init__(self, pod: V1Pod) -> None:
        super().__init__()
        self.pod = pod


@pytest.fixture
def build(tmp_path: Path, cases: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Returns `build(stage, kubernetes={}, **kwargs)`: what the operator's task of a stage asks the API server for, with other settings of its cluster."""
    for name, value in {"PROJECT": tmp_path, "USE_CASES": cases, "PROFILE": "cluster"}.items():
        monkeypatch.setenv(f"SLUICE_{name}", str(value))
    monkeypatch.delenv("SLUICE_IMAGE", raising=False)
    monkeypatch.setenv("AIRFLOW_CONN_SHOP_DB", json.dumps({"conn_type": "postgres", "host": "db", "password": "c4nary"}))
    monkeypatch.setattr("pipelines_lib.orchestration.pods.manifest.secrets.token_hex", lambda n: "00" * n)
    shutil.copytree(INCLUDE / "pod_templates", tmp_path / "include" / "pod_templates")
    (tmp_path / "include" / "profiles").mkdir()
    use_case = cases / "shop" / "use_case.yaml"
    sql = "{sql: {connection: shop_db, query: 'SELECT * FROM t WHERE day = :partition', order_by: [id]}}"
    use_case.write_text(use_case.read_text(encoding="utf-8").replace('{path: "{home}/{partition}.csv"}', sql), encoding="utf-8")

    def ask(operator: PodJobOperator, pod_request_obj: V1Pod, context: Any) -> None:
        raise _AskedForError(pod_request_obj)

    monkeypatch.setattr(PodJobOperator, "get_or_create_pod", ask)

    def make(
        stage: str, kubernetes: dict[str, Any] | None = None, operator: type[PodJobOperator] = PodJobOperator, **kwargs: Any
    ) -> dict[str, Any]:
        profile = yaml.safe_load((INCLUDE / "profiles" / "cluster.yaml").read_text(encoding="utf-8"))
        profile["kubernetes"] |= kubernetes or {}
        (tmp_path / "include" / "profiles" / "cluster.yaml").write_text(yaml.safe_dump(profile), encoding="utf-8")
        pipeline = Pipeline.DATA if stage in ("ingest", "validate", "prepare") else Pipeline.TRAINING
        task = operator(task_id=stage, use_case_name="shop", pipeline=str(pipeline), stage=stage, **kwargs)
        number = task.shard if task.node is None else task.node
        ti = TaskInstance(stage, -1 if number is None else number, 1, {"train_setup": LAUNCH})
        ti.dag_id = f"shop__{pipeline}"
        context = {"ti": ti, "run_id": "manual__1", "partition_key": "2026-01-02", "params": {"partition": None}, "dag": None}
        with pytest.raises(_AskedForError) as asked:
            task.execute(context)
        found: dict[str, Any] = ApiClient().sanitize_for_serialization(asked.value.pod)
        return found

    return make


TRAIN: dict[str, Any] = {"workers": 2, "execution_timeout": timedelta(hours=12)}
GPUS = {"default": {"cpu": 1, "memory": "4Gi"}, "train": {"cpu": 8, "memory": "64Gi", "gpu": 2, "shm": "16Gi"}}
KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "stage": ("prepare", {}, {}),
    "stage_with_connection": ("ingest", {"secrets": ["mlflow"]}, {}),
    "shard": ("validate", {}, {"shards": 2, "shard": 1}),
    "deploying": ("deploy", {}, {}),
    "training": ("train", {}, TRAIN),
    "training_on_gpus": ("train", {"resources": GPUS}, TRAIN),
    "rank_0_of_2": ("train", {}, {**TRAIN, "node": 0, "nodes": (2, 2)}),
    "rank_1_of_2": ("train", {}, {**TRAIN, "node": 1, "nodes": (2, 2)}),
    "rank_0_of_2_to_3_in_a_queue": ("train", {"queue": "gpus", "resources": GPUS}, {**TRAIN, "node": 0, "nodes": (2, 3)}),
    "rank_2_of_2_to_3_in_a_queue": ("train", {"queue": "gpus", "resources": GPUS}, {**TRAIN, "node": 2, "nodes": (2, 3)}),
}
"""Name of the golden file to stage, settings of the cluster, and arguments of the task."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_pod_is_that_of_its_golden_file_and_valid(kind: str, build: Build, golden: Callable[[str, Any], None]) -> None:
    stage, kubernetes, kwargs = KINDS[kind]
    pod = build(stage, kubernetes, **kwargs)
    golden(f"pods/{kind}.yaml", pod)
    for version in VERSIONS:
        kubernetes_validate.validate(pod, version, strict=True)
    assert "c4nary" not in str(pod)


def test_the_rendezvous_is_that_of_its_golden_file_valid_and_selects_rank_0(build: Build, golden: Callable[[str, Any], None]) -> None:
    ranks = [build("train", node=node, nodes=(2, 2))["metadata"]["labels"] for node in range(2)]
    kubernetes = Project.from_environment().profile().kubernetes
    assert kubernetes is not None
    spec = JobSpec(
        stage="train",
        pipeline=Pipeline.TRAINING,
        use_case="shop",
        partition_key="2026-01-02",
        run_id="manual__1",
        store="s3://sluice/store",
    )
    found = service(spec, kubernetes)
    golden("pods/rendezvous.yaml", found)
    for version in VERSIONS:
        kubernetes_validate.validate(found, version, strict=True)
    selected = found["spec"]["selector"].items()
    assert [selected <= labels.items() for labels in ranks] == [True, False]


def test_a_train_job_and_its_runtime_are_those_of_the_golden_file_and_of_the_schema(
    build: Build, golden: Callable[[str, Any], None]
) -> None:
    pod = build("train", {"queue": "gpus", "secrets": ["mlflow"], "resources": GPUS}, TrainJobOperator, n_nodes=2, **TRAIN)
    found = list(manifests(pod, n_nodes=2, workers=2))
    golden("pods/trainjob.yaml", found)
    for model, manifest in zip((models.TrainerV1alpha1TrainingRuntime, models.TrainerV1alpha1TrainJob), found, strict=True):
        kept = model.from_dict(manifest)
        assert kept is not None
        # A field that the schema lacks does not come back.
        assert json.loads(kept.to_json()) == manifest
    [job] = found[0]["spec"]["template"]["spec"]["replicatedJobs"]
    for version in VERSIONS:
        kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", **job["template"]["spec"]["template"]}, version, strict=True)


def test_the_pod_of_a_train_job_is_that_of_a_rank_but_for_its_names(build: Build) -> None:
    def of(pod: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        [container] = pod["spec"]["containers"]
        rest = {key: value for key, value in container.items() if key not in ("name", "command", "ports")}
        return rest, {key: value for key, value in pod["spec"].items() if key != "containers"}

    runtime, _ = manifests(build("train", {}, TrainJobOperator, n_nodes=2, **TRAIN), n_nodes=2, workers=2)
    [job] = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    assert of(job["template"]["spec"]["template"]) == of(build("train", node=0, nodes=(2, 2), **TRAIN))


def test_every_golden_file_is_looked_at() -> None:
    folder = Path(__file__).parents[3] / "golden" / "pods"
    assert {path.stem for path in folder.iterdir()} == {*KINDS, "rendezvous", "trainjob"}
