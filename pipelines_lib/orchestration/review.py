"""The task that waits for people. A module of its own: Airflow's human-in-the-loop operators are slow to import, and each task pays."""

from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from pipelines_lib.config import Project
from pipelines_lib.contracts import JobResult, JobSpec, Pipeline
from pipelines_lib.errors import ConfigError
from pipelines_lib.orchestration.partition import partition_of
from pipelines_lib.store import read_json
from pipelines_lib.use_case import UseCase
from pipelines_lib.use_case.base import duration_text

REVIEWED, SKIP = "Reviewed", "Go on without"


class ReviewOperator(HITLOperator):
    """Ask in the Airflow UI whether the partition's uncertain rows were reviewed; skipped where there are none.

    The rows themselves are not shown here: a task's texts are kept in Airflow's database. A backfill asks nobody, since each of
    its days would.
    """

    def __init__(self, *, use_case: UseCase, **kwargs: Any) -> None:
        review = use_case.label.review
        assert review is not None
        kwargs = {"retries": 2, "retry_delay": timedelta(seconds=30), "retry_exponential_backoff": 2.0, **kwargs}
        super().__init__(
            subject=f"{use_case.title}: rows wait for review",
            options=[REVIEWED, SKIP],
            defaults=[SKIP],
            response_timeout=review.timeout,
            **kwargs,
        )
        self.use_case_name = use_case.name

    def execute(self, context: Any) -> Any:
        """Ask, or skip with the reason."""
        project = Project.from_environment()
        try:
            use_case = project.use_case(self.use_case_name)
            store = project.profile().store
        except ConfigError as error:
            raise AirflowFailException(str(error)) from error
        key = partition_of(context, use_case)
        spec = JobSpec(
            stage="prepare", pipeline=Pipeline.DATA, use_case=use_case.name, partition_key=key, run_id=context["run_id"], store=store
        )
        outputs = JobResult.model_validate(read_json(Path(spec.stage_dir) / "result.json")).outputs
        n_rows, partitions = int(str(outputs.get("n_for_review", 0))), outputs.get("labelled_partitions")
        if not n_rows:
            raise AirflowSkipException("no row waits for review")
        if context["dag_run"].run_type == "backfill":
            raise AirflowSkipException(f"{n_rows} rows wait for review, and a backfill asks nobody: `sluice label export {use_case.name}`")
        named = " ".join(f"--partition {partition}" for partition in partitions) if isinstance(partitions, list) else ""
        self.subject = f"{use_case.title}: {n_rows} rows wait for review ({key})"
        self.body = (
            f"1. `sluice label export {use_case.name} --out tasks.json {named}`, and import the tasks in Label Studio.\n"
            f"2. `sluice label import {use_case.name} answers.json`, or put Label Studio's export into `{store}/{use_case.name}/review/answers/`.\n"
            f"3. Answer *{REVIEWED}*. *{SKIP}* leaves the labels as they are; so does no answer within {duration_text(use_case.label.review.timeout)}."  # type: ignore[union-attr]
        )
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Go on where the rows were reviewed, otherwise skip what follows."""
        answer = super().execute_complete(context, event)
        if answer["chosen_options"] != [REVIEWED]:
            raise AirflowSkipException("nobody has reviewed the rows, so the labels stay as they are")
        return answer["chosen_options"]
