"""Retrain, or hold, because …: the governor's decision on a partition, recorded once.

python -m pipelines_lib.jobs.decide --spec spec.json
"""

from pipelines_lib.contracts import JobResult
from pipelines_lib.data.tables import Tables
from pipelines_lib.jobs.stage import Stage, run_stage
from pipelines_lib.monitoring.governor import Facts, decide
from pipelines_lib.monitoring.history import Recorded, decision_path, evidence, fired, recorded, windows
from pipelines_lib.serving.pointer import read_pointer
from pipelines_lib.store import write_json


def main(stage: Stage) -> JobResult:
    """Decide on what was measured up to this partition; a decision already made on the same figures stands."""
    key, use_case = stage.spec.partition_key, stage.use_case
    history = windows(Tables(stage.root), use_case, key)
    version = next((window.model_version for window in history if window.partition_key == key), _champion(stage))
    before = recorded(stage.root, key)
    # The training that an earlier try fired is in flight now; asked again, the answer must still be the same.
    if before is not None and before.evidence == evidence(history, use_case.monitoring, version):
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


def _champion(stage: Stage) -> int | None:
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
