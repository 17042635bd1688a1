"""What a stage's pod looks like: from the job, the profile and a template to a manifest. Pods are built here alone."""

import json
import re
import secrets
from collections.abc import Mapping

from airflow.providers.cncf.kubernetes.pod_generator import make_safe_label_value

from pipelines_lib.cluster import DEPLOYING, Kubernetes, Resources, amount
from pipelines_lib.contracts import JobSpec
from pipelines_lib.cost.meter import REQUESTS
from pipelines_lib.launcher import ENVIRONMENT, Gang, command
from pipelines_lib.pods.template import CONTAINER, CONTAINER_SECURITY, HOME, POD_SECURITY, Manifest

_NAME_LABEL = "app.kubernetes.io/name"
_KUEUE = "kueue.x-k8s.io"
_LONGEST_NAME = 63
_PORT = 29400
"""Where the machines of a training meet: torchrun's usual one."""
_OWN_ADDRESS = "$(POD_IP)"
"""What Kubernetes puts the pod's address in place of."""
_GIB = float(1 << 30)


def name_of(*parts: object, longest: int = _LONGEST_NAME) -> str:
    """A name for one pod that nothing else has: valid for any text, at most `longest` characters, `parts` as far as they fit."""
    mark = f"-{secrets.token_hex(4)}"
    text = re.sub(r"[^a-z0-9]+", "-", "-".join(str(part) for part in parts).lower()).strip("-") or "stage"
    return text[: longest - len(mark)].rstrip("-") + mark


def label_of(text: str) -> str:
    """`text` as the value of a label; where that changes it, a hash keeps two texts apart."""
    # Airflow's begins with a hyphen where no character may stay, as of a run id in Chinese, and the API server refuses that.
    return str(make_safe_label_value(text)).lstrip("-")


JOBS = f"{_NAME_LABEL}=sluice,app.kubernetes.io/component=job"
"""What selects the pods of every stage."""


def selector_of(spec: JobSpec, rank: int = 0) -> str:
    """What selects the pods of every try of a stage, or of one of its ranks; those of another Airflow with another store are not among them."""
    return f"{JOBS},job={spec.job},rank={rank}"


def gang_of(spec: JobSpec, kubernetes: Kubernetes, *, node: int | None, nodes: tuple[int, int]) -> Gang:
    """The training on several machines whose name is the launch of `spec`, as machine `node` sees it; None where Kubeflow numbers them."""
    # The first knows itself before the cluster's DNS knows it.
    host = _OWN_ADDRESS if node == 0 else f"{service_name(spec)}.{kubernetes.namespace}.svc"
    return Gang(
        node=node,
        nodes=nodes,
        address=None if node is None else f"{host}:{_PORT}",
        name=spec.launch,
        join_seconds=int(kubernetes.join_timeout.total_seconds()),
        own_address=_OWN_ADDRESS,
    )


def service_name(spec: JobSpec) -> str:
    """Of the Service under which the machines of a training find the first of them: every try of this stage of this run has the same."""
    return f"sluice-{spec.job}"


def service(spec: JobSpec, kubernetes: Kubernetes) -> Manifest:
    """The headless Service by which the cluster's DNS names the pod of rank 0, ready or not."""
    own = {"use_case": spec.use_case, "stage": spec.stage, "job": spec.job}
    known = {_NAME_LABEL: "sluice", "app.kubernetes.io/component": "job"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": service_name(spec),
            "namespace": kubernetes.namespace,
            "labels": known | {key: label_of(value) for key, value in own.items()},
        },
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": known | {"job": spec.job, "rank": "0"},
            "ports": [{"name": "rendezvous", "port": _PORT, "protocol": "TCP"}],
        },
    }


def stage_pod(
    spec: JobSpec, kubernetes: Kubernetes, *, name: str, labels: Mapping[str, str], has_secret: bool, gang: Gang | None = None
) -> Manifest:
    """The pod `name` of one try of a stage, as far as Sluice decides it; with `gang` that of one of the machines that train together.

    `labels` say which task of Airflow it is for; `has_secret` says that a Secret of the pod's own name holds the stage's connections.
    """
    reserved, rank = kubernetes.of(spec.stage), 0 if gang is None else gang.node
    own = {"use_case": spec.use_case, "stage": spec.stage, "job": spec.job, **({} if rank is None else {"rank": str(rank)})}
    queue = {} if kubernetes.queue is None else {f"{_KUEUE}/queue-name": kubernetes.queue}
    # Those without which there is no training are admitted together or not at all; each of the others by itself.
    group = {f"{_KUEUE}/pod-group-name": gang.name} if queue and gang is not None and rank is not None and rank < gang.nodes[0] else {}
    known = {_NAME_LABEL: "sluice", "app.kubernetes.io/component": "job"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": kubernetes.namespace,
            "labels": known | {key: label_of(value) for key, value in (own | dict(labels)).items()} | queue | group,
            **({"annotations": {f"{_KUEUE}/pod-group-total-count": str(gang.nodes[0])}} if group and gang is not None else {}),
        },
        "spec": {
            "restartPolicy": "Never",  # Airflow retries, and knows how often
            "serviceAccountName": kubernetes.account_of(spec.stage),
            "automountServiceAccountToken": spec.stage in DEPLOYING,  # no other stage has business with the cluster
            "enableServiceLinks": False,  # a Service called sluice would set SLUICE_PORT
            # Else the stage is process 1, which the kernel spares the signals that it has no handler for: it would not end before the grace is over.
            "shareProcessNamespace": True,
            "terminationGracePeriodSeconds": int(kubernetes.grace.total_seconds()),
            "securityContext": POD_SECURITY,
            "containers": [_container(spec, kubernetes, reserved, [*kubernetes.secrets, *([name] if has_secret else [])], gang)],
            "volumes": [
                {"name": "tmp", "emptyDir": {}},
                {"name": "home", "emptyDir": {}},
                # The 64 MiB that a container gets are too few for processes that exchange tensors.
                {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": reserved.shm}},
            ],
        },
    }


def _container(spec: JobSpec, kubernetes: Kubernetes, reserved: Resources, secret_names: list[str], gang: Gang | None) -> Manifest:
    limits = {"memory": reserved.memory, "ephemeral-storage": reserved.ephemeral_storage}
    if reserved.gpu:
        limits["nvidia.com/gpu"] = str(reserved.gpu)
    return {
        "name": CONTAINER,
        "image": kubernetes.image_of(spec.stage),
        # The interpreter of the image, not that of the worker.
        "command": ["python", *command(spec, f"{spec.stage_dir}/spec.json", gang)[1:]],
        **({} if gang is None or gang.node is None else {"ports": [{"name": "rendezvous", "containerPort": _PORT}]}),
        "env": [
            *([] if gang is None else [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]),
            *({"name": name, "value": value} for name, value in _environment(spec, reserved).items()),
        ],
        # Of two with the same key the last counts: a connection of Airflow's, before one that every pod gets.
        "envFrom": [{"secretRef": {"name": name}} for name in secret_names],
        # No limit of the CPU: it would stop threads for parts of a second while cores are idle.
        "resources": {"requests": {"cpu": reserved.cpu, **limits}, "limits": limits},
        "securityContext": CONTAINER_SECURITY,
        # What is known of a container whose node is gone.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the pod's own
            {"name": "home", "mountPath": HOME},
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
        ],
    }


def _environment(spec: JobSpec, reserved: Resources) -> dict[str, str]:
    # What is reserved is shared by the processes of the pod, and a library would start a thread for each core of the node.
    cpus, memory = amount(reserved.cpu) / spec.workers, amount(reserved.memory) / _GIB / spec.workers
    return ENVIRONMENT | {
        "HOME": HOME,
        "SLUICE_HOME": f"{HOME}/.sluice",
        "SLUICE_PROFILE": spec.profile,
        REQUESTS: json.dumps({"cpus": round(cpus, 4), "memory_gib": round(memory, 4)}),
        "OMP_NUM_THREADS": str(max(1, int(cpus))),
    }
