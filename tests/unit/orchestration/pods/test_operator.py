"""A stage as a pod: made once, removed whatever happens, and judged by what it left in the store."""

import logging
import re
import time
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from pipelines_lib import failures
from pipelines_lib.contracts import JobSpec
from pipelines_lib.failures import Failure
from tests.kube_api.server import container_status
from tests.unit.orchestration.pods.conftest import CANARY, Launch

POD = re.compile(r"shop-ingest-[0-9a-f]{8}")


def fails(launch: Launch, *, for_good: bool = False, **kwargs: Any) -> str:
    """The message with which a try fails to make its pod."""
    task = launch.task(**kwargs)
    with pytest.raises(AirflowException) as raised:
        task.execute(launch.context(task))
    assert isinstance(raised.value, AirflowFailException) == for_good
    return str(raised.value)


def leave_pod(launch: Launch, *, stuck: bool = False, **labels: str) -> str:
    """The pod of an earlier try, which runs on."""
    trigger = launch.start(launch.task())
    launch.api.run(trigger.pod_name)
    if stuck:
        launch.api.stuck.add(trigger.pod_name)
    return trigger.pod_name


def test_a_stage_runs_and_leaves_nothing(launch: Launch) -> None:
    pods = []

    def play(name: str) -> None:
        pods.append(launch.api.get("pods", name))
        launch.done(name)

    assert launch.run(play) == {"reason": "fine", "n_rows": 5}
    [pod] = pods
    labels = pod["metadata"]["labels"]
    expected = {"use_case": "shop", "dag_id": "shop__data", "stage": "ingest", "task_id": "ingest", "try_number": "1", "rank": "0"}
    assert expected.items() <= labels.items()
    assert labels["run_id"].startswith("scheduled__2026-01-02T")


def test_a_secret_is_in_its_secret_and_nowhere_else(
    launch: Launch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    task = launch.task()
    context = launch.context(task)
    trigger = launch.start(task, context)
    launch.done(trigger.pod_name)
    event = launch.wait(trigger)
    returned = launch.task().trigger_reentry(context, event)

    [secret] = [request.body for request in launch.api.requests if (request.method, request.path[-7:]) == ("POST", "secrets")]
    assert "SLUICE_CONN_SHOP_DB" in secret
    elsewhere = [request.path + str(request.query) + request.body for request in launch.api.requests if request.body != secret]
    written = [path.read_text(encoding="utf-8") for path in (launch.folder / "home").rglob("*") if path.is_file()]
    logs = [caplog.text, *capfd.readouterr()]
    fields = [str(getattr(task, name)) for name in task.template_fields]
    said = [*elsewhere, *written, *logs, *fields, str(trigger.serialize()), str(event), str(returned), str(context["ti"].xcoms)]
    encoded = re.search(r'"SLUICE_CONN_SHOP_DB": "([^"]{20})', secret)
    assert encoded is not None
    assert len(written) >= 2
    assert "response body" in caplog.text  # the log is of the level that would show it
    assert not [text for text in said if CANARY in text or encoded[1] in text]


def test_a_stage_without_connections_has_no_secret(launch: Launch) -> None:
    trigger = launch.start(launch.task("prepare"))
    assert launch.api.all("secrets") == []
    [container] = launch.api.get("pods", trigger.pod_name)["spec"]["containers"]
    assert not container.get("envFrom")
    launch.api.vanish(trigger.pod_name)


@pytest.mark.parametrize(("code", "message", "name", "for_good"), [
    (400, "strict decoding error: unknown field", "Refused: 400 strict decoding error", True),
    (401, "Unauthorized", "Unauthorized: 401", False),
    (403, "pods is forbidden: User", "Forbidden: 403 pods is forbidden", True),
    (404, 'namespaces "sluice" not found', "Refused: 404 namespaces", True),
    (422, "Pod is invalid", "Refused: 422 Pod is invalid", True),
    (500, "etcdserver: request timed out", "Unreachable: 500 etcdserver", False),
    (503, "apiserver is shutting down", "Unreachable: 503", False),
    (None, "", "Unreachable: ", False),
])  # fmt: skip
def test_what_the_api_server_says_is_named(launch: Launch, code: int | None, message: str, name: str, for_good: bool) -> None:
    launch.api.fail("POST", "/pods$", code, message, times=float("inf"))
    said = fails(launch, for_good=for_good)
    assert said.startswith(f"ingest: {name}")
    assert "What to do: " in said


@pytest.mark.parametrize("code", [409, 429, 500, 502, 503, None])
@pytest.mark.parametrize("done", [False, True], ids=["not done", "done"])
@pytest.mark.parametrize("what", ["pods", "secrets"])
def test_an_answer_that_is_lost_makes_no_second_pod(launch: Launch, what: str, code: int | None, done: bool) -> None:
    launch.api.fail("POST", f"/{what}$", code, times=2, done=done)
    made = []

    def play(name: str) -> None:
        made.append(name)
        launch.done(name)

    assert launch.run(play)["n_rows"] == 5
    assert len(made) == 1
    secrets = [request for request in launch.api.requests if request.path.endswith("/secrets") and request.code == 201]
    assert len(secrets) <= 1


def test_a_secret_that_cannot_be_made_leaves_no_pod(launch: Launch) -> None:
    launch.api.forbidden.add(("create", "secrets"))
    assert "Forbidden: 403 secrets is forbidden" in fails(launch, for_good=True)


def test_without_a_connection_it_says_so(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    launch.settings(connection=None)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert "no way to the cluster" in fails(launch, for_good=True)


def test_a_quota_is_waited_for(launch: Launch) -> None:
    launch.api.max_pods = 0
    launch.later(0.3, lambda: setattr(launch.api, "max_pods", 1))
    assert launch.run(launch.done)["n_rows"] == 5
    refused = [request for request in launch.api.requests if request.method == "POST" and request.code == 403]
    assert 2 <= len(refused) <= 7


def test_a_quota_is_not_waited_for_without_end(launch: Launch) -> None:
    launch.settings(startup_timeout="1s")
    launch.api.max_pods = 0
    began = time.monotonic()
    assert "QuotaExceeded: 403" in fails(launch)
    assert time.monotonic() - began > 1


def test_no_name_is_too_long_and_any_text_is_data(launch: Launch) -> None:
    launch.run_id = "manuell__Größe × 🚀 {{ var.value.x }} $(HOME) " + "x" * 200
    launch.params = {"reason": "weil 'es' \"nötig\" ist; {{ 1 + 1 }} 🚀"}
    specs = []

    def play(name: str) -> None:
        assert POD.fullmatch(name)
        pod = launch.api.get("pods", name)
        assert all(len(value) <= 63 for value in pod["metadata"]["labels"].values())
        [container] = pod["spec"]["containers"]
        specs.append(JobSpec.model_validate_json(Path(container["command"][-1]).read_text(encoding="utf-8")))
        launch.done(name)

    launch.run(play)
    [spec] = specs
    assert (spec.run_id, spec.params) == (launch.run_id, launch.params)


@pytest.mark.parametrize("status", ["done", "held"])
def test_a_result_of_another_launch_is_not_taken(launch: Launch, status: str) -> None:
    def play(name: str) -> None:
        launch.api.run(name)
        launch.leave_result(name, status=status, launch="shop-ingest-00000000")
        launch.api.end(name, code=0 if status == "done" else 3)

    with pytest.raises(AirflowException, match="left no result") as raised:
        launch.run(play)
    assert not isinstance(raised.value, AirflowFailException)


def test_a_pod_that_is_gone_before_anybody_looked_has_its_result(launch: Launch) -> None:
    def play(name: str) -> None:
        launch.done(name)
        launch.api.vanish(name)

    assert launch.run(play)["n_rows"] == 5


def test_bad_input_is_not_tried_again_even_where_the_pod_is_gone(launch: Launch) -> None:
    def play(name: str) -> None:
        launch.api.run(name)
        own = Failure(rank=0, host="a", moment=1.0, kind="error", type="ConfigError", message="no such column", exit_code=2, traceback="")
        failures.leave(launch.stage_folder(name), own)
        launch.api.vanish(name)

    with pytest.raises(AirflowFailException, match="no such column"):
        launch.run(play)


def test_a_retry_removes_what_an_earlier_try_has_left_and_adopts_nothing(launch: Launch) -> None:
    left = leave_pod(launch)
    names = []

    def play(name: str) -> None:
        names.append([pod["metadata"]["name"] for pod in launch.api.all("pods")])
        launch.done(name)

    launch.run(play)
    [[name]] = names  # the only pod at that moment
    assert name != left


def test_a_retry_waits_until_the_earlier_pod_is_gone(launch: Launch) -> None:
    launch.settings(grace="5s")
    left = leave_pod(launch, stuck=True)
    launch.later(0.3, lambda: launch.api.vanish(left))
    began = time.monotonic()
    launch.run(launch.done)
    assert time.monotonic() - began > 0.3


def test_no_second_pod_is_made_beside_one_that_does_not_end(launch: Launch) -> None:
    left = leave_pod(launch, stuck=True)
    assert f"NodeLost: {left} (node node-1), of an earlier try, does not end" in fails(launch)
    assert [pod["metadata"]["name"] for pod in launch.api.all("pods")] == [left]
    launch.api.vanish(left)


def test_the_pods_of_other_work_are_left_alone(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another run, of another shard, and of another Airflow whose ids are the same and whose store is not."""
    others = [launch.start(launch.task("validate", shards=2, shard=0)).pod_name]
    others.append(launch.start(launch.task("validate", shards=2, shard=1)).pod_name)
    monkeypatch.setenv("SLUICE_HOME", str(launch.folder / "another"))
    others.append(launch.start(launch.task("validate", shards=2, shard=1)).pod_name)
    launch.run_id = "manual__1"
    others.append(launch.start(launch.task("validate", shards=2, shard=1)).pod_name)
    assert sorted(pod["metadata"]["name"] for pod in launch.api.all("pods")) == sorted(others)
    for name in others:
        launch.api.vanish(name)


def test_pods_that_ended_long_ago_are_swept_up(launch: Launch) -> None:
    long_ago = "2026-01-01T00:00:00Z"
    names = {stage: launch.start(launch.task(stage)).pod_name for stage in ("prepare", "validate")}
    for name in names.values():
        launch.api.end(name, code=1)
    terminated = {"exitCode": 1, "finishedAt": long_ago}
    launch.api.set_status(names["prepare"], containerStatuses=[container_status(terminated=terminated)])
    seen = []

    def play(name: str) -> None:
        seen.extend(pod["metadata"]["name"] for pod in launch.api.all("pods") if pod["metadata"]["name"] != name)
        launch.done(name)

    launch.run(play)
    assert seen == [names["validate"]]
    launch.api.vanish(names["validate"])


def test_a_task_may_be_cancelled_before_its_pod_is_known(launch: Launch) -> None:
    task = launch.task()

    def kill(_: str) -> None:
        launch.later(0.05, task.on_kill)
        time.sleep(0.2)

    launch.api.on_pod = kill
    with pytest.raises(AirflowException, match="cancelled while its pod was made"):
        task.execute(launch.context(task))
    assert not any(request.path.endswith("/secrets") for request in launch.api.requests)


def test_a_cancelled_task_looks_for_a_pod_that_comes_late(launch: Launch) -> None:
    """The process may be killed right after, so that `execute` never goes on."""
    task = launch.task()
    launch.start(task)
    [late] = launch.api.all("pods")
    launch.api.vanish(late["metadata"]["name"])
    launch.later(0.1, lambda: launch.api.put("pods", late))
    task.on_kill()
    assert launch.api.all("pods") == []


def test_a_task_cancelled_after_its_pod_was_made_removes_it(launch: Launch) -> None:
    task = launch.task()
    launch.api.run(launch.start(task).pod_name)
    launch.api.fail("DELETE", "/pods/", 500, times=2)
    task.on_kill()
    assert launch.api.all("pods") == []


def test_a_task_whose_run_was_marked_failed_while_its_pod_was_made_removes_it(launch: Launch) -> None:
    """Its process would hear of it at the next heartbeat, and Airflow refuses to defer it without a word to anybody."""
    task = launch.task()
    context = launch.context(task)
    launch.api.on_pod = lambda _: setattr(context["ti"], "state", "failed")
    with pytest.raises(AirflowException, match="cancelled while its pod was made"):
        task.execute(context)
    assert launch.api.all("pods") == []


@pytest.mark.parametrize("waits_for", ["an earlier pod", "the quota"])
def test_a_task_cancelled_while_it_waits_makes_no_pod(launch: Launch, waits_for: str) -> None:
    launch.settings(grace="60s")
    left = leave_pod(launch, stuck=True) if waits_for == "an earlier pod" else None
    if waits_for == "the quota":
        launch.api.max_pods = 0
    task = launch.task()
    launch.later(0.2, task.on_kill)
    with pytest.raises(AirflowException, match="cancelled"):
        task.execute(launch.context(task))
    if left is not None:
        launch.api.vanish(left)
    assert launch.api.all("pods") == []


def test_a_pod_that_the_triggerer_could_not_remove_is_removed_by_the_worker(launch: Launch) -> None:
    launch.api.forbidden.add(("delete", "pods"))
    event = launch.event(launch.done)
    assert event["removed"] is False
    launch.api.forbidden.clear()
    task = launch.task()
    assert task.trigger_reentry(launch.context(task), event)["n_rows"] == 5


def test_a_template_that_is_wrong_fails_for_good(launch: Launch) -> None:
    (launch.folder / "include" / "pod_templates" / "cpu.yaml").write_text("kind: Pod\nspec: {containers: [{name: base, imagePolicy: x}]}\n")
    assert "spec.containers[0].imagePolicy: a pod has no such field" in fails(launch, for_good=True)
