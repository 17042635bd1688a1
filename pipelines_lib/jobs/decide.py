"""Retrain, hold, or alert, because …: the governor's decision on a partition.

python -m pipelines_lib.jobs.decide --spec spec.json
"""

from pipelines_lib.contracts import JobResult, Ledger
from pipelines_lib.data.tables import Tables
from pipelines_lib.jobs.stage import Stage, run_stage
from pipelines_lib.monitoring.governor import Facts, decide
from pipelines_lib.monitoring.history import (
    Recorded,
    decision_path,
    fired,
    labelled_windows,
    labels_known,
    last_windows,
    ledger,
    recorded,
    training_costs,
)
from pipelines_lib.serving.pointer import read_pointer
from pipelines_lib.store import write_json


def main(stage: Stage) -> JobResult:
    """Decide on what was measured up to this partition. A decision that has fired a training stands; any other is made anew."""
    key, use_case = stage.spec.partition_key, stage.use_case
    known = ledger(stage.root)
    before = recorded(stage.root, key)
    if before is not None and (firing := known.of(key)) is not None and firing.run_id == before.trigger_run_id:
        return _result(before)
    tables = Tables(stage.root)
    facts = _facts(stage, tables, known)
    decision = decide(last_windows(tables, use_case, key), use_case.monitoring, facts)
    record = Recorded(
        partition_key=key,
        action=decision.action,
        reason=decision.reason,
        objections=decision.objections,
        figures=decision.figures,
        model_version=facts.champion_version,
        trigger_run_id=f"drift__{use_case.name}__v{facts.champion_version or 0}__{key}",
        n_known=int(str(stage.spec.params.get("retrainings_known", len(known.fired)))),
        labels_until=decision.labels_until,
    )
    write_json(decision_path(stage.root, key), record)
    return _result(record)


def _facts(stage: Stage, tables: Tables, known: Ledger) -> Facts:
    key, use_case = stage.spec.partition_key, stage.use_case
    champion = _champion(stage)
    costs: dict[str, float] = {}
    next_cost = 0.0
    if use_case.monitoring.max_cost is not None:
        costs, next_cost = training_costs(stage.root, stage.profile, [firing.run_id for firing in known.fired])
    return Facts(
        partition_key=key,
        moment=use_case.partition_time(key),
        champion_version=champion,
        trainings_in_flight=int(str(stage.spec.params.get("trainings_in_flight", 0))),
        fired=fired(known, use_case, key, costs, labels_known(stage.root, known, champion)),
        next_cost=next_cost,
        labelled=() if champion is None else tuple(labelled_windows(tables, use_case, key, champion)),
    )


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
        outputs=record.model_dump(mode="json", include={"action", "reason", "trigger_run_id", "model_version", "n_known"}),
    )


if __name__ == "__main__":
    run_stage(main)
