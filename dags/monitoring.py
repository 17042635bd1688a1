"""The Airflow DAGs `<use_case>__monitoring`: one partition's answers against what the champion was trained on."""

from airflow.sdk import DAG, chain

from pipelines_lib.contracts import Pipeline
from pipelines_lib.orchestration.dags import good_use_cases, pipeline_dag, told
from pipelines_lib.orchestration.operators import run_job
from pipelines_lib.orchestration.retrain import RetrainOperator
from pipelines_lib.use_case import UseCase

DOC = """
Compares one partition of the service's answers with what the champion was trained on: **profile** → **measure** →
**decide** → **retrain** → **report**. *Skipped* `retrain` means: hold, or alert, or another retraining was quicker; its log has the reason. **tell**, where the
profile has `alerts`, tells people of a retraining or an alert.

**When it fails.** Clearing any task is safe: a decision that fired a training stands, and none is ever started twice for a
partition. `retrain` failed because the training DAG is paused: unpause it and clear `retrain`; the report follows. `tell` failed because somebody could not be reached: see the
connections of the profile's `alerts`.
"""


def monitoring_dag(use_case: UseCase) -> DAG:
    """profile → measure → decide → retrain, where that is the decision → report."""
    monitoring = Pipeline.MONITORING
    with pipeline_dag(use_case, monitoring, cron=use_case.schedule.monitoring, run_offset=-1, doc=DOC) as dag:
        decide = run_job(use_case, monitoring, "decide")
        retrain = RetrainOperator(task_id="retrain", use_case=use_case)
        # After `retrain`, which another retraining may forestall: the page says what came of the decision.
        report = run_job(use_case, monitoring, "report", trigger_rule="none_failed")
        chain(run_job(use_case, monitoring, "profile"), run_job(use_case, monitoring, "measure"), decide, retrain, report)
        chain(decide, report)
        for tell in told(use_case):
            retrain >> tell
    return dag


for case in good_use_cases():
    globals()[f"{case.name}__monitoring"] = monitoring_dag(case)
