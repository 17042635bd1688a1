"""Make a partition fit to learn from: the `clean` layer, and the `labelled` layer of the partitions whose label horizon has passed.

python -m pipelines_lib.jobs.prepare --spec spec.json
"""

import pyarrow as pa
import pyarrow.compute as pc

from pipelines_lib.contracts import JobResult
from pipelines_lib.data.cleaning import clean
from pipelines_lib.data.labelling.due import Marks
from pipelines_lib.data.tables import Tables
from pipelines_lib.data.typed import typed
from pipelines_lib.errors import DataError
from pipelines_lib.jobs.relabel import label, told
from pipelines_lib.jobs.stage import Stage, run_stage


def main(stage: Stage) -> JobResult:
    """Take what passed validation; clean it; label and split what is due."""
    key = stage.spec.partition_key
    tables = Tables(stage.root)
    rows, changes = clean(typed(_passed(stage, tables), stage.use_case).rows, stage.use_case.clean)
    clean_version = tables.write("clean", key, rows)
    Marks(stage.root).add("prepared", key)
    done = label(stage, key, tables)
    return JobResult(
        stage="prepare",
        reason=f"cleaned {rows.num_rows} rows of {key}; labelled {told(done)}",
        figures={
            "n_rows": rows.num_rows,
            "n_labelled": {partition: one["n_labelled"] for partition, one in done.items()},
            "labels": {partition: {**one} for partition, one in done.items()},
            "changes": {change.step: {"rows_dropped": change.rows_dropped, "values_changed": change.values_changed} for change in changes},
        },
        outputs={
            "clean_version": clean_version,
            "labelled_version": tables.version("labelled") if done else None,
            "labelled_partitions": list(done),
            **({"n_for_review": sum(int(str(one["n_for_review"])) for one in done.values())} if stage.use_case.label.review else {}),
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
