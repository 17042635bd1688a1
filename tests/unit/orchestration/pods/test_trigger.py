"""Who watches a pod sees its end, whatever becomes of the pod, the API server, the log and the credentials."""

import asyncio
import time
from datetime import timedelta
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from pipelines_lib.orchestration.pods.trigger import PodTrigger
from tests.kube_api.server import container_status
from tests.unit.orchestration.pods.conftest import Launch


def failure(launch: Launch, play: Any, **kwargs: Any) -> str:
    """The message with which a try fails that is tried again."""
    with pytest.raises(AirflowException) as raised:
        launch.run(play, launch.task(**kwargs))
    assert not isinstance(raised.value, AirflowFailException)
    return str(raised.value)


def log_of(capfd: pytest.CaptureFixture[str]) -> str:
    return capfd.readouterr().out


def test_an_api_server_that_is_away_for_a_while_is_waited_for(launch: Launch) -> None:
    def play(name: str) -> None:
        launch.api.run(name)
        launch.api.down = True
        launch.leave_result(name)
        launch.api.end(name)
        time.sleep(0.5)
        launch.api.down = False

    assert launch.run(play)["n_rows"] == 5


def test_an_api_server_that_stays_away_fails_the_task_and_a_retry_removes_the_pod(launch: Launch) -> None:
    def play(name: str) -> None:
        launch.api.run(name)
        launch.api.down = True

    event = launch.event(play)
    assert event["removed"] is False
    task = launch.task()
    with pytest.raises(AirflowException, match=r"Unreachable: for 1 s the triggerer was answered: Server"):
        task.trigger_reentry(launch.context(task), event)
    launch.api.down = False
    [left] = launch.api.all("pods")
    launch.run(launch.done)
    assert left["metadata"]["name"] != launch.api.requests[-1].path.rsplit("/", 1)[-1]


@pytest.mark.parametrize("code", [500, 503, 410, None])
def test_an_answer_that_says_nothing_of_the_pod_is_asked_for_again(launch: Launch, code: int | None) -> None:
    def play(name: str) -> None:
        launch.api.run(name)
        launch.api.fail("GET", f"/pods/{name}$", code, times=3)
        time.sleep(0.3)
        launch.done(name)

    assert launch.run(play)["n_rows"] == 5


def test_an_api_server_that_is_overrun_is_asked_when_it_says(launch: Launch) -> None:
    moments = []

    def play(name: str) -> None:
        launch.api.run(name)
        launch.api.fail("GET", f"/pods/{name}$", 429, headers={"Retry-After": "1"})
        launch.until_answered(f"/pods/{name}", 429)
        moments.append(len(launch.api.requests))
        time.sleep(0.7)
        moments.append(len(launch.api.requests))
        launch.done(name)

    launch.run(play)
    assert moments[0] == moments[1]


def test_a_token_that_runs_out_is_read_anew(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PodTrigger, "PATIENCE_SECONDS", 60.0)
    launch.api.tokens = {"first"}
    launch.token("first")

    def play(name: str) -> None:
        launch.api.run(name)
        launch.api.tokens = {"second"}
        time.sleep(0.2)
        launch.token("second")
        launch.done(name)

    assert launch.run(play)["n_rows"] == 5


def test_credentials_are_renewed_before_they_run_out(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PodTrigger, "CREDENTIAL_SECONDS", 0.1)
    launch.token("first")

    def play(name: str) -> None:
        launch.api.run(name)
        launch.token("second")
        time.sleep(0.5)
        launch.done(name)

    launch.run(play)
    assert {request.token for request in launch.api.requests} == {"first", "second"}
    assert {request.code for request in launch.api.requests} <= {200, 201}


@pytest.mark.parametrize(("tokens", "forbidden", "name", "for_good"), [
    ({"another"}, set(), "Unauthorized", False),
    (None, {("get", "pods")}, "Forbidden", True),
])  # fmt: skip
def test_rights_that_do_not_come_back_are_named(
    launch: Launch, tokens: set[str] | None, forbidden: set[tuple[str, str]], name: str, for_good: bool
) -> None:
    def play(pod: str) -> None:
        launch.api.run(pod)
        launch.api.tokens, launch.api.forbidden = tokens, forbidden

    event = launch.event(play)
    launch.api.tokens, launch.api.forbidden = None, set()
    task = launch.task()
    with pytest.raises(AirflowException, match=f"ingest: {name}: for .* s the triggerer was answered: 40[13]") as raised:
        task.trigger_reentry(launch.context(task), event)
    assert isinstance(raised.value, AirflowFailException) == for_good


def test_rights_that_come_back_in_time_are_enough(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """An API server that has just started forbids everything to everybody."""
    monkeypatch.setattr(PodTrigger, "REFUSAL_SECONDS", 60.0)

    def play(name: str) -> None:
        launch.api.run(name)
        launch.api.forbidden.add(("get", "pods"))
        time.sleep(0.15)
        launch.api.forbidden.clear()
        launch.done(name)

    assert launch.run(play)["n_rows"] == 5


def test_the_log_comes_once_and_in_order(launch: Launch, capfd: pytest.CaptureFixture[str]) -> None:
    def play(name: str) -> None:
        launch.api.run(name)
        for n in range(20):
            launch.api.say(name, f"line <{n}>")
            time.sleep(0.02)
        launch.api.logs[name].append((launch.api.logs[name][-1][0] + timedelta(milliseconds=1), b"\xff\xfe no text <20>"))
        launch.done(name)

    launch.run(play)
    numbers = [int(line.split("<")[1].split(">")[0]) for line in log_of(capfd).splitlines() if "<" in line]
    assert numbers == list(range(21))


def test_a_log_larger_than_a_read_comes_whole(launch: Launch, capfd: pytest.CaptureFixture[str]) -> None:
    def play(name: str) -> None:
        launch.api.run(name)
        launch.api.say(name, *(f"<{n}>" + "x" * 1000 for n in range(3000)), "y" * 1_000_000, "the end")
        launch.api.end(name, code=1)

    message = failure(launch, play)
    lines = log_of(capfd).splitlines()
    assert sum("<" in line for line in lines) == 3000
    assert max(map(len, lines)) < 300_000
    assert message.endswith("\n    the end")


def test_a_log_that_stops_leaves_the_pod_to_be_watched(launch: Launch, capfd: pytest.CaptureFixture[str]) -> None:
    def play(name: str) -> None:
        launch.api.run(name)
        launch.api.say(name, "before")
        launch.until_answered("/log", 200, launch.answered("/log", 200) + 2)  # the first may have begun before
        launch.api.fail("GET", "/log$", None, times=3)
        launch.api.fail("GET", "/log$", 500, times=3)
        launch.until_answered("/log", 500, 3)
        launch.api.say(name, "after")
        launch.done(name)

    assert launch.run(play)["n_rows"] == 5
    log = log_of(capfd)
    assert log.index("before") < log.index("can't be read now") < log.index("after")


def test_a_log_that_hangs_does_not_keep_the_end_from_being_seen(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PodTrigger, "REQUEST_SECONDS", 0.2)

    def play(name: str) -> None:
        launch.api.fail("GET", "/log$", None, times=float("inf"), seconds=1)
        launch.done(name)

    assert launch.run(play)["n_rows"] == 5


def test_a_triggerer_that_starts_anew_goes_on(launch: Launch) -> None:
    trigger = launch.start(launch.task())
    launch.api.run(trigger.pod_name)

    async def interrupted() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(trigger.run()), 0.2)

    asyncio.run(interrupted())
    assert launch.api.get("pods", trigger.pod_name) is not None
    launch.done(trigger.pod_name)
    event = launch.wait(PodTrigger(**trigger.serialize()[1]))
    task = launch.task()
    assert task.trigger_reentry(launch.context(task), event)["n_rows"] == 5


@pytest.mark.parametrize("away", [False, True], ids=["", "the API server is away"])
def test_a_deferred_task_that_a_person_ends_leaves_nothing(launch: Launch, away: bool) -> None:
    trigger = launch.start(launch.task())
    launch.api.run(trigger.pod_name)
    launch.api.down = away
    if away:
        launch.later(0.2, lambda: setattr(launch.api, "down", False))
    asyncio.run(trigger.on_kill())
    assert launch.api.all("pods") == launch.api.all("secrets") == []


def test_an_end_that_was_seen_stays_when_the_answer_to_the_removal_is_lost(launch: Launch) -> None:
    def play(name: str) -> None:
        launch.api.fail("DELETE", "/pods/", 500, done=True)
        launch.api.run(name)
        launch.api.end(name, code=137, reason="OOMKilled")

    assert "OOMKilled: it used more memory than its limit of 4Gi" in failure(launch, play)


@pytest.mark.parametrize("runs", [False, True], ids=["waits", "runs"])
def test_a_task_whose_time_is_over_ends_its_pod(launch: Launch, runs: bool) -> None:
    seconds = []

    def play(name: str) -> None:
        seconds.append(launch.api.get("pods", name)["spec"]["activeDeadlineSeconds"])
        if runs:
            launch.api.run(name)

    said = failure(launch, play, execution_timeout=timedelta(seconds=1))
    assert "DeadlineExceeded" in said
    assert seconds == [1]


def test_a_pod_that_waits_too_long_is_given_up(launch: Launch) -> None:
    launch.settings(startup_timeout="1s")

    def play(name: str) -> None:
        message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
        launch.api.set_status(name, conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}])

    assert "Unschedulable: no node took it after 1 s: 0/3 nodes are available: 3 Insufficient" in failure(launch, play)


def test_the_time_in_a_queue_does_not_count(launch: Launch) -> None:
    launch.settings(startup_timeout="1s", queue="jobs")

    def play(name: str) -> None:
        assert launch.api.get("pods", name)["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "jobs"
        launch.api.set_status(name, conditions=[{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}])
        time.sleep(1.5)
        launch.done(name)

    assert launch.run(play)["n_rows"] == 5


def test_an_image_that_is_not_there_fails_at_once_and_for_good(launch: Launch) -> None:
    def play(name: str) -> None:
        launch.api.bind(name)
        message = 'Back-off pulling image "example.org/job:1": manifest unknown'
        launch.api.set_status(name, containerStatuses=[container_status(waiting={"reason": "ImagePullBackOff", "message": message})])

    with pytest.raises(AirflowFailException, match=r"ImageNotFound: ImagePullBackOff: .*manifest unknown. What to do: correct `images`"):
        launch.run(play)


def test_an_init_container_that_failed_is_named_with_its_last_lines(launch: Launch) -> None:
    def play(name: str) -> None:
        launch.api.bind(name)
        failed = container_status("fetch", terminated={"exitCode": 1, "reason": "Error", "message": "no route to host"})
        waits = container_status(waiting={"reason": "PodInitializing"})
        launch.api.set_status(name, phase="Failed", initContainerStatuses=[failed], containerStatuses=[waits])

    message = failure(launch, play)
    assert message.startswith("ingest: InitError: fetch ended with exit code 1 (Error). What to do: ")
    assert message.endswith("\nthe last lines of its log:\n    no route to host")


def test_an_error_shows_the_last_lines_and_the_events(launch: Launch) -> None:
    def play(name: str) -> None:
        launch.api.run(name)
        launch.api.say(name, *(f"line {n}" for n in range(30)))
        event = {"type": "Warning", "reason": "Evicted", "message": "low on memory", "count": 2, "involvedObject": {"name": name}}
        launch.api.put("events", {"apiVersion": "v1", "kind": "Event", "metadata": {"name": f"{name}.1"}, **event})
        launch.api.put(
            "events", {"apiVersion": "v1", "kind": "Event", "metadata": {"name": "other.1"}, "involvedObject": {"name": "other"}}
        )
        condition = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting"}
        launch.api.end(name, code=143, conditions=[condition])

    message = failure(launch, play)
    assert message.startswith("ingest: Evicted: Eviction API: evicting. What to do: ")
    assert message.endswith("    line 29\nevents of its pod:\n    Warning Evicted: low on memory (×2)")
    assert "line 15\n" in message
    assert "line 14\n" not in message


def test_events_and_log_that_may_not_be_read_are_no_failure(launch: Launch) -> None:
    launch.api.forbidden |= {("get", "pods/log"), ("list", "events")}

    def play(name: str) -> None:
        launch.api.run(name)
        launch.api.end(name, code=1)

    assert "(they can't be read: 403" in failure(launch, play)
