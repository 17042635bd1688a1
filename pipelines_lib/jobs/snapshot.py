"""Choose the labelled rows that this training reads, and pin them: the first stage of the training pipeline."""

from pipelines_lib.connections import connection
from pipelines_lib.contracts import DatasetRef, JobResult
from pipelines_lib.data import snapshot
from pipelines_lib.data.labelling.due import Marks
from pipelines_lib.data.tables import Tables
from pipelines_lib.jobs.stage import Stage, log, run_stage


def main(stage: Stage) -> JobResult:
    """Pin the newest labelled partitions up to the run's own. Raises `ConfigError` where the key that signs for devices is missing or is none."""
    _look_at_key(stage)
    chosen = snapshot.choose(stage.use_case, Tables(stage.root), stage.spec.partition_key, stage.use_case.training.window)
    ref, sizes = chosen.ref, chosen.sizes()
    if others := _under_other_settings(stage, ref):
        log.warning(
            "%d of %d partitions were cleaned or labelled under other settings than those of now (%s … %s), so their rows mean something else; "
            "run %s__data again for them, then this training",
            *(len(others), len(ref.partitions), others[0], others[-1], stage.use_case.name),
        )
    return JobResult(
        stage="snapshot",
        reason=f"{ref.n_rows:,} rows of {ref.partitions[0]} … {ref.partitions[-1]}",
        figures={
            "partitions": len(ref.partitions),
            "partitions_under_other_settings": len(others),
            "rows": ref.n_rows,
            **{f"{side}_rows": n for side, n in sizes.items()},
        },
        outputs={"snapshot": ref.model_dump(mode="json")},
    )


def _look_at_key(stage: Stage) -> None:
    """Before hours of training, and not after them."""
    if (edge := stage.use_case.deployment.edge) is not None:
        from pipelines_lib.edge.release import private_key  # noqa: PLC0415 - slow to import, and most use cases name no devices

        private_key(connection(edge.connection))


def _under_other_settings(stage: Stage, ref: DatasetRef) -> list[str]:
    marks = Marks(stage.root)
    return [key for key in ref.partitions if marks.settings_of(key) - {ref.config_hash}]


def snapshot_of(stage: Stage) -> DatasetRef:
    """The snapshot that the first stage of this run pinned."""
    return DatasetRef.model_validate(stage.result_of("snapshot").outputs["snapshot"])


if __name__ == "__main__":
    run_stage(main)
