"""Make a partition fit to learn from: the `clean` layer, and the `labelled` layer of the partitions whose label horizon has passed.

python -m pipelines_lib.jobs.prepare --spec spec.json
"""

from typing import NamedTuple

from pipelines_lib.contracts import JobResult
from pipelines_lib.data.accepted import Accepted
from pipelines_lib.data.cleaning import Change, Cleaner
from pipelines_lib.data.labelling.due import Marks
from pipelines_lib.data.shards import changes_of, clean_shard, columns_of
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import DataError
from pipelines_lib.jobs.relabel import label, told
from pipelines_lib.jobs.shards import commit, leave, shard_in_words, shard_of, shards_left
from pipelines_lib.jobs.stage import Stage, run_stage


def main(stage: Stage) -> JobResult:
    """Take what passed validation; clean it; label and split what is due."""
    key = stage.spec.partition_key
    tables = Tables(stage.root)
    if stage.spec.shard is not None:
        return _clean_shard(stage, tables)
    clean = _cleaned(stage, tables)
    Marks(stage.root).add("prepared", key, stage.use_case.data_hash())
    done = label(stage, key, tables)
    dropped = sum(change.rows_dropped for change in clean.changes)
    return JobResult(
        stage="prepare",
        reason=f"cleaned {clean.n_rows} rows of {key}{f' ({dropped} dropped)' if dropped else ''}; labelled {told(done)}",
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


def _cleaned(stage: Stage, tables: Tables) -> Cleaned:
    """The partition, committed."""
    if stage.spec.shards > 1:
        shards = shards_left(stage, _accepted(stage, tables).raw_version)
        version = commit(stage, tables, "clean", shards, columns_of(shards))
        return Cleaned(version, sum(left.found["n_rows"] for left in shards), changes_of(stage.use_case, shards))
    return (_clean if stage.profile.engine == "local" else _clean_on_spark)(stage, tables)


def _clean(stage: Stage, tables: Tables) -> Cleaned:
    """In this process."""
    accepted, cleaner = _accepted(stage, tables), Cleaner(stage.use_case)
    cleaner.plan(accepted.batches)
    with tables.writer("clean", stage.spec.partition_key) as clean:
        for batch in accepted.batches():
            clean.add(cleaner.apply(batch)[0])
    return Cleaned(clean.version, clean.n_rows, cleaner.report())


def _clean_shard(stage: Stage, tables: Tables) -> JobResult:
    """One shard of it."""
    accepted = _accepted(stage, tables)
    shard = shard_of(stage, tables, accepted.raw_version)
    key, n_shards = stage.spec.partition_key, stage.spec.shards
    left = clean_shard(stage.use_case, tables, shard, partition_key=key, accepted=accepted, n_shards=n_shards)
    leave(stage, accepted.raw_version, left)
    told = f"cleaned {shard_in_words(stage)}: {left.found['n_rows']} rows"
    return JobResult(stage="prepare", reason=told, figures={"n_rows": left.found["n_rows"]})


def _clean_on_spark(stage: Stage, tables: Tables) -> Cleaned:
    from pipelines_lib.data.spark import cleaned_on, session  # noqa: PLC0415 - for those who have it

    accepted, key, settings = _accepted(stage, tables), stage.spec.partition_key, stage.profile.spark
    shards = tables.shards("raw", key, settings.tasks, version=accepted.raw_version)
    with session(settings, quiet=bool(stage.use_case.private())) as spark:
        left, changes = cleaned_on(spark, stage.use_case, tables, shards, partition_key=key, accepted=accepted)
    version = commit(stage, tables, "clean", left, columns_of(left))
    return Cleaned(version, sum(part.found["n_rows"] for part in left), changes)


def _accepted(stage: Stage, tables: Tables) -> Accepted:
    """The rows that validation let through. Raises `DataError` where it held the partition."""
    verdict = stage.result_of("validate")
    if verdict.status == "held":
        raise DataError(f"validate held this partition, so there is nothing to prepare: {verdict.reason}")
    versions = {name: int(str(verdict.outputs[name])) for name in ("raw_version", "quarantine_version")}
    return Accepted(stage.use_case, tables, stage.spec.partition_key, **versions)


if __name__ == "__main__":
    run_stage(main)
