"""How a pod ended, or why it does not begin: from what the API server says of it to one name, and whether another try may help.

Pods are read by attribute, so those of the client that waits and of the one that does not are both at home here.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pipelines_lib.contracts import ExitCode
from pipelines_lib.pods.template import OWN

EXITED = "Exited"
"""The stage's process ended by itself, or by a signal; its exit code says how."""


@dataclass(frozen=True)
class Cause:
    """What may befall a pod, as the documentation lists it."""

    retried: bool
    remedy: str


CAUSES = {
    "OOMKilled": Cause(True, "raise `resources.<stage>.memory` in the profile, or let the stage need less (a smaller batch, more shards)"),
    "Evicted": Cause(True, "the node was drained, the queue took the pod back, or memory or disk ran short: raise what the message names (`memory`, `ephemeral_storage`, `shm` of `resources.<stage>`)"),
    "Preempted": Cause(True, "a pod of higher priority took its place; give the template a `priorityClassName` if this one is more urgent"),
    "NodeLost": Cause(True, "the machine is gone or does not answer; on spot machines that is daily life"),
    "NotAdmitted": Cause(True, "the node had no room for it after all, or lacks a device"),
    "Deleted": Cause(True, "somebody or something deleted the pod; the cluster's audit log says who"),
    "Unschedulable": Cause(True, "free or add nodes, ask for less, or wait longer (`startup_timeout`); a queue (Kueue) waits without a limit"),
    "ImageNotFound": Cause(False, "correct `images` in the profile, push the image, or give the template `imagePullSecrets`; then clear the task"),
    "ImagePullFailed": Cause(True, "the registry did not give the image; its state, or the node's way to it, is to be looked at"),
    "ConfigError": Cause(False, "a Secret or ConfigMap that the pod names is missing; make it (`secrets` in the profile, the template), then clear the task"),
    "InitError": Cause(True, "an init container that the pod template adds has failed: what it does, or its image, is to be mended in the template"),
    "StartError": Cause(True, "the container could not be made, or the image's command could not be run; the events say why"),
    "SlowStart": Cause(True, "a large image or a volume takes its time; raise `startup_timeout`"),
    "DeadlineExceeded": Cause(True, "the task's `execution_timeout` is over; a retry goes on from the newest checkpoint"),
    "QuotaExceeded": Cause(True, "raise the namespace's ResourceQuota, lower the task's pool, or let Kueue queue the pods (`queue`)"),
    "TrainJobFailed": Cause(True, "Kubeflow Trainer ended the TrainJob, or made no pods of it; `kubectl describe trainjob,jobset` and the log of its controller say more"),
    "Unreachable": Cause(True, "the API server did not answer; the pod may run on, and the next try removes it before it makes its own"),
    "Unauthorized": Cause(True, "the cluster does not take Airflow's credentials, or no more; renew those of the connection"),
    "Forbidden": Cause(False, "give Airflow's service account the verbs that docs/kubernetes.md lists, then clear the task"),
    "Refused": Cause(False, "correct the profile or the pod template as the message says, then clear the task"),
}  # fmt: skip
"""Name to cause. Those that are not retried need a person."""


@dataclass(frozen=True)
class End:
    """What became of a pod."""

    name: str
    """`Exited`, or one of `CAUSES`."""
    message: str = ""
    code: int | None = None
    """The exit code of the stage's process; negative: the signal that ended it. None where nobody saw it."""
    tail: list[str] = field(default_factory=list)
    """The last lines of its log."""
    events: list[str] = field(default_factory=list)
    """What the cluster said of the pod."""

    @property
    def retried(self) -> bool:
        """Whether another try may help."""
        return self.name not in CAUSES or CAUSES[self.name].retried

    def sentence(self) -> str:
        """Name, message and remedy, where the pod did not end by itself."""
        return "" if self.name == EXITED else f"{self.name}: {self.message.rstrip('.')}. What to do: {CAUSES[self.name].remedy}"

    def evidence(self) -> str:
        """The last lines of the log, and the events, to be put under an error's message."""
        parts = {"the last lines of its log": self.tail, "events of its pod": self.events}
        return "".join(f"\n{title}:" + "".join(f"\n    {line}" for line in lines) for title, lines in parts.items() if lines)


_LATE = timedelta(seconds=60)
"""How long after its grace a pod may take to vanish, before its node counts as lost."""

_DISRUPTIONS = {
    "PreemptionByScheduler": "Preempted",
    "EvictionByEvictionAPI": "Evicted",
    "DeletionByTaintManager": "NodeLost",
    "DeletionByDeviceTaintManager": "NodeLost",
    "DeletionByPodGC": "NodeLost",
}
_PREEMPTED_IN_QUEUE = "WorkloadEvictedDueToPreempted"
"""Kueue's reason, of many for which it ends a pod, that a workload of higher priority has taken the place."""
# What `status.reason` of a failed pod says; every other reason means that the kubelet did not take it.
_REASONS = {
    "Evicted": "Evicted",
    "Preempting": "Preempted",
    "NodeLost": "NodeLost",
    "NodeShutdown": "NodeLost",
    "Shutdown": "NodeLost",
    "Terminated": "NodeLost",
    "DeadlineExceeded": "DeadlineExceeded",
}
_NOT_PULLABLE = re.compile(
    r"not found|manifest unknown|does not exist|denied|unauthorized|forbidden|no basic auth|invalid reference|invalid image name",
    re.IGNORECASE,
)
_ABSENT = re.compile(r"not found|couldn't find key|non-existent", re.IGNORECASE)
"""How a kubelet says that a Secret or ConfigMap, or a key of one, is not there; it says other things where it could not look."""
_UNSEEN = frozenset({"ContainerStatusUnknown", "Unknown"})
"""What a kubelet says of a container that it finds no more, and containerd of one that ended while it was down. Their exit codes, 137 and 255, say nothing."""
_WAITING = {
    "ErrImagePull": "ImagePullFailed",
    "ImagePullBackOff": "ImagePullFailed",
    "ImageInspectError": "ImagePullFailed",
    "RegistryUnavailable": "ImagePullFailed",
    "SignatureValidationFailed": "ImagePullFailed",
    "CrashLoopBackOff": "InitError",  # of a server's own container its restarts are told; the stages' are not started again
    "CreateContainerConfigError": "StartError",
    "CreateContainerError": "StartError",
    "PreCreateHookError": "StartError",
    "PreStartHookError": "StartError",
    "PostStartHookError": "StartError",
    "RunContainerError": "StartError",
}
"""What a container that waits in vain waits for, to the name of it."""
_SIGNALLED = 128
_LAST_SIGNAL = 64


def ended(pod: Any, now: datetime | None = None) -> End | None:
    """How `pod` has ended; None while it may still run."""
    status = _container(pod)
    terminated = status.state.terminated if status is not None and status.state else None
    if terminated is not None:
        return _terminated(pod, terminated)
    if pod.status.phase == "Succeeded":
        return End(EXITED, code=ExitCode.DONE)
    if pod.status.phase == "Failed":
        lost = _lost(pod) if has_begun(pod) else None
        return _from_outside(pod, "the pod was deleted") or _not_prepared(pod) or lost or End("NotAdmitted", _reason(pod))
    if pod.metadata.deletion_timestamp is not None and (now or datetime.now(UTC)) > pod.metadata.deletion_timestamp + _LATE:
        return End("NodeLost", f"it was deleted and has not ended, so its node {pod.spec.node_name} does not answer")
    return None


def ended_before(pod: Any, moment: datetime) -> bool:
    """Whether `pod` ended before `moment`."""
    return pod.status.phase in ("Succeeded", "Failed") and ended_at(pod) < moment


def ended_at(pod: Any) -> datetime:
    """When `pod`, which has ended, did so."""
    status = _container(pod)
    terminated = status.state.terminated if status is not None and status.state else None
    # One that was refused or evicted before its container began has no moment of its end.
    end: datetime = (terminated and terminated.finished_at) or pod.metadata.creation_timestamp
    return end


def first_failed(pods: Iterable[Any]) -> Any | None:
    """Of pods that work together, the first that ended in another way than well."""
    failed = [pod for pod in pods if (end := ended(pod)) is not None and (end.name, end.code) != (EXITED, ExitCode.DONE)]
    return min(failed, key=ended_at, default=None)


def gone(pod: Any | None) -> End:
    """What is to be thought of a pod that there is no more, `pod` being how it was last seen."""
    found = None if pod is None else _disrupted(pod)
    return found or End("Deleted", "the pod is gone, and nobody saw how it ended")


def cannot_begin(pod: Any) -> End | None:
    """Why waiting for `pod` to begin is in vain; None where it is not."""
    for waiting in _waiting(pod):
        final = waiting.reason in ("InvalidImageName", "ErrImageNeverPull")
        if final or (waiting.reason in ("ErrImagePull", "ImagePullBackOff") and _NOT_PULLABLE.search(waiting.message or "")):
            return End("ImageNotFound", _said(waiting))
    return None


def too_slow(pod: Any, seconds: float) -> End:
    """Why `pod` has not begun within its time."""
    late = f"after {seconds:.0f} s"
    for waiting in _waiting(pod):
        absent = waiting.reason == "CreateContainerConfigError" and _ABSENT.search(waiting.message or "")
        return End("ConfigError" if absent else _WAITING.get(waiting.reason, "SlowStart"), f"{_said(waiting)} ({late})")
    scheduled = _condition(pod, "PodScheduled")
    if scheduled is None or scheduled.status != "True":
        return End("Unschedulable", f"no node took it {late}: {(scheduled and scheduled.message) or 'the scheduler has not said why'}")
    return End("SlowStart", f"node {pod.spec.node_name} has not begun with it {late}")


def is_queued(pod: Any) -> bool:
    """Whether a gate (Kueue's) keeps `pod` from the scheduler."""
    scheduled = _condition(pod, "PodScheduled")
    return scheduled is not None and scheduled.reason == "SchedulingGated"


def has_begun(pod: Any) -> bool:
    """Whether the stage's container runs, or has run."""
    status = _container(pod)
    return status is not None and bool(status.state) and (status.state.running is not None or status.state.terminated is not None)


def event_line(event: Any) -> str:
    """One event of a pod."""
    count = event.count or 1
    return f"{event.type} {event.reason}: {(event.message or '').strip()}" + (f" (×{count})" if count > 1 else "")


def _terminated(pod: Any, terminated: Any) -> End:
    code = terminated.exit_code
    # What the kubelet keeps of a log that it could not hand out otherwise.
    tail = (terminated.message or "").splitlines()
    if code in (ExitCode.DONE, ExitCode.BAD_INPUT, ExitCode.HELD):
        return End(EXITED, code=code, tail=tail)
    if terminated.reason == "OOMKilled":
        limit = next((c.resources.limits.get("memory") for c in pod.spec.containers if c.name in OWN and c.resources.limits), None)
        return End("OOMKilled", f"it used more memory than its limit of {limit}", tail=tail)
    if terminated.reason in ("StartError", "ContainerCannotRun"):
        return End("StartError", f"{terminated.reason}: {terminated.message or 'nothing more is said'}")
    if terminated.reason in _UNSEEN:
        # A kubelet says it also of a pod that it did not take; then the pod has a reason.
        return _from_outside(pod, "the pod was deleted") or (End("NotAdmitted", _reason(pod)) if pod.status.reason else _lost(pod))
    signalled = _SIGNALLED < code <= _SIGNALLED + _LAST_SIGNAL
    by_itself = End(EXITED, code=_SIGNALLED - code if signalled else code)
    return replace(_from_outside(pod, f"the pod was deleted, and the stage then ended with exit code {code}") or by_itself, tail=tail)


def _not_prepared(pod: Any) -> End | None:
    """Which init container has kept the stage from beginning."""
    for status in pod.status.init_container_statuses or ():
        terminated = status.state.terminated if status.state else None
        if terminated is not None and terminated.exit_code != 0:
            why = f"{status.name} ended with exit code {terminated.exit_code} ({terminated.reason})"
            return End("InitError", why, tail=(terminated.message or "").splitlines())
    return None


def _lost(pod: Any) -> End:
    return End("NodeLost", f"node {pod.spec.node_name} lost sight of it")


def _from_outside(pod: Any, deleted: str) -> End | None:
    """What ended `pod` from outside; `deleted` is what is said where somebody deleted it."""
    found = _disrupted(pod)
    return found or (None if pod.metadata.deletion_timestamp is None else End("Deleted", deleted))


def _disrupted(pod: Any) -> End | None:
    """What the cluster says that it ended `pod` for."""
    for kind in ("DisruptionTarget", "TerminationTarget"):  # the second is Kueue's
        condition = _condition(pod, kind)
        if condition is not None and condition.status == "True":
            name = "Preempted" if condition.reason == _PREEMPTED_IN_QUEUE else _REASONS.get(pod.status.reason or "", "Evicted")
            return End(_DISRUPTIONS.get(condition.reason, name), condition.message or _reason(pod))
    if pod.status.reason in _REASONS:
        return End(_REASONS[pod.status.reason], _reason(pod))
    return None


def _reason(pod: Any) -> str:
    return ": ".join(text for text in (pod.status.reason, pod.status.message) if text) or "no reason is given"


def _said(waiting: Any) -> str:
    return f"{waiting.reason}: {waiting.message}" if waiting.message else str(waiting.reason)


def _container(pod: Any) -> Any | None:
    return next((status for status in pod.status.container_statuses or () if status.name in OWN), None)


def _waiting(pod: Any) -> Iterator[Any]:
    """Of the containers that wait for something that may not come, what for."""
    for status in (*(pod.status.init_container_statuses or ()), *(pod.status.container_statuses or ())):
        if status.state and status.state.waiting and status.state.waiting.reason not in (None, "PodInitializing", "ContainerCreating"):
            yield status.state.waiting


def _condition(pod: Any, kind: str) -> Any | None:
    return next((condition for condition in pod.status.conditions or () if condition.type == kind), None)
