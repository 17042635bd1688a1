"""Make a partition fit to learn from: the `clean` layer, and the `labelled` layer of the partitions whose label horizon has passed.

python -m pipelines_lib.jobs.prepare --spec spec.json
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipelines_lib.contracts import JobResult
from pipelines_lib.data.cleaning import Change, Cleaner
from pipelines_lib.data.labelling.due import Marks
from pipelines_lib.data.quality.partition import UNREADABLE
from pipelines_lib.data.tables import Shard, Tables
from pipelines_lib.data.typed import raw_names, typed_columns, typed_nothing
from pipelines_lib.errors import DataError
from pipelines_lib.jobs.relabel import label, told
from pipelines_lib.jobs.shards import columns_of, commit, leave, shard_of, shards_left
from pipelines_lib.jobs.stage import Stage, run_stage


def main(stage: Stage) -> JobResult:
    """Take what passed validation; clean it; label and split what is due."""
    key = stage.spec.partition_key
    tables = Tables(stage.root)
    if stage.spec.shard is not None:
        return _clean_shard(stage, tables)
    clean = (_clean if stage.spec.shards == 1 else _put_together)(stage, tables)
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
                change.step: {"rows_dropped": change.rows_dropped, "values_changed": change.values_changed} for change in clean.changes
            },
        },
        outputs={
            "clean_version": clean.version,
            "labelled_version": tables.version("labelled") if done else None,
            "labelled_partitions": list(done),
            **({"n_for_review": sum(int(str(one["n_for_review"])) for one in done.values())} if stage.use_case.label.review else {}),
        },
    )


class Cleaned(NamedTuple):
    """What came of the cleaning."""

    version: int
    n_rows: int
    changes: list[Change]


def _clean(stage: Stage, tables: Tables) -> Cleaned:
    """The partition as a whole."""
    accepted, cleaner = Accepted(stage, tables), Cleaner(stage.use_case)
    cleaner.plan(accepted.batches)
    with tables.writer("clean", stage.spec.partition_key) as clean:
        for batch in accepted.batches():
            clean.add(cleaner.apply(batch)[0])
    return Cleaned(clean.version, clean.n_rows, cleaner.report())


def _clean_shard(stage: Stage, tables: Tables) -> JobResult:
    """One shard. What its steps need of the whole partition it looks at itself, a share of the rows at a time."""
    accepted, cleaner = Accepted(stage, tables), Cleaner(stage.use_case)
    shard = shard_of(stage, tables, accepted.raw_version)
    first, end = accepted.places(shard)
    cleaner.plan(accepted.batches, range(first, end), stage.spec.shards)
    with tables.shard_writer("clean", stage.spec.partition_key) as clean:
        for batch in accepted.batches(shard=shard):
            rows, _ = cleaner.apply(batch, first)
            first += batch.num_rows
            clean.add(rows)
    changes = [[change.step, change.rows_dropped, change.values_changed] for change in cleaner.report()]
    leave(stage, accepted.raw_version, clean, {"n_rows": clean.n_rows, "changes": changes})
    told = f"cleaned shard {stage.spec.shard} of {stage.spec.shards}: {clean.n_rows} rows"
    return JobResult(stage="prepare", reason=told, figures={"n_rows": clean.n_rows})


def _put_together(stage: Stage, tables: Tables) -> Cleaned:
    cleaner = Cleaner(stage.use_case)
    shards = shards_left(stage, Accepted(stage, tables).raw_version)
    for left in shards:
        cleaner.take_in([Change(*change) for change in left.found["changes"]])
    version = commit(stage, tables, "clean", shards, columns_of(shards))
    return Cleaned(version, sum(left.found["n_rows"] for left in shards), cleaner.report())


class Accepted:
    """The typed rows that validation let through, batch by batch and in order, as often as they are asked for."""

    def __init__(self, stage: Stage, tables: Tables) -> None:
        """Raises `DataError` where validation held the partition."""
        verdict = stage.result_of("validate")
        if verdict.status == "held":
            raise DataError(f"validate held this partition, so there is nothing to prepare: {verdict.reason}")
        self._use_case, self._tables, self._key = stage.use_case, tables, stage.spec.partition_key
        self.raw_version = int(str(verdict.outputs["raw_version"]))
        self._names = raw_names(tables.schema("raw", self.raw_version).names, stage.use_case)
        self._quarantine_version = int(str(verdict.outputs["quarantine_version"]))
        rejected = tables.read("quarantine", [self._key], version=self._quarantine_version, columns=["row_id"])
        self._rejected = rejected["row_id"].combine_chunks()

    def batches(self, columns: Sequence[str] | None = None, shard: Shard | None = None) -> Iterator[pa.Table]:
        """`row_id` and these columns (all, when None); a first batch without rows shows the columns even where there are none."""
        columns = list(self._use_case.written) if columns is None else columns
        yield typed_nothing(self._use_case, columns)
        wanted = [self._names[name] for name in columns]
        for raw in self._tables.scan("raw", self._key, version=self.raw_version, columns=wanted, shard=shard):
            yield typed_columns(self._passed(raw), self._use_case, columns)

    def places(self, shard: Shard) -> tuple[int, int]:
        """How many accepted rows come before the shard's, and how many before those behind it."""
        rows = self._tables.read("quarantine", [self._key], version=self._quarantine_version, columns=["row_id", "reasons"])
        rejected = rows["row_id"].filter(pc.invert(pc.starts_with(pc.list_element(rows["reasons"], 0), UNREADABLE)))
        return shard.n_before - _n_before(rejected, shard.first), shard.n_before + shard.n_rows - _n_before(rejected, shard.end)

    def _passed(self, raw: pa.Table) -> pa.Table:
        if len(self._rejected) == 0:
            return raw
        return raw.filter(pc.invert(pc.is_in(raw["row_id"], value_set=self._rejected)))


def _n_before(ordered: pa.ChunkedArray, row_id: str | None) -> int:
    """How many of the names come before this one; all, where it is None."""
    return len(ordered) if row_id is None else pc.sum(pc.less(ordered, row_id)).as_py() or 0


if __name__ == "__main__":
    run_stage(main)
