"""The task `review`: it waits for a person where rows do, and costs a use case that asks nobody nothing."""

import json
from pathlib import Path

import pytest

from pipelines_lib.contracts import JobResult, run_dir
from pipelines_lib.store import write_json

from .conftest import ROOT, USE_CASE, write_use_case

ASKING = USE_CASE.replace('positive: "1"', 'positive: "1", review: {{in_airflow: true, timeout: 30h}}')

DESCRIBE = f"""
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag({str(ROOT / "dags")!r})
assert not bag.import_errors, bag.import_errors
print(json.dumps({{
    "runs": {{name: dag.max_active_runs for name, dag in bag.dags.items() if name.endswith("__data")}},
    "tasks": {{name: {{t.task_id: sorted(t.downstream_task_ids) for t in dag.tasks}} for name, dag in bag.dags.items() if name.endswith("__data")}},
    "hitl": "pipelines_lib.orchestration.review" in sys.modules,
}}))
"""

EXECUTE = """
import json
from types import SimpleNamespace
from pipelines_lib.config import Project
import pipelines_lib.orchestration.review as module
from airflow.providers.standard.operators import hitl

asked = {{}}
hitl.upsert_hitl_detail = lambda **given: asked.update(given)
operator = module.ReviewOperator(task_id="review", use_case=Project.from_environment().use_case("alpha"))
context = {{
    "partition_key": "2026-01-07", "params": {{}}, "run_id": "run", "dag_run": SimpleNamespace(run_type={run_type!r}),
    "task_instance": SimpleNamespace(id="1"),
}}
try:
    operator.execute(context)
except BaseException as error:
    print(json.dumps([type(error).__name__, str(error), asked.get("subject"), asked.get("body"), operator.response_timeout.total_seconds()]))
"""

COMPLETE = """
import json, datetime as dt
from pipelines_lib.config import Project
import pipelines_lib.orchestration.review as module

operator = module.ReviewOperator(task_id="review", use_case=Project.from_environment().use_case("alpha"))
event = {{"chosen_options": {chosen!r}, "params_input": None, "responded_at": dt.datetime(2026, 1, 1), "responded_by_user": None}}
try:
    print(json.dumps(["done", operator.execute_complete({{}}, event)]))
except BaseException as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""


def test_only_a_use_case_that_asks_has_the_tasks(tmp_path: Path, in_airflow) -> None:
    write_use_case(tmp_path / "asking", "alpha", ASKING)
    write_use_case(tmp_path / "asking", "beta")
    found = json.loads(in_airflow(DESCRIBE, tmp_path / "asking"))

    assert found["tasks"]["alpha__data"] == {
        "ingest": ["validate"], "validate": ["prepare"], "prepare": ["review"], "review": ["relabel"], "relabel": [],
    }  # fmt: skip
    assert found["tasks"]["beta__data"] == {"ingest": ["validate"], "validate": ["prepare"], "prepare": []}
    # Two days' runs may wait at once, and the others go on.
    assert found["runs"] == {"alpha__data": 6, "beta__data": 4}


def test_it_is_not_loaded_where_nobody_asks(tmp_path: Path, in_airflow) -> None:
    write_use_case(tmp_path / "quiet", "alpha")

    assert json.loads(in_airflow(DESCRIBE, tmp_path / "quiet"))["hitl"] is False


@pytest.fixture
def execute(tmp_path: Path, in_airflow):
    """Returns `execute(n_rows, run_type)`: [exception, its text, subject, body, timeout] of a run whose rows wait."""

    def run(n_rows: int, run_type: str = "scheduled") -> list:
        write_use_case(tmp_path / "cases", "alpha", ASKING)
        prepared = JobResult(stage="prepare", outputs={"n_for_review": n_rows, "labelled_partitions": ["2026-01-05", "2026-01-07"]})
        write_json(Path(run_dir(str(tmp_path / "home" / "store"), "alpha", "data", "run")) / "prepare" / "result.json", prepared)
        return json.loads(in_airflow(EXECUTE.format(run_type=run_type), tmp_path / "cases"))

    return run


def test_it_waits_and_says_what_to_do(execute) -> None:
    kind, _, subject, body, timeout = execute(12)

    assert (kind, subject, timeout) == ("TaskAwaitingInput", "Made alpha: 12 rows wait for review (2026-01-07)", 30 * 3600)
    assert "sluice label export alpha --out tasks.json --partition 2026-01-05 --partition 2026-01-07" in body


def test_where_no_row_waits_nobody_is_asked(execute) -> None:
    assert execute(0)[:3] == ["AirflowSkipException", "no row waits for review", None]


def test_a_backfill_asks_nobody(execute) -> None:
    kind, why, subject, *_ = execute(12, "backfill")

    assert (kind, subject) == ("AirflowSkipException", None)
    assert "a backfill asks nobody: `sluice label export alpha`" in why


@pytest.mark.parametrize(
    ("chosen", "outcome"),
    [
        (["Reviewed"], ["done", ["Reviewed"]]),
        (["Go on without"], ["AirflowSkipException", "nobody has reviewed the rows, so the labels stay as they are"]),
    ],
)
def test_what_follows_an_answer(tmp_path: Path, in_airflow, chosen: list, outcome: list) -> None:
    write_use_case(tmp_path / "cases", "alpha", ASKING)

    assert json.loads(in_airflow(COMPLETE.format(chosen=chosen), tmp_path / "cases")) == outcome
