"""The page that shows what monitoring saw and decided, and the use case's line on the overview.

python -m pipelines_lib.jobs.report --spec spec.json
"""

from typing import Any

from pydantic import JsonValue

from pipelines_lib.contracts import JobResult
from pipelines_lib.data.status import show
from pipelines_lib.data.tables import Tables
from pipelines_lib.jobs.measure import model_of, reference_profile
from pipelines_lib.jobs.stage import Stage, run_stage
from pipelines_lib.monitoring.history import drifts_of
from pipelines_lib.monitoring.page import Report, drift_page
from pipelines_lib.monitoring.sketch import DataProfile
from pipelines_lib.store import write_text


def main(stage: Stage) -> JobResult:
    """Write the page, then the status."""
    report = _report(stage)
    path = f"reports/{report.partition_key}.html"
    write_text(stage.root / path, drift_page(report))
    show(stage.root, "monitoring", _status(report, f"{stage.spec.use_case}/{path}"))
    return JobResult(
        stage="report",
        reason=f"{report.action}: {report.reason}",
        figures={"n_rows": report.n_rows, "drifted": [drift.column for drift in report.drifts if drift.drifted]},
        outputs={"report": f"{stage.spec.use_case}/{path}"},
        links={"Drift report": f"{stage.spec.use_case}/{path}"},
    )


def _report(stage: Stage) -> Report:
    key = stage.spec.partition_key
    measured, decided = stage.result_of("measure").outputs, stage.result_of("decide").outputs
    tables = Tables(stage.root)
    [row] = tables.read("profiles", [key]).to_pylist()
    version = measured.get("model_version")
    model_version = None if version is None else int(str(version))
    performance: Any = measured.get("performance")
    return Report(
        title=stage.use_case.title,
        partition_key=key,
        model_version=model_version,
        n_rows=row["n_rows"],
        action=str(decided["action"]),
        reason=str(decided["reason"]),
        threshold=stage.use_case.monitoring.psi,
        drifts=drifts_of(tables.read("drift", [key])),
        performance=performance,
        reference=None if model_version is None else reference_profile(stage, model_of(stage, model_version)),
        now=DataProfile.from_json(row["profile_json"]),
        private=stage.use_case.private(),
    )


def _status(report: Report, path: str) -> dict[str, JsonValue]:
    return {
        "partition_key": report.partition_key,
        "decision": report.action,
        "reason": report.reason,
        "n_rows": report.n_rows,
        "n_columns": sum(drift.kind == "input" for drift in report.drifts),
        "drifted": [drift.column for drift in report.drifts if drift.drifted],
        "champion_version": report.model_version,
        "performance": None if report.performance is None else dict(report.performance),
        "report": path,
    }


if __name__ == "__main__":
    run_stage(main)
