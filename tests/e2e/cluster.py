"""The cluster that KUBECONFIG names, as a place where the end-to-end suite runs: stages and services are its pods, Airflow runs on this machine.

What it needs, and how to run it, stands in docs/cluster-test.md.
"""

import base64
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from kubernetes.client import ApiException, CoreV1Api
from kubernetes.config import ConfigException, new_client_from_config
from kubernetes.utils import create_from_dict
from mlflow.exceptions import MlflowException
from urllib3.exceptions import HTTPError

from pipelines_lib.config import Project
from pipelines_lib.connections import connection, variable_of
from pipelines_lib.errors import SluiceError
from pipelines_lib.local.demo import USE_CASES
from pipelines_lib.orchestration.pods.manifest import JOBS
from pipelines_lib.pods.ends import cannot_begin, ended, event_line, too_slow
from pipelines_lib.pods.template import CONTAINER, CONTAINER_SECURITY, POD_SECURITY, Manifest
from pipelines_lib.registry import tracking
from pipelines_lib.serving.objects import name_of
from pipelines_lib.store import read_json, remove_tree, store_of, write_json
from tests.e2e.machine import ROOT, write_project, write_yaml

_MOUNT = "/etc/sluice"
"""Where the pods find this project's `include/`, in place of the image's own."""
_OWN = "sluice-test"
"""The name of the ConfigMap, the Secret and the label that are the tests' own."""
_PASSED_ON = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_INSECURE_TLS")

# What a pod has to reach, tried in one. It prints one line for what fails, and the hash of the code that its image holds.
_PREFLIGHT = """
import hashlib, pathlib, sys
import pipelines_lib
from pipelines_lib.config import Project
from pipelines_lib.registry import tracking
from pipelines_lib.store import read_json, store_of, write_json

profile, failed = Project.from_environment().profile(), False
try:
    probe = store_of(profile) / "preflight" / "pod.json"
    write_json(probe, {"from": "a pod"})
    assert read_json(probe) == {"from": "a pod"}
except Exception as error:
    failed = True
    print(f"a pod does not reach the store {profile.store}: {type(error).__name__}: {error}")
try:
    tracking.connect(profile.tracking_uri).search_registered_models(max_results=1)
except Exception as error:
    failed = True
    print(f"a pod does not reach MLflow at {profile.tracking_uri}: {type(error).__name__}: {error}")
folder = pathlib.Path(pipelines_lib.__file__).parent
code = b"".join(path.read_bytes() for path in sorted(folder.rglob("*.py")))
print("code", hashlib.sha256(code).hexdigest())
sys.exit(failed)
"""


class NotReady(Exception):
    """The cluster, the image, the store or MLflow is not as the tests need it; the message says which, and what to do."""


@dataclass(frozen=True)
class Given:
    """What the environment says; docs/cluster-test.md lists it."""

    image: str
    store: str
    connection: str | None
    """To the store, as a pod has it; None: pods have a role of the cloud for it."""
    connection_here: str | None
    mlflow: str
    mlflow_here: str

    @classmethod
    def from_environment(cls) -> "Given":
        """Raises `NotReady` with what is missing."""
        wanted = ("SLUICE_IMAGE", "SLUICE_TEST_STORE", "SLUICE_TEST_MLFLOW")
        if missing := [name for name in wanted if not os.environ.get(name)]:
            raise NotReady(f"{', '.join(missing)}: not set; docs/cluster-test.md says what it is for")
        own = os.environ.get("SLUICE_TEST_STORE_CONNECTION")
        mlflow = os.environ["SLUICE_TEST_MLFLOW"]
        return cls(
            image=os.environ["SLUICE_IMAGE"],
            store=os.environ["SLUICE_TEST_STORE"].rstrip("/"),
            connection=own,
            connection_here=os.environ.get("SLUICE_TEST_STORE_CONNECTION_HERE", own),
            mlflow=mlflow,
            mlflow_here=os.environ.get("SLUICE_TEST_MLFLOW_HERE", mlflow),
        )


def missing() -> str | None:
    """Why there is no cluster to test on; None where there is one."""
    if not os.environ.get("KUBECONFIG"):
        return "KUBECONFIG names no cluster; docs/cluster-test.md says what these tests need"
    return None


class Cluster:
    """A namespace of its own in the cluster, which goes with everything in it when the tests end."""

    name = "kubernetes"
    patience = 5.0
    machines = 2

    def __init__(self, folder: Path) -> None:
        self._given = Given.from_environment()
        self._folder = folder
        self._namespace = f"{_OWN}-{secrets.token_hex(3)}"
        self._notes: list[str] = []
        self._made_namespace = False
        self.project = folder / "project"
        try:
            self._api = new_client_from_config()
        except ConfigException as error:
            raise NotReady(f"KUBECONFIG={os.environ['KUBECONFIG']}: {error}") from error
        self._core = CoreV1Api(self._api)
        self.environment = {"SLUICE_PROFILE": _OWN} | (
            {variable_of("store"): self._given.connection_here} if self._given.connection_here else {}
        )

    # --- what it takes ---

    def prepare(self, use_cases: Path) -> None:
        """Make the project of the tests, and in the cluster their namespace. Raises `NotReady`."""
        self._write_project(use_cases)
        try:
            self._make_namespace()
        except (ApiException, HTTPError) as error:
            raise NotReady(
                f"the namespace {self._namespace} could not be prepared: {_said(error)}; docs/cluster-test.md lists what the user of KUBECONFIG must be allowed to"
            ) from error

    def settle(self, project: Project) -> None:
        """Try from here and from a pod what everything depends on. Raises `NotReady`."""
        profile = project.profile()
        try:
            write_json(store_of(profile) / "preflight" / "here.json", {"from": "here"})
            read_json(store_of(profile) / "preflight" / "here.json")
        except SluiceError as error:
            raise NotReady(
                f"this machine does not reach the store {profile.store}: {error}. Is its address another here? Then set SLUICE_TEST_STORE_CONNECTION_HERE"
            ) from error
        try:
            there = {model.name for model in tracking.connect(profile.tracking_uri).search_registered_models(max_results=1000)}
        except (MlflowException, SluiceError) as error:
            raise NotReady(
                f"this machine does not reach MLflow at {profile.tracking_uri}: {error}. Is its address another here? Then set SLUICE_TEST_MLFLOW_HERE"
            ) from error
        if there & set(USE_CASES):
            raise NotReady(
                f"MLflow at {profile.tracking_uri} has models {sorted(there & set(USE_CASES))} already; give the tests a server without them, or delete "
                "them if an earlier run has left them"
            )
        code, output = self._run("preflight", ["python", "-c", _PREFLIGHT], 600)
        if code != 0:
            raise NotReady(f"image {self._given.image}, in a pod of namespace {self._namespace}: {output}")
        if output.split()[-1] != _code():
            self._notes.append(f"the code in {self._given.image} is not that of this checkout: build the image anew")

    def close(self, project: Project | None) -> None:
        """Delete the namespace and wait until it is gone; then what lies in the store and in MLflow."""
        if self._made_namespace:
            self._core.delete_namespace(self._namespace)
            deadline = time.monotonic() + 300
            while self._exists():
                if time.monotonic() > deadline:
                    raise TimeoutError(f"namespace {self._namespace} does not go; `kubectl describe namespace` says what holds it")
                time.sleep(1)
        if project is not None:
            profile = project.profile()
            remove_tree(store_of(profile))
            client = tracking.connect(profile.tracking_uri)
            for name in (*USE_CASES, "clockwork"):
                if (found := client.get_experiment_by_name(name)) is not None:
                    # A deleted experiment keeps its name, and another run of the tests wants it.
                    client.rename_experiment(found.experiment_id, f"{name}-{self._namespace}")
                    client.delete_experiment(found.experiment_id)
            for model in client.search_registered_models(max_results=1000):
                if model.name in USE_CASES:
                    client.delete_registered_model(model.name)

    # --- what tests do ---

    def replay(self, project: Project, arguments: list[str]) -> tuple[int, str]:
        """Send requests from a pod, as a user in the cluster would."""
        return self._run("replay", ["python", "-m", "pipelines_lib.serving.replay", *arguments], 600)

    def ask(self, project: Project, use_case: str, path: str) -> Any:
        """The JSON that the service of a use case answers at `path`, through the API server."""
        answer = self._api.call_api(
            f"/api/v1/namespaces/{self._namespace}/services/{name_of(use_case)}:http/proxy{path}",
            "GET",
            auth_settings=["BearerToken"],
            _preload_content=False,
            _return_http_data_only=True,
            _request_timeout=30,
        )
        return json.loads(answer.data)

    def workers(self, project: Project, use_case: str, run_id: str) -> list[str]:
        """The pods that train in a run at this moment, in the order of their ranks."""
        found = self._pods(f"{JOBS},task_id=train,run_id={run_id},dag_id={use_case}__training")
        running = [pod for pod in found if pod.status.phase == "Running" and pod.metadata.deletion_timestamp is None]
        return [pod.metadata.name for pod in sorted(running, key=lambda pod: pod.metadata.labels["rank"])]

    def busy(self) -> int:
        """How many of `workers` a training has."""
        return self.machines

    def kill(self, worker: str) -> None:
        """Without a grace a pod's processes are killed at once."""
        self._core.delete_namespaced_pod(worker, self._namespace, grace_period_seconds=0)

    def left(self, project: Project, use_case: str, run_id: str) -> list[str]:
        """Every pod, Service and Secret of a stage in the namespace: no other run is at work."""
        listed = {
            "pod": self._core.list_namespaced_pod,
            "service": self._core.list_namespaced_service,
            "secret": self._core.list_namespaced_secret,
        }
        return [f"{kind}/{each.metadata.name}" for kind, ask in listed.items() for each in ask(self._namespace, label_selector=JOBS).items]

    def told(self) -> str:
        """The namespace's pods, what the cluster warns of, and what was noticed before."""
        try:
            pods = [f"{pod.metadata.name}: {pod.status.phase}, on {pod.spec.node_name}" for pod in self._pods("")]
            events = [e for e in self._core.list_namespaced_event(self._namespace).items if e.type == "Warning"]
        except (ApiException, HTTPError) as error:
            return f"the API server does not say what is in namespace {self._namespace}: {_said(error)}"
        warned = [f"{e.involved_object.kind} {e.involved_object.name}: {event_line(e)}" for e in events[-40:]]
        return "\n".join([*self._notes, f"pods of {self._namespace}:", *pods, "warnings:", *warned])

    # --- how ---

    def _write_project(self, use_cases: Path) -> None:
        """`dags/` and `plugins/` of the checkout, and an `include/` of the tests' own."""
        include = write_project(self.project, use_cases)
        described = include / "use_cases" / "recommendation" / "use_case.yaml"
        text = described.read_text(encoding="utf-8")
        assert text.count("  workers: 2\n") == 1
        described.write_text(text.replace("  workers: 2\n", f"  workers: 1\n  nodes: {self.machines}\n"), encoding="utf-8")
        (include / "pod_templates").mkdir()
        write_yaml(include / "profiles" / f"{_OWN}.yaml", self._profile(self._given.mlflow_here))
        way = {"conn_id": "cluster", "conn_type": "kubernetes", "conn_extra": {"kube_config_path": str(self._folder / "kubeconfig")}}
        write_yaml(self.project / "airflow_settings.yaml", {"airflow": {"connections": [way]}})

    def _profile(self, mlflow: str) -> dict[str, Any]:
        """Where things run; `mlflow` is its address for whoever reads this."""
        given = self._given
        reserved = {"cpu": "250m", "memory": "1500Mi", "ephemeral_storage": "1Gi", "shm": "64Mi"}
        kubernetes = {
            "connection": "cluster",
            "namespace": self._namespace,
            "images": {"cpu": given.image, "serving": given.image},
            "service_account": "sluice-job",
            "resources": {"default": reserved, "serving": {"cpu": "100m", "memory": "1Gi"}},
            "replicas": {"least": 1, "most": 2},
            "startup_timeout": "5min",
            "join_timeout": "5min",
            "grace": "20s",
            "secrets": [_OWN],
        }
        return {
            "name": _OWN,
            "launcher": "kubernetes",
            "store": f"{given.store}/{self._namespace}",
            **({"store_connection": "store"} if given.connection else {}),
            "tracking_uri": mlflow,
            "mlflow_url": given.mlflow_here,
            "scratch": "/tmp",
            "kubernetes": kubernetes,
        }

    def _make_namespace(self) -> None:
        # As strict as the API server can be about what pods may do on a node.
        labels = {"pod-security.kubernetes.io/enforce": "restricted", "app.kubernetes.io/managed-by": _OWN}
        self._core.create_namespace({"metadata": {"name": self._namespace, "labels": labels}})
        self._made_namespace = True
        rights = (ROOT / "docker" / "cluster" / "base" / "rights.yaml").read_text(encoding="utf-8")
        for document in (_account("sluice-airflow"), *yaml.safe_load_all(rights)):
            document["metadata"]["namespace"] = self._namespace
            for subject in document.get("subjects", ()):
                # Airflow runs on this machine, with an account that may do no more than it does in a cluster.
                name = "sluice-airflow" if subject["name"].startswith("airflow-") else subject["name"]
                subject |= {"name": name, "namespace": self._namespace}
            create_from_dict(self._api, document)
        self._core.create_namespaced_secret(self._namespace, {"metadata": {"name": _OWN}, "stringData": dict(self._secret())})
        self._write_kubeconfig()
        self._mount_project()

    def _secret(self) -> Iterator[tuple[str, str]]:
        """What every pod has in its environment: the ways to the store and to MLflow."""
        if self._given.connection:
            yield variable_of("store"), self._given.connection
            opened = connection("store", {variable_of("store"): self._given.connection})
            yield "AWS_DEFAULT_REGION", str(opened.extra.get("region_name", "us-east-1"))
            # MLflow's client opens the bucket by itself.
            known = {
                "AWS_ACCESS_KEY_ID": opened.login,
                "AWS_SECRET_ACCESS_KEY": opened.password,
                "MLFLOW_S3_ENDPOINT_URL": opened.extra.get("endpoint_url"),
            }
            yield from ((key, value) for key, value in known.items() if value)
        yield from ((key, value) for key in _PASSED_ON if (value := os.environ.get(key)))

    def _way_in(self) -> Iterator[Manifest]:
        """The store's address as pods see it, over the one that Airflow hands out."""
        if self._given.connection:
            name = variable_of("store")
            yield {"name": name, "valueFrom": {"secretKeyRef": {"name": _OWN, "key": name}}}

    def _write_kubeconfig(self) -> None:
        """The way to the cluster for Airflow: the API server of KUBECONFIG, as the account that it has in a cluster."""
        asked = {"spec": {"expirationSeconds": 4 * 3600}}
        token = self._core.create_namespaced_service_account_token("sluice-airflow", self._namespace, asked).status.token
        known = self._api.configuration
        trusted: Mapping[str, Any] = {"insecure-skip-tls-verify": True}
        if known.verify_ssl:
            trusted = {} if known.ssl_ca_cert is None else {"certificate-authority-data": _base64(Path(known.ssl_ca_cert).read_bytes())}
        if known.tls_server_name:
            trusted = {**trusted, "tls-server-name": known.tls_server_name}
        path = self._folder / "kubeconfig"
        path.touch(0o600)
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "cluster", "cluster": {"server": known.host, **trusted}}],
            "users": [{"name": "airflow", "user": {"token": token}}],
            "contexts": [{"name": "airflow", "context": {"cluster": "cluster", "user": "airflow", "namespace": self._namespace}}],
            "current-context": "airflow",
        }
        write_yaml(path, document)

    def _mount_project(self) -> None:
        """Give the pods `include/` as it is here, but with the addresses that they see."""
        include = self.project / "include"
        names = {path.relative_to(self.project).as_posix() for path in include.rglob("*") if path.is_file()}
        names |= {f"include/pod_templates/{name}.yaml" for name in ("cpu", "gpu", "serving")}
        keys = {name: name.replace("/", "__") for name in sorted(names)}
        items = [{"key": key, "path": name} for name, key in keys.items()]
        template = {
            "apiVersion": "v1",
            "kind": "Pod",
            "spec": {
                "containers": [
                    {
                        "name": CONTAINER,
                        "imagePullPolicy": "IfNotPresent",
                        "env": [{"name": "SLUICE_PROJECT", "value": _MOUNT}, *self._way_in()],
                        "volumeMounts": [{"name": "project", "mountPath": _MOUNT, "readOnly": True}],
                    }
                ],
                "volumes": [{"name": "project", "configMap": {"name": _OWN, "items": items}}],
            },
        }
        for name in ("cpu", "gpu", "serving"):
            write_yaml(include / "pod_templates" / f"{name}.yaml", template)
        data = {key: (self.project / name).read_text(encoding="utf-8") for name, key in keys.items()}
        data[keys[f"include/profiles/{_OWN}.yaml"]] = yaml.safe_dump(self._profile(self._given.mlflow))
        self._core.create_namespaced_config_map(self._namespace, {"metadata": {"name": _OWN}, "data": data})

    def _run(self, name: str, command: list[str], seconds: float) -> tuple[int, str]:
        """Run `command` in a pod of the image; returns its exit code and what it printed. Raises `NotReady` where the pod does not begin."""
        template = yaml.safe_load((self.project / "include" / "pod_templates" / "cpu.yaml").read_text(encoding="utf-8"))
        [container] = template["spec"]["containers"]
        container |= {
            "image": self._given.image,
            "command": command,
            "env": [
                *container["env"],
                {"name": "HOME", "value": "/tmp"},
                {"name": "SLUICE_HOME", "value": "/tmp/sluice"},
                {"name": "SLUICE_PROFILE", "value": _OWN},
            ],
            "envFrom": [{"secretRef": {"name": _OWN}}],
            "securityContext": CONTAINER_SECURITY,
            "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "1500Mi"}},
            "volumeMounts": [*container["volumeMounts"], {"name": "tmp", "mountPath": "/tmp"}],
        }
        spec = {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": POD_SECURITY,
            "containers": [container],
            "volumes": [*template["spec"]["volumes"], {"name": "tmp", "emptyDir": {}}],
        }
        pod: Manifest = {**template, "metadata": {"name": f"{name}-{secrets.token_hex(3)}", "labels": {"app": _OWN}}, "spec": spec}
        self._core.create_namespaced_pod(self._namespace, pod)
        try:
            return self._followed(pod["metadata"]["name"], seconds)
        finally:
            self._core.delete_namespaced_pod(pod["metadata"]["name"], self._namespace, grace_period_seconds=0)

    def _followed(self, name: str, seconds: float) -> tuple[int, str]:
        started = time.monotonic()
        while True:
            pod = self._core.read_namespaced_pod(name, self._namespace)
            if (end := ended(pod)) is not None:
                log = self._core.read_namespaced_pod_log(name, self._namespace, container=CONTAINER)
                return (1 if end.code is None else end.code), log.strip() or end.sentence()
            if (end := cannot_begin(pod)) is not None:
                raise NotReady(f"pod {name}: {end.sentence()}")
            if time.monotonic() - started > seconds:
                raise NotReady(f"pod {name}: {too_slow(pod, seconds).sentence()}")
            time.sleep(1)

    def _pods(self, selector: str) -> list[Any]:
        found: list[Any] = self._core.list_namespaced_pod(self._namespace, label_selector=selector).items
        return found

    def _exists(self) -> bool:
        try:
            self._core.read_namespace(self._namespace)
        except ApiException as error:
            if error.status != 404:
                raise
            return False
        return True


def _account(name: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}, "automountServiceAccountToken": False}


def _code() -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted((ROOT / "pipelines_lib").rglob("*.py")))).hexdigest()


def _said(error: Exception) -> str:
    return f"{error.status} {error.body or error.reason}" if isinstance(error, ApiException) else str(error)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
