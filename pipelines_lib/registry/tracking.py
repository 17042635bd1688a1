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
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError

from pipelines_lib.errors import Unavailable

T = TypeVar("T")

_SQLITE = "sqlite:///"
_ATTEMPTS = 6
_BATCH = 500
"""Metrics a request; MLflow takes 1,000."""
_PARAM_LENGTH = 6000
"""Characters a parameter's value may have in MLflow."""


def connect(tracking_uri: str) -> MlflowClient:
    """A client of the server at `tracking_uri`. A SQLite database is made where there is none, by one process at a time."""
    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if not tracking_uri.startswith(_SQLITE):
        return MlflowClient(tracking_uri)
    path = Path(tracking_uri.removeprefix(_SQLITE).split("?")[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two processes that make the tables at once both fail ("duplicate column"), and leave a database half made.
    with _one_at_a_time(path.with_name(f"{path.name}.lock")):
        return MlflowClient(tracking_uri if "?" in tracking_uri else f"{tracking_uri}?timeout=30")


def experiment(client: MlflowClient, name: str, artifacts: Path) -> str:
    """Id of the experiment called `name`; made, with its artefacts below the folder `artifacts`, where there is none."""
    found = retried(lambda: client.get_experiment_by_name(name))
    if found is not None:
        return str(found.experiment_id)
    try:
        return str(retried(lambda: client.create_experiment(name, artifact_location=artifacts.resolve().as_uri())))
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
    # The run's own start as the time of every metric: a retry then logs the same points, not more of them.
    moment = run.info.start_time
    points = [Metric(name, value, moment, 0) for name, value in metrics.items()]
    points += [Metric(name, value, moment, step) for name, curve in curves.items() for step, value in curve]
    for start in range(0, len(points), _BATCH):
        batch = points[start : start + _BATCH]
        retried(lambda batch=batch: client.log_batch(run.info.run_id, metrics=batch))  # type: ignore[misc]
    given = [Param(name, str(value)[:_PARAM_LENGTH]) for name, value in params.items()]
    retried(lambda: client.log_batch(run.info.run_id, params=given, tags=[RunTag(name, value) for name, value in tags.items()]))
    retried(lambda: client.set_terminated(run.info.run_id, "FINISHED"))


def tag(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of the MLflow run `run_id`."""
    retried(lambda: client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()]))


def retried(call: Callable[[], T]) -> T:
    """`call`, again where SQLite was locked by another process. Raises `Unavailable` where it stays so."""
    for attempt in range(_ATTEMPTS):
        try:
            return call()
        except (MlflowException, OperationalError) as error:
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
