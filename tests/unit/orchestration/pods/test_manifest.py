"""What stands in a pod: names and labels are valid and apart whatever users write, and what they write reaches neither command nor environment."""

import json
import re
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines_lib.cluster import Kubernetes
from pipelines_lib.contracts import STAGES, JobSpec, Pipeline
from pipelines_lib.orchestration.pods.manifest import gang_of, label_of, name_of, selector_of, service, service_name, stage_pod
from pipelines_lib.orchestration.pods.operator import PodJobOperator
from tests.unit.orchestration.pods.conftest import TaskInstance

DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
PLAIN = re.compile(r"[A-Za-z0-9_./:=,@+-]+")
"""What no shell, no template and not Kubernetes' own `$(NAME)` makes anything of."""
CLUSTER = Kubernetes.model_validate({"namespace": "sluice", "images": {"cpu": "example.org/job:1"}, "queue": "jobs"})

TEXT = st.one_of(
    st.text(max_size=300),
    st.sampled_from(
        [
            "手动运行",
            "🚀",
            "..",
            "../../etc",
            "a/b",
            "$(HOME)",
            "{{ 1 + 1 }}",
            "; rm -rf /",
            "--spec",
            "",
            "-",
            ".",
            "x" * 300,
            "a\nb",
            "\x00",
        ]
    ),
)
USE_CASES = st.from_regex(r"[a-z]([a-z0-9_]{0,38}[a-z0-9])?", fullmatch=True)  # that of UseCase.name
STAGE = st.sampled_from([(pipeline, stage) for pipeline, stages in STAGES.items() for stage in stages])


@st.composite
def specs(draw: st.DrawFn) -> JobSpec:
    pipeline, stage = draw(STAGE)
    return JobSpec(
        stage=stage,
        pipeline=pipeline,
        use_case=draw(USE_CASES),
        partition_key=draw(TEXT),
        run_id=draw(TEXT),
        profile="cluster",
        store="s3://sluice/store",
        shard=draw(st.none() | st.integers(0, 9999)),
        shards=10_000,
        workers=draw(st.integers(1, 8)),
        params={"reason": draw(TEXT)},
        launch="launch-00000000",
    )


def pod_of(
    spec: JobSpec, *, run_id: str | None = None, dag_id: str = "shop__data", task_id: str = "t", rank: int | None = None
) -> dict[str, Any]:
    """The pod of a try, with the labels that Airflow's operator gives."""
    ti = TaskInstance(task_id, -1 if spec.shard is None else spec.shard, 3)
    ti.dag_id = dag_id
    labels = PodJobOperator._get_ti_pod_labels({"ti": ti, "run_id": spec.run_id if run_id is None else run_id, "dag": None})
    gang = None if rank is None else gang_of(spec, CLUSTER, node=rank, nodes=(2, 4))
    return stage_pod(spec, CLUSTER, name=name_of(spec.use_case, spec.stage), labels=labels, has_secret=False, gang=gang)


@given(st.lists(st.one_of(TEXT, st.integers()), max_size=5))
def test_any_text_gives_a_name_that_nothing_else_has(parts: list[object]) -> None:
    first, second = name_of(*parts), name_of(*parts)
    assert DNS_LABEL.fullmatch(first)
    assert first != second
    assert first[:-8] == second[:-8]


@given(st.lists(TEXT, min_size=2, max_size=8, unique=True))
def test_any_text_gives_a_label_and_two_texts_give_two(texts: list[str]) -> None:
    labels = [label_of(text) for text in texts]
    assert all(LABEL_VALUE.fullmatch(label) for label in labels)
    assert len(set(labels)) == len(labels)


@settings(max_examples=60)
@given(specs(), TEXT, TEXT, st.none() | st.integers(0, 3))
def test_every_label_of_a_pod_is_valid_whatever_users_write(spec: JobSpec, dag_id: str, task_id: str, rank: int | None) -> None:
    pod = pod_of(spec, dag_id=dag_id, task_id=task_id, rank=rank)
    labels = pod["metadata"]["labels"]
    assert all(LABEL_VALUE.fullmatch(value) for value in labels.values())
    assert {"use_case", "stage", "job", "rank", "dag_id", "task_id", "run_id", "try_number", "kueue.x-k8s.io/queue-name"} <= labels.keys()
    selected = dict(part.split("=") for part in selector_of(spec, rank or 0).split(","))
    assert selected.items() <= labels.items()


@settings(max_examples=60)
@given(specs(), st.none() | st.integers(0, 3))
def test_what_users_write_reaches_neither_command_nor_environment_nor_folder(spec: JobSpec, rank: int | None) -> None:
    pod = pod_of(spec, rank=rank)
    [container] = pod["spec"]["containers"]
    own = [part for part in container["command"] if "$(POD_IP)" in part]
    assert all(PLAIN.fullmatch(part) for part in container["command"] if part not in own)
    assert len(own) == (0 if rank is None else 1 if rank else 2)
    # As long as the stage is the same, the environment is: nothing of a run stands in it.
    plain = spec.model_copy(update={"run_id": "r", "partition_key": "p", "params": {}})
    assert container["env"] == pod_of(plain, rank=rank)["spec"]["containers"][0]["env"]
    folder, plain_folder = PurePosixPath(spec.stage_dir.removeprefix("s3://")), PurePosixPath(plain.stage_dir.removeprefix("s3://"))
    assert ".." not in folder.parts
    assert len(folder.parts) == len(plain_folder.parts)
    assert [part for part in folder.parts if len(part) > 200] == []


@given(specs(), specs())
def test_two_pieces_of_work_have_two_names_and_the_tries_of_one_have_one(one: JobSpec, other: JobSpec) -> None:
    def work(spec: JobSpec) -> tuple[object, ...]:
        return spec.use_case, spec.pipeline, spec.run_id, spec.stage, spec.shard

    assert (service_name(one) == service_name(other)) == (work(one) == work(other))
    assert service_name(one) == service_name(one.model_copy(update={"launch": "another", "params": {}, "partition_key": ""}))
    assert DNS_LABEL.fullmatch(service_name(one))
    labels = service(one, CLUSTER)["metadata"]["labels"].values()
    assert all(LABEL_VALUE.fullmatch(value) for value in labels)


def test_a_label_is_readable_where_it_can_be() -> None:
    assert label_of("manual__2026-01-02") == "manual__2026-01-02"
    assert label_of("scheduled__2026-01-02T00:00:00+00:00").startswith("scheduled__2026-01-02T0000000000-")
    assert DNS_LABEL.fullmatch(label_of("手动运行"))


@pytest.mark.parametrize(("nodes", "node", "group"), [((1, 1), 0, True), ((2, 3), 1, True), ((2, 3), 2, False)])
def test_who_is_admitted_together(nodes: tuple[int, int], node: int, group: bool) -> None:
    spec = JobSpec(
        stage="train", pipeline=Pipeline.TRAINING, use_case="shop", partition_key="p", run_id="r", store="s3://b/p", launch="l-0"
    )
    gang = gang_of(spec, CLUSTER, node=node, nodes=nodes)
    metadata = stage_pod(spec, CLUSTER, name="p", labels={}, has_secret=False, gang=gang)["metadata"]
    assert metadata["labels"].get("kueue.x-k8s.io/pod-group-name") == ("l-0" if group else None)
    assert metadata.get("annotations") == ({"kueue.x-k8s.io/pod-group-total-count": str(nodes[0])} if group else None)


def test_a_connection_of_airflows_counts_before_one_that_every_pod_gets() -> None:
    """Of two Secrets with the same key Kubernetes takes the last."""
    spec = JobSpec(stage="ingest", pipeline=Pipeline.DATA, use_case="shop", partition_key="p", run_id="r", store="s3://b/p")
    cluster = CLUSTER.model_copy(update={"secrets": ["mlflow"]})
    sources = {}
    for has_secret in (True, False):
        [container] = stage_pod(spec, cluster, name="own", labels={}, has_secret=has_secret)["spec"]["containers"]
        sources[has_secret] = [source["secretRef"]["name"] for source in container["envFrom"]]
    assert sources == {True: ["mlflow", "own"], False: ["mlflow"]}


def test_what_is_reserved_is_divided_among_the_processes() -> None:
    spec = JobSpec(stage="train", pipeline=Pipeline.TRAINING, use_case="shop", partition_key="p", run_id="r", store="s3://b/p", workers=3)
    cluster = CLUSTER.model_copy(update={"resources": {"default": CLUSTER.of("train").model_copy(update={"cpu": "7", "memory": "6Gi"})}})
    [container] = stage_pod(spec, cluster, name="p", labels={}, has_secret=False)["spec"]["containers"]
    env = {entry["name"]: entry["value"] for entry in container["env"]}
    assert json.loads(env["SLUICE_REQUESTS"]) == {"cpus": 2.3333, "memory_gib": 2.0}
    assert env["OMP_NUM_THREADS"] == "2"
    assert container["resources"]["requests"] | {"cpu": "7"} == container["resources"]["requests"]
    assert "cpu" not in container["resources"]["limits"]
