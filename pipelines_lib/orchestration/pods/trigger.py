"""Who watches a pod while no worker does: the triggerer follows its log, finds out how it ended, and removes it."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, replace
from http import HTTPStatus
from typing import Any

from aiohttp import ClientError
from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.triggers.base import BaseTrigger, TriggerEvent
from kubernetes_asyncio.client import ApiClient, ApiException, CoreV1Api, V1Pod
from kubernetes_asyncio.config import ConfigException

from pipelines_lib.pods.ends import End, cannot_begin, ended, event_line, gone, has_begun, is_queued, too_slow
from pipelines_lib.pods.template import CONTAINER

UNANSWERED = (ApiException, ClientError, TimeoutError, OSError, ConfigException, AirflowNotFoundException)
"""How the API server, or the way to it, says that it does not answer now: a connection may be just about to be written anew."""

_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _TOO_MANY = 401, 403, 404, 429
_LONGEST_LINE = 500
"""Characters of a line that an error shows."""
_LARGEST_LINE = 1 << 18
"""Bytes of a line that the task's log has: one without an end must not fill the memory of a process that watches many pods."""


class PodTrigger(BaseTrigger):
    """Wait for the end of pod `pod_name`, and remove it; the event says how it ended (`End`).

    `connection` is the name of Airflow's connection to the cluster, None inside of it; its secret is read where it is needed, and never
    kept with the trigger. `startup_seconds` is how long the pod may take to begin; `deadline` (seconds since 1970) is when its task's
    time is over.
    """

    # Airflow's own trigger (10.25) gives up after a minute without the API server, and leaves the pod behind; keeps kubeconfigs in the
    # database; and takes a pod that is gone for one that failed (apache/airflow #59626, #66715, #48536, #58775).
    POLL_SECONDS = 3.0
    LOG_SECONDS = 10.0
    PATIENCE_SECONDS = 900.0
    """How long the API server may not answer before the task fails: upgrades of a control plane take minutes."""
    REFUSAL_SECONDS = 60.0
    """How long it may say that the triggerer has no right to: one that has just started says it to everybody."""
    CREDENTIAL_SECONDS = 300.0
    """After so long the connection is read and opened anew: tokens run out."""
    REQUEST_SECONDS = 20.0
    TAIL = 15
    """Lines of a log that an error shows."""

    def __init__(
        self, pod_name: str, namespace: str, connection: str | None, startup_seconds: float, deadline: float | None = None
    ) -> None:
        super().__init__()
        self.pod_name = pod_name
        self.namespace = namespace
        self.connection = connection
        self.startup_seconds = startup_seconds
        self.deadline = deadline
        self._pod: V1Pod | None = None
        self._found: End | None = None
        self._answered = self._waited_since = time.monotonic()
        self._shown = pod_name
        """The pod whose log and events are told."""
        self._container_log = Log(self.TAIL)
        self._log_is_due = 0.0

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """What the database keeps of it."""
        names = ("pod_name", "namespace", "connection", "startup_seconds", "deadline")
        return f"{type(self).__module__}.{type(self).__name__}", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yields one event: `{"pod": name, "removed": whether it is gone, "end": …}`."""
        self.log.info("waiting for pod %s in namespace %s", self.pod_name, self.namespace)
        end, removed = await self._end()
        yield TriggerEvent({"pod": self.pod_name, "removed": removed, "end": asdict(end)})

    async def on_kill(self) -> None:
        """Remove the pod of a task that a person cancelled, also where its event is on the way; Airflow ends this after 30 seconds."""
        while True:
            try:
                async with self._api() as api:
                    await self._remove(CoreV1Api(api))
            except UNANSWERED as error:
                self.log.warning("pod %s is not removed yet: %s", self.pod_name, _told(error))
                await asyncio.sleep(self.POLL_SECONDS / 3)
            else:
                return

    async def _end(self) -> tuple[End, bool]:
        while True:
            try:
                async with self._api() as api:
                    found = await self._watch(CoreV1Api(api), until=time.monotonic() + self.CREDENTIAL_SECONDS)
                if found is not None:
                    return found
            except UNANSWERED as error:
                silent = time.monotonic() - self._answered
                code = error.status if isinstance(error, ApiException) else None
                if silent > (self.REFUSAL_SECONDS if code == _FORBIDDEN else self.PATIENCE_SECONDS):
                    name = {_FORBIDDEN: "Forbidden", _UNAUTHORIZED: "Unauthorized"}.get(code or 0, "Unreachable")
                    return self._found or End(name, f"for {silent:.0f} s the triggerer was answered: {_told(error)}"), False
                self.log.warning("no answer about pod %s (%s); it may well run on, and is asked for again", self.pod_name, _told(error))
                await asyncio.sleep(_pause(error, self.POLL_SECONDS))

    async def _watch(self, api: CoreV1Api, until: float) -> tuple[End, bool] | None:
        """The pod's end and whether it was removed; None where the time for these credentials is over."""
        while time.monotonic() < until:
            pod = await self._look(api)
            # What was once seen stays: the pod may be gone when the answer to its removal was lost.
            self._found = self._found or (gone(self._pod) if pod is None else self._judged(pod))
            self._pod = pod or self._pod
            if pod is not None and has_begun(pod):
                await self._copy_log(api, last=self._found is not None)
            if self._found is not None:
                end = replace(
                    self._found, tail=self._container_log.tail() or self._found.tail[-self.TAIL :], events=await self._events(api)
                )
                return end, await self._remove(api)
            await asyncio.sleep(self.POLL_SECONDS)
        return None

    async def _look(self, api: CoreV1Api) -> V1Pod | None:
        try:
            pod = await api.read_namespaced_pod(self.pod_name, self.namespace, _request_timeout=self.REQUEST_SECONDS)
        except ApiException as error:
            if error.status != _NOT_FOUND:
                raise
            pod = None
        self._answered = time.monotonic()
        return pod

    def _judged(self, pod: V1Pod) -> End | None:
        if (end := ended(pod)) is not None:
            return end
        if self.deadline is not None and time.time() > self.deadline:
            return End("DeadlineExceeded", "the pod was ended")
        if has_begun(pod) or is_queued(pod):
            self._waited_since = time.monotonic()
            return None
        if time.monotonic() - self._waited_since > self.startup_seconds:
            return too_slow(pod, self.startup_seconds)
        return cannot_begin(pod)

    async def _copy_log(self, api: CoreV1Api, *, last: bool) -> None:
        """Put new lines of the pod's log into the task's. A log that can't be read leaves the pod to be watched all the same."""
        # Lines are asked for again and again, not followed: a log that is followed may fall silent while the pod runs on (#23497, #58382).
        for _ in range(3 if last else 1):
            if not last and time.monotonic() < self._log_is_due:
                return
            self._log_is_due = time.monotonic() + self.LOG_SECONDS
            try:
                await self._container_log.read(api, self._shown, self.namespace, self.REQUEST_SECONDS, self.log.info)
            except UNANSWERED as error:
                self.log.warning("the log of pod %s can't be read now: %s", self._shown, _told(error))
                await asyncio.sleep(self.POLL_SECONDS / 3)
            else:
                return

    async def _events(self, api: CoreV1Api) -> list[str]:
        try:
            found = await api.list_namespaced_event(
                self.namespace, field_selector=f"involvedObject.name={self._shown}", _request_timeout=self.REQUEST_SECONDS
            )
        except UNANSWERED as error:
            return [f"(they can't be read: {_told(error)})"]
        return [event_line(event)[:_LONGEST_LINE] for event in found.items[-self.TAIL :]]

    async def _remove(self, api: CoreV1Api) -> bool:
        """Whether the pod is gone or going. Its Secret goes with it: the pod owns it."""
        try:
            await api.delete_namespaced_pod(self.pod_name, self.namespace, _request_timeout=self.REQUEST_SECONDS)
        except ApiException as error:
            if error.status == _FORBIDDEN:
                self.log.warning("the triggerer may not delete pods, so a worker has to: %s", _told(error))
                return False
            if error.status != _NOT_FOUND:
                raise
        return True

    def _api(self) -> AbstractAsyncContextManager[ApiClient]:
        in_cluster = True if self.connection is None else None
        connected: AbstractAsyncContextManager[ApiClient] = AsyncKubernetesHook(
            conn_id=self.connection, kubernetes_conn_id=None, in_cluster=in_cluster
        ).get_conn()
        return connected


class Log:
    """A container's log as far as it was read: each line once, by the time stamp that the node gave it."""

    def __init__(self, n_tail: int, container: str = CONTAINER) -> None:
        self._container = container
        self._newest = ""
        self._complete: float | None = None
        self._tail: deque[str] = deque(maxlen=n_tail)

    def tail(self) -> list[str]:
        """The last lines."""
        return [line[:_LONGEST_LINE] for line in self._tail]

    async def read(self, api: CoreV1Api, pod: str, namespace: str, seconds: float, on_line: Callable[[str, str], None]) -> None:
        """Hand new lines to `on_line`; `seconds` is how long the node may be silent. Raises what `UNANSWERED` names."""
        asked = time.monotonic()
        # By the seconds since, so that the clocks of two machines need not agree; some more, since lines are known by their stamps.
        since = None if self._complete is None else int(asked - self._complete) + 5
        # As it comes, since a log may be larger than memory; besides, the client would raise at bytes that are no UTF-8, and does not look at the status.
        response: Any = await api.read_namespaced_pod_log(
            pod,
            namespace,
            container=self._container,
            timestamps=True,
            _preload_content=False,
            _request_timeout=(seconds, seconds),
            since_seconds=since,  # type: ignore[arg-type] # optional, whatever its stub says
        )
        async with response:
            if response.status not in (HTTPStatus.OK, HTTPStatus.NO_CONTENT):  # the second: there is none, since no node has the pod
                raise ApiException(status=response.status, reason=(await response.text(errors="replace"))[:_LONGEST_LINE])
            rest = b""
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._take(line[:_LARGEST_LINE], on_line)
                rest = rest[:_LARGEST_LINE]
            self._take(rest, on_line)
        self._complete = asked

    def _take(self, line: bytes, on_line: Callable[[str, str], None]) -> None:
        stamp, _, text = line.decode("utf-8", "replace").partition(" ")
        if (key := _sortable(stamp)) > self._newest:
            self._newest = key
            self._tail.append(text)
            on_line("%s", text)


def _sortable(stamp: str) -> str:
    """A time stamp of the kubelet's, whose nanoseconds have no zeros at their end, so that later ones sort later."""
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    return f"{whole}.{fraction:0<9}" if whole else ""


def _told(error: BaseException) -> str:
    if isinstance(error, ApiException):
        return f"{error.status} {error.reason}"
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _pause(error: BaseException, usual: float) -> float:
    """Seconds until the next request: what the API server asks for where it is overrun."""
    headers: Any = (error.headers or {}) if isinstance(error, ApiException) and error.status == _TOO_MANY else {}
    asked = str(headers.get("Retry-After", ""))
    return max(usual, float(asked)) if asked.isdigit() else usual
