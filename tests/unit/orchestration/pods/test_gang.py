"""A training on several machines: where they meet, what each of them is told, and what becomes of one that is lost or never comes."""

from typing import Any

import kubernetes_validate
import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from pipelines_lib import failures
from pipelines_lib.contracts import Pipeline
from pipelines_lib.failures import Failure
from pipelines_lib.orchestration.pods.operator import PodJobOperator
from pipelines_lib.orchestration.pods.rendezvous import SetUpOperator, TearDownOperator
from pipelines_lib.store import write_json
from tests.unit.orchestration.pods.conftest import Launch

COMMON = {"use_case_name": "shop", "pipeline": str(Pipeline.DATA), "stage": "train"}


def rank(launch: Launch, node: int, nodes: tuple[int, int] = (2, 2)) -> PodJobOperator:
    return launch.task("train", node=node, nodes=nodes)


def set_up(launch: Launch) -> str:
    task = SetUpOperator(task_id="train_setup", **COMMON)
    name = task.execute(launch.context(task))
    assert isinstance(name, str)
    launch.left["train_setup"] = name
    return name


def tear_down(launch: Launch) -> None:
    task = TearDownOperator(task_id="train_teardown", **COMMON)
    task.execute(launch.context(task))
    assert launch.api.all("services") == []


def leave(launch: Launch, name: str, **changes: Any) -> None:
    launch.leave_result(name, stage="train", **changes)


def again(launch: Launch, task: PodJobOperator, event: dict[str, Any]) -> dict[str, Any]:
    fresh = rank(launch, task.node or 0, task.nodes)
    return fresh.trigger_reentry(launch.context(fresh), event)


def test_machines_meet_and_each_has_the_result(launch: Launch) -> None:
    name = set_up(launch)
    tasks = [rank(launch, node) for node in range(2)]
    triggers = [launch.start(task) for task in tasks]
    [service] = launch.api.all("services")
    pods = [launch.api.get("pods", trigger.pod_name) for trigger in triggers]
    kubernetes_validate.validate(
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": service["metadata"]["name"]}, "spec": service["spec"]},
        "1.32",
        strict=True,
    )
    assert service["spec"]["selector"].items() <= pods[0]["metadata"]["labels"].items()
    assert not service["spec"]["selector"].items() <= pods[1]["metadata"]["labels"].items()
    commands = [pod["spec"]["containers"][0]["command"] for pod in pods]
    for node, command in enumerate(commands):
        assert {"--nnodes=2:2", f"--rdzv-id={name}", "--local-addr=$(POD_IP)"} <= set(command)
        assert f"is_host={int(node == 0)}" in next(part for part in command if part.startswith("--rdzv-conf"))
        assert pods[node]["spec"]["containers"][0]["env"][0]["name"] == "POD_IP", "what a command names must come before it"
    assert "--rdzv-endpoint=$(POD_IP):29400" in commands[0]
    assert f"--rdzv-endpoint={service['metadata']['name']}.sluice.svc:29400" in commands[1]

    for trigger in triggers:
        launch.api.run(trigger.pod_name)
    leave(launch, name)
    for trigger in triggers:
        launch.api.end(trigger.pod_name)
    assert [again(launch, task, launch.wait(trigger)) for task, trigger in zip(tasks, triggers, strict=True)] == [
        {"reason": "fine", "n_rows": 5}
    ] * 2
    tear_down(launch)


def test_a_machine_that_is_lost_is_tried_again_and_the_others_stay(launch: Launch) -> None:
    name = set_up(launch)
    tasks = [rank(launch, node) for node in range(2)]
    first, lost = (launch.start(task) for task in tasks)
    launch.api.run(first.pod_name)
    launch.api.run(lost.pod_name)
    failures.leave(launch.stage_folder(name), Failure(rank=0, host="a", moment=1.0, kind="error", type="E", message="of another machine"))
    launch.api.vanish(lost.pod_name)
    with pytest.raises(AirflowException, match="Deleted: the pod is gone") as raised:
        again(launch, tasks[1], launch.wait(lost))
    assert not isinstance(raised.value, AirflowFailException)

    second = launch.start(rank(launch, 1))
    assert {pod["metadata"]["name"] for pod in launch.api.all("pods")} == {first.pod_name, second.pod_name}
    assert failures.left(launch.stage_folder(name)), "what other machines have left stays"
    tear_down(launch)
    assert launch.api.all("pods") == []


def test_a_machine_that_never_comes_is_done_without_where_enough_are_there(launch: Launch) -> None:
    launch.settings(join_timeout="1s", startup_timeout="1min")
    set_up(launch)
    needed, surplus = rank(launch, 0, (1, 2)), rank(launch, 1, (1, 2))
    running, waiting = launch.start(needed), launch.start(surplus)
    launch.api.run(running.pod_name)
    assert waiting.startup_seconds < running.startup_seconds
    returned = again(launch, surplus, launch.wait(waiting))
    assert returned["reason"].startswith("the training goes on without this machine: no node took it after 1 s")
    assert [pod["metadata"]["name"] for pod in launch.api.all("pods")] == [running.pod_name]
    tear_down(launch)


def test_a_quota_without_room_for_a_surplus_machine_is_no_failure(launch: Launch) -> None:
    launch.settings(join_timeout="1s", startup_timeout="1min")
    set_up(launch)
    launch.start(rank(launch, 0, (1, 2)))
    launch.api.max_pods = 1
    surplus = rank(launch, 1, (1, 2))
    returned = surplus.execute(launch.context(surplus))
    assert returned is not None
    assert "exceeded quota" in returned["reason"]
    tear_down(launch)


def test_a_machine_that_is_needed_and_never_comes_is_tried_again(launch: Launch) -> None:
    launch.settings(startup_timeout="1s")
    set_up(launch)
    task = rank(launch, 1)
    with pytest.raises(AirflowException, match="Unschedulable") as raised:
        again(launch, task, launch.wait(launch.start(task)))
    assert not isinstance(raised.value, AirflowFailException)
    tear_down(launch)


def test_a_set_up_that_is_done_again_begins_a_new_training(launch: Launch) -> None:
    before = set_up(launch)
    task = rank(launch, 0)
    left = launch.start(task)
    launch.api.run(left.pod_name)
    leave(launch, before)
    folder = launch.stage_folder(before)
    after = set_up(launch)
    assert before != after
    assert before.rpartition("-")[0] == after.rpartition("-")[0]
    assert len(launch.api.all("services")) == 1
    assert not (folder / "result.json").exists()
    event = launch.wait(left)
    with pytest.raises(AirflowException):
        again(launch, task, event)
    tear_down(launch)


def test_a_result_of_an_earlier_training_is_not_taken(launch: Launch) -> None:
    name = set_up(launch)
    task = rank(launch, 1)
    trigger = launch.start(task)
    launch.api.run(trigger.pod_name)
    write_json(launch.stage_folder(name) / "result.json", {"stage": "train", "reason": "old", "launch": "another"})
    launch.api.end(trigger.pod_name)
    with pytest.raises(AirflowException, match="left no result"):
        again(launch, task, launch.wait(trigger))
    tear_down(launch)


def test_a_rank_without_a_set_up_says_what_to_do(launch: Launch) -> None:
    task = rank(launch, 0)
    with pytest.raises(AirflowFailException, match="clear it, with what follows it"):
        task.execute(launch.context(task))


def test_kueue_admits_the_machines_that_are_needed_together(launch: Launch) -> None:
    launch.settings(queue="gpus")
    name = set_up(launch)
    pods = [launch.api.get("pods", launch.start(rank(launch, node, (2, 3))).pod_name) for node in range(3)]
    assert [pod["metadata"]["labels"].get("kueue.x-k8s.io/pod-group-name") for pod in pods] == [name, name, None]
    assert [(pod["metadata"].get("annotations") or {}).get("kueue.x-k8s.io/pod-group-total-count") for pod in pods] == ["2", "2", None]
    assert {pod["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] for pod in pods} == {"gpus"}
    tear_down(launch)


def test_what_is_gone_already_is_no_reason_to_fail(launch: Launch) -> None:
    set_up(launch)
    tear_down(launch)
    tear_down(launch)


@pytest.mark.parametrize("operator", [SetUpOperator, TearDownOperator])
def test_a_right_that_is_missing_is_named(launch: Launch, operator: Any) -> None:
    launch.api.forbidden |= {("create", "services"), ("delete", "services")}
    task = operator(task_id="train_setup", **COMMON)
    with pytest.raises(AirflowFailException, match="Forbidden"):
        task.execute(launch.context(task))
