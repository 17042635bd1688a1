"""The manifests of docker/cluster: built as `kubectl apply -k` builds them, and valid by the official schemas."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

CLUSTER = Path(__file__).parents[3] / "docker" / "cluster"
OVERLAYS = sorted(path.parent.relative_to(CLUSTER).as_posix() for path in CLUSTER.glob("overlays/*/kustomization.yaml"))
Manifest = dict[str, Any]


def _kustomize() -> str | None:
    """Why nothing can be built here, if nothing can."""
    if shutil.which("kubectl") is None:
        return "kubectl is not installed"
    said = subprocess.run(["kubectl", "version", "--client"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"Kustomize Version: v(\d+)", said)
    return None if version and int(version[1]) >= 5 else "kubectl is too old: its kustomize is older than 5"


needs_kustomize = pytest.mark.skipif(_kustomize() is not None, reason=str(_kustomize()))


@cache
def built(folder: str) -> list[Manifest]:
    """Every object that a kustomization gives."""
    done = subprocess.run(["kubectl", "kustomize", CLUSTER / folder], capture_output=True, text=True, check=True)
    assert "deprecated" not in done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def of_kind(folder: str, *kinds: str) -> list[Manifest]:
    return [manifest for manifest in built(folder) if manifest["kind"] in kinds]


def pods(folder: str) -> Iterator[tuple[str, Manifest]]:
    """Name and pod template of each workload."""
    for manifest in of_kind(folder, "Deployment", "StatefulSet", "Job"):
        yield manifest["metadata"]["name"], manifest["spec"]["template"]


@needs_kustomize
@pytest.mark.parametrize("folder", OVERLAYS)
def test_each_object_is_valid_by_the_official_schema(folder: str) -> None:
    for manifest in built(folder):
        for version in ("1.32", "1.37"):
            kubernetes_validate.validate(manifest, version, strict=True)


@needs_kustomize
@pytest.mark.parametrize("folder", OVERLAYS)
def test_each_pod_is_restricted(folder: str) -> None:
    """What the namespace enforces, and a read-only root file system beside it."""
    found = list(pods(folder))
    assert found
    for name, pod in found:
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in spec["containers"]:
            context = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
            assert container["securityContext"] == context, name
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name
            assert "memory" in container["resources"]["limits"], name
            assert {"readinessProbe", "livenessProbe"} <= container.keys(), name
            assert re.fullmatch(r"[\w./-]+:(?!latest)[\w.-]+(@sha256:[0-9a-f]{64})?", container["image"]), container["image"]


@needs_kustomize
@pytest.mark.parametrize("folder", OVERLAYS)
def test_each_service_finds_its_pods(folder: str) -> None:
    labels = {name: pod["metadata"]["labels"].items() for name, pod in pods(folder)}
    for service in of_kind(folder, "Service"):
        found = [name for name, given in labels.items() if service["spec"]["selector"].items() <= given]
        assert found == [service["metadata"]["name"]]
        ports = {port["name"] for _, pod in pods(folder) for container in pod["spec"]["containers"] for port in container["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


@needs_kustomize
@pytest.mark.parametrize("folder", ["overlays/kind", "overlays/cloud"])
def test_nobody_talks_but_by_rule(folder: str) -> None:
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in of_kind(folder, "NetworkPolicy")}
    assert policies["deny-all"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    opened = [rule for spec in policies.values() for rule in (*spec.get("ingress", ()), *spec.get("egress", ()))]
    assert opened
    assert all(rule.get("from") or rule.get("to") for rule in opened)  # an empty list of peers would mean everybody
    known = {pod["metadata"]["labels"]["app.kubernetes.io/component"] for _, pod in pods(folder)} | {"job", "serving"}
    assert set(re.findall(r"component': '(\w+)'", str(list(policies.values())))) <= known


def _opened(rules: list[Manifest], other: dict[str, str]) -> list[Any]:
    """The ports, or None for all of them, that these rules open to or from a pod of the same namespace with the labels `other`."""
    found = []
    for rule in rules:
        for peer in [*rule.get("from", ()), *rule.get("to", ())]:
            wanted = peer.get("podSelector", {}).get("matchLabels", {})
            if "podSelector" in peer and "matchExpressions" not in peer["podSelector"] and wanted.items() <= other.items():
                found.append([port["port"] for port in rule["ports"]] if "ports" in rule else None)
    return found


@needs_kustomize
@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_of_the_jobs_only_ranks_of_a_training_reach_one_another(direction: str) -> None:
    """The labels are those that orchestration/pods/manifest.py gives."""
    job = {"app.kubernetes.io/name": "sluice", "app.kubernetes.io/component": "job"}
    rank, other = job | {"stage": "train"}, job | {"stage": "ingest"}

    def between(one: dict[str, str], peer: dict[str, str]) -> list[Any]:
        policies = [policy["spec"] for policy in of_kind("overlays/cloud", "NetworkPolicy")]
        selected = [spec for spec in policies if spec["podSelector"].get("matchLabels", {}).items() <= one.items()]
        return [ports for spec in selected for ports in _opened(spec.get(direction, []), peer)]

    assert between(rank, rank) == [None]
    assert between(other, other) == between(rank, other) == between(other, rank) == []


@needs_kustomize
def test_airflow_may_start_pods_and_read_no_secret() -> None:
    rights = rights_of("sluice-launcher")
    assert rights.keys() == {"pods", "pods/log", "events", "secrets", "services"}
    assert not {"*", "get", "list", "watch"} & rights["secrets"]
    assert not of_kind("overlays/kind", "ClusterRole", "ClusterRoleBinding")
    bindings = {
        binding["metadata"]["name"]: {subject["name"] for subject in binding["subjects"]}
        for binding in of_kind("overlays/kind", "RoleBinding")
    }
    assert bindings == {"sluice-launcher": {"airflow-worker", "airflow-triggerer"}, "sluice-deployer": {"sluice-deployer"}}


@needs_kustomize
def test_what_brings_up_a_service_may_do_that_alone() -> None:
    rights = rights_of("sluice-deployer")
    assert rights.keys() == {"deployments", "services", "horizontalpodautoscalers", "poddisruptionbudgets", "pods"}
    assert rights["pods"] == {"list"}
    assert all(verbs <= {"create", "patch", "get", "delete"} for resource, verbs in rights.items() if resource != "pods")


def rights_of(name: str) -> dict[str, set[str]]:
    """Resource to the verbs that a Role allows."""
    [role] = [role for role in of_kind("overlays/kind", "Role") if role["metadata"]["name"] == name]
    return {resource: set(rule["verbs"]) for rule in role["rules"] for resource in rule["resources"]}


@needs_kustomize
def test_a_laptop_asks_for_no_storage_class_and_a_cloud_keeps_its_database() -> None:
    assert not of_kind("overlays/kind", "PersistentVolumeClaim", "StorageClass")
    assert "persistentVolumeClaim" not in str(dict(pods("overlays/kind")))
    assert [claim["metadata"]["name"] for claim in of_kind("overlays/cloud", "PersistentVolumeClaim")] == ["postgres"]


def test_the_queue_is_where_the_jobs_are() -> None:
    queue = yaml.safe_load((CLUSTER / "components" / "kueue" / "queue.yaml").read_text(encoding="utf-8"))
    assert (queue["kind"], queue["metadata"]["namespace"]) == ("LocalQueue", "sluice")
