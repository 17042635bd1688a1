"""Keep with the version what a person said of it: who, when, what and why. Held where the answer was no.

python -m pipelines_lib.jobs.approved --spec spec.json
"""

from pipelines_lib.contracts import JobResult, ModelRef
from pipelines_lib.errors import DataError, Held
from pipelines_lib.jobs.stage import Stage, run_stage
from pipelines_lib.registry.models import ModelRegistry
from pipelines_lib.registry.tracking import connect
from pipelines_lib.store import read_json, write_json


def main(stage: Stage) -> JobResult:
    """Tag the version with the answer; raises `Held` where it was no."""
    answer = stage.result_of("approve")
    model = ModelRef.model_validate(stage.result_of("register").outputs["model"])
    if (asked := answer.figures["model_version"]) != model.version:
        raise DataError(f"the answer is about version {asked}, and this run has registered version {model.version}; clear `approve`")
    tags = {
        "sluice.approval": str(answer.figures["decision"]),
        **{f"sluice.approval.{name}": str(answer.figures[name]) for name in ("by", "at", "reason")},
    }
    ModelRegistry(connect(stage.profile.tracking_uri), model.name).tag(model.version, tags)
    if answer.status == "held":
        _show(stage, answer.reason)
        raise Held(answer.reason, answer.figures)
    return JobResult(stage="approved", reason=answer.reason, figures=answer.figures)


def _show(stage: Stage, reason: str) -> None:
    """On the page of the use case's health, where the gate said that every gate passes."""
    path = stage.root / "status" / "training.json"
    status = read_json(path)
    if isinstance(status, dict) and status.get("run_id") == stage.spec.run_id:
        write_json(path, {**status, "verdict": "hold", "reason": reason})


if __name__ == "__main__":
    run_stage(main)
