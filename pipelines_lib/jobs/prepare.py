"""Make a partition fit to learn from: the `clean` layer, and the `labelled` layer of the partitions whose label horizon has passed.

python -m pipelines_lib.jobs.prepare --spec spec.json
"""

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import JsonValue

from pipelines_lib.contracts import JobResult
from pipelines_lib.data.cleaning import clean
from pipelines_lib.data.labelling import due, labelled
from pipelines_lib.data.splitting import with_split
from pipelines_lib.data.tables import Tables
from pipelines_lib.data.typed import typed
from pipelines_lib.errors import DataError
from pipelines_lib.jobs.stage import Stage, run_stage


def main(stage: Stage) -> JobResult:
    """Take what passed validation; clean it; label and split what is due."""
    key = stage.spec.partition_key
    tables = Tables(stage.root)
    rows, changes = clean(typed(_passed(stage, tables), stage.use_case).rows, stage.use_case.clean)
    clean_version = tables.write("clean", key, rows)
    n_labelled: dict[str, JsonValue] = {}
    for partition in due(stage.use_case, key, tables.partitions("clean"), tables.partitions("labelled")):
        ready = with_split(labelled(tables.read("clean", [partition], version=clean_version), stage.use_case), stage.use_case)
        tables.write("labelled", partition, ready)
        n_labelled[partition] = ready.num_rows
    return JobResult(
        stage="prepare",
        reason=f"cleaned {rows.num_rows} rows of {key}; labelled {', '.join(f'{n} of {p}' for p, n in n_labelled.items()) or 'none yet'}",
        figures={
            "n_rows": rows.num_rows,
            "n_labelled": n_labelled,
            "changes": {change.step: {"rows_dropped": change.rows_dropped, "values_changed": change.values_changed} for change in changes},
        },
        outputs={
            "clean_version": clean_version,
            "labelled_version": tables.version("labelled") if n_labelled else None,
            "labelled_partitions": list(n_labelled),
        },
    )


def _passed(stage: Stage, tables: Tables) -> pa.Table:
    """Rows of `raw` that validation let through."""
    verdict = stage.result_of("validate")
    if verdict.status == "held":
        raise DataError(f"validate held this partition, so there is nothing to prepare: {verdict.reason}")
    key = [stage.spec.partition_key]
    raw = tables.read("raw", key, version=int(str(verdict.outputs["raw_version"])))
    bad = tables.read("quarantine", key, version=int(str(verdict.outputs["quarantine_version"])), columns=["row_id"])
    return raw.filter(pc.invert(pc.is_in(raw["row_id"], value_set=bad["row_id"])))


if __name__ == "__main__":
    run_stage(main)
