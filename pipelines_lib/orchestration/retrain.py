"""The task that fires a retraining. A module of its own: Airflow's trigger operator is slow to import, and each task pays."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, DagRunTriggerException

from pipelines_lib.config import Project
from pipelines_lib.contracts import JobResult, JobSpec, Pipeline, dag_id, triggered_path
from pipelines_lib.errors import ConfigError
from pipelines_lib.orchestration.partition import partition_of
from pipelines_lib.store import read_json, write_json
from pipelines_lib.use_case import UseCase


class RetrainOperator(TriggerDagRunOperator):
    """Start the training that `decide` asked for, under the run id it named: a retry or rerun finds the run there already.

    A mark in the store tells the governor that a training was fired. It is written when Airflow is about to be asked: the
    request itself is made after `execute`, out of our hands. Where it fails in every try, the task is red and the mark is
    there nevertheless, so the cool-down counts a training that never ran; clearing the task asks again.
    """

    def __init__(self, *, use_case: UseCase, **kwargs: Any) -> None:
        # A locked database must not lose the retraining; the run id makes another try safe.
        kwargs = {"retries": 2, "retry_delay": timedelta(seconds=30), "retry_exponential_backoff": 2.0, **kwargs}
        super().__init__(
            trigger_dag_id=dag_id(use_case.name, Pipeline.TRAINING),
            logical_date=None,
            skip_when_already_exists=True,
            fail_when_dag_is_paused=True,
            openlineage_inject_parent_info=False,
            **kwargs,
        )
        self.use_case_name = use_case.name

    def execute(self, context: Any) -> None:
        """Trigger, or skip with the reason of the hold."""
        project = Project.from_environment()
        try:
            use_case = project.use_case(self.use_case_name)
            store = project.profile().store
        except ConfigError as error:
            raise AirflowFailException(str(error)) from error
        key = partition_of(context, use_case)
        spec = JobSpec(
            stage="decide", pipeline=Pipeline.MONITORING, use_case=use_case.name, partition_key=key, run_id=context["run_id"], store=store
        )
        decision = JobResult.model_validate(read_json(Path(spec.stage_dir) / "result.json")).outputs
        if decision["action"] != "retrain":
            raise AirflowSkipException(f"no retraining: {decision['reason']}")
        self.trigger_run_id = str(decision["trigger_run_id"])
        self.conf = {"partition": key, "reason": decision["reason"]}
        self.log.info("retraining as run %s: %s", self.trigger_run_id, json.dumps(self.conf))
        try:
            super().execute(context)
        except DagRunTriggerException:
            # Airflow's way to ask for the run. What speaks against asking (the DAG is paused) was raised before.
            write_json(triggered_path(store, use_case.name, key), {"partition_key": key, "run_id": self.trigger_run_id})
            raise
