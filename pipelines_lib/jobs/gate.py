"""May the new model serve? Every gate gives a verdict, with the figure and the bound behind it.

python -m pipelines_lib.jobs.gate --spec spec.json
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import JsonValue

from pipelines_lib.contracts import GateResult, JobResult
from pipelines_lib.errors import Held
from pipelines_lib.evaluation.evidence import Evidence
from pipelines_lib.evaluation.gates import held, judge
from pipelines_lib.evaluation.page import evaluation_page
from pipelines_lib.jobs.stage import Stage, run_stage
from pipelines_lib.store import read_json, write_json, write_text

log = logging.getLogger("sluice")


def main(stage: Stage) -> JobResult:
    """Judge the evaluation; raises `Held` where a gate says no."""
    evaluated = stage.result_of("evaluate")
    document: Any = read_json(stage.store / str(evaluated.outputs["folder"]) / "evaluation.json")
    evidence = Evidence.model_validate(document["evidence"])
    force = stage.spec.params.get("force") is True
    results = judge(stage.use_case.gate, evidence, partition_key=stage.spec.partition_key, force=force)
    _print(results)
    reason = held(results)
    figures = _figures(stage, evidence, results)
    page = stage.folder / "report.html"
    report = page_of(stage, document, evidence, results)
    write_text(page, report)
    links = {"Evaluation": stage.below(page)}
    write_json(stage.folder / "gate.json", {"gates": [result.model_dump(mode="json") for result in results]})
    write_json(stage.root / "status" / "training.json", {**_status(stage, figures, reason), "report": links["Evaluation"]})
    if reason is not None:
        _tell_mlflow(stage, str(evaluated.outputs["mlflow_run_id"]), results, report)
        raise Held(reason, figures, links)
    return JobResult(stage="gate", reason=f"all {len(results)} gates pass", figures=figures, links=links)


def page_of(stage: Stage, document: Mapping[str, Any], evidence: Evidence, results: Sequence[GateResult]) -> str:
    """The report with verdicts, as HTML; `document` is what the evaluation left."""
    title = f"{stage.use_case.title}: evaluation of {stage.spec.partition_key}"
    shown = {name: document[name] for name in ("figures", "pictures")}
    return evaluation_page(title, metric=stage.use_case.gate.metric, evidence=evidence, gates=results, **shown)


def _tell_mlflow(stage: Stage, run_id: str, results: Sequence[GateResult], report: str) -> None:
    """Of a model that is held: no later stage would."""
    from pipelines_lib.registry import tracking  # noqa: PLC0415 - slow to import, and a model that passes does without

    tracking.log_verdicts(tracking.connect(stage.profile.tracking_uri), run_id, results, report)


def _print(results: Sequence[GateResult]) -> None:
    for result in results:
        log.info("%-4s  %-17s  %s", result.verdict, result.gate, result.reason)


def _figures(stage: Stage, evidence: Evidence, results: Sequence[GateResult]) -> dict[str, JsonValue]:
    return {
        "metric": stage.use_case.gate.metric,
        "challenger": evidence.metric,
        "champion": evidence.comparison.champion if evidence.comparison else None,
        "gates": [result.model_dump(mode="json") for result in results],
    }


def _status(stage: Stage, figures: dict[str, JsonValue], reason: str | None) -> dict[str, JsonValue]:
    return {
        "partition_key": stage.spec.partition_key,
        "run_id": stage.spec.run_id,
        "verdict": "pass" if reason is None else "hold",
        "reason": reason or "every gate passes",
        "why": str(stage.spec.params.get("reason") or "")[:500],
        **{name: figures[name] for name in ("metric", "challenger", "champion")},
    }


if __name__ == "__main__":
    run_stage(main)
