"""What a use case's service looks like on a cluster: Deployment, Service, autoscaler and disruption budget."""

from pathlib import Path

from pipelines_lib.cluster import SERVING, Kubernetes
from pipelines_lib.config import Profile
from pipelines_lib.connections import variable_of
from pipelines_lib.errors import ConfigError
from pipelines_lib.pods.template import CONTAINER, CONTAINER_SECURITY, POD_SECURITY, PREDICTOR, Manifest, from_template
from pipelines_lib.use_case import Token

KSERVE = "serving.kserve.io"
PORT = 8080
"""What a server listens on in its pod."""
_GRACE = 45
"""Seconds in which requests end and the log of answers is written."""


def name_of(use_case: str, *, candidate: bool = False) -> str:
    """The name of every object of a use case's service, or of its candidate's Deployment."""
    # The mark of a candidate comes first: behind, it would be the name of a use case `shop_candidate`.
    return f"{'candidate' if candidate else 'serving'}-{use_case.replace('_', '-')}"


def url_of(use_case: str, namespace: str) -> str:
    """The address of a use case's service, for whoever is in the cluster."""
    return f"http://{name_of(use_case)}.{namespace}.svc"


def labels_of(use_case: str, *, candidate: bool) -> dict[str, str]:
    """What selects the pods of a use case's service, or its candidate's."""
    known = {"app.kubernetes.io/name": "sluice", "app.kubernetes.io/component": "serving"}
    return known | {"use_case": use_case, "track": "candidate" if candidate else "champion"}


def deployment(
    use_case: str, root: str, profile: Profile, template: Path, *, candidate: bool, replicas: int | None, token: Token | None = None
) -> Manifest:
    """The servers of the use case whose folder in the store is `root`; None for `replicas` leaves their number to the autoscaler.

    Raises `ConfigError` where the profile does not say what they need.
    """
    kubernetes = profile.kubernetes
    assert kubernetes is not None, "a profile whose launcher is kubernetes has it"
    if kubernetes.images.serving is None:
        raise ConfigError(f"profile {profile.name}: kubernetes.images.serving is missing; name the image of the model service there")
    needed = {"store_connection": profile.store_connection, "deployment.token": token.connection if token else None}
    for setting, connection in needed.items():
        if connection is not None and not kubernetes.secrets:
            raise ConfigError(
                f"profile {profile.name}: the servers need connection {connection!r} ({setting}), and outlive the task that has it; put it into a Secret "
                f"of namespace {kubernetes.namespace} as {variable_of(connection)}, and name that under kubernetes.secrets"
            )
    labels = labels_of(use_case, candidate=candidate)
    # The list of a pod template takes neither name nor namespace: the Deployment gives them.
    pod = from_template(
        template, {"metadata": {"labels": labels}, "spec": _pod_spec(root, profile.name, kubernetes, labels, token, candidate=candidate)}
    )
    spec: Manifest = {
        "selector": {"matchLabels": labels},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "progressDeadlineSeconds": max(60, int(kubernetes.startup_timeout.total_seconds())),
        "template": {"metadata": pod["metadata"], "spec": pod["spec"]},
    }
    if replicas is not None:
        spec["replicas"] = replicas
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": _metadata(use_case, kubernetes, candidate=candidate), "spec": spec}


def inference_service_name(use_case: str) -> str:
    """The name of the users' servers where KServe brings them up; not that of our Service, lest KServe wants to make one of this name."""
    return f"champion-{use_case.replace('_', '-')}"


def predictor_of(use_case: str) -> str:
    """The Deployment that KServe makes of it."""
    return f"{inference_service_name(use_case)}-predictor"


def inference_service(use_case: str, root: str, profile: Profile, template: Path, token: Token | None = None) -> Manifest:
    """The same servers as an InferenceService of KServe's, whose labels its pods bear. Raises `ConfigError` as `deployment` does."""
    made = deployment(use_case, root, profile, template, candidate=False, replicas=None, token=token)["spec"]
    kubernetes = profile.kubernetes
    assert kubernetes is not None, "deployment has looked"
    pod, wanted = made["template"], kubernetes.replicas
    containers = [{**own, "name": PREDICTOR} if own["name"] == CONTAINER else own for own in pod["spec"]["containers"]]
    return {
        "apiVersion": f"{KSERVE}/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            **_metadata(use_case, kubernetes),
            "name": inference_service_name(use_case),
            # Without Knative: the pods of a Deployment, which follow the pointer as they do elsewhere.
            "annotations": {f"{KSERVE}/deploymentMode": "RawDeployment", f"{KSERVE}/autoscalerClass": "hpa"},
        },
        "spec": {
            "predictor": {
                "minReplicas": wanted.least,
                "maxReplicas": wanted.most,
                "scaleMetric": "cpu",
                "scaleTarget": wanted.cpu_percent,
                "deploymentStrategy": made["strategy"],
                **{key: pod["metadata"][key] for key in ("labels", "annotations") if key in pod["metadata"]},
                **pod["spec"],
                "containers": containers,
            }
        },
    }


def service(use_case: str, kubernetes: Kubernetes, *, admits: bool = False) -> Manifest:
    """Where users ask: the champion's servers alone, or with `admits` a candidate's too."""
    selector = labels_of(use_case, candidate=False)
    if admits:
        del selector["track"]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(use_case, kubernetes),
        "spec": {
            "selector": selector,
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"}],
        },
    }


def autoscaler(use_case: str, kubernetes: Kubernetes) -> Manifest:
    """How many servers the load asks for."""
    wanted = kubernetes.replicas
    target = {"type": "Utilization", "averageUtilization": wanted.cpu_percent}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": _metadata(use_case, kubernetes),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name_of(use_case)},
            "minReplicas": wanted.least,
            "maxReplicas": wanted.most,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
        },
    }


def disruption_budget(use_case: str, kubernetes: Kubernetes) -> Manifest:
    """How many servers a drained node may take at once."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(use_case, kubernetes),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": labels_of(use_case, candidate=False)}},
    }


def _metadata(use_case: str, kubernetes: Kubernetes, *, candidate: bool = False) -> Manifest:
    return {
        "name": name_of(use_case, candidate=candidate),
        "namespace": kubernetes.namespace,
        "labels": labels_of(use_case, candidate=candidate),
    }


def _pod_spec(root: str, profile: str, kubernetes: Kubernetes, labels: dict[str, str], token: Token | None, *, candidate: bool) -> Manifest:
    return {
        "serviceAccountName": kubernetes.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,  # a Service called sluice would set SLUICE_PORT
        "terminationGracePeriodSeconds": _GRACE,
        "securityContext": POD_SECURITY,
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": labels},
            }
        ],
        "containers": [_container(root, profile, kubernetes, token, candidate=candidate)],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }


def _container(root: str, profile: str, kubernetes: Kubernetes, token: Token | None, *, candidate: bool) -> Manifest:
    reserved = kubernetes.of(SERVING)
    limits = {"memory": reserved.memory, "ephemeral-storage": reserved.ephemeral_storage}
    listens = ["--host", "0.0.0.0", "--port", str(PORT)]  # noqa: S104 - in a pod, whose network policy says who reaches it
    asked = [*(["--token", token.connection] if token else []), *(["--candidate"] if candidate else [])]
    live, ready = ({"httpGet": {"path": f"/v2/health/{state}", "port": "http"}} for state in ("live", "ready"))
    return {
        "name": CONTAINER,
        "image": kubernetes.images.serving,
        "command": ["python", "-m", "pipelines_lib.serving.server", "--root", root, *listens, *asked],
        "env": [
            {"name": "HOME", "value": "/tmp"},  # noqa: S108 - the pod's own
            {"name": "SLUICE_HOME", "value": "/tmp/sluice"},  # noqa: S108
            {"name": "SLUICE_PROFILE", "value": profile},
        ],
        "envFrom": [{"secretRef": {"name": name}} for name in kubernetes.secrets],
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "startupProbe": {**live, "failureThreshold": 60, "periodSeconds": 2},
        "readinessProbe": {**ready, "periodSeconds": 5},  # not before there is a version that it may answer with
        "livenessProbe": {**live, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "5"]}}},  # until no more requests are sent here
        "resources": {"requests": {"cpu": reserved.cpu, **limits}, "limits": limits},
        "securityContext": CONTAINER_SECURITY,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
    }
