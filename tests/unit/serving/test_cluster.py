"""The service of a use case on a cluster: its objects, and what the API server and the servers say."""

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from kubernetes import config
from kubernetes.client import AppsV1Api

from pipelines_lib.config import Profile, Project
from pipelines_lib.contracts import ModelRef
from pipelines_lib.errors import BadInput, ConfigError, DataError, Unavailable
from pipelines_lib.serving import objects, replay
from pipelines_lib.serving.cluster import Cluster
from pipelines_lib.serving.place import place_of, wait_for
from pipelines_lib.serving.replica import Replica
from pipelines_lib.use_case import UseCase
from tests.kube_api.server import ApiServer

GOLDEN = Path(__file__).parents[2] / "golden" / "serving.yaml"
MODEL = ModelRef(name="shop", version=2, package="shop/packages/p", run_id="run")


@pytest.fixture
def profile() -> Profile:
    """The shipped one of a cluster."""
    found = Project.from_environment().profile("cluster")
    assert found.kubernetes is not None
    return found.model_copy(update={"kubernetes": found.kubernetes.model_copy(update={"startup_timeout": timedelta(seconds=1)})})


@pytest.fixture
def place(
    kube_api: ApiServer, profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_use_case: Callable[[], UseCase]
) -> Cluster:
    path = kube_api.kubeconfig(tmp_path / "kubeconfig")
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    made = place_of(make_use_case(), Project.from_environment(), profile, Path("store/shop"))
    assert isinstance(made, Cluster)
    made.seconds = 0.3
    return made


@pytest.fixture
def apps(kube_api: ApiServer, tmp_path: Path, place: Cluster) -> Iterator[AppsV1Api]:
    with config.new_client_from_config(str(tmp_path / "kubeconfig")) as connected:
        yield AppsV1Api(connected)


# --- the objects ------------------------------------------------------------------------------------------------


def manifests(profile: Profile) -> list[dict[str, Any]]:
    kubernetes = profile.kubernetes
    assert kubernetes is not None
    template = Project.from_environment().pod_template("serving")
    return [
        objects.deployment("shop_one", "s3://sluice/store/shop_one", profile, template, candidate=False, replicas=None),
        objects.deployment("shop_one", "s3://sluice/store/shop_one", profile, template, candidate=True, replicas=1),
        objects.service("shop_one", kubernetes),
        objects.autoscaler("shop_one", kubernetes),
        objects.disruption_budget("shop_one", kubernetes),
    ]


def test_the_objects_are_those_of_the_golden_file(profile: Profile) -> None:
    assert manifests(profile) == list(yaml.safe_load_all(GOLDEN.read_text(encoding="utf-8")))


def by_kserve(profile: Profile) -> Profile:
    """The same profile, whose users' servers KServe brings up."""
    assert profile.kubernetes is not None
    return profile.model_copy(update={"kubernetes": profile.kubernetes.model_copy(update={"serving": "kserve"})})


def test_kserve_is_given_the_servers_of_the_golden_file(profile: Profile, golden: Callable[[str, Any], None]) -> None:
    made = objects.inference_service("shop_one", "s3://sluice/store/shop_one", profile, Project.from_environment().pod_template("serving"))
    golden("inference_service.yaml", made)
    # Its pods are the same ones, but for what KServe calls their container; and our Service finds them.
    pod = manifests(profile)[0]["spec"]["template"]
    predictor = made["spec"]["predictor"]
    [container] = predictor["containers"]
    assert container == {**pod["spec"]["containers"][0], "name": "kserve-container"}
    assert all(predictor[key] == value for key, value in pod["spec"].items() if key != "containers")
    service = manifests(profile)[2]
    assert service["spec"]["selector"].items() <= predictor["labels"].items()
    assert service["metadata"]["name"] not in (made["metadata"]["name"], objects.predictor_of("shop_one"))


@pytest.mark.parametrize("version", ["1.32", "1.37"])
def test_the_objects_are_valid_by_the_official_schemas(profile: Profile, version: str) -> None:
    for manifest in manifests(profile):
        kubernetes_validate.validate(manifest, version, strict=True)


def test_users_are_sent_to_the_champion_alone(profile: Profile) -> None:
    champion, candidate, service, *_ = manifests(profile)
    selected = service["spec"]["selector"].items()
    assert selected <= champion["spec"]["template"]["metadata"]["labels"].items()
    assert not selected <= candidate["spec"]["template"]["metadata"]["labels"].items()


USE_CASES = st.from_regex(r"[a-z]([a-z0-9_]{0,38}[a-z0-9])?", fullmatch=True)  # that of UseCase.name


@given(st.lists(USE_CASES | st.sampled_from(["shop", "shop_candidate", "candidate_shop"]), min_size=2, max_size=4, unique=True))
def test_no_two_services_have_a_name_in_common_whatever_the_use_cases_are_called(use_cases: list[str]) -> None:
    names = [objects.name_of(use_case, candidate=candidate) for use_case in use_cases for candidate in (False, True)]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", name) for name in names)
    labels = [value for use_case in use_cases for value in objects.labels_of(use_case, candidate=True).values()]
    assert all(re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", label) for label in labels)


def test_what_the_servers_need_is_asked_for(profile: Profile) -> None:
    template = Project.from_environment().pod_template("serving")
    kubernetes = profile.kubernetes
    assert kubernetes is not None

    def built(changed: Profile) -> None:
        objects.deployment("shop", "s3://b/shop", changed, template, candidate=False, replicas=1)

    images = kubernetes.images.model_copy(update={"serving": None})
    without = profile.model_copy(update={"kubernetes": kubernetes.model_copy(update={"images": images})})
    with pytest.raises(ConfigError, match=r"images\.serving is missing; name the image"):
        built(without)
    locked = profile.model_copy(update={"store_connection": "store"})
    with pytest.raises(ConfigError, match=r"put it into a Secret of namespace sluice as SLUICE_CONN_STORE"):
        built(locked)


# --- applying them ----------------------------------------------------------------------------------------------


def test_what_is_put_up_again_is_not_changed_and_what_is_ended_is_gone(place: Cluster, kube_api: ApiServer) -> None:
    kinds = {"deployments": "apps", "services": "", "horizontalpodautoscalers": "autoscaling", "poddisruptionbudgets": "policy"}

    def all_objects() -> dict[str, list[dict[str, Any]]]:
        return {plural: kube_api.all(plural, group) for plural, group in kinds.items()}

    assert place.put_up(candidate=False) == place.put_up(candidate=True) == "http://serving-shop.sluice.svc"
    first = all_objects()
    assert {plural: len(found) for plural, found in first.items()} == {
        "deployments": 2, "services": 1, "horizontalpodautoscalers": 1, "poddisruptionbudgets": 1,
    }  # fmt: skip
    place.put_up(candidate=False)
    place.put_up(candidate=True)
    assert all_objects() == first

    for _ in range(2):
        place.end(candidate=True)
        assert [found["metadata"]["name"] for found in kube_api.all("deployments", "apps")] == ["serving-shop"]
    for _ in range(2):
        place.end(candidate=False)
        assert not any(all_objects().values())


def test_with_kserve_an_inference_service_takes_the_place_of_deployment_and_autoscaler(
    place: Cluster, kube_api: ApiServer, profile: Profile, make_use_case: Callable[[], UseCase]
) -> None:
    users = place_of(make_use_case(), Project.from_environment(), by_kserve(profile), Path("store/shop"))
    for _ in range(2):
        assert users.put_up(candidate=False) == "http://serving-shop.sluice.svc"
        [made] = kube_api.all("inferenceservices", "serving.kserve.io")
        assert made["metadata"]["name"] == "champion-shop"
        assert [kube_api.all(*kind) for kind in (("deployments", "apps"), ("horizontalpodautoscalers", "autoscaling"))] == [[], []]
    replicas, missing = users.replicas(candidate=False)
    assert replicas == []
    assert missing.startswith("KServe has made no Deployment of InferenceService champion-shop; `kubectl describe")
    asked = [request.path for request in kube_api.requests]
    assert asked[-1].endswith("/deployments/champion-shop-predictor")
    users.end(candidate=False)
    assert not kube_api.all("inferenceservices", "serving.kserve.io") + kube_api.all("services")


def test_a_cluster_without_kserve_is_told_with_a_remedy(
    place: Cluster, kube_api: ApiServer, profile: Profile, make_use_case: Callable[[], UseCase]
) -> None:
    kube_api.fail("PATCH", "inferenceservices", 404, "the server could not find the requested resource")
    with pytest.raises(ConfigError, match=r"no KServe: install it, or set `serving: deployment` under kubernetes of profile cluster"):
        place_of(make_use_case(), Project.from_environment(), by_kserve(profile), Path("store/shop")).put_up(candidate=False)


def test_a_cluster_without_an_autoscaler_gets_a_fixed_number(place: Cluster, kube_api: ApiServer, caplog: pytest.LogCaptureFixture) -> None:
    kube_api.fail("PATCH", "horizontalpodautoscalers", 404, "the server could not find the requested resource")
    place.put_up(candidate=False)
    [found] = kube_api.all("deployments", "apps")
    assert found["spec"]["replicas"] == 2
    assert "no API for autoscalers (autoscaling/v2), so serving-shop goes without" in caplog.text


@pytest.mark.parametrize(
    ("code", "message", "kind", "told"),
    [
        (403, "cannot patch resource", BadInput, r"service account sluice-deployer .* needs the Role `sluice-deployer`"),
        (401, "Unauthorized", BadInput, r"KUBECONFIG\. Renew them"),
        (403, "exceeded quota: jobs", Unavailable, r"exceeded quota: jobs; raise the namespace's ResourceQuota"),
        (409, 'conflict with "kubectl-set"', BadInput, r'conflict with "kubectl-set"; somebody else has set'),
        (422, "spec.x: Invalid value", BadInput, r"spec\.x: Invalid value; correct the profile"),
        (404, 'namespaces "sluice" not found', BadInput, r"is the namespace there"),
        (500, "etcdserver: leader changed", Unavailable, r"leader changed; try again"),
    ],
)
def test_what_the_api_server_refuses_is_told_with_a_remedy(
    place: Cluster, kube_api: ApiServer, *, code: int, message: str, kind: type[Exception], told: str
) -> None:
    kube_api.fail("PATCH", "deployments", code, message)
    with pytest.raises(kind, match=rf"deployments of shop in namespace sluice: {code} .*{told}"):
        place.put_up(candidate=True)


def test_an_api_server_that_does_not_answer_is_asked_again_by_a_retry(place: Cluster, kube_api: ApiServer) -> None:
    kube_api.down = True
    with pytest.raises(Unavailable, match="the API server does not answer"):
        place.put_up(candidate=True)


@pytest.mark.parametrize(("ready", "share", "pods"), [(2, 0.1, None), (9, 0.1, 1), (20, 0.1, 2), (2, 0.5, 2), (0, 0.5, None)])
def test_users_reach_as_many_pods_of_a_candidate_as_the_share_grants(
    place: Cluster, kube_api: ApiServer, apps: AppsV1Api, *, ready: int, share: float, pods: int | None
) -> None:
    place.put_up(candidate=False)
    place.put_up(candidate=True)
    apps.patch_namespaced_deployment_status("serving-shop", "sluice", {"status": {"replicas": ready, "readyReplicas": ready}})

    def selected() -> list[str]:
        service = kube_api.get("services", "serving-shop")
        assert service is not None
        found = [kube_api.get("deployments", f"{name}-shop", group="apps") for name in ("serving", "candidate")]
        labels = [made["spec"]["template"]["metadata"]["labels"] for made in found if made is not None]
        return [label["track"] for label in labels if service["spec"]["selector"].items() <= label.items()]

    assert place.admit(share) == (pods is not None)
    candidate = kube_api.get("deployments", "candidate-shop", group="apps")
    assert candidate is not None
    assert candidate["spec"]["replicas"] == pods or 1
    assert selected() == (["champion", "candidate"] if pods else ["champion"])
    place.put_up(candidate=False)
    assert selected() == ["champion"], "the next deployment takes it back"
    place.admit(share)
    place.end(candidate=True)
    assert selected() == ["champion"]


# --- waiting for the servers ------------------------------------------------------------------------------------


class Servers:
    """The pods of a Deployment and what each answers: the version that it serves, or an error."""

    def __init__(self, kube_api: ApiServer, apps: AppsV1Api) -> None:
        self._kube_api = kube_api
        self._apps = apps
        self.answers: dict[str, int | str] = {}

    def pod(self, name: str, host: str, answer: int | str, *, track: str = "champion", image: str | None = None) -> None:
        """Let a pod run."""
        deployment = self._kube_api.get("deployments", ("serving-" if track == "champion" else "candidate-") + "shop", group="apps")
        assert deployment is not None
        pod = deployment["spec"]["template"]
        if image is not None:
            pod["spec"]["containers"][0]["image"] = image
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": pod["metadata"]["labels"]}, "spec": pod["spec"]}
        self._core().create_namespaced_pod("sluice", body)
        self._kube_api.run(name)
        self._kube_api.set_status(name, podIP=host)
        self.answers[host] = answer

    def ready(self, name: str, n: int, wanted: int, seen: int = 1) -> None:
        """Let the Deployment `name` have `n` ready pods of `wanted`."""
        status = {"observedGeneration": seen, "replicas": wanted, "updatedReplicas": wanted, "readyReplicas": n}
        self._apps.patch_namespaced_deployment_status(name, "sluice", {"status": status})

    def ask(self, replica: Replica, _path: str, **_: Any) -> tuple[int, Any]:
        """What `replica` answers about its model."""
        answer = self.answers[replica.host]
        if isinstance(answer, str):
            return 503, {"what": answer}
        return 200, {
            "versions": [str(answer)],
            "parameters": {"package": MODEL.package if answer == MODEL.version else "old", "error": None},
        }

    def _core(self) -> Any:
        from kubernetes.client import CoreV1Api

        return CoreV1Api(self._apps.api_client)


@pytest.fixture
def servers(kube_api: ApiServer, apps: AppsV1Api, place: Cluster, monkeypatch: pytest.MonkeyPatch) -> Servers:
    made = Servers(kube_api, apps)
    # A function, and no bound method: it is given the replica.
    monkeypatch.setattr(Replica, "ask", lambda *given, **named: made.ask(*given, **named))  # noqa: PLW0108
    kube_api.fail("PATCH", "horizontalpodautoscalers", 404)
    place.put_up(candidate=False)
    place.put_up(candidate=True)
    return made


def test_every_server_must_have_the_version(servers: Servers, place: Cluster) -> None:
    servers.pod("a", "10.0.0.1", 2)
    servers.pod("b", "10.0.0.2", 1)
    servers.pod("c", "10.0.0.3", 2, track="candidate")
    servers.ready("serving-shop", 2, 2)
    servers.ready("candidate-shop", 1, 1)
    assert wait_for(place, MODEL, candidate=True) == [Replica("10.0.0.3", 8080)]
    with pytest.raises(Unavailable, match=r"10\.0\.0\.2:8080: version 1 answers"):
        wait_for(place, MODEL, candidate=False)
    servers.answers["10.0.0.2"] = 2
    assert {replica.host for replica in wait_for(place, MODEL, candidate=False)} == {"10.0.0.1", "10.0.0.2"}


def test_servers_that_are_still_to_come_are_waited_for(servers: Servers, place: Cluster) -> None:
    servers.pod("a", "10.0.0.1", 2)
    servers.ready("serving-shop", 1, 1, seen=0)
    with pytest.raises(Unavailable, match="its controller has not seen the last change"):
        wait_for(place, MODEL, candidate=False)
    servers.ready("serving-shop", 1, 2)
    with pytest.raises(Unavailable, match="serving-shop: 1 of 2 servers are ready"):
        wait_for(place, MODEL, candidate=False)


def test_a_package_that_cannot_be_opened_is_told_at_once(servers: Servers, place: Cluster) -> None:
    servers.pod("a", "10.0.0.1", f"{MODEL.package}/model.onnx was changed", track="candidate")
    servers.ready("candidate-shop", 0, 1)
    with pytest.raises(DataError, match=r"can't serve version 2: shop/packages/p/model\.onnx was changed"):
        wait_for(place, MODEL, candidate=True)


def waiting(reason: str, **more: Any) -> list[dict[str, Any]]:
    state = {"waiting": {"reason": reason, "message": "manifest unknown"}}
    return [{"name": "base", "image": "i", "imageID": "", "ready": False, "restartCount": 0, "state": state, **more}]


def test_an_image_that_never_comes_is_told_with_its_remedy(servers: Servers, place: Cluster, kube_api: ApiServer) -> None:
    servers.ready("candidate-shop", 0, 1)
    servers.pod("old", "10.0.0.1", 1, track="candidate", image="before/it:1")
    kube_api.set_status("old", phase="Pending", containerStatuses=waiting("ImagePullBackOff"))
    with pytest.raises(Unavailable, match="0 of 1 servers are ready"):
        wait_for(place, MODEL, candidate=True)
    servers.pod("new", "10.0.0.2", 1, track="candidate")
    kube_api.set_status("new", phase="Pending", containerStatuses=waiting("ImagePullBackOff"))
    with pytest.raises(ConfigError, match=r"pod new: ImageNotFound: .*manifest unknown\. What to do: correct `images`"):
        wait_for(place, MODEL, candidate=True)


def test_a_server_that_ends_again_and_again_shows_its_last_words(servers: Servers, place: Cluster, kube_api: ApiServer) -> None:
    servers.ready("candidate-shop", 0, 1)
    servers.pod("a", "10.0.0.1", 1, track="candidate")
    last = {"terminated": {"exitCode": 1, "reason": "Error", "message": "no module named x"}}
    kube_api.set_status("a", containerStatuses=waiting("CrashLoopBackOff", restartCount=3, lastState=last))
    with pytest.raises(Unavailable, match=r"pod a: it ended 3 times, at last with Error \(exit code 1\): no module named x"):
        wait_for(place, MODEL, candidate=True)


def test_a_replay_goes_to_the_service_of_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_PROFILE", "cluster")
    assert replay._url(Project.from_environment(), "shop_one") == "http://serving-shop-one.sluice.svc"
