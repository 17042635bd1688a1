"""A played node: a client of an API server, real or double, that runs the pods bound to it as processes of this machine.

Each pod has a network namespace, so an address and ports of its own, and an `/etc/hosts` that stands for the cluster's DNS: Services are in it,
headless ones as their pods come and go, the others under an address of their own, from which connections go on to the pods that are ready. Its
container is the command in this checkout's interpreter; ConfigMaps and the token of its service account are there, images, other mounts and limits
are not played. Needs root and Debian's iproute2 (`usable` says whether they are there). Known to be left out: events, liveness, restarts, hooks.

As a program it is the node of a control plane that has none: `python -m tests.kube_api.node` takes KUBECONFIG, and runs until it is interrupted.
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
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kubernetes.client import ApiClient, ApiException, CoreV1Api
from kubernetes.config import new_client_from_config
from urllib3.exceptions import HTTPError

from tests.kube_api.proxy import Proxy

Object = dict[str, Any]

# Each process has its own, so that two that play a node at once do not meet.
_NUMBER = os.getpid() % 200
_BRIDGE, _NETWORK = f"sluice{_NUMBER}", f"10.213.{_NUMBER}"
_HOSTS = Path("/etc/netns")
_POLL_SECONDS = 0.1
_HEARTBEAT_SECONDS = 10
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds the token of its service account."""
# Mounts made in it go with the process.
_MOUNT = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'


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
    ready: bool = False
    asked_at: float = 0
    """When its probe was asked last."""

    @property
    def key(self) -> str:
        """What it is known by."""
        return f"{self.namespace}/{self.name}"


class Node:
    """Use it as `with Node(api, folder):`; `environment` is what a job image sets."""

    def __init__(
        self,
        api: ApiClient,
        folder: Path,
        environment: Mapping[str, str],
        *,
        name: str = "played",
        schedules: bool = True,
        room: int = 20,
    ) -> None:
        """`schedules` takes every pod that waits for a node, where there is no scheduler to do it."""
        self._core = CoreV1Api(api)
        self._api = api
        self._folder = folder
        self._environment = dict(environment)
        self._name, self._schedules, self._room = name, schedules, room
        self._pods: dict[str, Running] = {}
        self._numbers = count(2)
        self._stop = threading.Event()
        self._proxy = Proxy(_BRIDGE)
        self._heart = 0.0
        self._thread = threading.Thread(target=self._work, name="node", daemon=True)
        self.failure: BaseException | None = None

    def __enter__(self) -> "Node":
        self._folder.mkdir(parents=True, exist_ok=True)
        # An address of its own: else it takes one of its pods', another when that goes, and the others talk to nobody for a while.
        _ip("link", "add", _BRIDGE, "address", f"0a:58:0a:d5:{_NUMBER:02x}:01", "type", "bridge")
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
            ends.callback(self._proxy.close)
            for pod in self._pods.values():
                ends.callback(self._clear, pod)
            self._thread.join()

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
        self._beat()
        pods = {_key(pod): pod for pod in self._list(self._core.list_pod_for_all_namespaces)}
        for key in self._pods.keys() - pods.keys():
            self._clear(self._pods.pop(key))
        for key, pod in pods.items():
            mine = pod["spec"].get("nodeName") == self._name
            waits = not pod["spec"].get("nodeName") and "deletionTimestamp" not in pod["metadata"]
            if self._schedules and waits and len(self._pods) < self._room:
                self._bind(pod)
            elif mine and key not in self._pods and _is_new(pod):
                self._begin(pod)
            if mine and key in self._pods:
                self._go_on(self._pods[key], pod)
        self._tell_names(pods)

    def _bind(self, pod: Object) -> None:
        body = {"metadata": {"name": pod["metadata"]["name"]}, "target": {"apiVersion": "v1", "kind": "Node", "name": self._name}}
        with contextlib.suppress(ApiException):  # it may be gone
            self._core.create_namespaced_pod_binding(pod["metadata"]["name"], pod["metadata"]["namespace"], body, _preload_content=False)

    def _begin(self, pod: Object) -> None:
        number = next(self._numbers)
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        running = Running(name, namespace, f"{_NETWORK}.{number % 250 + 2}", f"{_BRIDGE}-{number}")
        home = self._folder / f"{namespace}-{name}"
        home.mkdir(exist_ok=True)
        try:
            given = self._given(pod)
            mounted = self._mounted(pod, home)
        except ApiException as error:
            waiting = {"reason": "CreateContainerConfigError", "message": str(error.reason)}
            self._status(running, "Pending", {"waiting": waiting})
            return
        self._pods[running.key] = running
        _make_network(running, number)
        container = pod["spec"]["containers"][0]
        environment = {**self._environment, **given, "POD_IP": running.address}
        for path, place in {"/home/sluice": home, **mounted}.items():
            environment = {key: value.replace(path, str(place)) for key, value in environment.items()}
        command = [re.sub(r"\$\((\w+)\)", lambda found: environment[found[1]], part) for part in container["command"]]
        assert command[0] == "python"
        command[0] = sys.executable
        if pod["spec"].get("automountServiceAccountToken"):
            command = ["sh", "-c", _MOUNT, "sh", str(self._account(pod, home)), str(_ACCOUNT), *command]
            environment |= {"KUBERNETES_SERVICE_HOST": "kubernetes.default.svc", "KUBERNETES_SERVICE_PORT": "443"}
        self._tell_names({running.key: pod})
        running.process = subprocess.Popen(
            ["ip", "netns", "exec", running.network, *command],
            env={"PATH": os.environ["PATH"], **environment},
            cwd=self._environment["SLUICE_PROJECT"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        running.reader = threading.Thread(target=_read, args=(running,), daemon=True)
        running.reader.start()
        running.ready = not _probe_of(pod)
        self._status(running, "Running", {"running": {"startedAt": _now()}})

    def _mounted(self, pod: Object, home: Path) -> dict[str, Path]:
        """The path of each mounted ConfigMap to the folder that has its files. Raises `ApiException` where one is missing."""
        volumes = {volume["name"]: volume["configMap"] for volume in pod["spec"].get("volumes") or () if "configMap" in volume}
        mounted = {}
        for mount in pod["spec"]["containers"][0].get("volumeMounts") or ():
            if (volume := volumes.get(mount["name"])) is None:
                continue
            found = self._raw(self._core.read_namespaced_config_map(volume["name"], pod["metadata"]["namespace"], _preload_content=False))
            folder = home / mount["name"]
            for item in volume.get("items") or [{"key": key, "path": key} for key in found["data"]]:
                path = folder / item["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(found["data"][item["key"]], encoding="utf-8")
            mounted[mount["mountPath"]] = folder
        return mounted

    def _account(self, pod: Object, home: Path) -> Path:
        """The folder with the token of a pod's service account."""
        name, namespace = pod["spec"].get("serviceAccountName", "default"), pod["metadata"]["namespace"]
        asked: Object = {"spec": {"expirationSeconds": 3600}}
        token = self._core.create_namespaced_service_account_token(name, namespace, asked).status.token
        folder = home / "account"
        folder.mkdir(exist_ok=True)
        trusted = self._api.configuration.ssl_ca_cert
        for file, text in {"token": token, "namespace": namespace, "ca.crt": Path(trusted).read_text(encoding="utf-8")}.items():
            (folder / file).write_text(text, encoding="utf-8")
        _ACCOUNT.mkdir(parents=True, exist_ok=True)
        return folder

    def _given(self, pod: Object) -> dict[str, str]:
        """Environment variables of the pod's container. Raises `ApiException` where a Secret is missing."""
        container, found = pod["spec"]["containers"][0], {}
        for source in container.get("envFrom") or ():
            found |= self._secret(source["secretRef"]["name"], pod)
        for entry in container.get("env") or ():
            if "value" in entry:
                found[entry["name"]] = entry["value"]
            elif (wanted := entry.get("valueFrom", {}).get("secretKeyRef")) is not None:
                found[entry["name"]] = self._secret(wanted["name"], pod)[wanted["key"]]
        return found

    def _secret(self, name: str, pod: Object) -> dict[str, str]:
        found = self._raw(self._core.read_namespaced_secret(name, pod["metadata"]["namespace"], _preload_content=False))
        return {key: _decoded(value) for key, value in (found.get("data") or {}).items()}

    def _go_on(self, running: Running, pod: Object) -> None:
        process = running.process
        assert process is not None
        code = process.poll()
        deleted = "deletionTimestamp" in pod["metadata"]
        if code is not None:
            if pod["status"].get("phase") == "Running":
                ended = 128 - code if code < 0 else code
                state = {"exitCode": ended, "reason": "Completed" if ended == 0 else "Error", "finishedAt": _now()}
                running.ready = False
                self._status(running, "Succeeded" if ended == 0 else "Failed", {"terminated": state})
            if deleted:
                with contextlib.suppress(ApiException):
                    self._core.delete_namespaced_pod(running.name, running.namespace, grace_period_seconds=0)
        elif deleted and running.kill_at is None:
            running.kill_at = time.monotonic() + float(pod["metadata"].get("deletionGracePeriodSeconds") or 0)
            _signal(running, signal.SIGTERM)
        elif running.kill_at is not None and time.monotonic() > running.kill_at:
            _signal(running, signal.SIGKILL)
        elif (probe := _probe_of(pod)) and time.monotonic() - running.asked_at > 1:
            running.asked_at = time.monotonic()
            if (ready := _answers(running, pod, probe)) != running.ready:
                running.ready = ready
                self._status(running, "Running", {"running": {"startedAt": pod["status"]["startTime"]}})

    def _status(self, running: Running, phase: str, state: Object) -> None:
        ready = {"lastTransitionTime": _now(), "status": str(running.ready and phase == "Running")}
        container = {
            "name": "base",
            "image": "played",
            "imageID": "",
            "ready": running.ready and phase == "Running",
            "started": "running" in state,
            "restartCount": 0,
            "state": state,
        }
        begun = phase != "Pending"
        status = {
            "phase": phase,
            "containerStatuses": [container],
            "conditions": [{"type": "Ready", **ready}, {"type": "ContainersReady", **ready}],
            **({"podIP": running.address, "podIPs": [{"ip": running.address}], "startTime": _now()} if begun else {}),
        }
        with contextlib.suppress(ApiException):  # it may be gone
            self._core.patch_namespaced_pod_status(running.name, running.namespace, {"status": status}, _preload_content=False)

    def _clear(self, running: Running) -> None:
        _signal(running, signal.SIGKILL)
        if running.process is not None and running.reader is not None:
            running.process.wait()
            running.reader.join()
        _ip("netns", "delete", running.network)
        shutil.rmtree(_HOSTS / running.network, ignore_errors=True)

    # --- names and logs ---

    def _tell_names(self, pods: Mapping[str, Object]) -> None:
        """Write the addresses of Services where each pod looks for names, and listen at those that they have themselves."""
        lines, wanted = [], {}
        ends = {_key(each): each for each in self._list(self._core.list_endpoints_for_all_namespaces)}
        for service in self._list(self._core.list_service_for_all_namespaces):
            name, namespace, address = service["metadata"]["name"], service["metadata"]["namespace"], service["spec"].get("clusterIP")
            host = f"{name}.{namespace}.svc"
            names = f"{host} {host}.cluster.local {name}.{namespace} {name}"
            if address and address != "None":
                lines.append(f"{address} {names}")
                wanted |= _listened(service, ends.get(_key(service), {}))
                continue
            selector = (service["spec"].get("selector") or {}).items()
            for key, running in self._pods.items():
                if selector and key in pods and selector <= pods[key]["metadata"].get("labels", {}).items():
                    lines.append(f"{running.address} {names}")
        self._proxy.listen(wanted)
        for running in self._pods.values():
            own = f"{running.address} {socket.gethostname()} {running.name}"
            _write(_HOSTS / running.network / "hosts", "\n".join(["127.0.0.1 localhost", own, *lines, ""]))

    def _serve_logs(self) -> ThreadingHTTPServer:
        node = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = urlsplit(self.path)
                _, _, namespace, name, *_ = path.path.split("/")
                pod = node._pods.get(f"{namespace}/{name}")
                query = {key: values[0] for key, values in parse_qs(path.query).items()}
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
        self._core.create_node({"metadata": {"name": self._name}}, _preload_content=False)
        self._beat()

    def _beat(self) -> None:
        """Say that the node is alive: a real control plane soon takes one that is silent for lost."""
        if time.monotonic() - self._heart < _HEARTBEAT_SECONDS:
            return
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
        self._core.patch_node_status(self._name, {"status": status}, _preload_content=False)
        self._heart = time.monotonic()

    def _list(self, ask: Any) -> list[Object]:
        items: list[Object] = self._raw(ask(_preload_content=False))["items"]
        return items

    def _raw(self, answer: Any) -> Object:
        found: Object = json.loads(answer.data)
        return found


def _key(each: Object) -> str:
    return f"{each['metadata']['namespace']}/{each['metadata']['name']}"


def _probe_of(pod: Object) -> Object:
    found: Object = pod["spec"]["containers"][0].get("readinessProbe", {}).get("httpGet", {})
    return found


def _answers(running: Running, pod: Object, probe: Object) -> bool:
    """Whether the pod says that it is ready."""
    ports = {port.get("name"): port["containerPort"] for port in pod["spec"]["containers"][0].get("ports") or ()}
    try:
        with urllib.request.urlopen(
            f"http://{running.address}:{ports.get(probe['port'], probe['port'])}{probe['path']}", timeout=1
        ) as answer:
            return bool(answer.status < 400)
    except OSError:
        return False


def _listened(service: Object, ends: Object) -> dict[tuple[str, int], list[tuple[str, int]]]:
    """Address and port of a Service to those of the pods behind it."""
    found: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for port in service["spec"].get("ports") or ():
        behind = [
            (address["ip"], there["port"])
            for subset in ends.get("subsets") or ()
            for there in subset.get("ports") or ()
            if there.get("name") == port.get("name")
            for address in subset.get("addresses") or ()
        ]
        found[service["spec"]["clusterIP"], port["port"]] = behind
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


def main() -> None:
    """Be the node of the control plane that KUBECONFIG names; the folder for what pods write is the argument."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    folder, root = Path(sys.argv[1]), str(Path(__file__).parents[2])
    image = {"SLUICE_PROJECT": root, "PYTHONPATH": root, "SLUICE_HOME": "/home/sluice", "GX_ANALYTICS_ENABLED": "false"}
    with Node(new_client_from_config(), folder, image, schedules=False, room=100) as node:
        sys.stdout.write(f"pods reach this machine at {_NETWORK}.1\n")
        sys.stdout.flush()
        while node.failure is None and not stop.wait(1):
            pass
    if node.failure is not None:
        raise node.failure


if __name__ == "__main__":
    main()
