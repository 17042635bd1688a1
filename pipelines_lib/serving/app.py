"""The HTTP service of a use case: the Open Inference Protocol v2, MLflow's `/invocations`, a page, metrics.

Whatever a client sends, it gets an answer or a 4xx that says what to mend.
"""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from anyio import to_thread
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from pydantic_core import to_json
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from pipelines_lib.contracts import safe_name
from pipelines_lib.serving.access import carries
from pipelines_lib.serving.docs import docs_page, documented
from pipelines_lib.serving.health import HealthLog
from pipelines_lib.serving.page import index_page
from pipelines_lib.serving.prediction_log import PredictionLog
from pipelines_lib.serving.rows import RequestError
from pipelines_lib.serving.service import Document, Service
from pipelines_lib.serving.slot import Slot
from pipelines_lib.store import StorePath

MAX_BODY = 10 * 1024 * 1024
"""Bytes of a request."""
BODY_SECONDS = 30.0
"""In which a request must have come whole."""
_SMALL = 64 * 1024
"""Bytes of a request that may be answered where it was read, in the event loop."""
_QUICK = 0.003
"""Seconds that such answers may usually take; beyond them others would wait too long for their turn."""
_EVERY = 16
"""Of so many such answers one is timed: the clock of a thread costs as much as the checks of a row."""

_STRANGER = RequestError(
    "no token, or not the one of this service",
    where="header Authorization",
    rule="a request carries `Authorization: Bearer <token>`",
    remedy="Ask the owner of the use case for it",
    status=401,
)

Answer = Callable[[bytes], Document]


def create_app(
    root: StorePath,
    *,
    home: Path | None = None,
    candidate: bool = False,
    token: str | None = None,
    poll_seconds: float = 1.0,
    flush_seconds: float = 1.0,
) -> FastAPI:
    """The service of the use case whose folder in the store is `root`; `home` is the state folder, where keys made on this machine lie.

    With `candidate` it serves what is being verified. With `token` it answers requests that carry it, and to others tells its health and metrics alone.
    """
    service = Service(
        root,
        Slot(root, poll_seconds, home, candidate=candidate),
        PredictionLog(root, flush_seconds),
        PredictionLog(root, flush_seconds, layer="shadows"),
    )
    # Nobody's requests reach a candidate, except in a roll-out by pods; as long as the partition is None, nothing is written.
    health = HealthLog(root, service.counts, lambda: service.partition_now() if not candidate or service.is_reached() else None)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.slot.start()
        service.predictions.start()
        service.shadows.start()
        health.start()
        yield
        service.slot.stop()
        await run_in_threadpool(service.predictions.close)
        await run_in_threadpool(service.shadows.close)
        await run_in_threadpool(health.close)

    # FastAPI's own pages of the API load their scripts from elsewhere, so offline they are blank; `/docs` is one of ours.
    app = _App(service, token, title=f"{root.name} (Sluice)", lifespan=lifespan, openapi_url="/openapi.json", docs_url=None, redoc_url=None)
    app.state.service = service
    _add_errors(app)
    _add_health(app, service)
    _add_inference(app, service)
    _add_pages(app, service)
    return app


class _App(FastAPI):
    """The inference endpoints are looked for before the framework's routes: its way to them takes as long as a small model's answer."""

    def __init__(self, service: Service, token: str | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._service = service
        self._token = None if token is None else token.encode()
        self._open = {"/ping", "/metrics", "/v2/health/live", "/v2/health/ready", f"/v2/models/{service.name}/ready"}
        self._inference = {
            f"/v2/models/{service.name}/infer": ("infer", service.infer, True),
            "/invocations": ("invocations", service.invoke, True),
            "/recommend": ("recommend", service.recommend, False),
        }

    def openapi(self) -> dict[str, Any]:
        """The API with examples of the model that serves now."""
        return documented(super().openapi(), self._service)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request (ASGI)."""
        found = self._inference.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if (
            self._token is not None
            and scope["type"] == "http"
            and scope["path"] not in self._open
            and not carries(scope["headers"], self._token)
        ):
            if found is not None:
                self._service.metrics.observe(found[0], _STRANGER.status, 0.0)
            await _send(send, _STRANGER.status, _encoded(_told(_STRANGER)), (b"www-authenticate", b"Bearer"), (b"connection", b"close"))
        elif found is None:
            await super().__call__(scope, receive, send)
        else:
            endpoint, answer, quick = found
            status, body = await _answered(self._service, endpoint, scope, receive, answer, quick=quick)
            # Of a request that was not read to its end the rest must not be taken for the next one.
            await _send(send, status, body, *([(b"connection", b"close")] if status in (408, 413) else []))


async def _send(send: Send, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    headers = ((b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *headers)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _add_inference(app: FastAPI, service: Service) -> None:
    # Requests go past these: see `_App`. They say what there is, and answer for another model's name.
    @app.post("/v2/models/{name}/infer", summary="Ask the model (Open Inference Protocol v2)")
    async def infer(name: str, request: Request) -> Response:
        _check_name(service, name)
        status, body = await _answered(service, "infer", request.scope, request.receive, service.infer)
        return Response(body, status, media_type="application/json")

    @app.post("/v2/models/{name}/versions/{version}/infer", include_in_schema=False)
    async def infer_version(name: str, version: str, request: Request) -> Response:
        _check_name(service, name, version)
        status, body = await _answered(service, "infer", request.scope, request.receive, service.infer)
        return Response(body, status, media_type="application/json")

    @app.post("/invocations", summary="Ask the model (MLflow's dataframe_split, dataframe_records or inputs)")
    async def invocations(request: Request) -> Response:
        status, body = await _answered(service, "invocations", request.scope, request.receive, service.invoke)
        return Response(body, status, media_type="application/json")

    @app.post("/recommend", summary="Ask which items suit a user")
    async def recommend(request: Request) -> Response:
        status, body = await _answered(service, "recommend", request.scope, request.receive, service.recommend, quick=False)
        return Response(body, status, media_type="application/json")


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/v2/health/live", summary="Whether the process answers")
    async def live() -> Response:
        # The process id tells the one who started this service that it is not another's on the same port.
        return _json({"live": True, "pid": os.getpid()})

    @app.get("/v2/health/ready", summary="Whether there is a model that answers")
    async def ready() -> Response:
        service.served()
        return _json({"ready": True})

    @app.get("/v2", summary="What kind of server this is")
    async def server() -> Response:
        return _json({"name": "sluice", "version": "1", "extensions": []})

    @app.get("/v2/models/{name}/ready", summary="Whether the model answers")
    async def model_ready(name: str) -> Response:
        _check_name(service, name)
        return _json({"name": name, "ready": service.served() is not None})

    @app.get("/v2/models/{name}", summary="What serves: version, inputs, outputs, classes, operating point")
    async def model(name: str) -> Response:
        _check_name(service, name)
        return _json(service.metadata())

    @app.get("/v2/models/{name}/versions/{version}/ready", include_in_schema=False)
    async def version_ready(name: str, version: str) -> Response:
        _check_name(service, name, version)
        return _json({"name": name, "ready": True})

    @app.get("/v2/models/{name}/versions/{version}", include_in_schema=False)
    async def model_version(name: str, version: str) -> Response:
        _check_name(service, name, version)
        return _json(service.metadata())

    @app.get("/ping", summary="MLflow's health check")
    async def ping() -> Response:
        service.served()
        return Response()


def _add_pages(app: FastAPI, service: Service) -> None:
    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def index(request: Request) -> str:
        return index_page(service.name, service.slot, str(request.base_url))

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    def docs() -> str:
        return docs_page(app.openapi())

    @app.get("/metrics", response_class=PlainTextResponse, summary="Counts and latencies for Prometheus")
    async def metrics() -> str:
        return service.metrics_text()


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestError)
    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestError)
        return _json(_told(error), error.status)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        where = f"{request.method} {request.url.path}"
        rule, remedy = "the service has no such endpoint or method", "See / or /openapi.json"
        return _json(
            {"error": f"{where}: {error.detail}; {rule}. {remedy}", "what": error.detail, "where": where, "rule": rule, "remedy": remedy},
            error.status_code,
        )


async def _answered(
    service: Service, endpoint: str, scope: Scope, receive: Receive, answer: Answer, *, quick: bool = True
) -> tuple[int, bytes]:
    """Read, answer, count; returns status and body. What is not `quick` is answered in a thread, however small the request."""
    started = time.perf_counter()
    status = 500
    try:
        body = await _body(scope, receive)
        quick = quick and len(body) <= _SMALL
        work = answer
        if quick and next(service.turns) % _EVERY == 0:
            work = partial(_timed, service, answer)
        if quick and service.usual_seconds <= _QUICK:
            # The way to a thread and back takes longer than such an answer.
            document = work(body)
        else:
            document = await to_thread.run_sync(work, body, limiter=None if len(body) <= _SMALL else service.large)
        status, answered = 200, to_json(document)
    except RequestError as error:
        status, answered = error.status, _encoded(_told(error))
    except ClientDisconnect:
        status, answered = 499, b""
    finally:
        service.metrics.observe(endpoint, status, time.perf_counter() - started)
    return status, answered


def _timed(service: Service, answer: Answer, body: bytes) -> Document:
    """The answer; the service notes how long a processor took for it."""
    started = time.thread_time()
    document = answer(body)
    service.usual_seconds += (time.thread_time() - started - service.usual_seconds) / 4
    return document


async def _body(scope: Scope, receive: Receive) -> bytes:
    given: bytes = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    # A page of another site can post a form to a service on this machine, but not JSON.
    if (kind := given.decode("latin-1").partition(";")[0].strip().lower()) != "application/json":
        raise RequestError(
            f"content type {kind!r}", where="header Content-Type", rule="a request is JSON", remedy="Send application/json", status=415
        )
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await _whole(receive)
    except TimeoutError as error:
        rule = f"a request comes whole within {BODY_SECONDS:g} s"
        raise RequestError("not all of it came", where="body", rule=rule, remedy="Send the rows in several requests", status=408) from error


async def _whole(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            raise RequestError(
                f"more than {MAX_BODY} bytes",
                where="body",
                rule=f"a request holds {MAX_BODY // 2**20} MiB at most",
                remedy="Send the rows in several requests",
                status=413,
            )
        if not message.get("more_body"):
            return bytes(body)


def _check_name(service: Service, name: str, version: str | None = None) -> None:
    """That the path names what serves. Raises `RequestError`."""
    if name != service.name:
        raise RequestError(
            f"model {safe_name(name)!r}",
            where="path",
            rule=f"this service answers for {service.name}",
            remedy="Correct the path",
            status=404,
        )
    if version is not None and version != (serves := str(service.served().version)):
        raise RequestError(
            f"version {safe_name(version)!r}", where="path", rule=f"version {serves} serves", remedy="Name that one, or none", status=404
        )


def _json(document: Document, status: int = 200) -> Response:
    return Response(_encoded(document), status, media_type="application/json")


def _told(error: RequestError) -> Document:
    return {"error": str(error), **error.parts}


def _encoded(document: Document) -> bytes:
    # Escaped to ASCII: what a client sent comes back in messages, and may hold what UTF-8 can't.
    return json.dumps(document, allow_nan=False).encode()
