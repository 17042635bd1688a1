"""Make a partition fit to learn from: the `clean` layer, and the `labelled` layer of the partitions whose label horizon has passed.

python -m pipelines_lib.jobs.prepare --spec spec.json
"""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipelines_lib.contracts import JobResult
from pipelines_lib.data.cleaning import Cleaner
from pipelines_lib.data.labelling.due import Marks
from pipelines_lib.data.tables import Tables
from pipelines_lib.data.typed import ARROW_TYPES, raw_names, typed_columns
from pipelines_lib.errors import DataError
from pipelines_lib.jobs.relabel import label, told
from pipelines_lib.jobs.stage import Stage, run_stage


def main(stage: Stage) -> JobResult:
    """Take what passed validation; clean it; label and split what is due."""
    key = stage.spec.partition_key
    tables = Tables(stage.root)
    accepted = Accepted(stage, tables)
    cleaner = Cleaner(stage.use_case)
    cleaner.plan(accepted.batches)
    with tables.writer("clean", key) as clean:
        for batch in accepted.batches():
            clean.add(cleaner.apply(batch)[0])
    Marks(stage.root).add("prepared", key)
    done = label(stage, key, tables)
    return JobResult(
        stage="prepare",
        reason=f"cleaned {clean.n_rows} rows of {key}; labelled {told(done)}",
        figures={
            "n_rows": clean.n_rows,
            "n_labelled": {partition: one["n_labelled"] for partition, one in done.items()},
            "labels": {partition: {**one} for partition, one in done.items()},
            "changes": {
                change.step: {"rows_dropped": change.rows_dropped, "values_changed": change.values_changed} for change in cleaner.report()
            },
        },
        outputs={
            "clean_version": clean.version,
            "labelled_version": tables.version("labelled") if done else None,
            "labelled_partitions": list(done),
            **({"n_for_review": sum(int(str(one["n_for_review"])) for one in done.values())} if stage.use_case.label.review else {}),
        },
    )


class Accepted:
    """The typed rows that validation let through, batch by batch and in order, as often as they are asked for."""

    def __init__(self, stage: Stage, tables: Tables) -> None:
        """Raises `DataError` where validation held the partition."""
        verdict = stage.result_of("validate")
        if verdict.status == "held":
            raise DataError(f"validate held this partition, so there is nothing to prepare: {verdict.reason}")
        self._use_case, self._tables, self._key = stage.use_case, tables, stage.spec.partition_key
        self._version = int(str(verdict.outputs["raw_version"]))
        self._names = raw_names(tables.schema("raw", self._version).names, stage.use_case)
        rejected = tables.read("quarantine", [self._key], version=int(str(verdict.outputs["quarantine_version"])), columns=["row_id"])
        self._rejected = rejected["row_id"].combine_chunks()

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """`row_id` and these columns (all, when None); a first batch without rows shows the columns even where there are none."""
        columns = list(self._use_case.written) if columns is None else columns
        yield self._nothing(columns)
        for raw in self._tables.scan("raw", self._key, version=self._version, columns=[self._names[name] for name in columns]):
            yield typed_columns(self._passed(raw), self._use_case, columns)

    def _passed(self, raw: pa.Table) -> pa.Table:
        if len(self._rejected) == 0:
            return raw
        return raw.filter(pc.invert(pc.is_in(raw["row_id"], value_set=self._rejected)))

    def _nothing(self, columns: Sequence[str]) -> pa.Table:
        types = {name: ARROW_TYPES[column.type] for name, column in self._use_case.written.items()}
        return pa.schema([("row_id", pa.string()), *((name, types[name]) for name in columns if name != "row_id")]).empty_table()


if __name__ == "__main__":
    run_stage(main)
