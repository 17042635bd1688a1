"""A store that speaks S3's language over HTTP and gives trouble when it is told to: a proxy before a sound one."""

import http.client
import re
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit

Kind = Literal["answer", "break off", "cut off", "lost", "slow", "deaf"]


@dataclass
class Fault:
    """What befalls the next `times` requests that match."""

    kind: Kind
    """`answer`: with an error; `break off`: in the middle of the answer; `cut off`: in the middle of what is sent; `lost`: done, and the answer is; `slow`: late; `deaf`: conditions are ignored."""
    methods: str
    """Such as "GET PUT"."""
    path: str
    """What the path and query must contain, as a regular expression."""
    times: int
    status: int = 500
    code: str = "InternalError"
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


class Troubled:
    """The proxy. As a context manager it runs; `fail` says what goes wrong."""

    def __init__(self, sound: str) -> None:
        self._sound = urlsplit(sound).netloc
        self.faults: list[Fault] = []
        self._lock = Lock()
        self.requests: list[str] = []
        """Method, path and query of each request so far."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Say nothing."""

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except ConnectionError:
                    self.close_connection = True  # the client has gone, as a fault wants it

            def __getattr__(self, name: str) -> Callable[[], None]:
                if name.startswith("do_"):
                    return lambda: outer._answer(self)
                raise AttributeError(name)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fail(self, kind: Kind, methods: str = "GET", path: str = "", times: int = 1, **fault: object) -> None:
        """Let this befall the next `times` requests that match."""
        self.faults.append(Fault(kind, methods, path, times, **fault))  # type: ignore[arg-type]

    def heal(self) -> None:
        """Nothing goes wrong from here on."""
        self.faults.clear()

    def _fault(self, request: BaseHTTPRequestHandler) -> Fault | None:
        with self._lock:
            self.requests.append(f"{request.command} {request.path}")
            for fault in self.faults:
                if fault.times and request.command in fault.methods.split() and re.search(fault.path, request.path):
                    fault.times -= 1
                    return fault
        return None

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        fault = self._fault(request)
        kind = None if fault is None else fault.kind
        length = int(request.headers.get("Content-Length") or 0)
        if kind == "cut off":
            request.rfile.read(length // 2)
            _reset(request)
            return
        body = request.rfile.read(length)
        if fault is not None and kind == "answer":
            _refuse(request, fault)
            return
        if fault is not None and kind == "slow":
            time.sleep(fault.seconds)
        answer, content = self._asked(request, body, conditions=kind != "deaf")
        if kind == "lost":
            _reset(request)
            return
        request.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("server", "date", "connection", "transfer-encoding", "content-length"):
                request.send_header(name, value)
        size = answer.getheader("Content-Length") if request.command == "HEAD" else None
        request.send_header("Content-Length", size or str(len(content)))
        request.end_headers()
        request.wfile.write(content[: len(content) // 2] if kind == "break off" else content)
        if kind == "break off":
            request.wfile.flush()
            _reset(request)

    def _asked(self, request: BaseHTTPRequestHandler, body: bytes, *, conditions: bool) -> tuple[http.client.HTTPResponse, bytes]:
        """What the sound store answers, with and without the conditions of the request."""
        headers = {name: value for name, value in request.headers.items() if conditions or not name.lower().startswith("if-")}
        connection = http.client.HTTPConnection(self._sound)
        try:
            connection.request(request.command, request.path, body, headers)
            answer = connection.getresponse()
            return answer, answer.read()
        finally:
            connection.close()


def _refuse(request: BaseHTTPRequestHandler, fault: Fault) -> None:
    text = "" if request.command == "HEAD" else f"<Error><Code>{fault.code}</Code><Message>hush</Message></Error>"
    request.send_response(fault.status)
    request.send_header("Content-Type", "application/xml")
    request.send_header("Content-Length", str(len(text)))
    for name, value in fault.headers.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(text.encode())


def _reset(request: BaseHTTPRequestHandler) -> None:
    """End the connection as a machine does that was switched off and on again."""
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.connection.shutdown(socket.SHUT_RD)
    request.close_connection = True
    request.connection.close()
