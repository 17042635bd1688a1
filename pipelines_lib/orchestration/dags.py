"""What the DAGs of every family share; what follows what stands in `dags/`."""

import math
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from airflow.sdk import (
    DAG,
    Asset,
    BaseOperator,
    CronPartitionTimetable,
    Param,
    PartitionedAtRuntime,
)

from pipelines_lib.config import Profile, Project
from pipelines_lib.contracts import Pipeline, dag_id
from pipelines_lib.orchestration.operators import run_job
from pipelines_lib.use_case import UseCase


def good_use_cases() -> list[UseCase]:
    """Every use case whose settings are right. The others show as the import error of `dags/broken_use_cases.py`."""
    return Project.from_environment().use_cases_or_errors()[0]


def labelled_asset(use_case: UseCase) -> Asset:
    """What a data run publishes: the labelled table, one event a partition."""
    # Without a URI's scheme: looking one up makes Airflow import every provider that has one (boto3 among them) at parse time.
    return Asset(name=f"{use_case.name}__labelled", group="sluice")


def scored_asset(use_case: UseCase) -> Asset:
    """What a data run of a use case with `deployment.batch` publishes too: the table of scores, one event a partition."""
    return Asset(name=f"{use_case.name}__scored", group="sluice")


def approval(use_case: UseCase) -> list[BaseOperator]:
    """A person's yes in the Airflow UI, and the stage that keeps it with the version; none where the use case asks nobody."""
    if use_case.deployment.approve is None:
        return []
    from pipelines_lib.orchestration.approve import ApproveOperator  # noqa: PLC0415 - slow to import, seldom needed

    asks = ApproveOperator(task_id="approve", use_case=use_case)
    return [asks, run_job(use_case, Pipeline.TRAINING, "approved", on_hold="skip")]


def row_review(use_case: UseCase) -> BaseOperator:
    """A person's word that the uncertain rows were reviewed, asked for where the use case wants it."""
    from pipelines_lib.orchestration.review import ReviewOperator  # noqa: PLC0415 - slow to import, seldom needed

    return ReviewOperator(task_id="review", use_case=use_case)


def runs_that_wait(use_case: UseCase) -> int:
    """How many daily (or hourly) runs may be waiting for a person at a time."""
    assert use_case.label.review is not None
    return math.ceil(use_case.label.review.timeout / use_case.partition_step)


def pipeline_dag(
    use_case: UseCase,
    pipeline: Pipeline,
    *,
    cron: str | None,
    run_offset: int,
    doc: str,
    params: dict[str, Param] | None = None,
    max_active_runs: int = 1,
) -> DAG:
    """An empty DAG with what the house asks of each: partition, owner, doc, tags, form, no catch-up.

    A scheduled run of `cron` is for the partition `run_offset` ticks away: -1 is the one that has just closed.
    """
    timetable = (
        PartitionedAtRuntime()
        if cron is None
        else CronPartitionTimetable(cron, timezone="UTC", run_offset=run_offset, key_format=use_case.key_format)
    )
    last = use_case.last_day
    of_tasks, of_dag = _telling(use_case, pipeline)
    return DAG(
        dag_id=dag_id(use_case.name, pipeline),
        description=f"{use_case.title}: {pipeline}",
        doc_md=f"# {use_case.title}: {pipeline}\n\n{use_case.description.strip()}\n\n**Owner:** {use_case.owner}\n\n{doc}",
        schedule=timetable,
        start_date=_utc(use_case.start),
        # The tick that asks for the last partition comes up to a day after it.
        end_date=None if last is None else _utc(last) + timedelta(days=2),
        catchup=False,
        max_active_runs=max_active_runs,
        default_args={"owner": use_case.owner, **of_tasks},
        tags=["sluice", use_case.name, str(pipeline)],
        params={"partition": _partition_param(use_case), **(params or {})},
        render_template_as_native_obj=False,
        **of_dag,
    )


def told(use_case: UseCase) -> list[BaseOperator]:
    """The task that tells people what the governor decided; none where the profile has no `alerts`."""
    if not _profile().alerts:
        return []
    from pipelines_lib.orchestration.alerts import TellOperator  # noqa: PLC0415 - for those who want to be told

    return [TellOperator(task_id="tell", use_case=use_case)]


def _telling(use_case: UseCase, pipeline: Pipeline) -> tuple[dict[str, Any], dict[str, Any]]:
    """(default arguments of the tasks, arguments of the DAG) by which somebody is told of a failure, and of monitoring that is late."""
    profile = _profile()
    if not profile.alerts:
        return {}, {}
    from pipelines_lib.orchestration.alerts import Alerts, deadline  # noqa: PLC0415 - for those who want to be told

    late = {"deadline": deadline(use_case, profile)} if pipeline == Pipeline.MONITORING else {}
    return {"on_failure_callback": Alerts(use_case=use_case.name)}, late


def _profile() -> Profile:
    return _profile_of(Project.from_environment())


@cache
def _profile_of(project: Project) -> Profile:
    """Read once in a process that parses many DAGs."""
    return project.profile()


def _partition_param(use_case: UseCase) -> Param:
    pattern = r"^\d{4}-\d{2}-\d{2}$" if use_case.partition == "day" else r"^\d{4}-\d{2}-\d{2}T\d{2}$"
    return Param(
        None,
        type=["null", "string"],
        pattern=pattern,
        title="Partition",
        description=f"Which partition, for instance {use_case.start:{use_case.key_format}}. Leave it empty where “Partition Key” is given.",
    )


def _utc(day: Any) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
