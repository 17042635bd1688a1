"""The task that asks a person whether a version may be deployed. A module of its own: Airflow's human-in-the-loop operators are slow to import."""

from collections.abc import Mapping
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Param
from airflow.sdk.execution_time.hitl import HITLUser
from pydantic import JsonValue

from pipelines_lib.contracts import GateResult, JobResult, Pipeline
from pipelines_lib.orchestration.earlier import Earlier, earlier
from pipelines_lib.orchestration.links import page_url
from pipelines_lib.orchestration.operators import RETRIES
from pipelines_lib.store import StorePath, write_json
from pipelines_lib.use_case import UseCase
from pipelines_lib.use_case.base import duration_text

APPROVE, REJECT = "Approve", "Reject"


class ApproveOperator(HITLOperator):
    """Ask in the Airflow UI whether the registered version may be deployed; no answer in time is a no.

    Whatever the answer, the task succeeds and leaves it in the store, as the result of a stage `approve`. The stage `approved` keeps it with
    the version, and holds where it was no.
    """

    def __init__(self, *, use_case: UseCase, **kwargs: Any) -> None:
        approval = use_case.deployment.approve
        assert approval is not None
        # Not called `reason`: what the run was started with would stand in it, by the parameter of that name.
        comment = Param(
            None, type=["null", "string"], maxLength=500, title="Reason", description="Kept with the version in the registry", source="task"
        )
        # The decorator that Airflow puts around this hands the DAG's own form in; this one is the task's.
        kwargs.pop("params", None)
        super().__init__(
            subject=f"Deploy the new version of {use_case.title}?",
            options=[APPROVE, REJECT],
            defaults=[REJECT],
            assigned_users=[HITLUser(id=user, name=user) for user in approval.by or ()],
            params={"comment": comment},
            response_timeout=approval.timeout,
            **{**RETRIES, **kwargs},
        )
        self.use_case_name = use_case.name

    def execute(self, context: Any) -> Any:
        """Ask, with the verdicts and the reports at hand."""
        registered, judged = (earlier(context, self.use_case_name, Pipeline.TRAINING, stage) for stage in ("register", "gate"))
        # An answer about an earlier version of this run is none about this one.
        _answer(registered).unlink(missing_ok=True)
        self.subject = f"Deploy version {_version(registered)} of {registered.use_case.title} ({registered.partition_key})?"
        self.body = _body(registered, judged.result)
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Leave the answer in the store."""
        answer = super().execute_complete(context, event)
        registered = earlier(context, self.use_case_name, Pipeline.TRAINING, "register")
        person = answer["responded_by_user"] or {}
        said: dict[str, JsonValue] = {
            "decision": "approved" if answer["chosen_options"] == [APPROVE] else "rejected",
            "by": str(person.get("name") or person.get("id") or "nobody"),
            "at": answer["responded_at"].isoformat(timespec="seconds"),
            "reason": str(answer["params_input"].get("comment") or ""),
        }
        version = _version(registered)
        result = JobResult(
            stage="approve",
            status="done" if said["decision"] == "approved" else "held",
            reason=_sentence(version, said, timed_out=not person),
            figures={"model_version": version, **said},
        )
        write_json(_answer(registered), result)
        self.log.info(result.reason)
        return said


def _answer(registered: Earlier) -> StorePath:
    return registered.run_folder / "approve" / "result.json"


def _version(registered: Earlier) -> int:
    return int(str(registered.result.figures["version"]))


def _sentence(version: int, said: Mapping[str, JsonValue], *, timed_out: bool) -> str:
    if timed_out:
        return f"version {version} is rejected: nobody answered by {said['at']}, and no answer is a no"
    return f"version {version} is {said['decision']} by {said['by']} at {said['at']}" + (f": {said['reason']}" if said["reason"] else "")


def _body(registered: Earlier, judged: JobResult) -> str:
    """Markdown: where the reports are, what each gate said, and what no answer means."""
    approval = registered.use_case.deployment.approve
    assert approval is not None
    targets = {**registered.result.links, **judged.links}
    links = [f"[{name}]({target if '://' in target else page_url(f'files/{target}')})" for name, target in targets.items()]
    found: Any = judged.figures["gates"]
    gates = [GateResult.model_validate(gate) for gate in found]
    rows = [f"| {gate.gate} | {gate.verdict} | {gate.reason.replace('|', '/')} |" for gate in gates]
    asked = [] if approval.by is None else [f"Asked: {', '.join(approval.by)}.", ""]
    return "\n".join(
        [
            " · ".join(links),
            "",
            "| gate | verdict | why |",
            "|---|---|---|",
            *rows,
            "",
            *asked,
            f"*{REJECT}*, and no answer within {duration_text(approval.timeout)}, leave the champion where it is.",
        ]
    )
