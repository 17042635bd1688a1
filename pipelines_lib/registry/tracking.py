"""MLflow's tracking server: one run a training, found again by a retry.

A training is a run id and what was trained: MLflow lets no parameter of a run change, and a person who edits a setting and
trains again under the same run id has made another model.

Importing MLflow costs 2.5 s, so whoever does not log or register must not import this module.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from sqlalchemy.exc import OperationalError

from pipelines_lib.contracts import GateResult
from pipelines_lib.errors import Unavailable
from pipelines_lib.registry.curves import charts
from pipelines_lib.registry.journal import SQLITE, About, Journal, Status, database_of

T = TypeVar("T")

_ATTEMPTS = 6
_BATCH = 500
"""Metrics a request; MLflow takes 1,000."""
_DIGEST_LENGTH = 36
_JOURNAL_TAG = "sluice.journal"
"""Which journal is logged whole."""
EVALUATION = "evaluation/report.html"
"""Where a run has its evaluation's report."""
_PARAM_LENGTH = 6000
"""Characters a parameter's value may have in MLflow."""


def connect(tracking_uri: str) -> MlflowClient:
    """A client of the server at `tracking_uri`. A SQLite database is made where there is none, by one process at a time."""
    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    path = database_of(tracking_uri)
    if path is None:
        return MlflowClient(tracking_uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two processes that make the tables at once both fail ("duplicate column"), and leave a database half made.
    with _one_at_a_time(path.with_name(f"{path.name}.lock")):
        if not path.exists():
            _make_database(path)
        return MlflowClient(tracking_uri if "?" in tracking_uri else f"{tracking_uri}?timeout=30")


def _make_database(path: Path) -> None:
    """MLflow's tables in a new file, which is there whole or not at all: whoever makes it may be killed at the end of a training."""
    making = path.with_name(f".{path.name}.making")
    for left in path.parent.glob(f"{making.name}*"):
        left.unlink()
    MlflowClient(f"{SQLITE}{making}")
    os.replace(making, path)


def experiment(client: MlflowClient, name: str, artifacts: str | None) -> str:
    """Id of the experiment called `name`; made, with its artefacts at the URI `artifacts` (None: where the server keeps them), where there is none."""
    found = retried(lambda: client.get_experiment_by_name(name))
    if found is not None:
        return str(found.experiment_id)
    try:
        return str(retried(lambda: client.create_experiment(name, artifact_location=artifacts)))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return experiment(client, name, artifacts)  # another process was first


def run_of(client: MlflowClient, experiment_id: str, run_id: str, trained: Mapping[str, Any], tags: Mapping[str, str]) -> Run:
    """The MLflow run of the training `run_id` of what `trained` says (settings and data): the one there is, else a new one."""
    # A run id is a person's text, and a filter is a little language: only a hash of it goes into the filter.
    key = hashlib.sha256(json.dumps([run_id, trained], sort_keys=True).encode()).hexdigest()[:32]
    found = retried(lambda: client.search_runs([experiment_id], f"tags.`sluice.run_key` = '{key}'", max_results=1))
    if found:
        return found[0]
    all_tags = {"sluice.run_key": key, "sluice.run_id": run_id, **tags}
    return retried(lambda: client.create_run(experiment_id, run_name=run_id, tags=all_tags))


def log(
    client: MlflowClient,
    run: Run,
    *,
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
    curves: Mapping[str, Sequence[tuple[int, float]]],
    tags: Mapping[str, str],
) -> None:
    """Log everything at once: `curves` are (step, value) each. Logging the same again changes nothing."""
    _log_points(client, run, {name: dict(curve) for name, curve in curves.items()} | {name: {0: value} for name, value in metrics.items()})
    given = _params(params)
    retried(lambda: client.log_batch(run.info.run_id, params=given, tags=[RunTag(name, value) for name, value in tags.items()]))
    retried(lambda: client.set_terminated(run.info.run_id, "FINISHED"))


class LiveRun:
    """The MLflow run of a training that is under way, as its journal tells it."""

    def __init__(self, tracking_uri: str, system_metrics_seconds: float) -> None:
        self._uri, self._seconds = tracking_uri, system_metrics_seconds
        self._client = connect(tracking_uri)
        self._run: Run | None = None
        self._logged: set[tuple[str, int]] = set()
        self._monitor: SystemMetricsMonitor | None = None

    def take(self, journal: Journal) -> None:
        """Log the points that are new."""
        if self._run is None:
            self._run = self._begun(journal)
        new = {
            name: {step: value for step, value in curve.items() if (name, step) not in self._logged}
            for name, curve in journal.curves.items()
        }
        _log_points(self._client, self._run, new)
        self._logged.update((name, step) for name, curve in new.items() for step in curve)

    def end(self, journal: Journal, status: Status) -> None:
        """Log the rest and the pictures, and how it ended."""
        if self._monitor is not None:
            self._monitor.finish()
        self.take(journal)
        assert self._run is not None
        run_id = self._run.info.run_id
        _complete(self._client, self._run, journal)
        retried(lambda: self._client.set_terminated(run_id, status))

    def _begun(self, journal: Journal) -> Run:
        assert journal.about is not None
        run = run_of_journal(self._client, journal.about)
        retried(lambda: self._client.update_run(run.info.run_id, "RUNNING"))
        _describe(self._client, run, journal.about)
        if self._seconds:
            self._monitor = SystemMetricsMonitor(run.info.run_id, self._seconds, resume_logging=True, tracking_uri=self._uri)
            self._monitor.start()
        return run


def run_of_journal(client: MlflowClient, about: About) -> Run:
    """The MLflow run of the training that `about` tells of."""
    return run_of(
        client,
        experiment(client, about.use_case, about.artifacts),
        about.run_id,
        about.trained,
        {"sluice.use_case": about.use_case},
    )


def catch_up(client: MlflowClient, run: Run, journal: Journal) -> None:
    """Log all that `journal` tells, unless it is there already: the server may have been away while the training ran."""
    tags = retried(lambda: client.get_run(run.info.run_id)).data.tags
    if journal.about is None or tags.get(_JOURNAL_TAG) == journal.digest:
        return
    _describe(client, run, journal.about)
    _log_points(client, run, journal.curves)
    _complete(client, run, journal)


def _describe(client: MlflowClient, run: Run, about: About) -> None:
    given = _params(about.parameters)
    retried(lambda: client.log_batch(run.info.run_id, params=given, tags=[RunTag(name, value) for name, value in about.tags.items()]))
    rows = about.dataset
    source = {"table": rows.table, "version": rows.version, "partitions": f"{rows.partitions[0]} … {rows.partitions[-1]}"}
    dataset = Dataset(
        name=f"{rows.use_case}.{rows.table}",
        digest=rows.content_hash[:_DIGEST_LENGTH],
        source_type="delta",
        source=json.dumps(source, ensure_ascii=False),
        profile=json.dumps({"n_rows": rows.n_rows}),
    )
    training = InputTag("mlflow.data.context", "training")
    retried(lambda: client.log_inputs(run.info.run_id, [DatasetInput(dataset, [training])]))


def _params(given: Mapping[str, Any]) -> list[Param]:
    """Equal values as equal texts, whatever the order of their keys: MLflow refuses a parameter that changes."""
    texts = {
        name: value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False) for name, value in given.items()
    }
    return [Param(name, text[:_PARAM_LENGTH]) for name, text in texts.items()]


def _complete(client: MlflowClient, run: Run, journal: Journal) -> None:
    """The pictures, and the mark that nothing of `journal` is missing."""
    for name, figure in charts(journal.curves).items():
        retried(lambda name=name, figure=figure: client.log_figure(run.info.run_id, figure, f"curves/{name}.png"))  # type: ignore[misc]
    tag(client, run.info.run_id, {_JOURNAL_TAG: journal.digest})


def _log_points(client: MlflowClient, run: Run, curves: Mapping[str, Mapping[int, float]]) -> None:
    # The run's own start as the time of every metric: a retry then logs the same points, not more of them.
    moment = run.info.start_time
    points = [Metric(name, value, moment, step) for name, curve in curves.items() for step, value in curve.items()]
    for start in range(0, len(points), _BATCH):
        batch = points[start : start + _BATCH]
        retried(lambda batch=batch: client.log_batch(run.info.run_id, metrics=batch))  # type: ignore[misc]


def log_texts(client: MlflowClient, run_id: str, texts: Mapping[str, str]) -> None:
    """Artefacts of a run: path → text. Logging the same again changes nothing."""
    for path, text in texts.items():
        retried(lambda path=path, text=text: client.log_text(run_id, text, path))  # type: ignore[misc]


def tag(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of the MLflow run `run_id`."""
    retried(lambda: client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()]))


def log_verdicts(client: MlflowClient, run_id: str, results: Sequence[GateResult], report: str) -> dict[str, str]:
    """Tell the MLflow run what each gate said, and put the `report` with the verdicts (HTML) in the place of the one without. Returns the tags."""
    verdict = "hold" if any(result.verdict == "hold" for result in results) else "pass"
    tags = {"sluice.gate": verdict, **{f"sluice.gate.{result.gate}": f"{result.verdict}: {result.reason}" for result in results}}
    tag(client, run_id, tags)
    log_texts(client, run_id, {EVALUATION: report})
    return tags


def retried(call: Callable[[], T]) -> T:
    """`call`, again where SQLite was locked by another process. Raises `Unavailable` where it stays so, or where a server does not answer.

    A server is asked again by MLflow itself, for about four minutes.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return call()
        except (MlflowException, OperationalError) as error:
            if "API request to" in str(error) and "failed with" in str(
                error
            ):  # so MLflow begins what says that there was no answer, or a 5xx
                raise Unavailable(
                    f"MLflow does not answer ({error}); see that its server runs and is the profile's `tracking_uri`, then clear this task: what ran before it is kept"
                ) from error
            if "database is locked" not in str(error):
                raise
            if attempt == _ATTEMPTS - 1:
                raise Unavailable(f"MLflow's database stayed locked for {_ATTEMPTS} tries; is another job holding it?") from error
            time.sleep(0.2 * 2**attempt * (1 + random.random()))  # noqa: S311 - spreads the tries, keeps no secret
    raise AssertionError("unreachable")


def page(mlflow_url: str | None, run: Run) -> dict[str, str]:
    """The link to a run's page, ready for a result; none where nobody shows the pages."""
    if mlflow_url is None:
        return {}
    return {"MLflow run": f"{mlflow_url.rstrip('/')}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"}


@contextlib.contextmanager
def _one_at_a_time(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
