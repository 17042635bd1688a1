"""Retrain, or hold, because …: the governor's decision on a partition, recorded once.

python -m pipelines_lib.jobs.decide --spec spec.json
"""

from collections.abc import Sequence

from pipelines_lib.contracts import JobResult
from pipelines_lib.data.tables import Tables
from pipelines_lib.jobs.stage import Stage, run_stage
from pipelines_lib.monitoring.governor import Facts, Window, decide
from pipelines_lib.monitoring.history import Recorded, decision_path, evidence, fired, is_fired, recorded, windows
from pipelines_lib.serving.pointer import read_pointer
from pipelines_lib.store import write_json


def main(stage: Stage) -> JobResult:
    """Decide on what was measured up to this partition; a decision already made on the same figures stands."""
    key, use_case = stage.spec.partition_key, stage.use_case
    history = windows(Tables(stage.root), use_case, key)
    version = _champion(stage)
    before = recorded(stage.root, key)
    if before is not None and _stands(stage, before, history, version):
        return _result(before)
    facts = Facts(
        partition_key=key,
        moment=use_case.partition_time(key),
        champion_version=version,
        trainings_in_flight=int(str(stage.spec.params.get("trainings_in_flight", 0))),
        fired=fired(stage.root, use_case, key),
    )
    decision = decide(history, use_case.monitoring, facts)
    record = Recorded(
        partition_key=key,
        action=decision.action,
        reason=decision.reason,
        figures=decision.figures,
        model_version=version,
        trigger_run_id=f"drift__{use_case.name}__v{version or 0}__{key}",
        evidence=evidence(history, use_case.monitoring, version),
    )
    write_json(decision_path(stage.root, key), record)
    return _result(record)


def _stands(stage: Stage, before: Recorded, history: Sequence[Window], champion: int | None) -> bool:
    """Whether what the decision rested on is as it was.

    A training that was fired is in flight now, or its model is the champion: neither may change the answer. A decision to
    retrain that fired nothing (`sluice run` does not) is made anew: another partition may have fired one since.
    """
    monitoring = stage.use_case.monitoring
    if before.action == "retrain":
        return is_fired(stage.root, before.partition_key) and before.evidence == evidence(history, monitoring, before.model_version)
    return before.evidence == evidence(history, monitoring, champion)


def _champion(stage: Stage) -> int | None:
    """The champion of this moment, whoever answered the partition: drift from a model that no longer serves fires nothing.

    So of the partition in which the champion changed, the one that answered most rows decides, and a backfill of partitions
    that an earlier champion answered holds.
    """
    deployment = read_pointer(stage.root)
    champion = deployment.champion if deployment else None
    return champion.version if champion else None


def _result(record: Recorded) -> JobResult:
    return JobResult(
        stage="decide",
        reason=f"{record.action}: {record.reason}",
        figures={"action": record.action, "model_version": record.model_version, **record.figures},
        outputs={"action": record.action, "reason": record.reason, "trigger_run_id": record.trigger_run_id},
    )


if __name__ == "__main__":
    run_stage(main)
