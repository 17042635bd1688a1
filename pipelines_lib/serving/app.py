"""The HTTP service of a use case: the Open Inference Protocol v2, MLflow's `/invocations`, a page, metrics.

Whatever a client sends, it gets an answer or a 4xx that says what to mend.
"""

import json
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from pipelines_lib.contracts import safe_name
from pipelines_lib.serving.page import index_page
from pipelines_lib.serving.prediction_log import PredictionLog
from pipelines_lib.serving.rows import RequestError
from pipelines_lib.serving.service import Document, Service
from pipelines_lib.serving.slot import Slot
from pipelines_lib.store import StorePath

MAX_BODY = 10 * 1024 * 1024
"""Bytes of a request."""

Answer = Callable[[bytes], Document]


def create_app(
    root: StorePath, *, home: Path | None = None, candidate: bool = False, poll_seconds: float = 1.0, flush_seconds: float = 1.0
) -> FastAPI:
    """The service of the use case whose folder in the store is `root`; `home` is the state folder, where keys made on this machine lie.

    With `candidate` it serves what is being verified.
    """
    service = Service(root, Slot(root, poll_seconds, home, candidate=candidate), PredictionLog(root, flush_seconds))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.slot.start()
        service.predictions.start()
        yield
        service.slot.stop()
        await run_in_threadpool(service.predictions.close)

    # FastAPI's own pages of the API load their scripts from elsewhere, so offline they are blank; `/` says how to ask.
    app = FastAPI(title=f"{root.name} (Sluice)", lifespan=lifespan, openapi_url="/openapi.json", docs_url=None, redoc_url=None)
    app.state.service = service
    _add_errors(app)
    _add_health(app, service)
    _add_inference(app, service)
    _add_pages(app, service)
    return app


def _add_inference(app: FastAPI, service: Service) -> None:
    @app.post("/v2/models/{name}/infer", summary="Ask the model (Open Inference Protocol v2)")
    async def infer(name: str, request: Request) -> Response:
        _check_name(service, name)
        return await _answered(service, "infer", request, service.infer)

    @app.post("/invocations", summary="Ask the model (MLflow's dataframe_split, dataframe_records or inputs)")
    async def invocations(request: Request) -> Response:
        return await _answered(service, "invocations", request, service.invoke)


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/v2/health/live")
    async def live() -> Response:
        # The process id tells the one who started this service that it is not another's on the same port.
        return _json({"live": True, "pid": os.getpid()})

    @app.get("/v2/health/ready")
    async def ready() -> Response:
        service.served()
        return _json({"ready": True})

    @app.get("/v2")
    async def server() -> Response:
        return _json({"name": "sluice", "version": "1", "extensions": []})

    @app.get("/v2/models/{name}/ready")
    async def model_ready(name: str) -> Response:
        _check_name(service, name)
        return _json({"name": name, "ready": service.served() is not None})

    @app.get("/v2/models/{name}")
    async def model(name: str) -> Response:
        _check_name(service, name)
        return _json(service.metadata())

    @app.get("/ping", summary="MLflow's health check")
    async def ping() -> Response:
        service.served()
        return Response()


def _add_pages(app: FastAPI, service: Service) -> None:
    @app.get("/", response_class=HTMLResponse)
    async def index(request: Request) -> str:
        return index_page(service.name, service.slot.served, service.slot.error, str(request.base_url))

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> str:
        return service.metrics_text()


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestError)
    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestError)
        return _json({"error": str(error), **error.parts}, error.status)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        where = f"{request.method} {request.url.path}"
        rule, remedy = "the service has no such endpoint or method", "See / or /openapi.json"
        return _json(
            {"error": f"{where}: {error.detail}; {rule}. {remedy}", "what": error.detail, "where": where, "rule": rule, "remedy": remedy},
            error.status_code,
        )


async def _answered(service: Service, endpoint: str, request: Request, answer: Answer) -> Response:
    """Read, answer in a thread, count."""
    started = time.perf_counter()
    status = 500
    try:
        body = await _body(request)
        response = _json(await run_in_threadpool(answer, body))
        status = response.status_code
        return response
    except RequestError as error:
        status = error.status
        raise
    except ClientDisconnect:
        status = 499
        return Response(status_code=499)
    finally:
        service.metrics.observe(endpoint, status, time.perf_counter() - started)


async def _body(request: Request) -> bytes:
    # A page of another site can post a form to a service on this machine, but not JSON.
    if (kind := request.headers.get("content-type", "").partition(";")[0].strip().lower()) != "application/json":
        raise RequestError(
            f"content type {kind!r}", where="header Content-Type", rule="a request is JSON", remedy="Send application/json", status=415
        )
    chunks = bytearray()
    async for chunk in request.stream():
        chunks += chunk
        if len(chunks) > MAX_BODY:
            raise RequestError(
                f"more than {MAX_BODY} bytes",
                where="body",
                rule=f"a request holds {MAX_BODY // 2**20} MiB at most",
                remedy="Send the rows in several requests",
                status=413,
            )
    return bytes(chunks)


def _check_name(service: Service, name: str) -> None:
    if name != service.name:
        raise RequestError(
            f"model {safe_name(name)!r}",
            where="path",
            rule=f"this service answers for {service.name}",
            remedy="Correct the path",
            status=404,
        )


def _json(document: Document, status: int = 200) -> Response:
    # Escaped to ASCII: what a client sent comes back in messages, and may hold what UTF-8 can't.
    return Response(json.dumps(document, allow_nan=False), status, media_type="application/json")
