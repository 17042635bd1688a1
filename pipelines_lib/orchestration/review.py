"""The task that waits for people. A module of its own: Airflow's human-in-the-loop operators are slow to import, and each task pays."""

from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk.exceptions import AirflowSkipException

from pipelines_lib.contracts import Pipeline
from pipelines_lib.orchestration.earlier import earlier
from pipelines_lib.orchestration.operators import RETRIES
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
        super().__init__(
            subject=f"{use_case.title}: rows wait for review",
            options=[REVIEWED, SKIP],
            defaults=[SKIP],
            response_timeout=review.timeout,
            **{**RETRIES, **kwargs},
        )
        self.use_case_name = use_case.name

    def execute(self, context: Any) -> Any:
        """Ask, or skip with the reason."""
        prepared = earlier(context, self.use_case_name, Pipeline.DATA, "prepare")
        use_case, key = prepared.use_case, prepared.partition_key
        n_rows, partitions = int(str(prepared.result.outputs.get("n_for_review", 0))), prepared.result.outputs.get("labelled_partitions")
        if not n_rows:
            raise AirflowSkipException("no row waits for review")
        if context["dag_run"].run_type == "backfill":
            raise AirflowSkipException(f"{n_rows} rows wait for review, and a backfill asks nobody: `sluice label export {use_case.name}`")
        named = " ".join(f"--partition {partition}" for partition in partitions) if isinstance(partitions, list) else ""
        self.subject = f"{use_case.title}: {n_rows} rows wait for review ({key})"
        self.body = (
            f"1. `sluice label export {use_case.name} --out tasks.json {named}`, and import the tasks in Label Studio.\n"
            f"2. `sluice label import {use_case.name} answers.json`, or put Label Studio's export into `{prepared.store}/{use_case.name}/review/answers/`.\n"
            f"3. Answer *{REVIEWED}*. *{SKIP}* leaves the labels as they are; so does no answer within {duration_text(use_case.label.review.timeout)}."  # type: ignore[union-attr]
        )
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Go on where the rows were reviewed, otherwise skip what follows."""
        answer = super().execute_complete(context, event)
        if answer["chosen_options"] != [REVIEWED]:
            raise AirflowSkipException("nobody has reviewed the rows, so the labels stay as they are")
        return answer["chosen_options"]
