"""The task `approve`: what a person is shown, and what is left of the answer, as Airflow gives it."""

import json
from pathlib import Path

from pipelines_lib.contracts import GateResult, JobResult, run_dir
from pipelines_lib.store import write_json

from .conftest import USE_CASE, write_use_case

ASKING = USE_CASE + "deployment: {{approve: {{timeout: 12h, by: [ada, 7]}}}}\n"

# One process for every answer: Airflow takes seconds to import.
ANSWERED = """
import datetime as dt, json
from types import SimpleNamespace
from pipelines_lib.config import Project
import pipelines_lib.orchestration.approve as module
from airflow.models.hitl import HITLDetail
from airflow.providers.standard.operators import hitl

asked = {}
hitl.upsert_hitl_detail = lambda **given: asked.update(given)
project = Project.from_environment()
operator = module.ApproveOperator(task_id="approve", use_case=project.use_case("alpha"))
context = {"partition_key": "2026-01-07", "params": {}, "run_id": "run", "task_instance": SimpleNamespace(id="1")}
answer = project.home / "store" / "alpha" / "runs" / "training" / "run" / "approve" / "result.json"
answer.parent.mkdir()
answer.write_text("of an earlier version")
try:
    operator.execute(context)
except BaseException as error:
    found = {
        "raised": type(error).__name__, "timeout": operator.response_timeout.total_seconds(), "stale": answer.exists(),
        **{name: asked[name] for name in ("subject", "body", "options", "defaults", "params", "assigned_users")},
    }

def of(chosen, by, reason, timed_out=False):
    detail = HITLDetail(
        options=asked["options"], chosen_options=chosen, responded_by=by, params_input={"comment": reason},
        responded_at=dt.datetime(2026, 1, 9, 8, 30, 5, 123456, dt.UTC),
    )
    said = operator.execute_complete(context, detail.as_resume_event_payload(timedout=timed_out))
    return {"said": said, "left": json.loads(answer.read_text())}

ada = {"id": "7", "name": "ada"}
found["yes"] = of(["Approve"], ada, "looks right")
found["no"] = of(["Reject"], ada, "the slices")
found["late"] = of(["Reject"], None, None, timed_out=True)
print(json.dumps(found))
"""


def test_what_is_asked_and_what_is_left_of_each_answer(tmp_path: Path, in_airflow) -> None:
    write_use_case(tmp_path / "cases", "alpha", ASKING)
    run = Path(run_dir(str(tmp_path / "home" / "store"), "alpha", "training", "run"))
    gate = GateResult(gate="floor", verdict="pass", figure=0.9, bound=0.6, reason="roc_auc 0.9 | fine").model_dump(mode="json")
    links = {"Evaluation": "alpha/runs/training/run/gate/report.html"}
    write_json(run / "gate" / "result.json", JobResult(stage="gate", figures={"gates": [gate]}, links=links))
    write_json(run / "register" / "result.json", JobResult(stage="register", figures={"version": 3}, links={"MLflow run": "http://m/1"}))

    found = json.loads(in_airflow(ANSWERED, tmp_path / "cases"))

    assert (found["raised"], found["timeout"], found["stale"]) == ("TaskAwaitingInput", 12 * 3600, False)
    assert (found["subject"], found["options"], found["defaults"]) == (
        "Deploy version 3 of Made alpha (2026-01-07)?", ["Approve", "Reject"], ["Reject"],
    )  # fmt: skip
    assert "/sluice/files/alpha/runs/training/run/gate/report.html)" in found["body"]
    assert "[MLflow run](http://m/1)" in found["body"]
    assert "| floor | pass | roc_auc 0.9 / fine |" in found["body"]
    assert "no answer within 12h, leave the champion where it is" in found["body"]
    assert found["assigned_users"] == [{"id": "ada", "name": "ada"}, {"id": "7", "name": "7"}]  # Airflow lets nobody else answer
    assert "Asked: ada, 7." in found["body"]
    assert list(found["params"]) == ["comment"]  # no parameter of the training has this name, or it would fill it in

    at = "2026-01-09T08:30:05+00:00"
    yes = {"decision": "approved", "by": "ada", "at": at, "reason": "looks right"}
    assert found["yes"]["said"] == yes
    assert found["yes"]["left"]["figures"] == {"model_version": 3, **yes}
    left = {name: (found[name]["left"]["status"], found[name]["left"]["reason"]) for name in ("yes", "no", "late")}
    assert left == {
        "yes": ("done", f"version 3 is approved by ada at {at}: looks right"),
        "no": ("held", f"version 3 is rejected by ada at {at}: the slices"),
        "late": ("held", f"version 3 is rejected: nobody answered by {at}, and no answer is a no"),
    }
