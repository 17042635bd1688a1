"""The demo in a real Airflow: two use cases from raw files to a retrained champion, and what a user does next."""

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from pipelines_lib.config import Project
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import BadInput
from pipelines_lib.local.airflow_api import AirflowApi
from pipelines_lib.local.demo import DRIFTED, QUIET, USE_CASES, Demo
from pipelines_lib.local.progress import Progress
from pipelines_lib.registry import tracking
from pipelines_lib.registry.models import ModelRegistry
from pipelines_lib.store import StorePath, read_json, store_of
from tests.e2e.conftest import Place

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(5400)]


def root(project: Project, use_case: str) -> StorePath:
    return store_of(project.profile()) / use_case


def status(project: Project, use_case: str, part: str) -> Any:
    return read_json(root(project, use_case) / "status" / f"{part}.json")


def wait(api: AirflowApi, place: Place, dag_id: str, run_id: str) -> str:
    deadline = time.monotonic() + 120 * place.patience
    while (state := api.run_state(dag_id, run_id)) not in ("success", "failed"):
        assert time.monotonic() < deadline, f"{dag_id} {run_id} is still {state}"
        time.sleep(0.5)
    return str(state)


def until(holds: Callable[[], bool], api: AirflowApi, place: Place, run_id: str) -> None:
    """Of a training of `recommendation`, which must not end before."""
    deadline = time.monotonic() + 120 * place.patience
    while not holds():
        assert api.run_state("recommendation__training", run_id) in ("queued", "running"), api.tasks("recommendation__training", run_id)
        assert time.monotonic() < deadline, api.tasks("recommendation__training", run_id)
        time.sleep(0.5)


def assert_nothing_is_left(project: Project, place: Place, run_id: str) -> None:
    deadline = time.monotonic() + 60 * place.patience
    while left := place.left(project, "recommendation", run_id):
        assert time.monotonic() < deadline, left
        time.sleep(0.5)


def trainers(api: AirflowApi, run_id: str) -> list[dict[str, Any]]:
    """The task instances that train."""
    found = [task for task in api.tasks("recommendation__training", run_id) if task["task_id"] == "train"]
    return sorted(found, key=lambda task: task["map_index"])


@pytest.mark.parametrize("use_case", USE_CASES)
def test_two_weeks_were_backfilled_by_airflow(project: Project, api: AirflowApi, use_case: str) -> None:
    runs = [run for run in api.runs(f"{use_case}__data") if run["run_type"] == "backfill"]
    assert sorted(run["partition_key"] for run in runs) == [f"2026-01-{day:02d}" for day in range(1, 15)]
    assert {run["state"] for run in runs} == {"success"}
    assert len(Tables(root(project, use_case)).partitions("labelled")) == 17


@pytest.mark.parametrize("use_case", USE_CASES)
def test_drift_fired_exactly_one_retraining_and_its_champion_serves(project: Project, api: AirflowApi, place: Place, use_case: str) -> None:
    runs = {run["dag_run_id"]: run["state"] for run in api.runs(f"{use_case}__training")}
    assert runs == {"demo__first": "success", f"drift__{use_case}__v1__{DRIFTED[-1]}": "success"}
    decisions: Any = {day: read_json(root(project, use_case) / "decisions" / f"{day}.json") for day in (QUIET, *DRIFTED)}
    assert [decisions[day]["action"] for day in (QUIET, *DRIFTED)] == ["hold", "hold", "retrain"]
    assert all(decision["reason"] for decision in decisions.values())
    deployment = status(project, use_case, "deployment")
    assert deployment["model_version"] == 2
    champion = ModelRegistry(tracking.connect(project.profile().tracking_uri), use_case).champion()
    assert champion is not None
    assert champion.version == 2
    assert place.ask(project, use_case, f"/v2/models/{use_case}")["versions"] == ["2"]


def test_the_broken_rows_are_in_quarantine_with_their_reasons(project: Project) -> None:
    rows = Tables(root(project, "recommendation")).read("quarantine", ["2026-01-03"])
    reasons = {reason.split(":")[0] for row in rows["reasons"].to_pylist() for reason in row}
    assert rows.num_rows > 20
    assert len(reasons) >= 3


def test_a_second_demo_repeats_nothing(project: Project, api: AirflowApi, place: Place) -> None:
    def everything() -> dict[str, Any]:
        runs = {
            f"{use_case}__{p}": sorted(r["dag_run_id"] for r in api.runs(f"{use_case}__{p}"))
            for use_case in USE_CASES
            for p in ("data", "training", "monitoring")
        }
        tables = Tables(root(project, "recommendation"))
        return {"runs": runs, "versions": {layer: tables.version(layer) for layer in ("raw", "clean", "labelled", "predictions")}}

    before = everything()
    Demo(project, Progress(), place.replay).run()
    assert everything() == before


def test_rerunning_a_partition_changes_nothing(project: Project, api: AirflowApi, place: Place) -> None:
    tables = Tables(root(project, "recommendation"))
    layers = ("raw", "quarantine", "quality", "clean", "labelled")
    before = {layer: (tables.version(layer), tables.read(layer, ["2026-01-05"])) for layer in layers}
    api.trigger("recommendation__data", "again", "2026-01-05")
    assert wait(api, place, "recommendation__data", "again") == "success"
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


def test_a_run_without_a_partition_says_how_to_give_one(api: AirflowApi, place: Place) -> None:
    api.post("/dags/diagnosis__data/dagRuns", {"dag_run_id": "nameless", "logical_date": None})
    assert wait(api, place, "diagnosis__data", "nameless") == "failed"
    [task] = [task for task in api.tasks("diagnosis__data", "nameless") if task["state"] == "failed"]
    assert task["try_number"] == 1
    assert "names no partition" in api.log("diagnosis__data", "nameless", task["task_id"], 1)


def test_a_scheduled_run_carries_its_partition(api: AirflowApi, project: Project, place: Place) -> None:
    api.patch("/dags/clockwork__data", {"is_paused": False})
    deadline = time.monotonic() + 150 * place.patience
    while not (runs := [run for run in api.runs("clockwork__data") if run["run_type"] == "scheduled" and run["state"] == "success"]):
        assert time.monotonic() < deadline, api.runs("clockwork__data")
        time.sleep(1)
    api.patch("/dags/clockwork__data", {"is_paused": True})
    assert {run["partition_key"] for run in runs} <= set(Tables(root(project, "clockwork")).partitions("labelled"))


def test_a_broken_use_case_is_an_import_error_of_its_own(api: AirflowApi) -> None:
    [error] = api.get("/importErrors")["import_errors"]
    assert error["filename"].endswith("broken_use_cases.py")
    assert "broken/use_case.yaml:2: titel: unknown key" in error["stack_trace"]


def test_a_training_that_loses_a_worker_goes_on_from_a_checkpoint(api: AirflowApi, project: Project, place: Place) -> None:
    api.trigger("recommendation__training", "robbed", "2026-01-14", {"epochs": 60})
    trained = root(project, "recommendation") / "runs" / "training" / "robbed" / "train"
    until(lambda: any((step / "manifest.json").exists() for step in (trained / "checkpoints").glob("*")), api, place, "robbed")
    place.kill(place.workers(project, "recommendation", "robbed")[-1])
    until(lambda: {task["state"] for task in trainers(api, "robbed")} == {"success"}, api, place, "robbed")
    tries = [task["try_number"] for task in trainers(api, "robbed")]
    log = api.log("recommendation__training", "robbed", "train", 1, trainers(api, "robbed")[0]["map_index"])
    # A rank of one machine starts again in place; a pod is another try of its own task, and the other pods wait for it.
    assert tries == ([1] if place.machines == 1 else [1, 2])
    assert "resumed from the checkpoint" in log
    # In the middle of whatever follows the training.
    api.patch("/dags/recommendation__training/dagRuns/robbed", {"state": "failed"})
    assert_nothing_is_left(project, place, "robbed")


def test_a_cancelled_training_leaves_nothing_behind(api: AirflowApi, project: Project, place: Place) -> None:
    api.trigger("recommendation__training", "cancelled", "2026-01-14", {"epochs": 10_000})
    until(lambda: len(place.workers(project, "recommendation", "cancelled")) >= place.busy(), api, place, "cancelled")
    api.patch("/dags/recommendation__training/dagRuns/cancelled", {"state": "failed"})
    assert_nothing_is_left(project, place, "cancelled")


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
