"""The task that fires a retraining. A module of its own: Airflow's trigger operator is slow to import, and each task pays."""

import json
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk.exceptions import AirflowSkipException

from pipelines_lib.config import Project
from pipelines_lib.contracts import JobResult, JobSpec, Pipeline, dag_id
from pipelines_lib.orchestration.partition import partition_of
from pipelines_lib.store import read_json
from pipelines_lib.use_case import UseCase


class RetrainOperator(TriggerDagRunOperator):
    """Start the training that `decide` asked for, under the run id it named: a retry or rerun finds the run there already."""

    def __init__(self, *, use_case: UseCase, **kwargs: Any) -> None:
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
        use_case = project.use_case(self.use_case_name)
        key = partition_of(context, use_case)
        spec = JobSpec(
            stage="decide", pipeline=Pipeline.MONITORING, use_case=use_case.name, partition_key=key,
            run_id=context["run_id"], store=project.profile().store,
        )  # fmt: skip
        decision = JobResult.model_validate(read_json(Path(spec.stage_dir) / "result.json")).outputs
        if decision["action"] != "retrain":
            raise AirflowSkipException(f"no retraining: {decision['reason']}")
        self.trigger_run_id = str(decision["trigger_run_id"])
        self.conf = {"partition": key, "reason": decision["reason"]}
        self.log.info("retraining as run %s: %s", self.trigger_run_id, json.dumps(self.conf))
        super().execute(context)
