"""The HTTP service of a use case: the Open Inference Protocol v2, MLflow's `/invocations`, a page, metrics.

Whatever a client sends, it gets an answer or a 4xx that says what to mend.
"""

import datetime as dt
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from pipelines_lib.contracts import safe_name
from pipelines_lib.registry.package import predicted
from pipelines_lib.serving.metrics import Metrics
from pipelines_lib.serving.page import index_page
from pipelines_lib.serving.prediction_log import Answers, PredictionLog
from pipelines_lib.serving.requests import DATATYPES, read_body, read_invocation, read_v2
from pipelines_lib.serving.rows import RequestError, Rows, refuse
from pipelines_lib.serving.slot import Served, Slot

log = logging.getLogger("sluice.serving")

MAX_BODY = 10 * 1024 * 1024
"""Bytes of a request."""

Document = dict[str, Any]
Answer = Callable[[bytes], Document]


class Service:
    """What the endpoints share: the model, the prediction log, the counters."""

    def __init__(self, root: Path, slot: Slot, predictions: PredictionLog) -> None:
        self.name = root.name
        self.slot = slot
        self.predictions = predictions
        self.metrics = Metrics()

    def served(self) -> Served:
        """What answers now. Raises `RequestError` with status 503 where nothing is deployed."""
        if self.slot.served is None:
            raise RequestError(
                self.slot.error or "no model is deployed",
                where=self.name,
                rule="a model must be deployed before it can answer",
                remedy="Run the training DAG, then ask again",
                status=503,
            )
        return self.slot.served

    def infer(self, body: bytes) -> Document:
        """Answer a v2 inference request. Raises `RequestError`."""
        served = self.served()
        rows = read_v2(read_body(body), served.shape)
        scores, predictions, single = self._predict(served, rows)
        classes = isinstance(predictions[0], str)
        outputs = [
            {"name": "prediction", "datatype": "BYTES" if classes else "FP64", "shape": [rows.n], "data": predictions},
            {"name": "score", "datatype": "FP64", "shape": [rows.n], "data": single},
            {"name": "scores", "datatype": "FP32", "shape": list(scores.shape), "data": scores.ravel().tolist()},
        ]
        wanted = rows.options.outputs
        if unknown := set(wanted) - {output["name"] for output in outputs}:
            refuse(
                f"asks for {sorted(unknown)}", "outputs", "there are prediction, score and scores", "Leave `outputs` out to get them all"
            )
        self._log(served, rows, predictions, single)
        answer: Document = {
            "model_name": self.name,
            "model_version": str(served.version),
            "outputs": [output for output in outputs if not wanted or output["name"] in wanted],
            "parameters": {"classes": list(served.package.manifest.classes), **({"ignored": rows.ignored} if rows.ignored else {})},
        }
        return answer if rows.options.id is None else {**answer, "id": rows.options.id}

    def invoke(self, body: bytes) -> Document:
        """Answer a request to MLflow's `/invocations`. Raises `RequestError`."""
        served = self.served()
        rows = read_invocation(read_body(body), served.shape)
        _, predictions, single = self._predict(served, rows)
        self._log(served, rows, predictions, single)
        return {"predictions": [{"prediction": prediction, "score": score} for prediction, score in zip(predictions, single, strict=True)]}

    def metadata(self) -> Document:
        """What serves, and why not what the pointer names, if so."""
        served = self.served()
        manifest = served.package.manifest
        n_scores = len(manifest.classes) or 1
        return {
            "name": self.name,
            "versions": [str(served.version)],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": name, "datatype": DATATYPES[kind][0], "shape": [-1]} for name, kind in served.shape.features.items()],
            "outputs": [
                {"name": "prediction", "datatype": "BYTES" if manifest.classes else "FP64", "shape": [-1]},
                {"name": "score", "datatype": "FP64", "shape": [-1]},
                {"name": "scores", "datatype": "FP32", "shape": [-1, n_scores]},
            ],
            "parameters": {
                "state": served.deployment.state,
                "package": served.deployment.model.package,
                "classes": list(manifest.classes),
                "optional_inputs": dict(served.shape.keys),
                "error": self.slot.error,
            },
        }

    def metrics_text(self) -> str:
        """Prometheus text of everything counted."""
        served = self.slot.served
        gauges = {
            "sluice_prediction_rows_logged_total": self.predictions.rows_logged,
            "sluice_prediction_rows_lost_total": self.predictions.rows_lost,
            "sluice_prediction_rows_waiting": self.predictions.rows_waiting,
            "sluice_model_version": served.version if served else 0,
            "sluice_model_load_failed": int(self.slot.error is not None),
        }
        return self.metrics.text(gauges)

    def _predict(self, served: Served, rows: Rows) -> tuple[Any, Any, list[float]]:
        scores = served.package.predict(rows.columns)
        if not np.isfinite(scores).all():
            raise RequestError(
                "a score that is no number",
                where=f"version {served.version}",
                rule="a model's scores are finite",
                remedy="Deploy an earlier version; these rows make this one fail",
                status=500,
            )
        predictions, single = predicted(served.package.manifest, scores)
        return scores, predictions, single.tolist()

    def _log(self, served: Served, rows: Rows, predictions: Any, single: list[float]) -> None:
        if not rows.options.log:
            return
        request_id = rows.options.id or uuid.uuid4().hex
        now = dt.datetime.now(dt.UTC)
        self.predictions.add(
            Answers(
                row_ids=[request_id] if rows.n == 1 else [f"{request_id}:{row:06d}" for row in range(rows.n)],
                partition_key=rows.options.partition_key or now.strftime(served.shape.key_format),
                columns={**rows.columns, **rows.keys},
                types={**served.shape.features, **served.shape.keys},
                predictions=predictions,
                scores=single,
                model_version=served.version,
            )
        )


def create_app(root: Path, *, poll_seconds: float = 1.0, flush_seconds: float = 1.0) -> FastAPI:
    """The service of the use case whose folder in the store is `root`."""
    service = Service(root, Slot(root, poll_seconds), PredictionLog(root, flush_seconds))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.slot.start()
        service.predictions.start()
        yield
        service.slot.stop()
        await run_in_threadpool(service.predictions.close)

    app = FastAPI(title=f"{root.name} (Sluice)", lifespan=lifespan, openapi_url="/openapi.json")
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
        return _json({"live": True})

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
        rule, remedy = "the service has no such endpoint or method", "See / or /docs"
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
