"""The place where the machines of a training meet: a headless Service that one task makes, and another removes whatever became of them."""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from airflow.providers.cncf.kubernetes.kubernetes_helper_functions import generic_api_retry
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from kubernetes.client import ApiException, CoreV1Api
from kubernetes.config import ConfigException
from urllib3.exceptions import HTTPError

from pipelines_lib import failures
from pipelines_lib.cluster import Kubernetes
from pipelines_lib.orchestration.operators import Asked, StageOperator
from pipelines_lib.orchestration.pods.access import cluster_of, hook_of
from pipelines_lib.orchestration.pods.manifest import JOBS, service, service_name
from pipelines_lib.orchestration.pods.refusals import already_exists, refused
from pipelines_lib.store import write_json

_NOT_FOUND = 404


class SetUpOperator(StageOperator):
    """Make the Service, take away what an earlier training of the run has left, and return the new one's name, which its machines have in common."""

    def execute(self, context: Mapping[str, Any]) -> str:
        """May be done again: a Service that is there already is the same. What the API server refuses fails the task, with what to do."""
        asked = self.asked(context)
        kubernetes = cluster_of(asked)
        spec = asked.spec.model_copy(update={"launch": f"{asked.spec.job}-{secrets.token_hex(4)}"})
        with _api_of(asked, self.task_id) as api:
            # Its machines would take part in the new one, or end it.
            _remove_pods(api, asked, kubernetes)
            (asked.folder / "result.json").unlink(missing_ok=True)
            failures.forget(asked.folder)
            write_json(asked.folder / "spec.json", spec)
            _make(api, service(spec, kubernetes))
        self.log.info("machines meet at %s.%s.svc; this training is %s", service_name(spec), kubernetes.namespace, spec.launch)
        return spec.launch


class TearDownOperator(StageOperator):
    """Remove the Service, and pods that nobody has removed."""

    def execute(self, context: Mapping[str, Any]) -> None:
        """May be done again. What the API server refuses fails the task, with what to do."""
        asked = self.asked(context)
        kubernetes = cluster_of(asked)
        with _api_of(asked, self.task_id) as api:
            _remove_pods(api, asked, kubernetes)
            _remove(api.delete_namespaced_service, service_name(asked.spec), kubernetes.namespace)


@contextmanager
def _api_of(asked: Asked, task: str) -> Iterator[CoreV1Api]:
    try:
        yield hook_of(cluster_of(asked)).core_v1_client
    except (ApiException, HTTPError, ConfigException) as error:
        end = refused(error, asked.profile.name)
        failed = AirflowException if end.retried else AirflowFailException
        raise failed(f"{task}: {end.sentence()}") from error


@generic_api_retry
def _make(api: CoreV1Api, manifest: dict[str, Any]) -> None:
    try:
        api.create_namespaced_service(manifest["metadata"]["namespace"], manifest, field_validation="Strict")
    except ApiException as error:
        if not already_exists(error):
            raise


@generic_api_retry
def _remove_pods(api: CoreV1Api, asked: Asked, kubernetes: Kubernetes) -> None:
    for pod in api.list_namespaced_pod(kubernetes.namespace, label_selector=f"{JOBS},job={asked.spec.job}").items:
        if pod.metadata.deletion_timestamp is None:
            _remove(api.delete_namespaced_pod, pod.metadata.name, kubernetes.namespace)


@generic_api_retry
def _remove(delete: Any, name: str, namespace: str) -> None:
    try:
        delete(name, namespace)
    except ApiException as error:
        if error.status != _NOT_FOUND:
            raise
