"""What the endpoints of a service share: the model, the prediction log, the counters, and the answer to a request."""

import datetime as dt
import itertools
import secrets
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

from anyio import CapacityLimiter

from pipelines_lib.features.values import as_strings
from pipelines_lib.serving.metrics import Metrics
from pipelines_lib.serving.prediction_log import Answers, PredictionLog
from pipelines_lib.serving.recommend import choose, read_recommendation
from pipelines_lib.serving.requests import DATATYPES, read_body, read_invocation, read_v2
from pipelines_lib.serving.rows import RequestError, Rows, refuse, short
from pipelines_lib.serving.slot import Served, Slot
from pipelines_lib.store import StorePath

LARGE_AT_ONCE = 2
"""Large requests that are worked on at a time: read, one takes many times its bytes of memory."""

Document = dict[str, Any]
Way = Callable[[Served, Document, "Log"], Document]
"""How an endpoint answers a request's document with a version, and where it logs that."""


class Log(NamedTuple):
    """Where the answer to a request is logged."""

    table: PredictionLog
    request_id: str | None = None
    """What the request is called where it does not say; None: something new."""


class Service:
    """What the endpoints share: the model, the prediction log, the counters."""

    def __init__(self, root: StorePath, slot: Slot, predictions: PredictionLog, shadows: PredictionLog) -> None:
        self.name = root.name
        self.slot = slot
        self.predictions = predictions
        self.shadows = shadows
        """What a challenger would have answered."""
        self.metrics = Metrics()
        self._own, self._numbers = f"{secrets.token_hex(12)}-", itertools.count()
        """What requests without an id are called: of no other process, nor of another request of this one."""
        self.large = CapacityLimiter(LARGE_AT_ONCE)
        """For requests that take much memory."""
        self.turns = itertools.count()
        """Of small requests."""
        self.usual_seconds = 0.0
        """Of a processor, that the answer to a small request takes, on the average of the last ones."""

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
        return self._answered(body, self._infer)

    def invoke(self, body: bytes) -> Document:
        """Answer a request to MLflow's `/invocations`. Raises `RequestError`."""
        return self._answered(body, self._invoke)

    def recommend(self, body: bytes) -> Document:
        """Answer a request to `/recommend`. Raises `RequestError`."""
        return self._answered(body, self._recommend)

    def _answered(self, body: bytes, way: Way) -> Document:
        """The answer of the version that the request falls to."""
        served, rollout = self.served(), self.slot.rollout
        document = read_body(body)
        if rollout is None:
            return way(served, document, Log(self.predictions))
        request_id = _id_of(document) or self._new_id()
        return rollout.answer(
            served,
            request_id,
            lambda version: way(version, document, Log(self.predictions, request_id)),
            # Read again: nothing of a request outlives its answer, but for its bytes, of which the roll-out keeps count.
            lambda version: way(version, read_body(body), Log(self.shadows, request_id)),
            len(body),
        )

    def _infer(self, served: Served, document: Document, log: Log) -> Document:
        rows = _known(served, _cleaned(served, read_v2(document, served.shape)))
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
        self._log(served, rows, (scores, predictions, single), log)
        answer: Document = {
            "model_name": self.name,
            "model_version": str(served.version),
            "outputs": [output for output in outputs if not wanted or output["name"] in wanted],
            "parameters": {"classes": list(served.package.manifest.classes), **({"ignored": rows.ignored} if rows.ignored else {})},
        }
        return answer if rows.options.id is None else {**answer, "id": rows.options.id}

    def _invoke(self, served: Served, document: Document, log: Log) -> Document:
        rows = _known(served, _cleaned(served, read_invocation(document, served.shape)))
        scores, predictions, single = self._predict(served, rows)
        self._log(served, rows, (scores, predictions, single), log)
        return {
            "predictions": [{"prediction": prediction, "score": score} for prediction, score in zip(predictions, single, strict=True)],
            "model_version": str(served.version),
        }

    def _recommend(self, served: Served, document: Document, log: Log) -> Document:
        wanted = read_recommendation(document, served)
        chosen = choose(wanted, served)
        predictions, single = served.decision.of(chosen.scores)
        scores = single.tolist()
        if chosen.rows.n:
            self._log(served, _cleaned(served, chosen.rows), (chosen.scores, predictions, scores), log)
        answer: Document = {
            "model_name": self.name,
            "model_version": str(served.version),
            "items": [{"item": item, "score": score} for item, score in zip(chosen.items, scores, strict=True)],
            "candidates": chosen.n_candidates,
            "met": wanted.n_met,
            **({"ignored": wanted.ignored} if wanted.ignored else {}),
        }
        return answer if wanted.options.id is None else {**answer, "id": wanted.options.id}

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
                "positive": manifest.positive,
                "operating_point": manifest.decision.operating_point,
                "optional_inputs": dict(served.shape.keys),
                "recommends": _recommends(served),
                "not_logged": {"columns": served.guard.unlogged, "because": served.guard.problem} if served.guard.problem else None,
                "error": self.slot.error,
                "rollout": None if (rollout := self.slot.rollout) is None else rollout.report().model_dump(mode="json"),
            },
        }

    def counts(self) -> Counter[str]:
        """What monitoring is told of the day."""
        return self.metrics.counts() + Counter(rows_lost=self.predictions.rows_lost)

    def is_reached(self) -> bool:
        """Whether a candidate's server is among those that users reach."""
        rollout = self.slot.rollout
        return rollout is not None and rollout.traffic.pods

    def partition_now(self) -> str | None:
        """The partition that this moment belongs to; None where nothing is deployed."""
        served = self.slot.served
        return None if served is None else _partition_now(served.shape.key_format)

    def metrics_text(self) -> str:
        """Prometheus text of everything counted."""
        served = self.slot.served
        others = {
            "sluice_prediction_rows_logged_total": self.predictions.rows_logged,
            "sluice_prediction_rows_lost_total": self.predictions.rows_lost,
            "sluice_prediction_rows_waiting": self.predictions.rows_waiting,
            "sluice_model_version": served.version if served else 0,
            "sluice_model_load_failed": int(self.slot.error is not None),
        }
        rollout = self.slot.rollout
        return self.metrics.text(others) + "".join(f"{line}\n" for line in (rollout.lines() if rollout else ()))

    def _predict(self, served: Served, rows: Rows) -> tuple[Any, Any, list[float]]:
        scores = served.scores(rows.columns)
        predictions, single = served.decision.of(scores)
        return scores, predictions, single.tolist()

    def _new_id(self) -> str:
        return f"{self._own}{next(self._numbers):x}"

    def _log(self, served: Served, rows: Rows, answer: tuple[Any, Any, list[float]], log: Log) -> None:
        """Log rows with their answer: scores [n, C], predictions, and one score each."""
        if not rows.options.log:
            return
        scores, predictions, single = answer
        request_id = rows.options.id or log.request_id or self._new_id()
        log.table.add(
            Answers(
                row_ids=[request_id] if rows.n == 1 else [f"{request_id}:{row:06d}" for row in range(rows.n)],
                partition_key=rows.options.partition_key or _partition_now(served.shape.key_format),
                columns={**rows.columns, **rows.keys},
                types=served.logged,
                predictions=predictions,
                scores=single,
                model_version=served.version,
                all_scores=scores.tolist() if served.decision.keeps_scores else None,
            )
        )


def _id_of(document: Document) -> str | None:
    """What the request calls itself, in whichever dialect."""
    params = document.get("params")
    found = document.get("id") or (params.get("id") if isinstance(params, dict) else None)
    return found if isinstance(found, str) else None


def _recommends(served: Served) -> Document | None:
    """What can be recommended."""
    recommends, catalogue = served.package.manifest.recommends, served.package.catalogue
    if recommends is None or catalogue is None:
        return None
    return {
        "user": recommends.user.name,
        "item": recommends.item.name,
        "columns": [name for name in served.shape.features if name not in recommends.columns],
        "items": catalogue.items.num_rows,
        "until": served.package.manifest.snapshot.partitions[-1],
    }


def _partition_now(key_format: str) -> str:
    return _partition_of(int(time.time() // 60), key_format)


@lru_cache(maxsize=8)
def _partition_of(minute: int, key_format: str) -> str:
    """The partition that a minute since 1970 belongs to; formatting it takes longer than the rest of what a row's log entry needs."""
    return dt.datetime.fromtimestamp(60 * minute, dt.UTC).strftime(key_format)


def _cleaned(served: Served, rows: Rows) -> Rows:
    """The rows as training rows were made: protected, then cleaned. So they are logged, too, and compared with those."""
    rows = served.guard.protected(rows)
    if not served.package.transform.rows:
        return rows
    return replace(rows, columns={name: list(column) for name, column in served.package.transform.cleaned(rows.columns).items()})


def _known(served: Served, rows: Rows) -> Rows:
    """The rows, if the model knows every category of the columns where others are refused. Raises `RequestError`."""
    for name, words in served.shape.words.items():
        for row, value in enumerate(as_strings(rows.columns[name])):
            if value is not None and value not in words:
                found = "another value" if name in served.shape.private else short(value)
                rule = f"the model knows {len(words)} categories of it, and the use case refuses others (deployment.unknown_categories)"
                refuse(f"found {found}", f"column {name!r}, row {row}", rule, "Send one of them, or null; or train on rows that have it")
    return rows
