"""How pods end: each case as the cluster writes it, told by one name, retried or not, with a remedy."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kubernetes.client
import kubernetes_asyncio.client
import pytest
import yaml

from pipelines_lib.pods.ends import CAUSES, EXITED, End, cannot_begin, ended, ended_before, event_line, gone, has_begun, is_queued, too_slow
from tests.kube_api.objects import merge

CASES = yaml.safe_load(Path(__file__).with_name("ends.yaml").read_text(encoding="utf-8"))
DOCUMENTED = Path(__file__).parents[3] / "docs" / "kubernetes.md"
NOT_OF_A_POD = {"QuotaExceeded", "TrainJobFailed", "Unreachable", "Unauthorized", "Forbidden", "Refused"}
"""What the API server says, not what becomes of a pod."""

# Without its constructor: that of the client that does not wait needs a running loop.
CLIENTS = [client.ApiClient.__new__(client.ApiClient) for client in (kubernetes.client, kubernetes_asyncio.client)]
for _client in CLIENTS:
    _client.configuration = _client.client_side_validation = None


def pod_of(over: dict[str, Any], client: Any = CLIENTS[0]) -> Any:
    """A pod on node-1 with `over` laid over it, as a client of the API has it."""
    container = {"name": "base", "image": "example.org/job:2", "resources": {"limits": {"memory": "4Gi"}}}
    pod: dict[str, Any] = {
        "metadata": {"name": "p", "creationTimestamp": "2026-01-02T03:04:00Z"},
        "spec": {"nodeName": "node-1", "containers": [container]},
    }
    merge(pod, over, by_key=False)
    for status in (*pod["status"].get("containerStatuses", ()), *pod["status"].get("initContainerStatuses", ())):
        status |= {"image": "example.org/job:2", "imageID": "", "ready": False, "restartCount": 0}
    return client.deserialize(SimpleNamespace(data=json.dumps(pod)), "V1Pod")


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


@pytest.mark.parametrize("client", CLIENTS, ids=["waits", "does not wait"])
@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_a_pod_is_told(case: dict[str, Any], client: Any) -> None:
    pod = pod_of(case["pod"], client)
    asked = {
        "ended": lambda: ended(pod, moment(case.get("now", "2026-01-02T03:05:01Z"))),
        "gone": lambda: gone(pod),
        "cannot_begin": lambda: cannot_begin(pod),
        "too_slow": lambda: too_slow(pod, 900),
    }
    end = asked[case.get("by", "ended")]()
    if case["end"] is None:
        assert end is None
        return
    assert end == End(case["end"], case.get("says", ""), case.get("code"), case.get("tail", []))


def test_the_cases_show_every_name() -> None:
    assert {case["end"] for case in CASES} - {None, EXITED} == CAUSES.keys() - NOT_OF_A_POD


def test_a_pod_that_nobody_saw_is_gone() -> None:
    assert gone(None).name == "Deleted"


def test_the_documentation_lists_every_name_and_whether_it_is_tried_again() -> None:
    table = re.findall(r"^\| (\w+) \| (yes|no) \| (.+) \|$", DOCUMENTED.read_text(encoding="utf-8"), re.MULTILINE)
    assert {name: again == "yes" for name, again, _ in table} == {name: cause.retried for name, cause in CAUSES.items()}
    # What the code says of where it stands in the documentation reads there otherwise.
    same = {name for name, _, remedy in table if remedy == CAUSES[name].remedy}
    assert CAUSES.keys() - same == {"Forbidden"}


def test_what_needs_a_person_is_not_tried_again() -> None:
    assert {name for name in CAUSES if not End(name).retried} == {"ImageNotFound", "ConfigError", "Forbidden", "Refused"}
    assert End(EXITED, code=1).retried


def test_an_end_is_one_sentence_with_its_remedy_and_evidence_under_it() -> None:
    end = End("OOMKilled", "it used more memory than its limit of 4Gi.", tail=["a", "b"], events=["Warning X: y"])
    assert end.sentence() == f"OOMKilled: it used more memory than its limit of 4Gi. What to do: {CAUSES['OOMKilled'].remedy}"
    assert end.evidence() == "\nthe last lines of its log:\n    a\n    b\nevents of its pod:\n    Warning X: y"
    assert End(EXITED, code=1).sentence() == End(EXITED, code=1).evidence() == ""


@pytest.mark.parametrize(("status", "queued", "begun"), [
    ({"phase": "Pending"}, False, False),
    ({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}, True, False),
    ({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}, False, False),
    ({"phase": "Pending", "containerStatuses": [{"name": "base", "state": {"waiting": {"reason": "ContainerCreating"}}}]}, False, False),
    ({"phase": "Pending", "containerStatuses": [{"name": "base", "state": {}}]}, False, False),
    ({"phase": "Running", "containerStatuses": [{"name": "logs", "state": {"running": {}}}]}, False, False),
    ({"phase": "Running", "containerStatuses": [{"name": "base", "state": {"running": {}}}]}, False, True),
    ({"phase": "Failed", "containerStatuses": [{"name": "base", "state": {"terminated": {"exitCode": 1}}}]}, False, True),
])  # fmt: skip
def test_a_pod_waits_in_a_queue_or_has_begun(status: dict[str, Any], queued: bool, begun: bool) -> None:
    pod = pod_of({"status": status})
    assert (is_queued(pod), has_begun(pod)) == (queued, begun)


@pytest.mark.parametrize(("status", "before"), [
    ({"phase": "Running", "containerStatuses": [{"name": "base", "state": {"running": {}}}]}, False),
    ({"phase": "Failed", "containerStatuses": [{"name": "base", "state": {"terminated": {"exitCode": 1, "finishedAt": "2026-01-02T03:59:59Z"}}}]}, True),
    ({"phase": "Failed", "containerStatuses": [{"name": "base", "state": {"terminated": {"exitCode": 1, "finishedAt": "2026-01-02T04:00:01Z"}}}]}, False),
    ({"phase": "Failed", "containerStatuses": [{"name": "base", "state": {"terminated": {"exitCode": 137, "finishedAt": None}}}]}, True),
    ({"phase": "Failed", "reason": "Evicted"}, True),
])  # fmt: skip
def test_when_a_pod_ended(status: dict[str, Any], before: bool) -> None:
    """One that never began, or whose end has no moment, is as old as itself."""
    assert ended_before(pod_of({"status": status}), moment("2026-01-02T04:00:00Z")) == before


def test_an_event_is_a_line() -> None:
    event = SimpleNamespace(type="Warning", reason="BackOff", message=" back-off \n", count=None)
    assert event_line(event) == "Warning BackOff: back-off"
    event.count = 12
    assert event_line(event) == "Warning BackOff: back-off (×12)"
