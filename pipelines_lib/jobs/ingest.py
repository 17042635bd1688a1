"""Read a partition at its source and keep it as it came: the `raw` layer.

    python -m pipelines_lib.jobs.ingest --spec spec.json

Columns about a person are protected before anything is written. Records that can't be read as rows are no loss either: they wait beside the result for `validate`, which quarantines them.
"""

from dataclasses import replace

import pyarrow as pa
from pydantic import JsonValue

from pipelines_lib.contracts import JobResult
from pipelines_lib.data.labelling import truth
from pipelines_lib.data.labelling.due import Marks
from pipelines_lib.data.privacy import not_written, protect_batch
from pipelines_lib.data.pseudonyms import pseudonyms
from pipelines_lib.data.quality.upstream import Change, column_changes, conformed
from pipelines_lib.data.raw import raw_rows, row_id
from pipelines_lib.data.records import Batch, Unreadable
from pipelines_lib.data.sources import Land, SourceContext, land, source_path
from pipelines_lib.data.sources.joins import open_rows
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import ConfigError
from pipelines_lib.jobs.stage import Stage, run_stage
from pipelines_lib.store import write_json


def main(stage: Stage) -> JobResult:
    """Land the file, read it, write the partition of `raw`."""
    key = stage.spec.partition_key
    source = stage.use_case.source
    context = SourceContext(stage.project, stage.use_case, key)
    if source.land:
        land(_land_hook(stage), key, source_path(source, context), stage.use_case)
    names = pseudonyms(stage.use_case, stage.project, stage.spec.profile, stage.root)
    left_out: dict[str, None] = {}
    columns: dict[str, None] = {}
    unreadable: list[JsonValue] = []
    changes: list[Change] = []
    facts: dict[str, JsonValue] = {}
    tables = Tables(stage.root)
    with tables.writer("raw", key) as raw:
        for records in open_rows(context):
            changes += column_changes(
                f"partition {key} of {stage.use_case.name}: {source.described()} {records.part}".rstrip(), records.names, stage.use_case
            )
            left_out |= dict.fromkeys(not_written(records.names, stage.use_case))
            for read in records.batches:
                batch = protect_batch(read, stage.use_case, names)
                batch = replace(batch, rows=conformed(batch.rows, stage.use_case))
                raw.add(raw_rows(batch, key, records.part))
                columns |= dict.fromkeys(batch.rows.column_names)
                unreadable += [_kept(record, key, records.part) for record in batch.unreadable]
            facts |= records.facts
        if not columns:
            # A source without a record may not know its columns.
            raw.add(raw_rows(Batch(conformed(pa.table({}), stage.use_case), pa.array([], pa.int64())), key))
    write_json(stage.folder / "unreadable.json", unreadable)
    truths: dict[str, JsonValue] = {}
    if stage.use_case.label.join is not None:
        truths = truth.collect(context, tables, names)
        Marks(stage.root).add("collected", key)
    told = [f"{change.kind} {change.column!r}" for change in dict.fromkeys(changes)]
    return JobResult(
        stage="ingest",
        reason=", ".join([f"read {raw.n_rows} rows of {key}", *([f"unreadable: {len(unreadable)}"] if unreadable else []), *told]),
        figures={"n_rows": raw.n_rows, "n_unreadable": len(unreadable), "n_columns": len(columns), **facts}
        | ({"not_written": list(left_out)} if left_out else {})
        | ({"ground_truth": truths} if truths else {}),
        outputs={
            "raw_version": raw.version,
            "unreadable": "unreadable.json",
            "upstream": [{"kind": change.kind, "column": change.column, "said": change.said} for change in dict.fromkeys(changes)],
        },
    )


def _kept(record: Unreadable, partition_key: str, part: str) -> JsonValue:
    return {"row_id": row_id(partition_key, record.number, part), "text": record.text, "why": record.why}


def _land_hook(stage: Stage) -> Land:
    hooks = stage.hooks()
    hook: Land | None = getattr(hooks, "land", None)
    if not callable(hook):
        raise ConfigError(
            f"{hooks.__file__}: has no function land(partition_key, path, params), and source.land is set; write one, or remove `land`"
        )
    return hook


if __name__ == "__main__":
    run_stage(main)
