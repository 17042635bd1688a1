"""The task `retrain`: it asks Airflow for one training, marks that it did, and says why it did not."""

import json
from pathlib import Path

import pytest

from pipelines_lib.contracts import LEDGER, Firing, JobResult, Ledger, run_dir
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
    """Returns `execute(action, paused, before)`: [exception, its text, the run id asked for, retries], and the run ids in the ledger."""
    store = str(tmp_path / "home" / "store")

    def run(action: str = "retrain", *, paused: bool = False, before: str = "") -> tuple[list, list[str]]:
        write_use_case(tmp_path / "cases", "alpha")
        outputs = {"action": action, "reason": "because", "trigger_run_id": "drift__alpha__v1", "model_version": 1, "n_known": 0}
        decided = JobResult(stage="decide", outputs=outputs)
        write_json(Path(run_dir(store, "alpha", "monitoring", "run")) / "decide" / "result.json", decided)
        found = json.loads(in_airflow(EXECUTE.format(paused=paused, before=before), tmp_path / "cases"))
        ledger = Path(store) / "alpha" / LEDGER
        return found, [entry["run_id"] for entry in json.loads(ledger.read_text())["fired"]] if ledger.exists() else []

    return run


def test_it_asks_and_enters_it(execute) -> None:
    found, ledger = execute()
    assert (found[0], found[2], found[3]) == ("DagRunTriggerException", "drift__alpha__v1", 2)
    assert ledger == ["drift__alpha__v1"]


def test_it_fires_nothing_where_another_was_fired_since_the_decision(execute, tmp_path: Path) -> None:
    other = Firing(partition_key="2026-01-06", run_id="drift__alpha__v1__2026-01-06", model_version=1, at=0.0)
    write_json(tmp_path / "home" / "store" / "alpha" / LEDGER, Ledger(fired=(other,)))
    found, ledger = execute()
    assert (found[0], ledger) == ("AirflowSkipException", [other.run_id])
    assert "a retraining was fired for 2026-01-06 (run drift__alpha__v1__2026-01-06) after this was decided" in found[1]


AT_ONCE = """
import json, os
from pipelines_lib.config import Project
from pipelines_lib.contracts import JobResult
from pipelines_lib.errors import Held
from pipelines_lib.orchestration.earlier import Earlier
from pipelines_lib.orchestration.retrainings import enter
from pipelines_lib.store import at

project = Project.from_environment()
use_case, store = project.use_case("alpha"), at(project.profile().store)
begin, go = os.pipe()
children = []
for day in range(1, 9):
    if (child := os.fork()) == 0:
        key = f"2026-01-0{day}"
        outputs = {"trigger_run_id": f"drift__alpha__v1__{key}", "model_version": 1, "n_known": 0}
        decided = Earlier(use_case, store, key, store, JobResult(stage="decide", outputs=outputs))
        os.close(go)
        os.read(begin, 1)  # returns when the last end of the pipe is closed
        try:
            enter(decided)
        except Held:
            os._exit(3)
        os._exit(0)
    children.append(child)
os.close(go)
print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]))
"""


def test_of_eight_processes_that_decided_on_the_same_ledger_one_enters_its_retraining(tmp_path: Path, in_airflow) -> None:
    write_use_case(tmp_path / "cases", "alpha")
    codes = json.loads(in_airflow(AT_ONCE, tmp_path / "cases"))
    [entry] = json.loads((tmp_path / "home" / "store" / "alpha" / LEDGER).read_text())["fired"]
    assert sorted(codes) == [0, *[3] * 7]
    assert entry["partition_key"] == f"2026-01-0{codes.index(0) + 1}"


def test_a_hold_is_skipped_and_is_not_in_the_ledger(execute) -> None:
    found, ledger = execute("hold")
    assert (found[0], found[1], ledger) == ("AirflowSkipException", "no retraining: because", [])


def test_a_paused_training_fires_nothing_and_is_not_in_the_ledger(execute) -> None:
    found, ledger = execute(paused=True)
    assert (found[0], ledger) == ("DagIsPaused", [])


def test_settings_that_were_broken_meanwhile_are_not_tried_again(execute) -> None:
    found, ledger = execute(before='(Project.from_environment().use_cases / "alpha" / "use_case.yaml").write_text("name: [alpha")')
    assert (found[0], ledger) == ("AirflowFailException", [])
    assert "use_case.yaml" in found[1]
