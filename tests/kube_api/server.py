"""A double of the Kubernetes API server: HTTP on a loopback port, objects in memory, faults to order.

It does what clients of the API see: create, read, list and watch with selectors, update, patch, server-side apply, delete with a grace period, owners
and what they own, binding of pods, logs. It runs no controller and starts nothing: a pod runs because a node, which is a client of the API, runs it,
or because a test plays one (`bind`, `run`, `end`, `set_status`). Known to be left out: admission, defaults, quotas other than of pods, paging.
"""

import copy
import itertools
import json
import re
import ssl
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import yaml

from pipelines_lib.store import write_text
from tests.kube_api.objects import Object, merge, patch_json, selector

Key = tuple[str, str, str, str]
"""Group, plural, namespace (empty where there is none) and name of an object."""

_GLOBAL = {"namespaces", "nodes", "persistentvolumes", "clusterroles", "clusterrolebindings"}
_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/v\w+(?:/namespaces/(?P<namespace>[^/]+)(?=/))?/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[^/]+))?"
)
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")


class Refusal(Exception):
    """An answer other than the one that was asked for, as the API server words it."""

    def __init__(self, code: int, reason: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.headers = headers or {}
        self.status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "code": code}


@dataclass
class Fault:
    """What happens to the next `times` requests that it is for."""

    method: str
    path: re.Pattern[str]
    refusal: Refusal | None
    """The answer in place of the real one; None: the connection is dropped without one."""
    times: float
    done: bool
    """Whether the request is carried out, and its answer alone is lost."""
    seconds: float = 0
    """How long the client hears nothing before."""


@dataclass
class Request:
    """One request, as it came."""

    method: str
    path: str
    query: dict[str, str]
    body: str
    token: str
    accept: str = ""
    """As what the answer is asked for."""
    code: int | None = None
    """What it was answered with; None: with nothing, or not yet."""


@dataclass(frozen=True)
class Call:
    """A request, understood."""

    verb: str
    group: str
    plural: str
    namespace: str
    name: str
    sub: str
    query: dict[str, str]
    body: Any = None
    content_type: str = ""

    @property
    def key(self) -> Key:
        """What it is about."""
        return self.group, self.plural, self.namespace, self.name

    def takes(self, key: Key) -> bool:
        """Whether an object is among those that it is about."""
        return key[:2] == (self.group, self.plural) and self.namespace in ("", key[2]) and self.name in ("", key[3])

    def option(self, name: str) -> Any:
        """An option of a deletion: it may stand in the query or in the body."""
        return self.query.get(name, (self.body or {}).get(name))


@dataclass
class ApiServer:
    """The double. Use it as `with ApiServer() as api:`; its methods may be called from any thread."""

    namespaces: tuple[str, ...] = ("default", "sluice")
    tokens: set[str] | None = None
    """The bearer tokens that are valid; None: every one, and none at all."""
    apis: tuple[str, ...] = ("apps/v1", "autoscaling/v2", "policy/v1")
    """Which groups of kinds it says it has, beside the core's; it takes objects of every one."""
    forbidden: set[tuple[str, str]] = field(default_factory=set)
    """Pairs of verb and resource, such as ("create", "pods") or ("get", "pods/log"), that nobody may."""
    max_pods: int | None = None
    """How many pods the quota of a namespace grants."""
    down: bool = False
    """Whether every connection is dropped."""
    on_pod: Callable[[str], None] | None = None
    """Called with the name of each pod that was made, before the client has its answer."""
    stuck: set[str] = field(default_factory=set)
    """Names of pods that stay when they are deleted, until they are forced; of those that no node runs, all others vanish at once."""
    logs: dict[str, list[tuple[datetime, bytes]]] = field(default_factory=dict)
    """Pod to the lines of its log, where no node keeps them."""
    requests: list[Request] = field(default_factory=list)
    """All that were received."""
    address: str = ""

    def __post_init__(self) -> None:
        self._objects: dict[Key, Object] = {}
        self._events: list[tuple[str, Key, Object]] = []
        """What happened, to what, and how that was then: one for each version."""
        self._oldest = 0
        self._faults: list[Fault] = []
        self._changed = threading.Condition(threading.RLock())
        self._ended = False
        with self._changed:
            for name in self.namespaces:
                self._put(("", "namespaces", "", name), {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}, "ADDED")

    def __enter__(self) -> "ApiServer":
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": self}))
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def kubeconfig(self, path: Path, token: str = "token") -> Path:
        """Write the way to this server into `path`, whole: somebody may be reading it."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "double", "cluster": {"server": self.address}}],
            "users": [{"name": "user", "user": {"token": token}}],
            "contexts": [{"name": "double", "context": {"cluster": "double", "user": "user"}}],
            "current-context": "double",
        }
        write_text(path, yaml.safe_dump(config))
        return path

    # What a test asks and plays.

    def all(self, plural: str, group: str = "") -> list[Object]:
        """Copies of all objects of a kind."""
        with self._changed:
            return [copy.deepcopy(found) for key, found in self._objects.items() if key[:2] == (group, plural)]

    def get(self, plural: str, name: str, namespace: str = "sluice", group: str = "") -> Object | None:
        """A copy of an object; None where there is none."""
        with self._changed:
            return copy.deepcopy(self._objects.get((group, plural, "" if plural in _GLOBAL else namespace, name)))

    def fail(
        self,
        method: str,
        path: str,
        code: int | None,
        message: str = "as the test ordered",
        *,
        times: float = 1,
        done: bool = False,
        seconds: float = 0,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Answer the next `times` requests whose path the regular expression `path` finds with `code`; None drops the connection.

        With `done` the request is carried out first, and its answer alone is another. `seconds` is how long that takes.
        """
        refusal = None if code is None else Refusal(code, _REASONS.get(code, "InternalError"), message, headers)
        self._faults.append(Fault(method, re.compile(path), refusal, times, done, seconds))

    def put(self, plural: str, new: Object, namespace: str = "sluice", group: str = "") -> None:
        """Make or replace an object, as a controller of the cluster does."""
        with self._changed:
            new = copy.deepcopy(new)
            new["metadata"].setdefault("namespace", namespace)
            self._put((group, plural, namespace, new["metadata"]["name"]), new, "ADDED")

    def compact(self) -> None:
        """Forget what happened: a watch from an older version is answered with 410."""
        with self._changed:
            self._oldest = len(self._events)

    def bind(self, name: str, node: str = "node-1", namespace: str = "sluice") -> None:
        """Give a pod to a node, as the scheduler does."""
        with self._changed:
            pod = self._found("pods", name, namespace)
            pod["spec"]["nodeName"] = node
            merge(pod, {"status": {"conditions": [{"type": "PodScheduled", "status": "True"}]}}, by_key=True)
            self._put(("", "pods", namespace, name), pod, "MODIFIED")

    def set_status(self, name: str, namespace: str = "sluice", **status: Any) -> None:
        """Set fields of a pod's status, as its kubelet does."""
        with self._changed:
            pod = self._found("pods", name, namespace)
            pod["status"] |= status
            self._put(("", "pods", namespace, name), pod, "MODIFIED")

    def run(self, name: str) -> None:
        """Let a pod run on a node that nobody plays."""
        self.bind(name)
        self.set_status(name, phase="Running", containerStatuses=[container_status(running={"startedAt": _now()})])

    def end(self, name: str, code: int = 0, reason: str | None = None, message: str | None = None, **status: Any) -> None:
        """Let the container of a pod end; `status` are other fields of the pod's."""
        reason = reason or ("Completed" if code == 0 else "Error")
        terminated = {"exitCode": code, "reason": reason, "message": message, "finishedAt": _now()}
        phase = "Succeeded" if code == 0 else "Failed"
        self.set_status(name, phase=phase, containerStatuses=[container_status(terminated=terminated)], **status)

    def say(self, pod: str, *lines: str) -> None:
        """Write lines into the log of a pod that no node runs."""
        with self._changed:
            own, now = self.logs.setdefault(pod, []), datetime.now(UTC)
            for n, line in enumerate(lines):
                own.append((now + timedelta(microseconds=n), line.encode()))

    def vanish(self, name: str, plural: str = "pods", namespace: str = "sluice", group: str = "") -> None:
        """Remove an object at once, with all that it owns."""
        with self._changed:
            self._drop((group, plural, namespace, name))

    # What the API does. Each raises `Refusal` where the server would not do it.

    def answer(self, call: Call) -> Object:
        """The answer to a request other than for a watch or a log."""
        with self._changed:
            self._hold_to_rights(call)
            own = {"binding": self._bound, "selfsubjectaccessreviews": self._reviewed}
            verbs = {
                "create": self._create,
                "get": lambda call: self._found(call.plural, call.name, call.namespace, call.group),
                "list": self._list,
                "update": self._update,
                "patch": self._patch,
                "delete": self._delete,
                "deletecollection": self._delete_all,
            }
            return (own.get(call.sub or call.plural) or verbs[call.verb])(call)

    def watch(self, call: Call) -> Iterator[Object | None]:
        """What happens to the objects that the query selects; None now and then where nothing does."""
        fits = selector(call.query)
        until = time.monotonic() + float(call.query.get("timeoutSeconds") or 3600)
        since = int(call.query.get("resourceVersion") or 0)
        seen: set[Key] = set()
        with self._changed:
            self._hold_to_rights(call)
            if since and since < self._oldest:
                yield {"type": "ERROR", "object": Refusal(410, "Expired", f"too old resource version: {since}").status}
                return
            for kind, key, found in self._events[:since]:
                (seen.discard if kind == "DELETED" or not fits(found) else seen.add)(key)
            if not since:
                since = len(self._events)
                present = [(key, copy.deepcopy(found)) for key, found in self._objects.items() if call.takes(key) and fits(found)]
                seen = {key for key, _ in present}
                yield from ({"type": "ADDED", "object": found} for _, found in present)
        while time.monotonic() < until and not (self._ended or self.down):
            with self._changed:
                if len(self._events) == since:
                    self._changed.wait(0.2)
                news, since = self._events[since:], len(self._events)
            for kind, key, found in news:
                if not call.takes(key):
                    continue
                if kind != "DELETED" and fits(found):
                    yield {"type": "MODIFIED" if key in seen else "ADDED", "object": found}
                    seen.add(key)
                elif key in seen:
                    seen.discard(key)
                    yield {"type": "DELETED", "object": found}
            yield None

    def log(self, call: Call) -> Iterator[bytes]:
        """The log of a pod: what its node gives, or what a test has put into `logs`."""
        with self._changed:
            self._hold_to_rights(call)
            pod = self._found("pods", call.name, call.namespace)
            node = self._objects.get(("", "nodes", "", pod["spec"].get("nodeName", "")))
            lines = list(self.logs.get(call.name, ()))
        if node is not None:
            yield from _kubelet_log(node, call)
            return
        if seconds := call.query.get("sinceSeconds"):
            since = datetime.now(UTC) - timedelta(seconds=float(seconds))
            lines = [line for line in lines if line[0] >= since]
        stamped = call.query.get("timestamps", "").lower() == "true"
        text = b"".join((f"{_stamp(when)} ".encode() if stamped else b"") + line + b"\n" for when, line in lines)
        yield text[: int(call.query.get("limitBytes") or len(text))]

    def fault(self, method: str, path: str) -> Fault | None:
        """The fault that is ordered for a request."""
        with self._changed:
            if self.down:
                return Fault(method, re.compile(""), None, 1, done=False)
            found = next((each for each in self._faults if each.method == method and each.times > 0 and each.path.search(path)), None)
            if found is not None:
                found.times -= 1
            return found

    def _hold_to_rights(self, call: Call) -> None:
        resource = f"{call.plural}/{call.sub}" if call.sub else call.plural
        if (call.verb, resource) in self.forbidden:
            asked = f'cannot {call.verb} resource "{resource}" in API group "{call.group}" in the namespace "{call.namespace}"'
            raise Refusal(403, "Forbidden", f'{call.plural} is forbidden: User "double" {asked}')

    def _reviewed(self, call: Call) -> Object:
        asked = call.body["spec"]["resourceAttributes"]
        resource = "/".join(part for part in (asked["resource"], asked.get("subresource")) if part)
        return {**call.body, "status": {"allowed": (asked["verb"], resource) not in self.forbidden}}

    def _create(self, call: Call) -> Object:
        made = copy.deepcopy(call.body)
        metadata = made.setdefault("metadata", {})
        name = metadata.setdefault("name", call.name or metadata.get("generateName", "") + uuid.uuid4().hex[:5])
        if call.namespace and ("", "namespaces", "", call.namespace) not in self._objects:
            raise Refusal(404, "NotFound", f'namespaces "{call.namespace}" not found')
        wrong = [value for value in (metadata.get("labels") or {}).values() if not _LABEL.fullmatch(value)]
        if wrong or not _NAME.fullmatch(name):
            raise Refusal(422, "Invalid", f'{made.get("kind")} "{name}" is invalid: metadata: Invalid value: {wrong or name}')
        key = (call.group, call.plural, call.namespace, name)
        if key in self._objects:
            raise Refusal(409, "AlreadyExists", f'{call.plural} "{name}" already exists')
        if call.plural == "pods":
            self._hold_to_quota(call, name)
            made["spec"].setdefault("terminationGracePeriodSeconds", 30)
            made["status"] = {"phase": "Pending"}
        metadata |= {
            "uid": str(uuid.uuid4()),
            "generation": 1,
            "creationTimestamp": _now(),
            **({"namespace": call.namespace} if call.namespace else {}),
        }
        made = self._put(key, made, "ADDED")
        self._collect(key)
        if call.plural == "pods" and self.on_pod is not None:
            self.on_pod(name)
        return made

    def _hold_to_quota(self, call: Call, name: str) -> None:
        used = sum(call.takes(key) and pod["status"]["phase"] not in ("Succeeded", "Failed") for key, pod in self._objects.items())
        if self.max_pods is not None and used >= self.max_pods:
            amounts = f"requested: pods=1, used: pods={used}, limited: pods={self.max_pods}"
            raise Refusal(403, "Forbidden", f'pods "{name}" is forbidden: exceeded quota: jobs, {amounts}')

    def _list(self, call: Call) -> Object:
        fits = selector(call.query)
        items = [found for key, found in self._objects.items() if call.takes(key) and fits(found)]
        kind = f"{items[0]['kind']}List" if items else "List"
        return {"apiVersion": "v1", "kind": kind, "metadata": {"resourceVersion": str(len(self._events))}, "items": items}

    def _found(self, plural: str, name: str, namespace: str, group: str = "") -> Object:
        found = self._objects.get((group, plural, namespace, name))
        if found is None:
            raise Refusal(404, "NotFound", f'{plural} "{name}" not found')
        return copy.deepcopy(found)

    def _unchanged(self, call: Call) -> Object:
        """The object that a change is for. Raises `Refusal` where it is no longer as the client has seen it."""
        found = self._found(call.plural, call.name, call.namespace, call.group)
        seen = None if isinstance(call.body, list) else (call.body.get("metadata") or {}).get("resourceVersion")
        if seen not in (None, found["metadata"]["resourceVersion"]):
            raise Refusal(409, "Conflict", f'Operation cannot be fulfilled on {call.plural} "{call.name}": the object has been modified')
        return found

    def _update(self, call: Call) -> Object:
        found = self._unchanged(call)
        if call.sub == "status":
            return self._put(call.key, {**found, "status": call.body.get("status", {})}, "MODIFIED")
        kept = {name: found["metadata"][name] for name in ("uid", "generation", "creationTimestamp") if name in found["metadata"]}
        status = {"status": found["status"]} if "status" in found else {}
        return self._put(call.key, {**call.body, "metadata": {**call.body["metadata"], **kept}, **status}, "MODIFIED")

    def _patch(self, call: Call) -> Object:
        if "apply-patch" in call.content_type and call.key not in self._objects:
            return self._create(call)
        changed = self._unchanged(call)
        if isinstance(call.body, list):
            patch_json(changed, call.body)
        else:
            if "apply-patch" in call.content_type and call.plural == "services" and "selector" in call.body.get("spec", {}):
                changed["spec"].pop("selector", None)  # which is applied as a whole
            ours = {name: value for name, value in copy.deepcopy(call.body).items() if (name == "status") == (call.sub == "status")}
            merge(changed, ours, by_key="json" not in call.content_type or "strategic" in call.content_type)
        if changed == self._objects[call.key]:
            return changed
        if changed.get("spec") != self._objects[call.key].get("spec"):
            changed["metadata"]["generation"] += 1
        changed = self._put(call.key, changed, "MODIFIED")
        self._drop_ended(call.key)
        return changed

    def _bound(self, call: Call) -> Object:
        node = self._found("pods", call.name, call.namespace)["spec"].get("nodeName")
        if node:
            raise Refusal(409, "Conflict", f'pod {call.name} is already assigned to node "{node}"')
        self.bind(call.name, call.body["target"]["name"], call.namespace)
        return {"kind": "Status", "apiVersion": "v1", "status": "Success"}

    def _delete(self, call: Call) -> Object:
        found = self._found(call.plural, call.name, call.namespace, call.group)
        metadata = found["metadata"]
        wanted = (call.option("preconditions") or {}).get("uid")
        if wanted not in (None, metadata["uid"]):
            raise Refusal(409, "Conflict", f"Precondition failed: UID in precondition: {wanted}, UID in object meta: {metadata['uid']}")
        asked = call.option("gracePeriodSeconds")
        grace = min(self._grace(found, asked), metadata.get("deletionGracePeriodSeconds", float("inf"))) if call.plural == "pods" else 0
        metadata["deletionTimestamp"] = _stamp(datetime.now(UTC) + timedelta(seconds=grace), whole=True)
        metadata["deletionGracePeriodSeconds"] = grace
        found = self._put(call.key, found, "MODIFIED")
        self._drop_ended(call.key)
        return found

    def _delete_all(self, call: Call) -> Object:
        for found in self._list(call)["items"]:
            self._delete(replace(call, namespace=found["metadata"].get("namespace", ""), name=found["metadata"]["name"]))
        return {"kind": "Status", "apiVersion": "v1", "status": "Success"}

    def _grace(self, pod: Object, asked: Any) -> int:
        """Seconds until a pod may vanish; 0 for one that has nothing to end."""
        grace = int(pod["spec"]["terminationGracePeriodSeconds"] if asked is None else asked)
        if pod["metadata"]["name"] in self.stuck:
            return grace
        runs = ("", "nodes", "", pod["spec"].get("nodeName", "")) in self._objects and pod["status"]["phase"] not in ("Succeeded", "Failed")
        return grace if runs else 0

    def _put(self, key: Key, new: Object, kind: str) -> Object:
        new["metadata"]["resourceVersion"] = str(len(self._events) + 1)
        self._objects[key] = new
        self._events.append((kind, key, copy.deepcopy(new)))
        self._changed.notify_all()
        return copy.deepcopy(new)

    def _drop_ended(self, key: Key) -> None:
        """Remove what was deleted, and has neither a grace period nor a finalizer any more."""
        metadata = self._objects[key]["metadata"]
        if metadata.get("deletionGracePeriodSeconds") == 0 and not metadata.get("finalizers"):
            self._drop(key)

    def _drop(self, key: Key) -> None:
        gone = self._objects.pop(key, None)
        if gone is None:
            return
        gone["metadata"]["resourceVersion"] = str(len(self._events) + 1)
        self._events.append(("DELETED", key, gone))
        self._changed.notify_all()
        for other in list(self._objects):
            if key[1] == "namespaces" and other[2] == key[3]:
                self._drop(other)
            self._collect(other)

    def _collect(self, key: Key) -> None:
        """Remove what has owners of which none is there."""
        owners = {owner["uid"] for owner in self._objects.get(key, {"metadata": {}})["metadata"].get("ownerReferences") or ()}
        if owners and not any(found["metadata"].get("uid") in owners for found in self._objects.values()):
            self._drop(key)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A client that has gone is no news."""


class _Handler(BaseHTTPRequestHandler):
    api: ApiServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _do(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self._request = Request(self.command, parts.path, query, body, token, self.headers.get("Accept", ""))
        self.api.requests.append(self._request)
        fault = self.api.fault(self.command, parts.path)
        try:
            if fault is not None and not fault.done:
                self._fail(fault)
            else:
                self._answer(self._request, fault)
        except Refusal as refusal:
            self._refuse(refusal)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _do  # noqa: N815 - the names are http.server's

    def _answer(self, request: Request, fault: Fault | None) -> None:
        if self.api.tokens is not None and request.token not in self.api.tokens:
            raise Refusal(401, "Unauthorized", "Unauthorized")
        if request.path in ("/version", "/version/", "/readyz"):
            self._send(200, {"major": "1", "minor": "36", "gitVersion": "v1.36.0"})
            return
        if request.path in ("/apis", "/apis/"):
            self._send(200, _groups(self.api.apis))
            return
        call = _understood(request, self.headers.get("Content-Type", ""))
        if call.verb == "watch":
            self._stream(b"" if event is None else json.dumps(event).encode() + b"\n" for event in self.api.watch(call))
        elif call.sub == "log":
            log = self.api.log(call)
            self._stream(log, first=next(log, b""))
        else:
            answer = self.api.answer(call)
            if fault is None:
                self._send(201 if request.method == "POST" else 200, answer)
            else:
                self._fail(fault)

    def _fail(self, fault: Fault) -> None:
        time.sleep(fault.seconds)
        if fault.refusal is None:
            self.close_connection = True
        else:
            self._refuse(fault.refusal)

    def _refuse(self, refusal: Refusal) -> None:
        self._send(refusal.code, refusal.status, refusal.headers)

    def _send(self, code: int, answer: Object, headers: dict[str, str] | None = None) -> None:
        self._request.code = code
        data = json.dumps(answer).encode()
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, parts: Iterator[bytes], first: bytes = b"") -> None:
        """Send `first`, and `parts` as they come."""
        self._request.code = 200
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in itertools.chain([first], parts):
            if part:  # an empty one would be the end
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: Any) -> None:
        """Nothing to the terminal."""


def container_status(name: str = "base", **state: Any) -> Object:
    """The status of a container that is in `state`: waiting, running or terminated."""
    return {"name": name, "state": state, "image": "image", "imageID": "", "ready": "running" in state, "restartCount": 0}


_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    422: "Invalid",
    429: "TooManyRequests",
}
_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_OF_MANY = {"get": "list", "delete": "deletecollection"}


def _groups(apis: tuple[str, ...]) -> Object:
    versions = [{"groupVersion": api, "version": api.partition("/")[2]} for api in apis]
    groups = [
        {"name": api.partition("/")[0], "versions": [version], "preferredVersion": version}
        for api, version in zip(apis, versions, strict=True)
    ]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def _understood(request: Request, content_type: str) -> Call:
    found = _PATH.fullmatch(request.path)
    if found is None or found["sub"] not in (None, "status", "log", "binding"):
        raise Refusal(404, "NotFound", "the server could not find the requested resource")
    group, plural, namespace, name, sub = (found[part] or "" for part in ("group", "plural", "namespace", "name", "sub"))
    verb = _VERBS[request.method]
    if request.query.get("watch", "").lower() in ("true", "1"):
        verb = "watch"
    elif not name:
        verb = _OF_MANY.get(verb, verb)
    return Call(verb, group, plural, namespace, name, sub, request.query, _read(request.body), content_type)


def _read(text: str) -> Any:
    """A body; that of an apply-patch may be YAML."""
    try:
        return json.loads(text) if text else None
    except ValueError:
        return yaml.safe_load(text)


def _kubelet_log(node: Object, call: Call) -> Iterator[bytes]:
    """The log of a pod as the kubelet of its node gives it."""
    host = next(each["address"] for each in node["status"]["addresses"] if each["type"] == "InternalIP")
    port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"]
    options = {name: value for name, value in call.query.items() if name != "container"}
    url = f"https://{host}:{port}/containerLogs/{call.namespace}/{call.name}/{call.query.get('container', 'base')}?{urlencode(options)}"
    trusting = ssl._create_unverified_context()  # as the API server does that was given no authority for kubelets
    try:
        with urllib.request.urlopen(url, context=trusting) as response:
            while part := response.read1(1 << 16):
                yield part
    except urllib.error.HTTPError as error:
        raise Refusal(error.code, "BadRequest", error.read().decode()) from error
    except OSError as error:
        raise Refusal(500, "InternalError", f"Get {url}: {error}") from error


def _now() -> str:
    return _stamp(datetime.now(UTC), whole=True)


def _stamp(when: datetime, *, whole: bool = False) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ" if whole else "%Y-%m-%dT%H:%M:%S.%fZ")
