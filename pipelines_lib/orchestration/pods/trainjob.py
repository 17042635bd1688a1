"""`TrainJobOperator`: the training as a `TrainJob` of Kubeflow Trainer 2, whose pods are those that the launcher `kubernetes` would make.

Each try makes two objects of one name: a TrainingRuntime, which holds the pod word for word, and the TrainJob that runs it on so many nodes. A
TrainJob alone can't say all of a pod: its patches know no `envFrom`, no restart policy and no priority class.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from airflow.providers.cncf.kubernetes.kubernetes_helper_functions import generic_api_retry
from airflow.sdk.exceptions import AirflowFailException
from kubernetes.client import ApiClient, ApiException, CustomObjectsApi, V1ObjectMeta, V1Pod
from kubernetes_asyncio.client import ApiException as AsyncApiException
from kubernetes_asyncio.client import CoreV1Api
from kubernetes_asyncio.client import CustomObjectsApi as AsyncCustomObjectsApi

from pipelines_lib.launcher import Gang
from pipelines_lib.orchestration.pods.manifest import JOBS, gang_of
from pipelines_lib.orchestration.pods.operator import PodJobOperator
from pipelines_lib.orchestration.pods.refusals import already_exists
from pipelines_lib.orchestration.pods.trigger import Log, PodTrigger
from pipelines_lib.pods.ends import EXITED, End, cannot_begin, ended, first_failed, has_begun, is_queued, too_slow
from pipelines_lib.pods.template import CONTAINER, NODE, Manifest

GROUP, VERSION = "trainer.kubeflow.org", "v1alpha1"
JOBS_OF_KUBEFLOW, RUNTIMES = "trainjobs", "trainingruntimes"
OWNER = "trainjob"
"""The label that names the TrainJob of a pod."""
_QUEUE = "kueue.x-k8s.io/queue-name"
_INDEX = "batch.kubernetes.io/job-completion-index"
_FORBIDDEN, _NOT_FOUND = 403, 404


def manifests(pod: Manifest, *, n_nodes: int, workers: int) -> tuple[Manifest, Manifest]:
    """The TrainingRuntime and the TrainJob that run `pod` (a stage's, whole) on `n_nodes` nodes, `workers` processes on each."""
    name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
    labels = {key: value for key, value in pod["metadata"]["labels"].items() if key != "rank"}
    # Kueue admits the TrainJob as a whole.
    queue = {_QUEUE: labels.pop(_QUEUE)} if _QUEUE in labels else {}
    annotations = pod["metadata"].get("annotations")
    own, *others = sorted(pod["spec"]["containers"], key=lambda container: bool(container["name"] != CONTAINER))
    template = {
        "metadata": {"labels": labels | {OWNER: name}, **({"annotations": annotations} if annotations else {})},
        "spec": pod["spec"] | {"containers": [own | {"name": NODE}, *others]},
    }
    job = {
        "name": NODE,
        "replicas": 1,
        # Of this name and label is what Trainer gives ranks and an address to.
        "template": {
            "metadata": {"labels": {f"{GROUP}/trainjob-ancestor-step": "trainer"}},
            "spec": {"backoffLimit": 0, "template": template},  # Airflow retries, and knows how often
        },
    }
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    runtime = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainingRuntime",
        "metadata": metadata,
        "spec": {
            "mlPolicy": {"numNodes": n_nodes, "torch": {}},
            "template": {"spec": {"replicatedJobs": [job]}},
        },
    }
    train_job = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": metadata | {"labels": labels | queue},
        "spec": {
            "runtimeRef": {"apiGroup": GROUP, "kind": "TrainingRuntime", "name": name},
            "trainer": {"numNodes": n_nodes, "numProcPerNode": workers},
        },
    }
    return runtime, train_job


class TrainJobTrigger(PodTrigger):
    """Wait for the end of the TrainJob `pod_name`, and remove it; the event says how the first of its pods that failed has ended."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._failed: Any | None = None
        """The pod that failed first, as it was then: it may be gone when Kubeflow says that the job has failed."""

    async def _watch(self, api: CoreV1Api, until: float) -> tuple[End, bool] | None:
        while time.monotonic() < until:
            job, pods = await self._job(api), await self._pods(api)
            self._failed = self._failed or first_failed(pods)
            self._found = self._found or self._judged_job(job, pods)
            if (shown := self._to_be_shown(pods)) is not None:
                if shown.metadata.name != self._shown:
                    self._shown, self._container_log, self._log_is_due = shown.metadata.name, Log(self.TAIL, NODE), 0.0
                if has_begun(shown):
                    await self._copy_log(api, last=self._found is not None)
            if self._found is not None:
                tail = self._container_log.tail() or self._found.tail[-self.TAIL :]
                end = replace(self._found, tail=[f"(pod {self._shown})", *tail] if tail else [], events=await self._events(api))
                return end, await self._remove(api)
            await asyncio.sleep(self.POLL_SECONDS)
        return None

    def _to_be_shown(self, pods: list[Any]) -> Any | None:
        """The first rank's pod; at the end the one that failed first."""
        if self._found is not None and self._failed is not None:
            return self._failed
        return next((pod for pod in pods if (pod.metadata.labels or {}).get(_INDEX, "0") == "0"), None)

    def _judged_job(self, job: Manifest | None, pods: list[Any]) -> End | None:
        if job is None:
            return self._end_of_failed() or End("Deleted", "the TrainJob is gone, and nobody saw how it ended")
        true = {each["type"]: each for each in (job.get("status") or {}).get("conditions", ()) if each["status"] == "True"}
        if "Complete" in true:
            return End(EXITED, code=0)
        if (failed := true.get("Failed")) is not None:
            return self._end_of_failed() or End("TrainJobFailed", f"{failed.get('reason')}: {failed.get('message')}")
        if self.deadline is not None and time.time() > self.deadline:
            return End("DeadlineExceeded", "the TrainJob was ended")
        return self._judged_start(pods, suspended="Suspended" in true)

    def _judged_start(self, pods: list[Any], *, suspended: bool) -> End | None:
        waiting = [pod for pod in pods if not has_begun(pod) and ended(pod) is None]
        if suspended or (pods and all(is_queued(pod) for pod in waiting)):
            self._waited_since = time.monotonic()
            return None
        if time.monotonic() - self._waited_since > self.startup_seconds:
            late = f"no pod of it was there after {self.startup_seconds:.0f} s"
            return too_slow(waiting[0], self.startup_seconds) if waiting else End("TrainJobFailed", late)
        return next((end for pod in waiting if (end := cannot_begin(pod)) is not None), None)

    def _end_of_failed(self) -> End | None:
        end = None if self._failed is None else ended(self._failed)
        return None if end is None or self._failed is None else replace(end, message=f"pod {self._failed.metadata.name}: {end.message}")

    async def _job(self, api: CoreV1Api) -> Manifest | None:
        try:
            found: Manifest = await _custom_of(api).get_namespaced_custom_object(
                GROUP, VERSION, self.namespace, JOBS_OF_KUBEFLOW, self.pod_name, _request_timeout=self.REQUEST_SECONDS
            )
        except AsyncApiException as error:
            if error.status != _NOT_FOUND:
                raise
            return None
        return found

    async def _pods(self, api: CoreV1Api) -> list[Any]:
        found = await api.list_namespaced_pod(
            self.namespace, label_selector=f"{OWNER}={self.pod_name}", _request_timeout=self.REQUEST_SECONDS
        )
        self._answered = time.monotonic()
        return list(found.items)

    async def _remove(self, api: CoreV1Api) -> bool:
        """Whether both objects are gone or going. The pods and the Secret go with the TrainJob."""
        for plural in (JOBS_OF_KUBEFLOW, RUNTIMES):
            try:
                await _custom_of(api).delete_namespaced_custom_object(
                    GROUP, VERSION, self.namespace, plural, self.pod_name, _request_timeout=self.REQUEST_SECONDS
                )
            except AsyncApiException as error:
                if error.status == _FORBIDDEN:
                    self.log.warning("the triggerer may not delete %s, so a worker has to: %s", plural, error.reason)
                    return False
                if error.status != _NOT_FOUND:
                    raise
        return True


def _custom_of(api: Any) -> AsyncCustomObjectsApi:
    """The way to objects of other kinds over the connection of `api`."""
    return AsyncCustomObjectsApi(api.api_client)


class TrainJobOperator(PodJobOperator):
    """Run the training as a TrainJob on `n_nodes` nodes; how it is judged, retried and cancelled is as with a pod.

    A node that is lost ends the TrainJob, and a retry is another one, which goes on from the newest complete checkpoint.
    """

    LONGEST_NAME = 40
    """The pods' host names are the TrainJob's with some more."""
    trigger_class = TrainJobTrigger

    def __init__(self, *, n_nodes: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.n_nodes = n_nodes

    @property
    def works_in_a_group(self) -> bool:
        """Whether several processes do the stage together."""
        return super().works_in_a_group or self.n_nodes > 1

    def _gang(self) -> Gang | None:
        if self.n_nodes == 1:
            return None
        return replace(gang_of(self._this.spec, self._kubernetes, node=None, nodes=(self.n_nodes, self.n_nodes)), name=self._this.spec.job)

    def _remove_earlier(self, selector: str) -> None:
        """Remove what other tries have left, whichever launcher made it. Raises `AirflowFailException` where the cluster has no TrainJobs."""
        selector = f"{JOBS},job={self._this.spec.job}"
        for name in self._left(selector):
            self.log.warning("removing TrainJob %s, which an earlier try has left", name)
            self._remove(name)
        super()._remove_earlier(selector)

    @generic_api_retry
    def _left(self, selector: str) -> list[str]:
        found = set()
        try:
            for plural in (JOBS_OF_KUBEFLOW, RUNTIMES):
                answer = self._custom.list_namespaced_custom_object(
                    GROUP, VERSION, self._kubernetes.namespace, plural, label_selector=selector
                )
                found |= {each["metadata"]["name"] for each in answer["items"]}
        except ApiException as error:
            if error.status != _NOT_FOUND:
                raise
            raise AirflowFailException(
                f"{self.stage}: this cluster has no TrainJobs ({GROUP}/{VERSION}); install Kubeflow Trainer 2, or set `launcher: kubernetes` "
                f"in profile {self._this.profile.name}, then clear the task"
            ) from error
        return sorted(found)

    @generic_api_retry
    def _create(self, pod: V1Pod) -> V1Pod:
        """Make runtime and job; returns the job, as far as the owner of a Secret is concerned."""
        whole = ApiClient().sanitize_for_serialization(pod)
        for plural, manifest in zip(
            (RUNTIMES, JOBS_OF_KUBEFLOW), manifests(whole, n_nodes=self.n_nodes, workers=self.workers), strict=True
        ):
            made = self._made(plural, manifest)
        metadata = V1ObjectMeta(**{key: made["metadata"][key] for key in ("name", "namespace", "uid", "labels")})
        return V1Pod(api_version=made["apiVersion"], kind=made["kind"], metadata=metadata)

    def _made(self, plural: str, manifest: Manifest) -> Mapping[str, Any]:
        where = (GROUP, VERSION, manifest["metadata"]["namespace"], plural)
        try:
            made: Mapping[str, Any] = self._custom.create_namespaced_custom_object(*where, manifest, field_validation="Strict")
        except ApiException as error:
            if not already_exists(error):
                raise
            made = self._custom.get_namespaced_custom_object(*where, manifest["metadata"]["name"])
        return made

    @generic_api_retry
    def _remove(self, name: str) -> bool:
        found = False
        for plural in (JOBS_OF_KUBEFLOW, RUNTIMES):
            try:
                self._custom.delete_namespaced_custom_object(GROUP, VERSION, self._kubernetes.namespace, plural, name)
                found = True
            except ApiException as error:
                if error.status != _NOT_FOUND:
                    raise
        return found

    @property
    def _custom(self) -> CustomObjectsApi:
        return CustomObjectsApi(self.client.api_client)
