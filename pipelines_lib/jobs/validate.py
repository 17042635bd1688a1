"""Judge a partition of `raw`: rows that break a rule go to `quarantine` with every reason, and too many of them hold the partition.

python -m pipelines_lib.jobs.validate --spec spec.json
"""

import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines_lib.contracts import JobResult
from pipelines_lib.data.quality import Check, check, held_because, row_reasons
from pipelines_lib.data.quality_page import quality_page
from pipelines_lib.data.status import show
from pipelines_lib.data.tables import Tables
from pipelines_lib.data.typed import typed
from pipelines_lib.errors import Held
from pipelines_lib.jobs.stage import Stage, run_stage
from pipelines_lib.store import read_json, write_text


def main(stage: Stage) -> JobResult:
    """Cast, check, quarantine, report; then let the partition pass or hold it."""
    ingested = stage.result_of("ingest")
    key = stage.spec.partition_key
    tables = Tables(stage.root)
    raw = tables.read("raw", [key], version=int(str(ingested.outputs["raw_version"])))
    unreadable = _unreadable(stage)
    rows = typed(raw, stage.use_case)
    checks = check(rows.rows.drop_columns(["row_id"]), stage.use_case.quality)

    reasons = _merged(
        rows.reasons,
        row_reasons(checks, rows.rows["row_id"].to_pylist()),
        {row: {"unreadable: not the header's number of cells"} for row in unreadable},
    )
    n_rows = raw.num_rows + len(unreadable)
    because = held_because(checks, reasons, n_rows, stage.use_case.quality)

    version = tables.write("quarantine", key, _quarantine(raw, unreadable, reasons))
    tables.write("quality", key, _quality_row(n_rows, reasons, checks, because))
    page = _write_page(stage, n_rows, because, reasons, checks)
    _show(stage, n_rows, len(reasons), because, page)
    figures = {"n_rows": n_rows, "n_quarantined": len(reasons), "share_quarantined": round(len(reasons) / n_rows, 4) if n_rows else 0.0}
    if because:
        remedy = "Mend the source and run ingest again, or mend the rule and run validate again"
        raise Held(f"partition {key} of {stage.use_case.name} is held: {because}. {remedy}", {**figures}, {"Data quality": page})
    return JobResult(
        stage="validate",
        reason=f"{n_rows - len(reasons)} of {n_rows} rows of {key} pass, {len(reasons)} are quarantined",
        figures={**figures},
        outputs={"raw_version": ingested.outputs["raw_version"], "quarantine_version": version},
        links={"Data quality": page},
    )


def _unreadable(stage: Stage) -> dict[str, str]:
    """`row_id` to text of the records that ingest could not read."""
    records: Any = read_json(stage.folder.parent / "ingest" / str(stage.result_of("ingest").outputs["unreadable"]))
    return {record["row_id"]: record["text"] for record in records}


def _merged(*parts: dict[str, set[str]]) -> dict[str, set[str]]:
    merged: dict[str, set[str]] = {}
    for part in parts:
        for row, reasons in part.items():
            merged.setdefault(row, set()).update(reasons)
    return merged


def _quarantine(raw: pa.Table, unreadable: dict[str, str], reasons: dict[str, set[str]]) -> pa.Table:
    bad = raw.filter(pc.is_in(raw["row_id"], value_set=pa.array(sorted(reasons), pa.string())))
    texts = dict(unreadable)
    for row in bad.drop_columns(["partition_key"]).to_pylist():
        name = row.pop("row_id")
        texts[name] = json.dumps(row, ensure_ascii=False)
    rows = sorted(reasons)
    return pa.table(
        {
            "row_id": pa.array(rows, pa.string()),
            "reasons": pa.array([sorted(reasons[row]) for row in rows], pa.list_(pa.string())),
            "raw": pa.array([texts[row] for row in rows], pa.string()),
        }
    )


def _quality_row(n_rows: int, reasons: dict[str, set[str]], checks: list[Check], because: str) -> pa.Table:
    report = {
        "held_because": because,
        "expectations": [
            {
                "name": c.name,
                "success": c.success,
                "judges": "row" if c.of_rows else "partition",
                "n_failed": len(c.rows),
                "observed": c.observed,
            }
            for c in checks
        ],
    }
    return pa.table(
        {
            "row_id": ["quality"],
            "n_rows": pa.array([n_rows], pa.int64()),
            "n_quarantined": pa.array([len(reasons)], pa.int64()),
            "verdict": ["hold" if because else "pass"],
            "report_json": [json.dumps(report, sort_keys=True, ensure_ascii=False)],
        }
    )


def _write_page(stage: Stage, n_rows: int, because: str, reasons: dict[str, set[str]], checks: list[Check]) -> str:
    path = stage.folder / "quality.html"
    page = quality_page(
        use_case=stage.use_case.title,
        partition_key=stage.spec.partition_key,
        n_rows=n_rows,
        held_because=because,
        reasons=reasons,
        checks=checks,
    )
    write_text(path, page)
    return str(path.relative_to(stage.spec.store))


def _show(stage: Stage, n_rows: int, n_quarantined: int, because: str, page: str) -> None:
    show(
        stage.root,
        {
            "partition_key": stage.spec.partition_key,
            "n_rows": n_rows,
            "n_quarantined": n_quarantined,
            "verdict": "hold" if because else "pass",
            "reason": because,
            "report": page,
            "updated_by": stage.spec.run_id,
        },
    )


if __name__ == "__main__":
    run_stage(main)
