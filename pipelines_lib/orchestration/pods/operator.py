"""`PodJobOperator`: a stage as a pod. A module of its own: Airflow's pod operator is slow to import, and where the launcher is local no task pays."""

import base64
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
from airflow.providers.cncf.kubernetes.kubernetes_helper_functions import generic_api_retry
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from airflow.sdk import TaskInstanceState
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from airflow.settings import pod_mutation_hook
from kubernetes.client import ApiException, V1ObjectMeta, V1Pod
from kubernetes.config import ConfigException
from urllib3.exceptions import HTTPError

from pipelines_lib import failures
from pipelines_lib.cluster import Kubernetes
from pipelines_lib.contracts import ExitCode, JobResult
from pipelines_lib.errors import ConfigError, DataError
from pipelines_lib.launcher import Gang
from pipelines_lib.orchestration.operators import Asked, StageOperator, setup_of
from pipelines_lib.orchestration.pods.access import cluster_of, hook_of
from pipelines_lib.orchestration.pods.manifest import JOBS, gang_of, name_of, selector_of, stage_pod
from pipelines_lib.orchestration.pods.refusals import already_exists, is_over_quota, message_of, refused
from pipelines_lib.orchestration.pods.trigger import PodTrigger
from pipelines_lib.pods.ends import EXITED, End, ended_before
from pipelines_lib.pods.template import from_template
from pipelines_lib.store import StorePath, read_json, write_json

_NOT_FOUND = 404
_NO_ROOM = frozenset({"Unschedulable", "NotAdmitted", "SlowStart", "QuotaExceeded"})
"""How a pod ends that has not found a machine."""
_CANCELLED = "the task was cancelled while its pod was made"


class PodJobOperator(StageOperator, KubernetesPodOperator):
    """Run a stage as a pod: make it, let the triggerer watch it, and judge by what the stage left in the store.

    What is not upstream's way, and why:

    - A try never takes over the pod of an earlier one, it removes it and waits until it is gone (#12111, #21900, #39791). While a pod runs
      its task is deferred, and no worker, scheduler or triggerer that is restarted matters to it; so there is nothing to take over.
    - A pod is known by its name before the API server has answered, so that a kill in between leaves none (#62398, #37263, #49466).
    - The trigger reads log and events and removes the pod; what follows needs the store alone (#66715, #36218).
    """

    POLL_SECONDS = 1.0
    QUOTA_SECONDS = 10.0
    """Between two tries to make a pod that the namespace's quota has no room for."""
    KILL_SECONDS = 3.0
    """How long a cancelled task looks for a pod that is just being made."""
    LONGEST_NAME = 63
    LEFT_BEHIND = timedelta(hours=1)
    """How long after its end a pod is there for whoever watches it; it takes seconds, and where the API server is away minutes."""

    trigger_class = PodTrigger

    # What users write (run ids, parameters) is data: nothing of a pod is a template.
    template_fields = ()

    def __init__(self, *, node: int | None = None, nodes: tuple[int, int] = (1, 1), **kwargs: Any) -> None:
        """`node` is the number of this machine where `nodes`, least and most, train together; None where the stage is one pod."""
        super().__init__(deferrable=True, durable=False, on_finish_action="delete_pod", **kwargs)
        self.node = node
        self.nodes = nodes
        # Upstream means its side-car by it. Here it is Airflow's own: what the task returns.
        self.do_xcom_push = True
        self._asked: Asked | None = None
        self._connections: dict[str, str] = {}

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any] | None:
        """Make the pod, and defer."""
        self._asked = self.asked(context)
        self._connections = self._asked.secrets()
        try:
            super().execute(context)
        except _WithoutThisMachineError as why:
            return self._not_needed(str(why))
        return None

    @property
    def works_in_a_group(self) -> bool:
        """Whether several processes do the stage together."""
        return super().works_in_a_group or self.node is not None

    def asked(self, context: Mapping[str, Any]) -> Asked:
        """What this try is to do; the machines that train together have the launch that their set-up made."""
        asked = super().asked(context)
        if self.node is None:
            return asked
        launch = context["ti"].xcom_pull(task_ids=setup_of(self.stage))
        if not isinstance(launch, str):
            raise AirflowFailException(
                f"{setup_of(self.stage)} of this run has left no name for the training; clear it, with what follows it"
            )
        return replace(asked, spec=asked.spec.model_copy(update={"launch": launch}))

    def build_pod_request_obj(self, context: Any = None, *, dry_run: bool = False) -> V1Pod:  # noqa: ARG002 - the signature is Airflow's
        """The pod of this try."""
        asked, kubernetes = self._this, self._kubernetes
        spec = asked.spec
        manifest = stage_pod(
            spec,
            kubernetes,
            name=name_of(spec.use_case, spec.stage, *(n for n in (spec.shard, self.node) if n is not None), longest=self.LONGEST_NAME),
            labels=self._get_ti_pod_labels(context),
            has_secret=bool(self._connections),
            gang=self._gang(),
        )
        if self.execution_timeout is not None:
            # For the pod that a lost triggerer has left: nobody else would end it.
            manifest["spec"]["activeDeadlineSeconds"] = int(self.execution_timeout.total_seconds())
        try:
            manifest = from_template(asked.project.pod_template(kubernetes.template_of(spec.stage)), manifest)
        except ConfigError as error:
            raise AirflowFailException(str(error)) from error
        pod = PodGenerator.deserialize_model_dict(manifest)
        pod_mutation_hook(pod)
        return pod

    def get_or_create_pod(self, pod_request_obj: V1Pod, context: Any) -> V1Pod:  # noqa: ARG002 - the signature is Airflow's
        """Make the pod and its Secret, after what earlier tries have left is gone."""
        spec = self._this.spec
        try:
            self._remove_earlier(selector_of(spec, self.node or 0))
            self._sweep()
            if self.node is None:
                write_json(self._this.folder / "spec.json", spec.model_copy(update={"launch": pod_request_obj.metadata.name}))
                failures.forget(self._this.folder)
            self.pod = pod_request_obj
            made = self._create_when_there_is_room(pod_request_obj)
            if self._connections and not self._killed:
                self._create_secret(made)
        except (ApiException, HTTPError, ConfigException) as error:
            self._remove_quietly()
            end = refused(error, spec.profile)
            if self._is_surplus and end.name in _NO_ROOM:
                raise _WithoutThisMachineError(end.message) from error
            failed = AirflowException if end.retried else AirflowFailException
            raise failed(f"{spec.stage}: {end.sentence()}") from error
        if self._killed:
            self._remove_quietly()
            raise AirflowException(_CANCELLED)
        return made

    def invoke_defer_method(self, last_log_time: Any = None, context: Any = None) -> None:  # noqa: ARG002 - the signature is Airflow's
        """Leave the pod to the triggerer. Raises `AirflowException` where the task was cancelled meanwhile."""
        # A process hears of that at its next heartbeat. One that defers before would leave a pod that no trigger watches: Airflow refuses to defer a task
        # that does not run, and tells nobody (the pod of a task whose run was marked failed while it was being made ran on).
        if _state_of(context["ti"], context["run_id"]) != TaskInstanceState.RUNNING:
            self._remove_quietly()
            raise AirflowException(_CANCELLED)
        deadline = None
        if self.execution_timeout is not None:
            deadline = context["ti"].start_date.timestamp() + self.execution_timeout.total_seconds()
        kubernetes = self._kubernetes
        trigger = self.trigger_class(
            pod_name=self.pod.metadata.name,
            namespace=kubernetes.namespace,
            connection=kubernetes.connection,
            startup_seconds=self._patience.total_seconds(),
            deadline=deadline,
        )
        self.defer(trigger=trigger, method_name="trigger_reentry")

    def trigger_reentry(self, context: Mapping[str, Any], event: dict[str, Any]) -> dict[str, Any]:
        """The stage's figures, or the exception that its end stands for."""
        self._asked = self.asked(context)
        if not event["removed"]:
            self.pod = V1Pod(metadata=V1ObjectMeta(name=event["pod"], namespace=self._kubernetes.namespace))
            self._remove_quietly()
        folder, end = self._asked.folder, End(**event["end"])
        launch = event["pod"] if self.node is None else self._asked.spec.launch
        code = end.code if end.name == EXITED else _left_code(folder, launch)
        if code is None and self._is_surplus and end.name in _NO_ROOM:
            return self._not_needed(end.message)
        if code in (ExitCode.DONE, ExitCode.HELD) and _result_of(folder, launch) is None:
            raise AirflowException(
                f"{self.stage} ended with exit code {code} and left no result in {folder}; is the store that of its pod?{end.evidence()}"
            )
        if code is not None:
            return self.outcome(self._asked, code, context, more=end.evidence())
        failed = AirflowException if end.retried else AirflowFailException
        raise failed(f"{self.stage}: {end.sentence()}{self.first_failure(self._asked)}{end.evidence()}")

    def on_kill(self) -> None:
        """Remove the pod, whether or not the API server has told us of it."""
        # Airflow calls this in the middle of whatever `execute` does, and kills the process 5 seconds later. A pod that is just being made may not
        # be there yet; where it comes later still, `execute` removes it when it goes on, and if it can't, the next try.
        self._killed = True
        until = time.monotonic() + self.KILL_SECONDS
        while self.pod is not None and not self._remove_quietly() and time.monotonic() < until:
            time.sleep(self.KILL_SECONDS / 10)

    def _gang(self) -> Gang | None:
        return None if self.node is None else gang_of(self._this.spec, self._kubernetes, node=self.node, nodes=self.nodes)

    @cached_property
    def hook(self) -> KubernetesHook:
        """The way to the cluster."""
        return hook_of(self._kubernetes)

    @property
    def _is_surplus(self) -> bool:
        """Whether the others may train without this machine."""
        return self.node is not None and self.node >= self.nodes[0]

    @property
    def _patience(self) -> timedelta:
        """How long the pod may take to begin."""
        kubernetes = self._kubernetes
        return min(kubernetes.join_timeout, kubernetes.startup_timeout) if self._is_surplus else kubernetes.startup_timeout

    def _not_needed(self, why: str) -> dict[str, Any]:
        self.log.warning("the training goes on without this machine, number %s: %s", self.node, why)
        return {"reason": f"the training goes on without this machine: {why}"}

    @property
    def _this(self) -> Asked:
        assert self._asked is not None, "execute and trigger_reentry begin with it"
        return self._asked

    @property
    def _kubernetes(self) -> Kubernetes:
        return cluster_of(self._this)

    def _remove_earlier(self, selector: str) -> None:
        """Remove the pods that other tries of the task have left. Raises `AirflowException` where one stays: never do two work on the same."""
        kubernetes = self._kubernetes
        deadline = time.monotonic() + kubernetes.grace.total_seconds() + self.POST_TERMINATION_TIMEOUT
        while pods := [pod for pod in self._pods(selector) if not _is_over(pod)]:
            for pod in pods:
                if pod.metadata.deletion_timestamp is None:
                    self.log.warning("removing pod %s, which an earlier try has left", pod.metadata.name)
                    self._delete(pod.metadata.name)
            if time.monotonic() > deadline:
                left = ", ".join(f"{pod.metadata.name} (node {pod.spec.node_name})" for pod in pods)
                raise AirflowException(
                    f"NodeLost: {left}, of an earlier try, does not end, and a second pod for the same work is not started beside it. Is its node gone for good? "
                    "Then delete the Node, or the pod with --force; a retry goes on"
                )
            self._pause(self.POLL_SECONDS)

    def _sweep(self) -> None:
        """Remove pods of any task that ended long ago: nobody was there to do it, as when a task was cancelled while no triggerer ran."""
        try:
            for pod in self._pods(JOBS):
                if ended_before(pod, datetime.now(UTC) - self.LEFT_BEHIND):
                    self.log.warning("removing pod %s, which ended long ago and was left behind", pod.metadata.name)
                    self._delete(pod.metadata.name)
        except ApiException as error:
            self.log.warning("pods that were left behind could not be removed: %s", error.reason)

    def _create_when_there_is_room(self, pod: V1Pod) -> V1Pod:
        """The pod, made. A quota that is used up is waited for as long as a node would be: trying again later is no failure."""
        deadline = time.monotonic() + self._patience.total_seconds()
        while True:
            try:
                return self._create(pod)
            except ApiException as error:
                if not is_over_quota(error) or time.monotonic() > deadline:
                    raise
                self.log.warning("the namespace's quota has no room for the pod, which waits: %s", message_of(error))
            self._pause(self.QUOTA_SECONDS)
            self._reconnect()

    def _reconnect(self) -> None:
        """Read the connection anew: tokens run out."""
        self.client.api_client.rest_client.pool_manager.clear()
        del self.hook, self.client

    def _pause(self, seconds: float) -> None:
        """Raises `AirflowException` where the task is cancelled."""
        time.sleep(seconds)
        if self._killed:
            raise AirflowException(_CANCELLED)

    @generic_api_retry
    def _pods(self, selector: str) -> list[V1Pod]:
        found: list[V1Pod] = self.client.list_namespaced_pod(self._kubernetes.namespace, label_selector=selector).items
        return found

    @generic_api_retry
    def _create(self, pod: V1Pod) -> V1Pod:
        try:
            # A field that the cluster does not know is an error, not a wish that it ignores.
            return self.client.create_namespaced_pod(pod.metadata.namespace, pod, field_validation="Strict")
        except ApiException as error:
            if not already_exists(error):
                raise
            # Nobody else makes this name: the pod is ours, and the answer to an earlier request was lost.
            return self.client.read_namespaced_pod(pod.metadata.name, pod.metadata.namespace)

    @generic_api_retry
    def _create_secret(self, pod: V1Pod) -> None:
        """The connections of the stage, for as long as the pod is there. It waits for them."""
        owner = {"apiVersion": pod.api_version or "v1", "kind": pod.kind or "Pod", "name": pod.metadata.name, "uid": pod.metadata.uid}
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "immutable": True,
            "metadata": {"name": pod.metadata.name, "labels": pod.metadata.labels, "ownerReferences": [owner]},
            "data": {key: base64.b64encode(value.encode()).decode() for key, value in self._connections.items()},
        }
        try:
            # Not read into an object: the client would write the answer, which repeats the Secret, into a log of level DEBUG.
            self.client.create_namespaced_secret(pod.metadata.namespace, body, _preload_content=False).drain_conn()
        except ApiException as error:
            if not already_exists(error):
                raise

    @generic_api_retry
    def _delete(self, name: str) -> bool:
        """Remove a pod; returns whether there was one."""
        try:
            self.client.delete_namespaced_pod(name, self._kubernetes.namespace)
        except ApiException as error:
            if error.status != _NOT_FOUND:
                raise
            return False
        return True

    def _remove(self, name: str) -> bool:
        """Remove what a try has made; returns whether there was anything."""
        return bool(self._delete(name))

    def _remove_quietly(self) -> bool:
        """Remove this try's pod; returns whether there was one. Where that can't be done, the log says so, and another try begins with it."""
        if self.pod is None:
            return False
        try:
            return bool(self._remove(self.pod.metadata.name))
        except (ApiException, HTTPError, ConfigException) as error:
            self.log.warning("pod %s could not be removed (%s); the next try removes it first", self.pod.metadata.name, error)
            return False


class _WithoutThisMachineError(Exception):
    """The cluster has no room for a machine that the training can do without."""


def _state_of(ti: Any, run_id: str) -> str | None:
    """What Airflow takes a task for at this moment."""
    states = ti.get_task_states(dag_id=ti.dag_id, task_ids=[ti.task_id], run_ids=[run_id], map_index=ti.map_index)
    return next(iter(states.get(run_id, {}).values()), None)


def _is_over(pod: V1Pod) -> bool:
    """Whether nothing of a pod that is to go runs any more; Kueue keeps it until there is another in its place."""
    return pod.metadata.deletion_timestamp is not None and pod.status.phase in ("Succeeded", "Failed")


def _left_code(folder: StorePath, launch: str) -> int | None:
    """What the stage ended with, by what it left in the store; None where that does not say it."""
    result = _result_of(folder, launch)
    if result is not None:
        return ExitCode.HELD if result.status == "held" else ExitCode.DONE
    code = failures.exit_code(failures.left(folder))
    return code if code in (ExitCode.BAD_INPUT, ExitCode.HELD) else None


def _result_of(folder: StorePath, launch: str) -> JobResult | None:
    """The result of this very start of the stage."""
    try:
        result = JobResult.model_validate(read_json(folder / "result.json"))
    except (FileNotFoundError, DataError):
        return None
    return result if result.launch == launch else None
