"""The demo in a real Airflow: two use cases from raw files to a retrained champion, and what a user does next."""

import json
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from pipelines_lib.config import Project
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import BadInput
from pipelines_lib.local.airflow_api import AirflowApi
from pipelines_lib.local.demo import DRIFTED, QUIET, USE_CASES, Demo
from pipelines_lib.local.progress import Progress
from pipelines_lib.registry import tracking
from pipelines_lib.registry.models import ModelRegistry

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


def root(project: Project, use_case: str) -> Path:
    return Path(project.profile().store) / use_case


def status(project: Project, use_case: str, part: str) -> dict[str, Any]:
    return json.loads((root(project, use_case) / "status" / f"{part}.json").read_text(encoding="utf-8"))


def wait(api: AirflowApi, dag_id: str, run_id: str, seconds: float = 120) -> str:
    deadline = time.monotonic() + seconds
    while (state := api.run_state(dag_id, run_id)) not in ("success", "failed"):
        assert time.monotonic() < deadline, f"{dag_id} {run_id} is still {state}"
        time.sleep(0.5)
    return str(state)


@pytest.mark.parametrize("use_case", USE_CASES)
def test_two_weeks_were_backfilled_by_airflow(project: Project, api: AirflowApi, use_case: str) -> None:
    runs = [run for run in api.runs(f"{use_case}__data") if run["run_type"] == "backfill"]
    assert sorted(run["partition_key"] for run in runs) == [f"2026-01-{day:02d}" for day in range(1, 15)]
    assert {run["state"] for run in runs} == {"success"}
    assert len(Tables(root(project, use_case)).partitions("labelled")) == 17


@pytest.mark.parametrize("use_case", USE_CASES)
def test_drift_fired_exactly_one_retraining_and_its_champion_serves(project: Project, api: AirflowApi, use_case: str) -> None:
    runs = {run["dag_run_id"]: run["state"] for run in api.runs(f"{use_case}__training")}
    assert runs == {"demo__first": "success", f"drift__{use_case}__v1__{DRIFTED[-1]}": "success"}
    decisions = {
        day: json.loads((root(project, use_case) / "decisions" / f"{day}.json").read_text(encoding="utf-8")) for day in (QUIET, *DRIFTED)
    }
    assert [decisions[day]["action"] for day in (QUIET, *DRIFTED)] == ["hold", "hold", "retrain"]
    assert all(decision["reason"] for decision in decisions.values())
    deployment = status(project, use_case, "deployment")
    assert deployment["model_version"] == 2
    champion = ModelRegistry(tracking.connect(project.profile().tracking_uri), use_case).champion()
    assert champion is not None
    assert champion.version == 2
    model = httpx.get(f"{deployment['url']}/v2/models/{use_case}", timeout=10).raise_for_status().json()
    assert model["versions"] == ["2"]


def test_the_broken_rows_are_in_quarantine_with_their_reasons(project: Project) -> None:
    rows = Tables(root(project, "recommendation")).read("quarantine", ["2026-01-03"])
    reasons = {reason.split(":")[0] for row in rows["reasons"].to_pylist() for reason in row}
    assert rows.num_rows > 20
    assert len(reasons) >= 3


def test_a_second_demo_repeats_nothing(project: Project, api: AirflowApi) -> None:
    def everything() -> dict[str, Any]:
        runs = {
            f"{use_case}__{p}": sorted(r["dag_run_id"] for r in api.runs(f"{use_case}__{p}"))
            for use_case in USE_CASES
            for p in ("data", "training", "monitoring")
        }
        tables = Tables(root(project, "recommendation"))
        return {"runs": runs, "versions": {layer: tables.version(layer) for layer in ("raw", "clean", "labelled", "predictions")}}

    before = everything()
    Demo(project, Progress()).run()
    assert everything() == before


def test_rerunning_a_partition_changes_nothing(project: Project, api: AirflowApi) -> None:
    tables = Tables(root(project, "recommendation"))
    layers = ("raw", "quarantine", "quality", "clean", "labelled")
    before = {layer: (tables.version(layer), tables.read(layer, ["2026-01-05"])) for layer in layers}
    api.trigger("recommendation__data", "again", "2026-01-05")
    assert wait(api, "recommendation__data", "again") == "success"
    for layer, (version, rows) in before.items():
        assert tables.version(layer) == version, layer
        assert tables.read(layer, ["2026-01-05"]).equals(rows), layer


def test_a_value_that_breaks_the_form_is_refused_before_anything_runs(api: AirflowApi) -> None:
    before = len(api.runs("diagnosis__training"))
    with pytest.raises(BadInput, match="epochs"):
        api.trigger("diagnosis__training", "wrong", "2026-01-14", {"epochs": "many"})
    with pytest.raises(BadInput, match="partition"):
        api.trigger("diagnosis__training", "wrong", "2026-01-14", {"partition": "yesterday"})
    assert len(api.runs("diagnosis__training")) == before


def test_a_run_without_a_partition_says_how_to_give_one(api: AirflowApi) -> None:
    api.post("/dags/diagnosis__data/dagRuns", {"dag_run_id": "nameless", "logical_date": None})
    assert wait(api, "diagnosis__data", "nameless") == "failed"
    [task] = [task for task in api.tasks("diagnosis__data", "nameless") if task["state"] == "failed"]
    assert task["try_number"] == 1
    assert "names no partition" in api.log("diagnosis__data", "nameless", task["task_id"], 1)


def test_a_scheduled_run_carries_its_partition(api: AirflowApi, project: Project) -> None:
    api.patch("/dags/clockwork__data", {"is_paused": False})
    deadline = time.monotonic() + 150
    while not (runs := [run for run in api.runs("clockwork__data") if run["run_type"] == "scheduled" and run["state"] == "success"]):
        assert time.monotonic() < deadline, api.runs("clockwork__data")
        time.sleep(1)
    api.patch("/dags/clockwork__data", {"is_paused": True})
    assert {run["partition_key"] for run in runs} <= set(Tables(root(project, "clockwork")).partitions("labelled"))


def test_a_broken_use_case_is_an_import_error_of_its_own(api: AirflowApi) -> None:
    [error] = api.get("/importErrors")["import_errors"]
    assert error["filename"].endswith("broken_use_cases.py")
    assert "broken/use_case.yaml:2: titel: unknown key" in error["stack_trace"]


def test_a_cancelled_training_leaves_no_process_behind(api: AirflowApi, project: Project) -> None:
    api.trigger("recommendation__training", "cancelled", "2026-01-14", {"epochs": 10_000})
    folder = str(root(project, "recommendation") / "runs" / "training" / "cancelled" / "train")

    def ranks() -> list[psutil.Process]:
        return [p for p in psutil.process_iter(["cmdline"]) if f"{folder}/spec.json" in (p.info["cmdline"] or [])]

    deadline = time.monotonic() + 120
    while len(ranks()) < 3:  # torchrun and its two workers
        assert time.monotonic() < deadline, api.tasks("recommendation__training", "cancelled")
        time.sleep(0.5)
    api.patch("/dags/recommendation__training/dagRuns/cancelled", {"state": "failed"})
    deadline = time.monotonic() + 60
    while ranks():
        assert time.monotonic() < deadline, ranks()
        time.sleep(0.5)


def test_the_pages_answer(api: AirflowApi, project: Project) -> None:
    base = project.profile().airflow_url
    page = httpx.get(f"{base}/sluice/", timeout=30).raise_for_status().text
    assert "version 2" in page
    assert "retrain" in page
    assert "broken/use_case.yaml" in page
    assert "paused: switch it on in Airflow" in page  # clockwork
    assert "newest run failed" in page  # diagnosis__data, which ran without a partition
    for part in ("data", "monitoring"):
        report = status(project, "recommendation", part)["report"]
        assert "<html" in httpx.get(f"{base}/sluice/files/{report}", timeout=30).raise_for_status().text
    for path in ("../airflow/airflow.cfg", "%2e%2e/airflow/airflow.cfg", "recommendation/deployment.json"):
        assert httpx.get(f"{base}/sluice/files/{path}", timeout=30).status_code == httpx.codes.NOT_FOUND


def test_the_buttons_of_a_task_lead_to_pages(api: AirflowApi, project: Project) -> None:
    links = api.get("/dags/recommendation__data/dagRuns/demo__2026-01-15/taskInstances/validate/links")["extra_links"]
    assert httpx.get(links["Data quality"], timeout=30).status_code == httpx.codes.OK
    links = api.get("/dags/recommendation__training/dagRuns/demo__first/taskInstances/evaluate/links")["extra_links"]
    assert links["MLflow run"].startswith(str(project.profile().mlflow_url))
