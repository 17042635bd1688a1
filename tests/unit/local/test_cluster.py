"""What `sluice doctor` asks a cluster, and says of the answers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipelines_lib.cluster import Kubernetes
from pipelines_lib.config import Project
from pipelines_lib.local.cluster import examine_cluster
from pipelines_lib.local.doctor import Finding, examine
from pipelines_lib.pods.rights import DEPLOYER, KSERVE, LAUNCHER, Rights
from tests.kube_api.server import ApiServer

RIGHTS = Path(__file__).parents[3] / "docker" / "cluster" / "base" / "rights.yaml"


def settings(**more: object) -> Kubernetes:
    return Kubernetes.model_validate(
        {"namespace": "sluice", "images": {"cpu": "example.org/job:1"}, "service_account": "sluice-job", "secrets": ["mlflow"], **more}
    )


@pytest.fixture
def cluster(kube_api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    """One where everything is there that the profile names."""
    path = kube_api.kubeconfig(tmp_path / "kubeconfig")
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    for plural, kind, name in (
        ("serviceaccounts", "ServiceAccount", "sluice-job"),
        ("serviceaccounts", "ServiceAccount", "sluice-deployer"),
        ("secrets", "Secret", "mlflow"),
    ):
        kube_api.put(plural, {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}})
    yield kube_api
    changes = [request for request in kube_api.requests if request.method != "GET" and "selfsubjectaccessreviews" not in request.path]
    assert not changes, "looking changes nothing"


def bad(findings: list[Finding]) -> list[str]:
    return [f"{finding.what} -> {finding.remedy}" for finding in findings if not finding.good]


def test_a_cluster_where_all_is_well(cluster: ApiServer) -> None:
    found = examine_cluster(settings())
    assert bad(found) == []
    assert [finding.what for finding in found] == [
        f"the API server at {cluster.address} answers, and is v1.36.0",
        "namespace sluice is there",
        "these credentials may run stages as pods in namespace sluice",
        "these credentials may bring up the service of a model in namespace sluice",
        "Kueue is not installed",
        "Kubeflow's TrainJob is not installed",
        "KServe is not installed",
        "ServiceAccount sluice-job in namespace sluice is there",
        "ServiceAccount sluice-deployer in namespace sluice is there",
        "Secret mlflow in namespace sluice is there",
    ]


def test_of_a_secret_its_name_alone_is_asked_for(cluster: ApiServer) -> None:
    examine_cluster(settings())
    [asked] = [request for request in cluster.requests if request.path.endswith("/secrets/mlflow")]
    assert asked.accept == "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


def test_what_is_missing_is_told_with_its_remedy(cluster: ApiServer) -> None:
    cluster.vanish("mlflow", "secrets")
    assert bad(examine_cluster(settings(service_account="jobs"))) == [
        (
            "there is no ServiceAccount jobs in namespace sluice -> `kubectl apply -f docker/cluster/base/rights.yaml` makes those of the shipped profiles; "
            "or correct kubernetes.service_account"
        ),
        "there is no Secret mlflow in namespace sluice -> make it, or correct kubernetes.secrets of the profile",
    ]
    [namespace, *_] = bad(examine_cluster(settings(namespace="elsewhere")))
    assert namespace == (
        "there is no namespace elsewhere -> `kubectl apply -f docker/cluster/base/namespaces.yaml` makes it; or correct kubernetes.namespace of the profile"
    )


def test_rights_that_are_missing_are_named(cluster: ApiServer) -> None:
    cluster.forbidden |= {("create", "secrets"), ("get", "pods/log"), ("patch", "deployments")}
    found = examine_cluster(settings())
    [said] = bad(found)
    assert said.startswith(
        "these credentials may not get pods/log, create secrets in namespace sluice -> Airflow's need the Role sluice-launcher"
    )
    whats = [finding.what for finding in found]
    assert (
        "these credentials may not bring up the service of a model in namespace sluice; the stages deploy and verify (service account sluice-deployer) "
        "and `sluice serve` have to"
    ) in whats


def test_trainings_as_train_jobs_need_kubeflow_and_rights_of_their_own(cluster: ApiServer) -> None:
    cluster.forbidden |= {("create", "trainjobs")}
    assert bad(examine_cluster(settings(), trainjobs=True)) == [
        (
            "these credentials may not create trainjobs in namespace sluice -> Airflow's need the Role sluice-trainer of "
            "docker/cluster/components/trainjob: add the component, or ask with Airflow's own"
        ),
        "Kubeflow's TrainJob is not installed -> install Kubeflow Trainer 2, or set `launcher: kubernetes`",
    ]
    assert bad(examine_cluster(settings())) == []


def test_a_service_by_kserve_needs_kserve_and_rights_of_its_own(cluster: ApiServer) -> None:
    cluster.forbidden |= {("patch", "inferenceservices")}
    found = examine_cluster(settings(serving="kserve"))
    assert bad(found) == ["KServe is not installed -> install it, or set `kubernetes.serving: deployment`"]
    assert any("may not bring up the service of a model" in finding.what for finding in found)
    role, _ = yaml.safe_load_all((RIGHTS.parents[1] / "components" / "kserve" / "rights.yaml").read_text(encoding="utf-8"))
    granted = {(group, kind): tuple(rule["verbs"]) for rule in role["rules"] for group in rule["apiGroups"] for kind in rule["resources"]}
    assert granted == KSERVE


def test_what_may_not_be_looked_at_is_no_fault(cluster: ApiServer) -> None:
    cluster.forbidden |= {("get", "namespaces"), ("get", "secrets"), ("get", "serviceaccounts")}
    found = examine_cluster(settings())
    assert bad(found) == []
    assert [finding.what for finding in found if "not for these credentials to see" in finding.what] == [
        "whether there is a namespace sluice is not for these credentials to see",
        "whether there is a ServiceAccount sluice-job in namespace sluice is not for these credentials to see",
        "whether there is a ServiceAccount sluice-deployer in namespace sluice is not for these credentials to see",
        "whether there is a Secret mlflow in namespace sluice is not for these credentials to see",
    ]


def test_kinds_of_objects_that_not_every_cluster_has(cluster: ApiServer) -> None:
    cluster.apis = ("apps/v1", "trainer.kubeflow.org/v1alpha1")
    found = examine_cluster(settings(queue="gpus"))
    assert bad(found) == ["Kueue is not installed -> install it, or remove `queue` from the profile: pods then go to the scheduler at once"]
    whats = {finding.what for finding in found}
    assert {
        "there is no autoscaling/v2, so the service of a model goes without autoscaler",
        "there is no policy/v1, so the service of a model goes without disruption budget",
        "Kubeflow's TrainJob is installed",
        "KServe is not installed",
    } <= whats
    cluster.apis = ("kueue.x-k8s.io/v1beta1",)
    assert bad(examine_cluster(settings(queue="gpus"))) == [
        "there is no LocalQueue gpus in namespace sluice -> make it (docker/cluster/components/kueue has one), or correct kubernetes.queue of the profile"
    ]


def test_an_api_server_that_does_not_answer_or_takes_no_credentials(cluster: ApiServer) -> None:
    cluster.tokens = {"another"}
    [refused] = bad(examine_cluster(settings()))
    assert refused.startswith(f"the API server at {cluster.address} answers 401 Unauthorized -> is KUBECONFIG that of the right cluster")
    cluster.down = True
    [silent] = bad(examine_cluster(settings()))
    assert silent.startswith(f"the API server at {cluster.address} does not answer (")
    assert silent.endswith("-> is it up, and can it be reached from here? KUBECONFIG says where it is")


def test_without_a_way_to_the_cluster_it_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    [found] = examine_cluster(settings())
    assert found.good
    assert found.what.startswith("the cluster was not asked: neither KUBECONFIG nor the account of a pod leads to it")


def test_the_doctor_asks_where_stages_are_pods(cluster: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And does not look for the services of a machine, whose ports are those that a person forwards."""
    monkeypatch.setattr("pipelines_lib.local.doctor.store", lambda profile: [])
    found = examine(Project(RIGHTS.parents[3], tmp_path / "home", tmp_path / "cases", "cluster"))
    whats = [finding.what for finding in found]
    assert "namespace sluice is there" in whats
    assert not [what for what in whats if what.startswith("http://127.0.0.1")]


@pytest.mark.parametrize(("role", "rights"), [("sluice-launcher", LAUNCHER), ("sluice-deployer", DEPLOYER)])
def test_what_is_asked_for_is_what_the_role_grants(role: str, rights: Rights) -> None:
    documents = yaml.safe_load_all(RIGHTS.read_text(encoding="utf-8"))
    [found] = [document for document in documents if (document["kind"], document["metadata"]["name"]) == ("Role", role)]
    granted = {
        (group, resource): tuple(rule["verbs"]) for rule in found["rules"] for group in rule["apiGroups"] for resource in rule["resources"]
    }
    assert granted == rights
