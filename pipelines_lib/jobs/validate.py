"""Judge a partition of `raw`: rows that break a rule go to `quarantine` with every reason, and too many of them hold the partition.

python -m pipelines_lib.jobs.validate --spec spec.json
"""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
from pydantic import JsonValue

from pipelines_lib.contracts import JobResult
from pipelines_lib.data.quality.docs import data_docs
from pipelines_lib.data.quality.findings import Findings
from pipelines_lib.data.quality.history import quality_rows
from pipelines_lib.data.quality.partition import QUARANTINE, Judged, judge_partition
from pipelines_lib.data.quality.upstream import Change
from pipelines_lib.data.quality_page import quality_page
from pipelines_lib.data.shards import Left, judge_shard, staged_rows
from pipelines_lib.data.status import show
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import Held
from pipelines_lib.jobs.shards import commit, leave, shard_in_words, shard_of, shards_left
from pipelines_lib.jobs.stage import Stage, run_stage
from pipelines_lib.store import read_json, write_text


def main(stage: Stage) -> JobResult:
    """Cast, check, quarantine, report; then let the partition pass or hold it."""
    ingested = stage.result_of("ingest")
    key = stage.spec.partition_key
    tables = Tables(stage.root)
    if stage.spec.shard is not None:
        return _judge_shard(stage, tables, ingested)
    findings, version = _judged(stage, tables, ingested)
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
        remedy = "Mend the source and run ingest again"
        if findings.n_rows:
            remedy = (
                (f"`sluice quarantine show {name} --partition {key}` lists the rows. " if findings.n_quarantined else "")
                + f"{remedy}, or mend the rule and run validate again (`sluice quarantine release {name} --partition {key}` does it and prepares what passes)"
            )
        raise Held(f"partition {key} of {name} is held: {because}. {remedy}", figures, links)
    return JobResult(
        stage="validate",
        reason=f"{findings.n_rows - findings.n_quarantined} of {findings.n_rows} rows of {key} pass, {findings.n_quarantined} are quarantined",
        figures=figures,
        outputs={"raw_version": ingested.outputs["raw_version"], "quarantine_version": version},
        links=links,
    )


def _judged(stage: Stage, tables: Tables, ingested: JobResult) -> tuple[Findings, int]:
    """What is found in the partition. Returns (findings, version of `quarantine`)."""
    version = int(str(ingested.outputs["raw_version"]))
    if stage.spec.shards > 1:
        return _put_together(stage, tables, ingested, shards_left(stage, version))
    if stage.profile.engine == "local":
        return _judge(stage, tables, ingested)
    from pipelines_lib.data.spark import judged_on, session  # noqa: PLC0415 - for those who have it

    key, settings = stage.spec.partition_key, stage.profile.spark
    shards = tables.shards("raw", key, settings.tasks, version=version)
    with session(settings, quiet=bool(stage.use_case.private())) as spark:
        unreadable = _unreadable(stage)
        left = judged_on(spark, stage.use_case, tables, shards, partition_key=key, raw_version=version, unreadable=unreadable)
    return _put_together(stage, tables, ingested, left)


def _judge(stage: Stage, tables: Tables, ingested: JobResult) -> tuple[Findings, int]:
    """The same in this process."""
    raw, key = Raw(stage, tables, ingested), stage.spec.partition_key
    with tables.writer("quarantine", key) as quarantine:
        findings = judge_partition(
            stage.use_case,
            raw.scan,
            raw.columns,
            raw.n_rows,
            unreadable=_unreadable(stage),
            changes=_changes(ingested),
            quarantine=quarantine.add,
        )
    return findings, quarantine.version


def _judge_shard(stage: Stage, tables: Tables, ingested: JobResult) -> JobResult:
    """What judges a row by itself, on the rows of one shard."""
    version, key = int(str(ingested.outputs["raw_version"])), stage.spec.partition_key
    shard = shard_of(stage, tables, version)
    left = judge_shard(stage.use_case, tables, shard, partition_key=key, raw_version=version, unreadable=_unreadable(stage))
    leave(stage, version, left)
    n_rows = sum(file.n_rows for file in left.staged)
    told = f"judged {shard_in_words(stage)}; {n_rows} rows and records break a rule so far"
    return JobResult(stage="validate", reason=told, figures={"n_quarantined": n_rows})


def _put_together(stage: Stage, tables: Tables, ingested: JobResult, shards: list[Left]) -> tuple[Findings, int]:
    """What the shards found, and what needs the whole partition."""
    raw, judged = Raw(stage, tables, ingested), Judged(stage.use_case)
    for left in shards:
        judged.take_in(left.found, left.tables)
    if late := judged.whole(raw.scan, raw.columns, raw.n_rows):
        with tables.writer("quarantine", stage.spec.partition_key) as quarantine:
            judged.add_late(late, lambda: staged_rows(shards), raw.scan, quarantine.add)
        version = quarantine.version
    else:
        version = commit(stage, tables, "quarantine", shards, QUARANTINE)
    return judged.findings(raw.n_rows + len(_unreadable(stage)), _changes(ingested)), version


class Raw:
    """The rows that ingest has written."""

    def __init__(self, stage: Stage, tables: Tables, ingested: JobResult) -> None:
        self._tables, self._key = tables, stage.spec.partition_key
        self.version = int(str(ingested.outputs["raw_version"]))
        self.n_rows = int(str(ingested.figures["n_rows"]))
        self.columns = tables.schema("raw", self.version).names

    def scan(self, columns: Sequence[str] | None) -> Iterator[pa.Table]:
        """Some columns or all."""
        return self._tables.scan("raw", self._key, version=self.version, columns=columns)


def _changes(ingested: JobResult) -> list[Change]:
    """The columns that ingest found to be new or lost."""
    found: Any = ingested.outputs.get("upstream", [])
    return [Change(change["kind"], change["column"], change["said"]) for change in found]


def _unreadable(stage: Stage) -> dict[str, tuple[str, str]]:
    """`row_id` to (text, why) of the records that ingest could not read."""
    records: Any = read_json(stage.run_folder / "ingest" / str(stage.result_of("ingest").outputs["unreadable"]))
    return {record["row_id"]: (record["text"], record["why"]) for record in records}


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
    return {text: stage.below(path) for text, path in paths.items()}


def _notes(findings: Findings) -> list[str]:
    return [] if findings.anonymity is None else [f"k-anonymity: {findings.anonymity.sentence()}."]


def _show(stage: Stage, findings: Findings, page: str) -> None:
    show(
        stage.root,
        "data",
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
