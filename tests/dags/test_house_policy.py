"""House policy for every DAG of every use case: an owner, a doc that says what to do on failure, tags, retries, no catch-up."""

import json
from pathlib import Path

import pytest

from .conftest import ROOT, USE_CASE, write_use_case

DESCRIBE = f"""
import json
from airflow.dag_processing.dagbag import DagBag
bag = DagBag({str(ROOT / "dags")!r})
assert not bag.import_errors, bag.import_errors
print(json.dumps({{
    name: {{
        "doc": dag.doc_md, "tags": sorted(dag.tags), "catchup": dag.catchup, "max_active_runs": dag.max_active_runs,
        "timetable": type(dag.timetable).__name__, "params": sorted(dag.params),
        "tasks": {{t.task_id: {{"owner": t.owner, "retries": t.retries, "pool": t.pool, "next": sorted(t.downstream_task_ids)}} for t in dag.tasks}},
    }} for name, dag in bag.dags.items()
}}, sort_keys=True))
"""


@pytest.fixture
def described(tmp_path: Path, in_airflow) -> dict:
    write_use_case(tmp_path / "cases", "alpha")
    write_use_case(
        tmp_path / "cases", "asked", USE_CASE + "deployment: {{approve: true, batch: true, edge: {{}}}}\nschedule: {{training: null}}\n"
    )
    write_use_case(tmp_path / "cases", "split", USE_CASE + "shards: 3\n")
    return json.loads(in_airflow(DESCRIBE, tmp_path / "cases"))


def test_policy(described: dict) -> None:
    assert len(described) == 9
    for name, dag in described.items():
        assert "**Owner:** data@example.com" in dag["doc"], name
        assert "**When it fails.**" in dag["doc"], name
        assert dag["tags"] == sorted(["sluice", *name.split("__")]), name
        assert dag["catchup"] is False, name
        assert "partition" in dag["params"], name
        for task_id, task in dag["tasks"].items():
            assert task["owner"] == "data@example.com", (name, task_id)
            # A machine that is taken away costs a training a retry, and no work.
            assert task["retries"] == {"train": 5}.get(task_id, 2), (name, task_id)


def test_structure(described: dict) -> None:
    structure = {
        name: {"timetable": dag["timetable"], "tasks": {t: task["next"] for t, task in dag["tasks"].items()}}
        for name, dag in described.items()
    }
    assert structure == json.loads((ROOT / "tests" / "golden" / "dags.json").read_text(encoding="utf-8"))


def test_trainings_share_the_pool_that_the_settings_file_creates(described: dict) -> None:
    import yaml

    settings = yaml.safe_load((ROOT / "airflow_settings.yaml").read_text(encoding="utf-8"))
    pools = {pool["pool_name"] for pool in settings["airflow"]["pools"]} | {"default_pool"}
    assert described["alpha__training"]["tasks"]["train"]["pool"] == "sluice_training"
    assert {task["pool"] for dag in described.values() for task in dag["tasks"].values()} <= pools
