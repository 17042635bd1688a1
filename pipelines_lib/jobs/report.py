"""The page that shows what monitoring saw and decided, and the use case's line on the overview.

python -m pipelines_lib.jobs.report --spec spec.json
"""

from typing import Any

from pydantic import JsonValue

from pipelines_lib.contracts import LATEST_REPORT, JobResult, Ledger
from pipelines_lib.data.status import show
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import DataError
from pipelines_lib.jobs.measure import model_of, reference_profile
from pipelines_lib.jobs.stage import Stage, run_stage
from pipelines_lib.monitoring.governor import Window
from pipelines_lib.monitoring.history import Recorded, decision_rows, drifts_of, ledger, past, recorded, windows
from pipelines_lib.monitoring.page import Report, drift_page
from pipelines_lib.monitoring.sketch import DataProfile
from pipelines_lib.store import write_text

DAYS = 30
"""Partitions that the page looks back on."""


def main(stage: Stage) -> JobResult:
    """Write the decision's row, the page, then the status; the newest page has a name that stays, too."""
    key, tables = stage.spec.partition_key, Tables(stage.root)
    record = recorded(stage.root, key)
    if record is None:
        raise DataError(f"nothing was decided on {key}; run decide for this run first")
    here = next(iter(windows(tables, stage.use_case, [key])), None)
    known = ledger(stage.root)
    tables.write("decisions", key, decision_rows(record, here, known))
    report = _report(stage, tables, record, known)
    page, path = drift_page(report), f"reports/{key}.html"
    write_text(stage.root / path, page)
    if show(stage.root, "monitoring", _status(report, here, f"{stage.spec.use_case}/{path}")):
        write_text(stage.root / LATEST_REPORT, page)
    return JobResult(
        stage="report",
        reason=f"{report.action}: {report.reason}",
        figures={"n_rows": report.n_rows, "drifted": [drift.column for drift in report.drifts if drift.drifted]},
        outputs={"report": f"{stage.spec.use_case}/{path}"},
        links={"Drift report": f"{stage.spec.use_case}/{path}"},
    )


def _report(stage: Stage, tables: Tables, record: Recorded, known: Ledger) -> Report:
    key, measured = record.partition_key, stage.result_of("measure").outputs
    [row] = tables.read("profiles", [key]).to_pylist()
    version = measured.get("model_version")
    model_version = None if version is None else int(str(version))
    performance: Any = measured.get("performance")
    guess: Any = measured.get("estimated")
    fared: Any = measured.get("health")
    private = stage.use_case.private()
    return Report(
        title=stage.use_case.title,
        partition_key=key,
        model_version=model_version,
        n_rows=row["n_rows"],
        action=record.action,
        reason=record.reason,
        not_fired=_not_fired(record, known),
        objections=record.objections,
        settings=stage.use_case.monitoring,
        metric=stage.use_case.gate.metric,
        past=past(tables, stage.use_case, key, DAYS, known),
        drifts=drifts_of(tables.read("drift", [key])),
        performance=performance,
        estimated=guess,
        health=fared,
        reference=None if model_version is None else reference_profile(stage, model_of(stage, model_version)),
        now=DataProfile.from_json(row["profile_json"]),
        private=[*private, *(["prediction"] if stage.use_case.label.column in private else [])],
    )


def _not_fired(record: Recorded, known: Ledger) -> str:
    """Why no training follows from the decision to retrain, as far as can be told; empty where one does, or none was wanted."""
    if record.action != "retrain" or known.of(record.partition_key) is not None:
        return ""
    if len(known.fired) > record.n_known:
        newest = known.fired[-1]
        return f"No training was started for it: one was for {newest.partition_key} (run {newest.run_id}) after this was decided."
    return "No training was started for it yet: that is what the task `retrain` does; it says why it did not."


def _newest_labels(report: Report) -> dict[str, JsonValue] | None:
    """Realised performance of the newest partition whose labels have come; of an earlier one than the report's the gate's metric alone."""
    if report.performance is not None:
        return {"partition_key": report.partition_key, "metrics": dict(report.performance["metrics"])}
    labelled = next((day for day in reversed(report.past) if "realised" in day.performance), None)
    return (
        None
        if labelled is None
        else {"partition_key": labelled.partition_key, "metrics": {report.metric: labelled.performance["realised"][0]}}
    )


def _status(report: Report, here: Window | None, path: str) -> dict[str, JsonValue]:
    return {
        "partition_key": report.partition_key,
        "decision": report.action,
        "reason": report.reason,
        "n_rows": report.n_rows,
        "n_columns": sum(drift.kind == "input" for drift in report.drifts),
        "drifted_share": None if here is None else round(here.drifted_share, 4),
        "loss": None if here is None or here.loss is None else round(here.loss.share, 4),
        "effects": {drift.column: round(drift.effect, 4) for drift in report.drifts if drift.effect is not None},
        "drifted": [drift.column for drift in report.drifts if drift.drifted],
        "champion_version": report.model_version,
        "fired": report.action == "retrain" and not report.not_fired,
        "performance": None if report.performance is None else dict(report.performance),
        "realised": _newest_labels(report),
        "estimated": None if report.estimated is None else dict(report.estimated),
        "health": None if report.health is None else dict(report.health),
        "report": path,
    }


if __name__ == "__main__":
    run_stage(main)
