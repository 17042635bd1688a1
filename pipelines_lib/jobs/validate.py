"""Judge a partition of `raw`: rows that break a rule go to `quarantine` with every reason, and too many of them hold the partition.

python -m pipelines_lib.jobs.validate --spec spec.json
"""

import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import JsonValue

from pipelines_lib.contracts import JobResult
from pipelines_lib.data.anonymity import Groups, held_because
from pipelines_lib.data.quality.docs import data_docs
from pipelines_lib.data.quality.findings import Findings
from pipelines_lib.data.quality.history import quality_rows
from pipelines_lib.data.quality.judge import Judge
from pipelines_lib.data.quality.rejections import Rejections
from pipelines_lib.data.quality.upstream import Change, TypeWatch
from pipelines_lib.data.quality_page import quality_page
from pipelines_lib.data.status import show
from pipelines_lib.data.tables import Tables
from pipelines_lib.data.typed import typed
from pipelines_lib.errors import Held
from pipelines_lib.jobs.stage import Stage, run_stage
from pipelines_lib.store import read_json, write_text
from pipelines_lib.use_case import UseCase


def main(stage: Stage) -> JobResult:
    """Cast, check, quarantine, report; then let the partition pass or hold it."""
    ingested = stage.result_of("ingest")
    key = stage.spec.partition_key
    tables = Tables(stage.root)
    raw = tables.read("raw", [key], version=int(str(ingested.outputs["raw_version"])))
    unreadable = _unreadable(stage)
    findings = _judged(stage.use_case, raw, unreadable, _changes(ingested))

    version = tables.write("quarantine", key, _quarantine(raw, unreadable, findings.rejections.rows))
    tables.write("quality", key, quality_rows(findings))
    links = _write_pages(stage, findings)
    _show(stage, findings, links["Data quality"])
    figures: dict[str, JsonValue] = {
        "n_rows": findings.n_rows,
        "n_quarantined": findings.n_quarantined,
        "share_quarantined": round(findings.share, 4),
    }
    if findings.anonymity is not None:
        figures["k_anonymity"] = findings.anonymity.k
    if findings.changes:
        figures["upstream"] = [f"{change.kind}: {change.column}" for change in findings.changes]
    if because := findings.held_because:
        name = stage.use_case.name
        remedy = (
            f"`sluice quarantine show {name} --partition {key}` lists the rows. Mend the source and run ingest again, or mend the rule and "
            f"run validate again (`sluice quarantine release {name} --partition {key}` does it and prepares what passes)"
        )
        raise Held(f"partition {key} of {name} is held: {because}. {remedy}", figures, links)
    return JobResult(
        stage="validate",
        reason=f"{findings.n_rows - findings.n_quarantined} of {findings.n_rows} rows of {key} pass, {findings.n_quarantined} are quarantined",
        figures=figures,
        outputs={"raw_version": ingested.outputs["raw_version"], "quarantine_version": version},
        links=links,
    )


def _judged(use_case: UseCase, raw: pa.Table, unreadable: list[dict[str, str]], changes: list[Change]) -> Findings:
    rows = typed(raw, use_case)
    judge, rejections, types = Judge(use_case.quality, use_case.private()), Rejections(use_case), TypeWatch(use_case)
    groups = Groups.of(use_case)
    rejections.add({record["row_id"]: {f"unreadable: {record['why']}"} for record in unreadable})
    rejections.add(rows.reasons, raw)
    rejections.add(judge.add(rows.rows))
    if groups is not None:
        # Of what passes; rows that only the whole partition tells to be wrong (the second of a pair) are still among them.
        groups.add(rows.rows.filter(pc.invert(pc.is_in(rows.rows["row_id"], value_set=pa.array(list(rejections.rows), pa.string())))))
    types.add(rows)
    checks, reasons = judge.finish(rows.rows.select)
    rejections.add(reasons)
    n_rows = raw.num_rows + len(unreadable)
    found = None if groups is None else groups.figures()
    telling = "" if found is None else held_because(found, use_case)
    return Findings(use_case.quality, n_rows, rejections, checks, [*changes, *types.changes(rejections)], found, telling)


def _changes(ingested: JobResult) -> list[Change]:
    """The columns that ingest found to be new or lost."""
    found: Any = ingested.outputs.get("upstream", [])
    return [Change(change["kind"], change["column"], change["said"]) for change in found]


def _unreadable(stage: Stage) -> list[dict[str, str]]:
    """`row_id`, `text` and `why` of the records that ingest could not read."""
    records: Any = read_json(stage.folder.parent / "ingest" / str(stage.result_of("ingest").outputs["unreadable"]))
    return list(records)


def _quarantine(raw: pa.Table, unreadable: list[dict[str, str]], reasons: dict[str, set[str]]) -> pa.Table:
    bad = raw.filter(pc.is_in(raw["row_id"], value_set=pa.array(sorted(reasons), pa.string())))
    texts = {record["row_id"]: record["text"] for record in unreadable}
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


def _write_pages(stage: Stage, findings: Findings) -> dict[str, str]:
    """The pages of the partition, as links."""
    title, key, docs = stage.use_case.title, stage.spec.partition_key, stage.folder / "data_docs.html"
    paths = {"Data quality": stage.folder / "quality.html"}
    if findings.checks:
        paths["Data Docs"] = docs
        write_text(docs, data_docs(title, key, findings.checks))
    page = quality_page(
        use_case=title,
        partition_key=key,
        findings=findings,
        notes=_notes(findings),
        data_docs=docs.name if findings.checks else None,
    )
    write_text(paths["Data quality"], page)
    return {text: str(path.relative_to(stage.spec.store)) for text, path in paths.items()}


def _notes(findings: Findings) -> list[str]:
    return [] if findings.anonymity is None else [f"k-anonymity: {findings.anonymity.sentence()}."]


def _show(stage: Stage, findings: Findings, page: str) -> None:
    show(
        stage.root,
        {
            "partition_key": stage.spec.partition_key,
            "n_rows": findings.n_rows,
            "n_quarantined": findings.n_quarantined,
            "verdict": "hold" if findings.held_because else "pass",
            "reason": findings.held_because,
            "report": page,
            "updated_by": stage.spec.run_id,
        },
    )


if __name__ == "__main__":
    run_stage(main)
