"""The service of a use case on a Kubernetes cluster: applied by the server, so that applying it again changes nothing.

The servers follow the use case's pointer by themselves. A new version needs no roll-out; a new image or setting does.
"""

import json
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from kubernetes import config
from kubernetes.client import ApiClient, ApiException, AppsV1Api, AutoscalingV2Api, Configuration, CoreV1Api, CustomObjectsApi, PolicyV1Api
from kubernetes.config import ConfigException
from urllib3.exceptions import HTTPError

from pipelines_lib.cluster import DEPLOYING
from pipelines_lib.config import Profile, Project
from pipelines_lib.errors import ConfigError, Unavailable
from pipelines_lib.pods.ends import cannot_begin, too_slow
from pipelines_lib.pods.template import OWN, Manifest
from pipelines_lib.serving.access import token_of
from pipelines_lib.serving.objects import (
    KSERVE,
    PORT,
    autoscaler,
    deployment,
    disruption_budget,
    inference_service,
    inference_service_name,
    labels_of,
    name_of,
    predictor_of,
    service,
    url_of,
)
from pipelines_lib.serving.replica import Replica
from pipelines_lib.store import StorePath
from pipelines_lib.use_case import UseCase

log = logging.getLogger("sluice.serving")

MANAGER = "sluice"
"""Whose fields of the objects these are, to the API server."""

_INFERENCE = (KSERVE, "v1beta1", "inferenceservices")
_APPLY = {"field_manager": MANAGER, "_content_type": "application/apply-patch+yaml", "_request_timeout": 30}


class Cluster:
    """The servers of a use case as pods: a Deployment for its users, or KServe's, and one of a single pod for a candidate while it is verified."""

    def __init__(self, use_case: UseCase, project: Project, profile: Profile, root: StorePath) -> None:
        assert profile.kubernetes is not None, "a profile whose launcher is kubernetes has it"
        self._use_case = use_case.name
        self._token = use_case.deployment.token
        self._profile = profile
        self._root = str(root)
        self._kubernetes = profile.kubernetes
        self._by_kserve = profile.kubernetes.serving == "kserve"
        self._template = project.pod_template(profile.kubernetes.templates.serving)
        self._namespace = profile.kubernetes.namespace
        self.url = url_of(use_case.name, self._namespace)
        # The pod has so long to begin, and the probes then give the server two minutes.
        self.seconds = profile.kubernetes.startup_timeout.total_seconds() + 120

    def put_up(self, *, candidate: bool) -> str:
        """Apply the objects of the users' service, or the candidate's Deployment."""
        if candidate:
            self._apply_deployment(candidate=True, replicas=1)
            return self.url
        self._apply_service(admits=False)
        if self._by_kserve:
            self._apply_inference_service()
        else:
            self._apply_scaled_deployment()
        self._where_known(
            "disruption budgets (policy/v1)",
            "poddisruptionbudgets",
            self._policy.patch_namespaced_pod_disruption_budget,
            disruption_budget(self._use_case, self._kubernetes),
        )
        return self.url

    def _apply_scaled_deployment(self) -> None:
        scaled = self._where_known(
            "autoscalers (autoscaling/v2)",
            "horizontalpodautoscalers",
            self._scaling.patch_namespaced_horizontal_pod_autoscaler,
            autoscaler(self._use_case, self._kubernetes),
        )
        # Where there is an autoscaler the number of servers is its own, and applying must not take it back.
        self._apply_deployment(candidate=False, replicas=None if scaled else self._kubernetes.replicas.least)

    def replicas(self, *, candidate: bool) -> tuple[list[Replica], str]:
        """The pods that run, ready or not: one that can't open its version is not, and says why when it is asked."""
        selector = ",".join(f"{key}={value}" for key, value in labels_of(self._use_case, candidate=candidate).items())
        try:
            found = self._read_deployment(candidate=candidate)
        except _Missing:
            if candidate or not self._by_kserve:
                raise
            name = inference_service_name(self._use_case)
            return [], f"KServe has made no Deployment of InferenceService {name}; `kubectl describe inferenceservice {name}` says why"
        with self._told("pods"):
            pods = self._core.list_namespaced_pod(self._namespace, label_selector=selector, _request_timeout=30).items
        pods = [pod for pod in pods if pod.metadata.deletion_timestamp is None and pod.status.phase in ("Pending", "Running")]
        for pod in pods:
            # One that an earlier image left goes by itself.
            if _image(pod) == self._kubernetes.images.serving and (end := cannot_begin(pod)) is not None:
                raise ConfigError(f"pod {pod.metadata.name}: {end.sentence()}")
        token = token_of(self._token)
        return [Replica(pod.status.pod_ip, PORT, token) for pod in pods if _runs(pod)], _missing(found, pods, self.seconds)

    def admit(self, share: float) -> bool:
        """Let the users' Service select the candidate's pods too, as many as the share grants beside those that run.

        The share is never more than asked: where it grants no whole pod (a tenth, beside less than nine) this is False.
        """
        found = self._read_deployment(candidate=False)
        pods = math.floor((found.status.ready_replicas or 0) * share / (1 - share) + 1e-9)
        if not pods:
            return False
        self._apply_deployment(candidate=True, replicas=pods)
        self._apply_service(admits=True)
        return True

    def end(self, *, candidate: bool) -> None:
        """Delete the candidate's Deployment, which users are no more sent to, or all of the users' service."""
        name = name_of(self._use_case, candidate=candidate)
        if candidate:
            self._apply_service(admits=False)
        if candidate or not self._by_kserve:
            self._delete("deployments", self._apps.delete_namespaced_deployment, name)
        if not candidate:
            if self._by_kserve:
                self._delete(_INFERENCE[-1], self._delete_inference_service, inference_service_name(self._use_case))
            else:
                self._delete("horizontalpodautoscalers", self._scaling.delete_namespaced_horizontal_pod_autoscaler, name)
            self._delete("poddisruptionbudgets", self._policy.delete_namespaced_pod_disruption_budget, name)
            self._delete("services", self._core.delete_namespaced_service, name)

    def _apply_service(self, *, admits: bool) -> None:
        manifest = service(self._use_case, self._kubernetes, admits=admits)
        with self._told("services"):
            self._core.patch_namespaced_service(manifest["metadata"]["name"], self._namespace, manifest, **_APPLY)

    def _apply_inference_service(self) -> None:
        manifest = inference_service(self._use_case, self._root, self._profile, self._template, self._token)
        group, version, plural = _INFERENCE
        try:
            with self._told(plural):
                self._custom.patch_namespaced_custom_object(
                    group, version, self._namespace, plural, manifest["metadata"]["name"], manifest, **_APPLY
                )
        except _Missing as error:
            raise ConfigError(
                f"{error} Or has this cluster no KServe: install it, or set `serving: deployment` under kubernetes of profile {self._profile.name}"
            ) from error

    def _delete_inference_service(self, name: str, namespace: str, **options: Any) -> None:
        group, version, plural = _INFERENCE
        self._custom.delete_namespaced_custom_object(group, version, namespace, plural, name, **options)

    def _read_deployment(self, *, candidate: bool) -> Any:
        own = name_of(self._use_case, candidate=candidate)
        name = predictor_of(self._use_case) if self._by_kserve and not candidate else own
        with self._told("deployments"):
            return self._apps.read_namespaced_deployment(name, self._namespace, _request_timeout=30)

    def _apply_deployment(self, *, candidate: bool, replicas: int | None) -> None:
        manifest = deployment(
            self._use_case, self._root, self._profile, self._template, candidate=candidate, replicas=replicas, token=self._token
        )
        with self._told("deployments"):
            self._apps.patch_namespaced_deployment(manifest["metadata"]["name"], self._namespace, manifest, **_APPLY)

    def _where_known(self, what: str, resource: str, apply: Any, manifest: Manifest) -> bool:
        """Apply an object of a kind that not every cluster has; whether this one has it."""
        try:
            with self._told(resource):
                apply(manifest["metadata"]["name"], self._namespace, manifest, **_APPLY)
        except _Missing:
            log.warning("this cluster has no API for %s, so %s goes without", what, name_of(self._use_case))
            return False
        return True

    def _delete(self, resource: str, delete: Any, name: str) -> None:
        try:
            with self._told(resource):
                delete(name, self._namespace, _request_timeout=30)
        except _Missing:
            return

    @contextmanager
    def _told(self, resource: str) -> Iterator[None]:
        """Turns what the API server answers into what its reader can do."""
        what = f"{resource} of {self._use_case} in namespace {self._namespace}"
        try:
            yield
        except ConfigException as error:
            raise ConfigError(
                f"there is no way to the cluster ({error}); run this stage in a pod of it, or name the cluster in KUBECONFIG"
            ) from error
        except ApiException as error:
            raise _meaning(error, what, self._kubernetes.deployer) from error
        except (HTTPError, OSError) as error:
            raise Unavailable(f"{what}: the API server does not answer ({error}); try again") from error

    @cached_property
    def _client(self) -> ApiClient:
        settings = Configuration()
        with self._told("objects"):
            if "KUBERNETES_SERVICE_HOST" in os.environ:
                config.load_incluster_config(client_configuration=settings)
            else:
                config.load_kube_config(client_configuration=settings)
        return ApiClient(settings)

    @property
    def _core(self) -> CoreV1Api:
        return CoreV1Api(self._client)

    @property
    def _apps(self) -> AppsV1Api:
        return AppsV1Api(self._client)

    @property
    def _scaling(self) -> AutoscalingV2Api:
        return AutoscalingV2Api(self._client)

    @property
    def _custom(self) -> CustomObjectsApi:
        return CustomObjectsApi(self._client)

    @property
    def _policy(self) -> PolicyV1Api:
        return PolicyV1Api(self._client)


class _Missing(ConfigError):
    """There is no such object, or no such kind of objects."""


def _meaning(error: ApiException, what: str, deployer: str) -> ConfigError | Unavailable:
    try:
        message = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        message = error.reason
    said = f"{what}: {error.status} {message}"
    if error.status == 404:
        return _Missing(f"{said}; is the namespace there, and does another tool delete in it?")
    if error.status == 403 and "exceeded quota" in message:
        return Unavailable(f"{said}; raise the namespace's ResourceQuota, or lower kubernetes.replicas or resources.serving in the profile")
    wrong = "correct the profile or include/pod_templates/serving.yaml as it says"
    remedy = {
        400: wrong,
        401: f"the cluster does not take the credentials, or no more: of a pod those of service account {deployer}, elsewhere those in KUBECONFIG. Renew them",
        403: (
            f"the stages {' and '.join(sorted(DEPLOYING))} run as service account {deployer} (kubernetes.deployer), which needs the Role `sluice-deployer` "
            "of docker/cluster/base/rights.yaml; apply it"
        ),
        409: (
            "somebody else has set what the profile sets. Take it out of theirs and put it into include/profiles or include/pod_templates/serving.yaml, "
            "or delete the object"
        ),
        422: wrong,
    }
    if error.status in remedy:
        return ConfigError(f"{said}; {remedy[error.status]}, then clear the task")
    return Unavailable(f"{said}; try again")


def _image(pod: Any) -> str | None:
    return next((container.image for container in pod.spec.containers if container.name in OWN), None)


def _runs(pod: Any) -> bool:
    return bool(pod.status.pod_ip) and any(
        status.name in OWN and status.state and status.state.running for status in pod.status.container_statuses or ()
    )


def _missing(found: Any, pods: list[Any], seconds: float) -> str:
    """What is not yet as the Deployment `found` wants it; empty where nothing is."""
    status, wanted = found.status, found.spec.replicas
    if (status.observed_generation or 0) < found.metadata.generation:
        return f"{found.metadata.name}: its controller has not seen the last change"
    if status.updated_replicas == status.replicas == status.ready_replicas == wanted:
        return ""
    for condition in status.conditions or ():
        if condition.type == "ReplicaFailure" and condition.status == "True":
            return f"{found.metadata.name}: {condition.message}"
    return f"{found.metadata.name}: {status.ready_replicas or 0} of {wanted} servers are ready" + "".join(
        f"; pod {pod.metadata.name}: {why}" for pod in pods if (why := _trouble(pod, seconds))
    )


def _trouble(pod: Any, seconds: float) -> str:
    """Why `pod` does not run; empty where it does."""
    for status in pod.status.container_statuses or ():
        last = status.last_state.terminated if status.last_state else None
        if status.restart_count and last:
            return f"it ended {status.restart_count} times, at last with {last.reason} (exit code {last.exit_code}): {(last.message or '').strip()[-500:]}"
    return "" if _runs(pod) else too_slow(pod, seconds).sentence()
