"""The training as a TrainJob: what is made, how its end is judged, and what is left. The test plays Kubeflow Trainer, which never ran here."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import tenacity
import yaml
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred

from pipelines_lib.contracts import Pipeline
from pipelines_lib.orchestration.operators import run_job, run_train
from pipelines_lib.orchestration.pods.operator import PodJobOperator
from pipelines_lib.orchestration.pods.trainjob import GROUP, TrainJobOperator, TrainJobTrigger
from pipelines_lib.pods.rights import TRAINER
from pipelines_lib.use_case import UseCase
from tests.kube_api.server import container_status
from tests.unit.orchestration.pods.conftest import CANARY, Launch

ROOT = Path(__file__).parents[4]


class Kubeflow:
    """A TrainJob and its task; what Kubeflow Trainer and JobSet do with it."""

    def __init__(self, launch: Launch) -> None:
        self.launch, self.api = launch, launch.api
        self.name = ""

    def task(self, n_nodes: int = 2, stage: str = "train") -> TrainJobOperator:
        task = TrainJobOperator(task_id=stage, use_case_name="shop", pipeline=str(Pipeline.DATA), stage=stage, n_nodes=n_nodes, workers=2)
        self.launch.tasks.append(task)
        return task

    def start(self, task: TrainJobOperator) -> TrainJobTrigger:
        """Execute the task until it is deferred; returns the trigger, made anew from the database."""
        with pytest.raises(TaskDeferred) as deferred:
            task.execute(self.launch.context(task))
        path, kwargs = deferred.value.trigger.serialize()
        assert path.endswith(".trainjob.TrainJobTrigger")
        self.name = kwargs["pod_name"]
        return TrainJobTrigger(**json.loads(json.dumps(kwargs)))

    def pods(self) -> list[str]:
        """Make the pods that its runtime describes; returns their names."""
        job, runtime = self.object("trainjobs"), self.object("trainingruntimes")
        [replicated] = runtime["spec"]["template"]["spec"]["replicatedJobs"]
        template = replicated["template"]["spec"]["template"]
        owner = {"apiVersion": job["apiVersion"], "kind": "TrainJob", "name": self.name, "uid": job["metadata"]["uid"]}
        names = [f"{self.name}-node-0-{rank}-abcde" for rank in range(job["spec"]["trainer"]["numNodes"])]
        for rank, name in enumerate(names):
            labels = template["metadata"]["labels"] | {"batch.kubernetes.io/job-completion-index": str(rank)}
            metadata = {
                "name": name,
                "labels": labels,
                "ownerReferences": [owner],
                "uid": name,
                "creationTimestamp": "2026-01-02T00:00:00Z",
            }
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"], "status": {"phase": "Pending"}}
            self.api.put("pods", pod)
        return names

    def run(self, pod: str) -> None:
        self.api.bind(pod)
        self.api.set_status(pod, phase="Running", containerStatuses=[container_status("node", running={})])

    def end(self, pod: str, code: int, seconds: float = 0, reason: str = "Error") -> None:
        when = (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
        terminated = {"exitCode": code, "reason": reason, "finishedAt": when}
        status = [container_status("node", terminated=terminated)]
        self.api.set_status(pod, phase="Failed" if code else "Succeeded", containerStatuses=status)

    def say(self, kind: str, reason: str = "AllJobsCompleted", message: str = "jobset says so") -> None:
        """Set a condition of the TrainJob."""
        condition = {"type": kind, "status": "True", "reason": reason, "message": message}
        self.api.put("trainjobs", self.object("trainjobs") | {"status": {"conditions": [condition]}}, group=GROUP)

    def object(self, plural: str) -> dict[str, Any]:
        found = self.api.get(plural, self.name, group=GROUP)
        assert found is not None
        return found

    def left(self) -> list[str]:
        return [each["metadata"]["name"] for plural in ("trainjobs", "trainingruntimes") for each in self.api.all(plural, GROUP)]

    def outcome(self, trigger: TrainJobTrigger) -> dict[str, Any]:
        """What the task does with the end of its TrainJob, which is gone by then."""
        event = self.launch.wait(trigger)
        assert event["removed"]
        assert self.left() == []
        again = self.task()
        return again.trigger_reentry(self.launch.context(again), event)


@pytest.fixture
def kubeflow(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kubeflow]:
    for method in ("_left", "_create", "_remove"):
        monkeypatch.setattr(getattr(TrainJobOperator, method).retry, "wait", tenacity.wait_none())
    yield Kubeflow(launch)
    assert [each for plural in ("trainjobs", "trainingruntimes") for each in launch.api.all(plural, GROUP)] == []


def test_a_train_job_trains_and_its_task_has_the_result(kubeflow: Kubeflow) -> None:
    trigger = kubeflow.start(kubeflow.task())
    for pod in kubeflow.pods():
        kubeflow.run(pod)
        kubeflow.end(pod, 0)
    kubeflow.launch.leave_result(kubeflow.name, stage="train")
    kubeflow.say("Complete")
    assert kubeflow.outcome(trigger) == {"reason": "fine", "n_rows": 5}


def test_a_command_leaves_rank_and_address_to_kubeflow(kubeflow: Kubeflow) -> None:
    kubeflow.start(kubeflow.task())
    [job] = kubeflow.object("trainingruntimes")["spec"]["template"]["spec"]["replicatedJobs"]
    [container] = job["template"]["spec"]["template"]["spec"]["containers"]
    assert {"--nnodes=2:2", "--nproc-per-node=2", "--local-addr=$(POD_IP)"} <= set(container["command"])
    assert not [part for part in container["command"] if part.startswith("--rdzv-endpoint") or "is_host" in part]
    kubeflow.start(kubeflow.task())  # removes what the first has left
    assert len(kubeflow.left()) == 2
    kubeflow.launch.tasks[-1].on_kill()


@pytest.mark.parametrize(("code", "reason", "raised", "message"), [
    (1, "Error", AirflowException, "train ended with exit code 1; a retry resumes it"),
    (2, "Error", AirflowFailException, "train: bad input, so it is not tried again"),
    (137, "OOMKilled", AirflowException, "train: OOMKilled: pod {pod}: it used more memory than its limit"),
])  # fmt: skip
def test_the_first_pod_that_failed_says_how_it_ended(
    kubeflow: Kubeflow, code: int, reason: str, raised: type[Exception], message: str
) -> None:
    trigger = kubeflow.start(kubeflow.task())
    first, second = kubeflow.pods()
    kubeflow.run(first)
    kubeflow.run(second)
    kubeflow.api.say(first, "of the rank that was ended")
    kubeflow.api.say(second, "of the rank that failed")
    kubeflow.end(second, code, reason=reason)
    kubeflow.end(first, 143, seconds=5)
    kubeflow.say("Failed", "FailedJobs", "jobset failed due to one or more job failures")
    with pytest.raises(raised) as failed:
        kubeflow.outcome(trigger)
    assert type(failed.value) is raised
    assert str(failed.value).startswith(message.format(pod=second))
    assert f"(pod {second})\n    of the rank that failed" in str(failed.value)


@pytest.mark.parametrize(("play", "message"), [
    (lambda k: k.say("Failed", "JobsBuildFailed", "no such runtime"), "TrainJobFailed: JobsBuildFailed: no such runtime"),
    (lambda k: k.api.vanish(k.name, "trainjobs", group=GROUP), "Deleted: the TrainJob is gone"),
    (lambda k: None, "TrainJobFailed: no pod of it was there after 1 s"),
    (lambda k: k.pods(), "Unschedulable: no node took it after 1 s"),
])  # fmt: skip
def test_a_train_job_that_ends_without_a_pods_word_is_tried_again(
    kubeflow: Kubeflow, play: Callable[[Kubeflow], object], message: str
) -> None:
    kubeflow.launch.settings(startup_timeout="1s")
    trigger = kubeflow.start(kubeflow.task())
    play(kubeflow)
    with pytest.raises(AirflowException, match=message) as failed:
        kubeflow.outcome(trigger)
    assert not isinstance(failed.value, AirflowFailException)


def test_time_in_a_queue_does_not_count(kubeflow: Kubeflow) -> None:
    kubeflow.launch.settings(startup_timeout="1s", queue="gpus")
    trigger = kubeflow.start(kubeflow.task())
    assert kubeflow.object("trainjobs")["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    kubeflow.say("Suspended")
    kubeflow.launch.later(2, lambda: kubeflow.say("Failed", "Refused", "by the queue"))
    with pytest.raises(AirflowException, match="by the queue"):
        kubeflow.outcome(trigger)


def test_secrets_go_with_the_train_job(kubeflow: Kubeflow) -> None:
    task = kubeflow.task(1, "ingest")
    kubeflow.start(task)
    [secret] = kubeflow.api.all("secrets")
    assert [(owner["kind"], owner["uid"]) for owner in secret["metadata"]["ownerReferences"]] == [
        ("TrainJob", kubeflow.object("trainjobs")["metadata"]["uid"])
    ]
    assert CANARY not in str(kubeflow.object("trainjobs")) + str(kubeflow.object("trainingruntimes"))
    task.on_kill()


def test_the_training_alone_is_a_train_job(make_use_case: Callable[..., UseCase], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines_lib.orchestration.operators._launcher", lambda project: "trainjob")
    use_case = make_use_case(training={"workers": 3, "nodes": "2..4"})
    with DAG("shop__training", schedule=None):
        snapshot = run_job(use_case, Pipeline.TRAINING, "snapshot")
        [train] = run_train(use_case, retries=7)
    assert type(snapshot) is PodJobOperator
    assert isinstance(train, TrainJobOperator)
    assert (train.n_nodes, train.workers, train.retries) == (2, 3, 7)


def test_what_it_does_is_what_the_component_grants(kubeflow: Kubeflow) -> None:
    kubeflow.start(kubeflow.task())
    kubeflow.start(kubeflow.task())
    kubeflow.launch.tasks[-1].on_kill()
    role, _ = yaml.safe_load_all((ROOT / "docker/cluster/components/trainjob/rights.yaml").read_text(encoding="utf-8"))
    granted = {(group, kind): tuple(rule["verbs"]) for rule in role["rules"] for group in rule["apiGroups"] for kind in rule["resources"]}
    assert granted == TRAINER
    verbs = {"POST": "create", "GET": "list", "DELETE": "delete"}
    done = {verbs[each.method] for each in kubeflow.api.requests if f"/apis/{GROUP}/" in each.path}
    assert done == {"create", "list", "delete"}


def test_without_kubeflow_it_says_what_to_do(kubeflow: Kubeflow) -> None:
    kubeflow.api.fail("GET", f"/apis/{GROUP}/", 404, times=9)
    task = kubeflow.task()
    with pytest.raises(AirflowFailException, match="install Kubeflow Trainer 2, or set `launcher: kubernetes` in profile pods"):
        task.execute(kubeflow.launch.context(task))


def test_a_right_that_is_missing_is_named(kubeflow: Kubeflow) -> None:
    kubeflow.api.forbidden.add(("create", "trainjobs"))
    task = kubeflow.task()
    with pytest.raises(AirflowFailException, match="Forbidden: 403 trainjobs is forbidden"):
        task.execute(kubeflow.launch.context(task))
