"""A storm of drift in a real Airflow: many drifted days are backfilled, monitored twice at once, cleared and run again. They fire one retraining.

The champion is written by hand, and its retraining waits for a place in its pool, so that nothing trains here. SLUICE_STORM_DAYS is the number
of drifted days, 5 or more.
"""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

from pipelines_lib.config import Project
from pipelines_lib.contracts import LEDGER, Firing, Ledger
from pipelines_lib.data.splitting import with_split
from pipelines_lib.data.tables import Tables
from pipelines_lib.local.airflow_api import AirflowApi
from pipelines_lib.store import read_json, store_of
from tests.e2e.conftest import Place, Webhook
from tests.tiny import deploy, log_answers, training_rows

DAYS = int(os.environ.get("SLUICE_STORM_DAYS", "5"))
QUIET = "2026-01-05"
TWICE = "2026-01-08"
"""The day that is monitored by two runs at once."""
MONITORING, TRAINING, POOL = "storm__monitoring", "storm__training", "sluice_training"

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(5400)]


class Storm:
    """The use case `storm` before its first day is monitored: a quiet day, then `DAYS` drifted ones, all answered by version 1."""

    def __init__(self, project: Project, api: AirflowApi) -> None:
        self.project, self.api = project, api
        self.use_case = project.use_case("storm")
        self.days = [self.use_case.shift(QUIET, day) for day in range(DAYS + 1)]
        self.root = Path(str(store_of(project.profile()))) / "storm"

    def set_up(self) -> None:
        """The champion, its answers, and rows that a training may pin."""
        deploy(self.root, 1)
        for day in self.days:
            scores = log_answers(self.root, day, shift=0 if day == QUIET else 2)
            rows = {
                "row_id": [f"{day}:{row:09d}" for row in range(len(scores))],
                **training_rows(len(scores), seed=int(day[-2:])),
                "customer": list(range(len(scores))),
                "label": ["yes" if score > 0.5 else "no" for score in scores],
            }
            Tables(self.root).write("labelled", day, with_split(pa.table(rows), self.use_case))

    def until(self, holds: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, {run["dag_run_id"]: run["state"] for run in self.api.runs(MONITORING)}
            time.sleep(1)

    def until_monitored(self) -> None:
        """No run of the monitoring is queued or running, and none has failed."""
        self.until(lambda: {run["state"] for run in self.api.runs(MONITORING)} <= {"success", "failed"}, 120 + 40 * DAYS)
        assert {run["state"] for run in self.api.runs(MONITORING)} == {"success"}

    def fired(self) -> Firing:
        """The one retraining: in the ledger, and as the one run of the training DAG."""
        [firing] = Ledger.model_validate(read_json(self.root / LEDGER)).fired
        assert firing.run_id == f"drift__storm__v1__{firing.partition_key}"
        assert [run["dag_run_id"] for run in self.api.runs(TRAINING)] == [firing.run_id]
        return firing

    def decision(self, day: str) -> Any:
        """What was decided on a day, whose report says why."""
        decided: Any = read_json(self.root / "decisions" / f"{day}.json")
        assert decided["reason"] in (self.root / "reports" / f"{day}.html").read_text(encoding="utf-8")
        return decided

    def clear(self, **which: Any) -> None:
        self.api.post(f"/dags/{MONITORING}/clearTaskInstances", {"dry_run": False, "only_failed": False, **which})


@pytest.fixture(scope="module")
def storm(installation: Project, api: AirflowApi, place: Place) -> Iterator[Storm]:
    """The champion's answers are there, and no place for a training is."""
    if place.name != "local":
        pytest.skip("what is decided, and once, is the same wherever the stages run")
    made = Storm(installation, api)
    made.set_up()
    made.until(lambda: api.exists(f"/dags/{MONITORING}") and api.exists(f"/dags/{TRAINING}"), 120)
    api.patch(f"/pools/{POOL}", {"pool": POOL, "slots": 0, "include_deferred": False})
    api.patch(f"/dags/{TRAINING}", {"is_paused": False})
    yield made
    api.patch(f"/pools/{POOL}", {"pool": POOL, "slots": 1, "include_deferred": False})


@pytest.fixture(scope="module")
def late(storm: Storm, webhook: Webhook) -> list[str]:
    """What was told while nobody monitors: a backfill of every day waits, and beside it a run by hand. Returns the runs whose deadline Airflow saw pass."""
    api = storm.api
    api.patch(f"/dags/{MONITORING}", {"is_paused": True})
    between = {"from_date": f"{storm.days[0]}T00:00:00Z", "to_date": f"{storm.days[-1]}T23:59:59Z"}
    api.post("/backfills", {"dag_id": MONITORING, **between, "reprocess_behavior": "none", "max_active_runs": 2})
    api.trigger(MONITORING, "twice", TWICE)
    storm.until(lambda: len(missed(storm)) == DAYS + 2, 90)
    storm.until(lambda: bool(webhook.events("storm", "late")), 60)
    return missed(storm)


@pytest.fixture(scope="module")
def over(storm: Storm, late: list[str]) -> Firing:
    """The retraining that was fired, once every day was monitored."""
    storm.api.patch(f"/dags/{MONITORING}", {"is_paused": False})
    storm.until_monitored()
    return storm.fired()


def missed(storm: Storm) -> list[str]:
    """Runs of the monitoring that have missed their deadline, as Airflow's page of deadlines has them."""
    url = storm.project.profile().airflow_url
    token = httpx.get(f"{url}/auth/token", timeout=60).raise_for_status().json()["access_token"]
    path, headers = f"/ui/dags/{MONITORING}/dagRuns/~/deadlines", {"Authorization": f"Bearer {token}"}
    found = httpx.get(f"{url}{path}", params={"missed": True, "limit": 100}, headers=headers, timeout=60).raise_for_status().json()
    return [deadline["dag_run_id"] for deadline in found["deadlines"]]


def test_monitoring_that_is_late_is_told_of_but_for_a_backfill(storm: Storm, late: list[str], webhook: Webhook) -> None:
    assert sum(run.startswith("backfill__") for run in late) == DAYS + 1
    assert webhook.events("storm", "late") == [f"{MONITORING} is late: run twice has not ended 15s after it was queued"]


def test_a_storm_fires_one_retraining(storm: Storm, over: Firing, webhook: Webhook) -> None:
    runs = storm.api.runs(MONITORING)
    assert sorted(run["partition_key"] for run in runs) == sorted([*storm.days, TWICE])
    assert storm.api.run_state(TRAINING, over.run_id) == "running"
    assert storm.decision(over.partition_key)["action"] == "retrain"
    assert [storm.decision(day)["reason"].split(" of ")[0] for day in storm.days[:2]] == ["0", "1"], "quiet, and alone"
    assert len(webhook.events("storm", "retrain")) == 1


def test_whatever_is_cleared_and_run_again_fires_no_other(storm: Storm, over: Firing, webhook: Webhook) -> None:
    storm.clear()
    storm.until_monitored()
    assert storm.fired() == over
    decisions = {day: storm.decision(day) for day in storm.days}
    assert [day for day in storm.days if decisions[day]["action"] == "retrain"] == [over.partition_key]
    held = [decisions[day] for day in storm.days[2:] if day != over.partition_key]
    assert {decision["reason"] for decision in held} == {"1 training(s) of this use case are under way; their champion comes first"}
    assert len(webhook.events("storm", "retrain")) == 1, "and is told of once"


def test_when_the_training_has_ended_cooldown_and_budget_hold(storm: Storm, over: Firing) -> None:
    settings = storm.project.use_cases / "storm" / "use_case.yaml"
    text = settings.read_text(encoding="utf-8")
    settings.write_text(text.replace("cooldown: 0, max_retrainings: 100", "cooldown: 1, max_retrainings: 1"), encoding="utf-8")
    storm.api.patch(f"/dags/{TRAINING}/dagRuns/{over.run_id}", {"state": "failed"})
    away = {day: abs(storm.days.index(day) - storm.days.index(over.partition_key)) for day in storm.days[2:]}
    near, far = next(day for day in away if away[day] == 1), max(away, key=lambda day: away[day])
    runs = [run for run in storm.api.runs(MONITORING) if run["partition_key"] in (near, far) and run["run_type"] == "backfill"]
    for run in runs:
        storm.clear(dag_run_id=run["dag_run_id"], task_ids=["decide"], include_downstream=True)
    storm.until_monitored()
    assert storm.fired() == over
    assert storm.decision(near)["reason"] == (
        f"a retraining was fired for {over.partition_key}, 1 partition(s) away; 1 must pass (monitoring.cooldown)"
    )
    assert storm.decision(far)["reason"] == "1 retrainings were fired within 30 days; 1 are allowed (monitoring.max_retrainings)"
