"""The double answers as an API server does."""

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import config, watch
from kubernetes.client import ApiException, CoreV1Api

from tests.kube_api.server import ApiServer


@pytest.fixture
def api(kube_api: ApiServer, tmp_path: Path) -> Iterator[CoreV1Api]:
    with config.new_client_from_config(str(kube_api.kubeconfig(tmp_path / "kubeconfig"))) as connected:
        yield CoreV1Api(connected)


def pod(name: str, **labels: str) -> dict[str, Any]:
    spec = {"containers": [{"name": "base", "image": "image"}], "terminationGracePeriodSeconds": 5}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}


def node(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}


def test_a_list_has_what_the_selectors_ask_for(api: CoreV1Api) -> None:
    for name, labels in {"a": {"run": "1"}, "b": {"run": "2"}, "c": {}}.items():
        api.create_namespaced_pod("sluice", pod(name, **labels))

    def names(**selectors: str) -> list[str]:
        return [found.metadata.name for found in api.list_namespaced_pod("sluice", **selectors).items]

    assert names(label_selector="run=1") == ["a"]
    assert names(label_selector="run!=1,!other") == ["b", "c"]
    assert names(label_selector="run in (1, 2)") == ["a", "b"]
    assert names(label_selector="run") == ["a", "b"]
    assert names(field_selector="metadata.name=b,status.phase=Pending") == ["b"]
    assert [found.metadata.name for found in api.list_pod_for_all_namespaces().items] == ["a", "b", "c"]
    assert api.list_namespaced_pod("default").items == []


@pytest.mark.parametrize(("name", "label", "namespace", "reason"), [
    ("taken", "x", "sluice", "AlreadyExists"),
    ("Ünï", "x", "sluice", "Invalid"),
    ("fine", "a b", "sluice", "Invalid"),
    ("fine", "x" * 64, "sluice", "Invalid"),
    ("fine", "x", "nowhere", "NotFound"),
])  # fmt: skip
def test_what_cannot_be_made_is_refused(api: CoreV1Api, name: str, label: str, namespace: str, reason: str) -> None:
    api.create_namespaced_pod("sluice", pod("taken"))
    with pytest.raises(ApiException, match=f'"reason": "{reason}"'):
        api.create_namespaced_pod(namespace, pod(name, label=label))


def test_a_pod_ends_when_its_node_says_so_and_takes_what_it_owns_along(api: CoreV1Api, kube_api: ApiServer) -> None:
    api.create_node(node("n"))
    made = api.create_namespaced_pod("sluice", pod("a"))
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": made.metadata.uid}
    api.create_namespaced_secret("sluice", {"kind": "Secret", "metadata": {"name": "s", "ownerReferences": [owner]}})
    api.create_namespaced_pod_binding("a", "sluice", {"metadata": {"name": "a"}, "target": {"name": "n"}}, _preload_content=False)

    api.delete_namespaced_pod("a", "sluice")
    ending = api.read_namespaced_pod("a", "sluice")
    assert ending.metadata.deletion_grace_period_seconds == 5
    assert ending.spec.node_name == "n"
    api.delete_namespaced_pod("a", "sluice", grace_period_seconds=0)
    assert kube_api.all("pods") == kube_api.all("secrets") == []


def test_a_pod_without_a_node_vanishes_at_once(api: CoreV1Api, kube_api: ApiServer) -> None:
    api.create_namespaced_pod("sluice", pod("a"))
    api.delete_namespaced_pod("a", "sluice")
    assert kube_api.all("pods") == []


def test_a_watch_tells_what_happens_and_where_it_cannot(api: CoreV1Api, kube_api: ApiServer) -> None:
    api.create_namespaced_pod("sluice", pod("a"))
    version = api.list_namespaced_pod("sluice").metadata.resource_version
    threading.Timer(0.1, lambda: [kube_api.run("a"), api.create_namespaced_pod("sluice", pod("b")), kube_api.vanish("a")]).start()
    told = []
    for event in watch.Watch().stream(api.list_namespaced_pod, "sluice", field_selector="spec.nodeName=node-1", resource_version=version):
        told.append((event["type"], event["object"].metadata.name, event["object"].status.phase))
        if event["type"] == "DELETED":
            break
    assert told == [("ADDED", "a", "Pending"), ("MODIFIED", "a", "Running"), ("DELETED", "a", "Running")]

    kube_api.compact()
    with pytest.raises(ApiException, match="410"):
        next(watch.Watch().stream(api.list_namespaced_pod, "sluice", resource_version=version))


def test_a_patch_changes_its_part_alone(api: CoreV1Api) -> None:
    api.create_namespaced_pod("sluice", pod("a", run="1", old="x"))
    api.patch_namespaced_pod("a", "sluice", {"metadata": {"labels": {"new": "y", "old": None}}, "status": {"phase": "Failed"}})
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}, {"type": "Other", "status": "True"}]}
    api.patch_namespaced_pod_status("a", "sluice", {"status": status, "metadata": {"labels": {"not": "here"}}})
    api.patch_namespaced_pod_status("a", "sluice", {"status": {"conditions": [{"type": "Ready", "status": "True"}]}})
    changed = api.read_namespaced_pod("a", "sluice")
    assert changed.metadata.labels == {"run": "1", "new": "y"}
    assert changed.status.phase == "Running"
    assert {each.type: each.status for each in changed.status.conditions} == {"Ready": "True", "Other": "True"}

    api.patch_namespaced_pod("a", "sluice", [{"op": "add", "path": "/metadata/labels/app.io~1x", "value": "z"}])
    assert api.read_namespaced_pod("a", "sluice").metadata.labels["app.io/x"] == "z"
    stale = {"metadata": {"resourceVersion": changed.metadata.resource_version, "labels": {"too": "late"}}}
    with pytest.raises(ApiException, match="modified"):
        api.patch_namespaced_pod("a", "sluice", stale)


def test_what_is_applied_twice_is_changed_once(api: CoreV1Api) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "s"},
        "spec": {"clusterIP": "None", "ports": [{"name": "a", "port": 1}]},
    }
    for _ in range(2):
        api.patch_namespaced_service("s", "sluice", service, field_manager="me", _content_type="application/apply-patch+yaml")
    found = api.read_namespaced_service("s", "sluice")
    assert found.spec.cluster_ip == "None"
    events = list(watch.Watch().stream(api.list_namespaced_service, "sluice", timeout_seconds=1))
    assert [event["object"].metadata.resource_version for event in events] == [found.metadata.resource_version]


def test_faults_come_as_ordered(api: CoreV1Api, kube_api: ApiServer) -> None:
    kube_api.fail("GET", "/pods$", 429, headers={"Retry-After": "1"})
    kube_api.fail("GET", "/pods$", None)
    assert api.list_namespaced_pod("sluice").items == []
    assert [request.code for request in kube_api.requests] == [429, None, 200]  # this client tries again by itself

    kube_api.fail("POST", "/pods$", 500, done=True)
    with pytest.raises(ApiException, match="500"):
        api.create_namespaced_pod("sluice", pod("a"))
    assert kube_api.get("pods", "a") is not None

    kube_api.forbidden.add(("delete", "pods"))
    with pytest.raises(ApiException, match=r"pods is forbidden: .* cannot delete resource"):
        api.delete_namespaced_pod("a", "sluice")
    kube_api.max_pods = 1
    with pytest.raises(ApiException, match="exceeded quota: jobs, requested: pods=1, used: pods=1, limited: pods=1"):
        api.create_namespaced_pod("sluice", pod("b"))
    kube_api.tokens = {"another"}
    with pytest.raises(ApiException, match="401"):
        api.list_namespaced_pod("sluice")


def test_a_log_is_read_from_where_it_is_asked(api: CoreV1Api, kube_api: ApiServer) -> None:
    api.create_namespaced_pod("sluice", pod("a"))
    kube_api.say("a", "first")
    time.sleep(1.1)
    kube_api.say("a", "second")

    def read(**options: Any) -> str:
        return api.read_namespaced_pod_log("a", "sluice", _preload_content=False, **options).data.decode()

    assert read() == "first\nsecond\n"
    assert read(since_seconds=1) == "second\n"
    assert read(limit_bytes=3) == "fir"
    assert re.fullmatch(r"20\d\d-.*Z second\n", read(timestamps=True, since_seconds=1))
