"""The task `retrain`: it asks Airflow for one training, marks that it did, and says why it did not."""

import json
from pathlib import Path

import pytest

from pipelines_lib.contracts import JobResult, run_dir, triggered_path
from pipelines_lib.store import write_json

from .conftest import write_use_case

EXECUTE = """
import json
from types import SimpleNamespace
from pipelines_lib.config import Project
from pipelines_lib.orchestration.retrain import RetrainOperator

operator = RetrainOperator(task_id="retrain", use_case=Project.from_environment().use_case("alpha"))
{before}
ti = SimpleNamespace(get_dag=lambda name: SimpleNamespace(is_paused={paused}))
try:
    operator.execute({{"partition_key": "2026-01-07", "params": {{}}, "run_id": "run", "ti": ti}})
except Exception as error:
    print(json.dumps([type(error).__name__, str(error), getattr(error, "dag_run_id", None), operator.retries]))
"""


@pytest.fixture
def execute(tmp_path: Path, in_airflow):
    """Returns `execute(action, paused, before)`: [exception, its text, the run id asked for, retries], and the mark or None."""
    store = str(tmp_path / "home" / "store")

    def run(action: str = "retrain", *, paused: bool = False, before: str = "") -> tuple[list, dict | None]:
        write_use_case(tmp_path / "cases", "alpha")
        decided = JobResult(stage="decide", outputs={"action": action, "reason": "because", "trigger_run_id": "drift__alpha__v1"})
        write_json(Path(run_dir(store, "alpha", "monitoring", "run")) / "decide" / "result.json", decided)
        found = json.loads(in_airflow(EXECUTE.format(paused=paused, before=before), tmp_path / "cases"))
        mark = Path(triggered_path(store, "alpha", "2026-01-07"))
        return found, json.loads(mark.read_text()) if mark.exists() else None

    return run


def test_it_asks_and_marks(execute) -> None:
    found, mark = execute()
    assert (found[0], found[2], found[3]) == ("DagRunTriggerException", "drift__alpha__v1", 2)
    assert mark == {"partition_key": "2026-01-07", "run_id": "drift__alpha__v1"}


def test_a_hold_is_skipped_and_leaves_no_mark(execute) -> None:
    found, mark = execute("hold")
    assert (found[0], found[1], mark) == ("AirflowSkipException", "no retraining: because", None)


def test_a_paused_training_fires_nothing_and_leaves_no_mark(execute) -> None:
    found, mark = execute(paused=True)
    assert (found[0], mark) == ("DagIsPaused", None)


def test_settings_that_were_broken_meanwhile_are_not_tried_again(execute) -> None:
    found, mark = execute(before='(Project.from_environment().use_cases / "alpha" / "use_case.yaml").write_text("name: [alpha")')
    assert (found[0], mark) == ("AirflowFailException", None)
    assert "use_case.yaml" in found[1]
