"""A played node: a client of an API server, real or double, that runs the pods bound to it as processes of this machine.

Each pod has a network namespace, so an address and ports of its own, and an `/etc/hosts` that stands for the cluster's DNS: headless Services are
in it as their pods come and go. Its container is the stage's command in this checkout's interpreter; images, mounts and limits are not played.
Needs root and Debian's iproute2 (`usable` says whether they are there). Known to be left out: probes, events, leases, and so a real control plane
takes the node for lost after a while.
"""

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kubernetes.client import ApiClient, ApiException, CoreV1Api
from urllib3.exceptions import HTTPError

Object = dict[str, Any]

# Each process has its own, so that two that play a node at once do not meet.
_NUMBER = os.getpid() % 200
_BRIDGE, _NETWORK = f"sluice{_NUMBER}", f"10.213.{_NUMBER}"
_HOSTS = Path("/etc/netns")
_POLL_SECONDS = 0.1


def usable() -> str | None:
    """Why no node can be played here; None where one can."""
    if os.geteuid() != 0:
        return "a played node makes network namespaces, which takes root"
    if shutil.which("ip") is None or shutil.which("openssl") is None:
        return "a played node needs Debian's packages iproute2 and openssl"
    bridge, network = f"{_BRIDGE}t", f"{_BRIDGE}-try"
    try:
        _ip("link", "add", bridge, "type", "bridge")
        _ip("netns", "add", network)
        _ip("link", "add", f"{bridge}o", "type", "veth", "peer", "name", f"{bridge}i", "netns", network)
        _ip("link", "set", f"{bridge}o", "master", bridge, "up")
        _write(_HOSTS / network / "hosts", "127.0.0.1 localhost\n")
        _ip("netns", "exec", network, "true")
    except (RuntimeError, OSError) as error:
        return f"network namespaces can't be made here: {error}"
    finally:
        for left in (["netns", "delete", network], ["link", "delete", bridge]):
            subprocess.run(["ip", *left], capture_output=True, check=False)
        shutil.rmtree(_HOSTS / network, ignore_errors=True)
    return None


@dataclass
class Running:
    """A pod of this node."""

    name: str
    namespace: str
    address: str
    network: str
    """Of its network namespace."""
    process: "subprocess.Popen[bytes] | None" = None
    reader: threading.Thread | None = None
    lines: list[tuple[str, str]] = field(default_factory=list)
    """Its log: time stamp and text."""
    kill_at: float | None = None


class Node:
    """Use it as `with Node(api, folder):`; `environment` is what a job image sets."""

    def __init__(
        self,
        api: ApiClient,
        folder: Path,
        environment: Mapping[str, str],
        *,
        name: str = "played",
        namespace: str = "sluice",
        room: int = 20,
    ) -> None:
        self._core = CoreV1Api(api)
        self._api = api
        self._folder = folder
        self._environment = dict(environment)
        self._name, self._namespace, self._room = name, namespace, room
        self._pods: dict[str, Running] = {}
        self._numbers = count(2)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="node", daemon=True)
        self.failure: BaseException | None = None

    def __enter__(self) -> "Node":
        self._folder.mkdir(parents=True, exist_ok=True)
        _ip("link", "add", _BRIDGE, "type", "bridge")
        _ip("addr", "add", f"{_NETWORK}.1/24", "dev", _BRIDGE)
        _ip("link", "set", _BRIDGE, "up")
        self._logs = self._serve_logs()
        self._register()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        with contextlib.ExitStack() as ends:
            ends.callback(_ip, "link", "delete", _BRIDGE)
            ends.callback(self._logs.server_close)
            ends.callback(self._logs.shutdown)
            for pod in self._pods.values():
                ends.callback(self._clear, pod)
            self._thread.join()

    def kill(self, name: str) -> None:
        """SIGKILL of every process of a pod, as a lack of memory ends it."""
        _signal(self._pods[name], signal.SIGKILL)

    # --- what a kubelet does ---

    def _work(self) -> None:
        while not self._stop.wait(_POLL_SECONDS):
            try:
                self._look()
            except (ApiException, HTTPError):
                continue  # an API server that a test takes away is asked again
            except BaseException as error:
                self.failure = error
                raise

    def _look(self) -> None:
        pods = {pod["metadata"]["name"]: pod for pod in self._list("pods")}
        for name in self._pods.keys() - pods.keys():
            self._clear(self._pods.pop(name))
        for name, pod in pods.items():
            mine = pod["spec"].get("nodeName") == self._name
            if not pod["spec"].get("nodeName") and "deletionTimestamp" not in pod["metadata"] and len(self._pods) < self._room:
                self._bind(name)
            elif mine and name not in self._pods and _is_new(pod):
                self._begin(name, pod)
            if mine and name in self._pods:
                self._go_on(self._pods[name], pod)
        self._tell_names(pods)

    def _bind(self, name: str) -> None:
        body = {"metadata": {"name": name}, "target": {"apiVersion": "v1", "kind": "Node", "name": self._name}}
        with contextlib.suppress(ApiException):  # the scheduler of a real control plane may have been quicker
            self._core.create_namespaced_pod_binding(name, self._namespace, body, _preload_content=False)

    def _begin(self, name: str, pod: Object) -> None:
        try:
            given = self._given(pod)
        except ApiException as error:
            waiting = {"reason": "CreateContainerConfigError", "message": str(error.reason)}
            self._status(name, "Pending", {"waiting": waiting})
            return
        number = next(self._numbers)
        running = Running(name, self._namespace, f"{_NETWORK}.{number}", f"{_BRIDGE}-{number}")
        self._pods[name] = running
        _make_network(running, number)
        container = pod["spec"]["containers"][0]
        home = self._folder / name
        home.mkdir(exist_ok=True)
        environment = {**self._environment, **given, "POD_IP": running.address}
        environment = {key: value.replace("/home/sluice", str(home)) for key, value in environment.items()}
        command = [re.sub(r"\$\((\w+)\)", lambda found: environment[found[1]], part) for part in container["command"]]
        assert command[0] == "python"
        self._tell_names({name: pod})
        running.process = subprocess.Popen(
            ["ip", "netns", "exec", running.network, sys.executable, *command[1:]],
            env={"PATH": os.environ["PATH"], **environment},
            cwd=self._environment["SLUICE_PROJECT"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        running.reader = threading.Thread(target=_read, args=(running,), daemon=True)
        running.reader.start()
        self._status(name, "Running", {"running": {"startedAt": _now()}}, address=running.address)

    def _given(self, pod: Object) -> dict[str, str]:
        """Environment variables of the pod's container. Raises `ApiException` where a Secret is missing."""
        container, found = pod["spec"]["containers"][0], {}
        for source in container.get("envFrom") or ():
            secret = self._raw(self._core.read_namespaced_secret(source["secretRef"]["name"], self._namespace, _preload_content=False))
            found |= {key: _decoded(value) for key, value in (secret.get("data") or {}).items()}
        return found | {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}

    def _go_on(self, running: Running, pod: Object) -> None:
        process = running.process
        assert process is not None
        code = process.poll()
        deleted = "deletionTimestamp" in pod["metadata"]
        if code is not None:
            if pod["status"].get("phase") == "Running":
                ended = 128 - code if code < 0 else code
                state = {"exitCode": ended, "reason": "Completed" if ended == 0 else "Error", "finishedAt": _now()}
                self._status(running.name, "Succeeded" if ended == 0 else "Failed", {"terminated": state}, address=running.address)
            if deleted:
                with contextlib.suppress(ApiException):
                    self._core.delete_namespaced_pod(running.name, self._namespace, grace_period_seconds=0)
        elif deleted and running.kill_at is None:
            running.kill_at = time.monotonic() + float(pod["metadata"].get("deletionGracePeriodSeconds") or 0)
            _signal(running, signal.SIGTERM)
        elif running.kill_at is not None and time.monotonic() > running.kill_at:
            _signal(running, signal.SIGKILL)

    def _status(self, name: str, phase: str, state: Object, *, address: str | None = None) -> None:
        container = {"name": "base", "image": "played", "imageID": "", "ready": "running" in state, "restartCount": 0, "state": state}
        status = {"phase": phase, "containerStatuses": [container], **({"podIP": address, "podIPs": [{"ip": address}]} if address else {})}
        with contextlib.suppress(ApiException):  # it may be gone
            self._core.patch_namespaced_pod_status(name, self._namespace, {"status": status}, _preload_content=False)

    def _clear(self, running: Running) -> None:
        _signal(running, signal.SIGKILL)
        if running.process is not None and running.reader is not None:
            running.process.wait()
            running.reader.join()
        _ip("netns", "delete", running.network)
        shutil.rmtree(_HOSTS / running.network, ignore_errors=True)

    # --- names and logs ---

    def _tell_names(self, pods: Mapping[str, Object]) -> None:
        """Write the addresses of headless Services where each pod looks for names."""
        lines = []
        for service in self._list("services"):
            wanted = (service["spec"].get("selector") or {}).items()
            for name, running in self._pods.items():
                if wanted and name in pods and wanted <= pods[name]["metadata"]["labels"].items():
                    host = f"{service['metadata']['name']}.{self._namespace}.svc"
                    lines.append(f"{running.address} {host} {host}.cluster.local {service['metadata']['name']}")
        for running in self._pods.values():
            own = f"{running.address} {socket.gethostname()} {running.name}"
            _write(_HOSTS / running.network / "hosts", "\n".join(["127.0.0.1 localhost", own, *lines, ""]))

    def _serve_logs(self) -> ThreadingHTTPServer:
        node = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = urlsplit(self.path)
                _, _, _, name, *_ = path.path.split("/")
                pod, query = node._pods.get(name), {key: values[0] for key, values in parse_qs(path.query).items()}
                self.send_response(200 if pod else 404)
                self.end_headers()
                since = (datetime.now(UTC) - timedelta(seconds=int(query["sinceSeconds"]))).isoformat() if "sinceSeconds" in query else ""
                for stamp, text in list(pod.lines) if pod else ():
                    if stamp >= since:
                        self.wfile.write(f"{stamp} {text}\n".encode() if query.get("timestamps") == "true" else f"{text}\n".encode())

            def log_message(self, *_: object) -> None:
                """Nothing."""

        key, certificate = self._folder / "node.key", self._folder / "node.crt"
        made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=node", "-keyout", str(key)]
        subprocess.run([*made, "-out", str(certificate)], check=True, capture_output=True)
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def _register(self) -> None:
        room = {"cpu": "64", "memory": "256Gi", "pods": str(self._room), "ephemeral-storage": "500Gi"}
        status = {
            "capacity": room,
            "allocatable": room,
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._logs.server_address[1]}},
            "conditions": [
                {"type": "Ready", "status": "True", "reason": "Played", "lastHeartbeatTime": _now(), "lastTransitionTime": _now()}
            ],
        }
        self._core.create_node({"metadata": {"name": self._name}}, _preload_content=False)
        self._core.patch_node_status(self._name, {"status": status}, _preload_content=False)

    def _list(self, plural: str) -> list[Object]:
        listed = {"pods": self._core.list_namespaced_pod, "services": self._core.list_namespaced_service}[plural]
        items: list[Object] = self._raw(listed(self._namespace, _preload_content=False))["items"]
        return items

    def _raw(self, answer: Any) -> Object:
        found: Object = json.loads(answer.data)
        return found


def _is_new(pod: Object) -> bool:
    return pod["status"].get("phase") in (None, "Pending") and "deletionTimestamp" not in pod["metadata"]


def _read(running: Running) -> None:
    assert running.process is not None
    assert running.process.stdout is not None
    with running.process.stdout as output:
        for line in output:
            running.lines.append((_now(), line.decode("utf-8", "replace").rstrip("\n")))


def _signal(running: Running, number: int) -> None:
    if running.process is None:
        return
    inside = subprocess.run(["ip", "netns", "pids", running.network], capture_output=True, text=True, check=False).stdout.split()
    for pid in map(int, inside):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _make_network(running: Running, number: int) -> None:
    _write(_HOSTS / running.network / "hosts", "127.0.0.1 localhost\n")
    # No server of names can be reached from there, and to ask one takes seconds.
    _write(_HOSTS / running.network / "nsswitch.conf", "hosts: files\n")
    outer, inner = f"sl{_NUMBER}o{number}", f"sl{_NUMBER}i{number}"
    _ip("netns", "add", running.network)
    _ip("link", "add", outer, "type", "veth", "peer", "name", inner, "netns", running.network)
    _ip("link", "set", outer, "master", _BRIDGE, "up")
    _ip("-n", running.network, "link", "set", "lo", "up")
    _ip("-n", running.network, "addr", "add", f"{running.address}/24", "dev", inner)
    _ip("-n", running.network, "link", "set", inner, "up")
    _ip("-n", running.network, "route", "add", "default", "via", f"{_NETWORK}.1")


def _write(path: Path, text: str) -> None:
    """In place, since a process has the file mounted; and only what is new, since it may be read at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {chr(32).join(words)}: {done.stderr.strip()}")


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _decoded(value: str) -> str:
    return base64.b64decode(value).decode()
