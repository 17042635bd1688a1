"""The task that fires a retraining. A module of its own: Airflow's trigger operator is slow to import, and each task pays."""

import json
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk.exceptions import AirflowSkipException, DagRunTriggerException

from pipelines_lib.contracts import Pipeline, dag_id
from pipelines_lib.errors import Held
from pipelines_lib.orchestration.earlier import earlier
from pipelines_lib.orchestration.operators import RETRIES
from pipelines_lib.orchestration.retrainings import enter
from pipelines_lib.use_case import UseCase


class RetrainOperator(TriggerDagRunOperator):
    """Start the training that `decide` asked for, under the run id it named: a retry or rerun finds the run there already.

    The retraining is entered in the use case's ledger first, unless another was entered since the decision: partitions that are
    decided on at the same time, by a backfill or by two schedulers, fire one training together. It is entered when Airflow is
    about to be asked: the request itself is made after `execute`, out of our hands. Where that fails in every try, the task is
    red and the entry is there nevertheless, so the cool-down counts a training that never ran; clearing the task asks again.
    """

    def __init__(self, *, use_case: UseCase, **kwargs: Any) -> None:
        # A locked database must not lose the retraining; the run id makes another try safe.
        super().__init__(
            trigger_dag_id=dag_id(use_case.name, Pipeline.TRAINING),
            logical_date=None,
            skip_when_already_exists=True,
            fail_when_dag_is_paused=True,
            openlineage_inject_parent_info=False,
            **{**RETRIES, **kwargs},
        )
        self.use_case_name = use_case.name

    def execute(self, context: Any) -> None:
        """Trigger, or skip with the reason."""
        decided = earlier(context, self.use_case_name, Pipeline.MONITORING, "decide")
        decision, key = decided.result.outputs, decided.partition_key
        if decision["action"] != "retrain":
            raise AirflowSkipException(f"no retraining: {decision['reason']}")
        self.trigger_run_id = str(decision["trigger_run_id"])
        self.conf = {"partition": key, "reason": decision["reason"]}
        self.log.info("retraining as run %s: %s", self.trigger_run_id, json.dumps(self.conf))
        try:
            super().execute(context)
        except DagRunTriggerException:
            # Airflow's way to ask for the run. What speaks against asking (the DAG is paused) was raised before.
            try:
                enter(decided)
            except Held as held:
                raise AirflowSkipException(f"no retraining: {held.reason}") from None
            raise
