"""The three DAGs of a use case. What runs in a task is a stage's business; here stands only what follows what."""

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, Asset, CronPartitionTimetable, Param, PartitionedAtRuntime, chain

from pipelines_lib.config import Profile, Project
from pipelines_lib.contracts import Pipeline, dag_id
from pipelines_lib.orchestration.operators import RetrainOperator, run_job
from pipelines_lib.use_case import UseCase


def good_use_cases() -> list[UseCase]:
    """Every use case whose settings are right. The others show as the import error of `dags/broken_use_cases.py`."""
    return Project.from_environment().use_cases_or_errors()[0]


def labelled_asset(use_case: UseCase) -> Asset:
    """What a data run publishes: the labelled table, one event a partition."""
    # Without a URI's scheme: looking one up makes Airflow import every provider that has one (boto3 among them) at parse time.
    return Asset(name=f"{use_case.name}__labelled", group="sluice")


def data_dag(use_case: UseCase) -> DAG:
    """<use_case>__data: one partition from its sources to labelled rows."""
    with _dag(use_case, Pipeline.DATA, cron=use_case.schedule.data, run_offset=-1, doc=_DATA_DOC, max_active_runs=4) as dag:
        chain(
            run_job(use_case, Pipeline.DATA, "ingest"),
            run_job(use_case, Pipeline.DATA, "validate"),
            run_job(use_case, Pipeline.DATA, "prepare", outlets=[labelled_asset(use_case)]),
        )
    return dag


def training_dag(use_case: UseCase) -> DAG:
    """<use_case>__training: from a frozen snapshot to a verified champion."""
    training = Pipeline.TRAINING
    profile = Project.from_environment().profile()
    with _dag(
        use_case, training, cron=use_case.schedule.training, run_offset=0, doc=_TRAINING_DOC, params=_training_params(use_case)
    ) as dag:
        steps = [
            run_job(use_case, training, "snapshot"),
            _train(use_case, profile),
            run_job(use_case, training, "evaluate"),
            run_job(use_case, training, "gate", on_hold="skip"),
            run_job(use_case, training, "register"),
            run_job(use_case, training, "deploy"),
            run_job(use_case, training, "verify"),
        ]
        if use_case.deployment.approve:
            steps.insert(-2, _approval(use_case))
        chain(*steps)
    return dag


def monitoring_dag(use_case: UseCase) -> DAG:
    """<use_case>__monitoring: one partition's answers against what the champion was trained on."""
    monitoring = Pipeline.MONITORING
    with _dag(use_case, monitoring, cron=use_case.schedule.monitoring, run_offset=-1, doc=_MONITORING_DOC) as dag:
        decide = run_job(use_case, monitoring, "decide")
        chain(
            run_job(use_case, monitoring, "profile"),
            run_job(use_case, monitoring, "measure"),
            decide,
            [run_job(use_case, monitoring, "report"), RetrainOperator(task_id="retrain", use_case=use_case)],
        )
    return dag


def _train(use_case: UseCase, profile: Profile) -> Any:
    return run_job(
        use_case,
        Pipeline.TRAINING,
        "train",
        workers=use_case.training.workers,
        pool=profile.training_pool,
        execution_timeout=timedelta(hours=12),
    )


def _approval(use_case: UseCase) -> ApprovalOperator:
    return ApprovalOperator(
        task_id="approve",
        subject=f"Deploy the new version of {use_case.title}?",
        body="The gate passed. Its figures stand in the log of the task `gate` and in the MLflow run.",
        response_timeout=timedelta(days=3),
    )


def _dag(
    use_case: UseCase,
    pipeline: Pipeline,
    *,
    cron: str | None,
    run_offset: int,
    doc: str,
    params: dict[str, Param] | None = None,
    max_active_runs: int = 1,
) -> DAG:
    timetable = (
        PartitionedAtRuntime()
        if cron is None
        else CronPartitionTimetable(cron, timezone="UTC", run_offset=run_offset, key_format=use_case.key_format)
    )
    last = use_case.last_day
    return DAG(
        dag_id=dag_id(use_case.name, pipeline),
        dag_display_name=f"{use_case.title}: {pipeline}",
        description=f"{use_case.title}: {pipeline}",
        doc_md=f"# {use_case.title}: {pipeline}\n\n{use_case.description.strip()}\n\n**Owner:** {use_case.owner}\n\n{doc}",
        schedule=timetable,
        start_date=_utc(use_case.start),
        # The tick that asks for the last partition comes up to a day after it.
        end_date=None if last is None else _utc(last) + timedelta(days=2),
        catchup=False,
        max_active_runs=max_active_runs,
        default_args={"owner": use_case.owner},
        tags=["sluice", use_case.name, str(pipeline)],
        params={"partition": _partition_param(use_case), **(params or {})},
        render_template_as_native_obj=False,
    )


def _partition_param(use_case: UseCase) -> Param:
    pattern = r"^\d{4}-\d{2}-\d{2}$" if use_case.partition == "day" else r"^\d{4}-\d{2}-\d{2}T\d{2}$"
    return Param(
        None,
        type=["null", "string"],
        pattern=pattern,
        title="Partition",
        description=f"Which partition, for instance {use_case.start:{use_case.key_format}}. Leave it empty where “Partition Key” is given.",
    )


def _training_params(use_case: UseCase) -> dict[str, Param]:
    training = use_case.training
    return {
        "window": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            maximum=3660,
            title="Window",
            description=f"Partitions to train on ({training.window} when empty)",
        ),
        "epochs": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            maximum=10_000,
            title="Epochs",
            description=f"At most so many epochs ({training.epochs} when empty)",
        ),
        "force": Param(
            False,
            type="boolean",
            title="Force",
            description="Let a run for an old partition replace a champion that was trained on newer data",
        ),
        "reason": Param(
            None, type=["null", "string"], maxLength=500, title="Reason", description="Why this training runs; kept with its results"
        ),
    }


def _utc(day: Any) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


_DATA_DOC = """
Takes one partition from its source to labelled rows: **ingest** → **validate** → **prepare**.

**When it fails.** `validate` *held*: too many rows broke an expectation, or the whole table did. The log names the
expectation and some row ids, the button *Data quality* opens the report. Mend the source or the expectation, then clear
`validate`. `ingest` failed with bad input: the file is missing, unreadable or lost a column; the log says which. Clearing
any task is safe: a partition is written whole or not at all, and writing the same rows again changes nothing.

**Backfill.** `airflow backfill create --dag-id … --from-date … --to-date …`, or the UI. Partitions may run in any order.
"""

_TRAINING_DOC = """
Trains on a frozen snapshot and lets the result serve if it is good enough: **snapshot** → **train** → **evaluate** →
**gate** → **register** → **deploy** → **verify**.

**When it fails.** `gate` *skipped*: the model was held back; the log's table says by which gate, with figure and bound, and
the champion goes on serving. `train` failed: a retry resumes from the newest complete checkpoint. `verify` failed: the
service answered differently from the evaluation, and the previous version serves again.
"""

_MONITORING_DOC = """
Compares one partition of the service's answers with what the champion was trained on: **profile** → **measure** →
**decide** → **report**, and **retrain** where that is the decision. *Skipped* `retrain` means: hold; its log has the reason.

**When it fails.** Clearing any task is safe: a decision, once made for a partition, stands, and a training is never started
twice for it. `retrain` failed because the training DAG is paused: unpause it and clear `retrain`.
"""
