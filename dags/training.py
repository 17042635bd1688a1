"""The Airflow DAGs `<use_case>__training`: from a frozen snapshot to a verified champion."""

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, chain

from pipelines_lib.config import Project
from pipelines_lib.contracts import Pipeline
from pipelines_lib.orchestration.dags import approval, good_use_cases, pipeline_dag
from pipelines_lib.orchestration.operators import run_job, run_train, run_trials
from pipelines_lib.use_case import UseCase

DOC = """
Trains on a frozen snapshot and lets the result serve if it is good enough: **snapshot** → **train** → **evaluate** →
**gate** → **register** → **deploy** → **verify**.

The run's partition is the newest that its window may hold; a scheduled run names its own day, so it takes every day that has
closed by then.

**When it fails.** `gate` *skipped*: the model was held back; the log's table says by which gate, with figure and bound, and
the champion goes on serving. `train` failed: a retry resumes from the newest complete checkpoint. `verify` failed: the
service answered differently from the evaluation, or the version fared worse than the champion on users' requests (`deployment.rollout`), and the previous
version serves again. *Held* by the budget: raise `budget` and clear
the task, and it goes on where it was.

**Approval.** Where the use case asks a person, `approve` waits for an answer with the evaluation's report at hand, and `approved` keeps with the
version who said what, when and why. *Skipped* `approved`: the answer was no, or none came in time, and the champion goes on serving.

**Devices.** Where the use case names them, `release` puts the new champion up for them in a smaller format. *Held*: it answers too differently from the
server; its report says how, the service and the devices stay as they are, and `precision` or the bounds of `deployment.edge` are to be changed.

**Several machines.** Where the use case asks for them and a cluster has them, `train` is mapped, one task a machine, between `train_setup` and
`train_teardown`. A machine that is lost is tried again by itself, and the others wait for it.

**Tuning.** Where the use case asks for it, `tune_trials` tries settings and `tune` picks the best, which `train` then takes; the button
*Trials* shows them all. A trial that is retried or cleared is the same trial. After the settings were changed clear `tune_trials` with what
follows it.
"""


def training_dag(use_case: UseCase) -> DAG:
    """snapshot (→ tune_trials → tune) → train → evaluate → gate → register (→ approve → approved) → deploy → verify (→ release)."""
    training = Pipeline.TRAINING
    pool = Project.from_environment().profile().training_pool
    # A machine that is taken away costs a retry, and the training goes on from its checkpoint.
    trains: dict[str, Any] = {"pool": pool, "execution_timeout": timedelta(hours=12), "retries": 5}
    with pipeline_dag(use_case, training, cron=use_case.schedule.training, run_offset=0, doc=DOC, params=form(use_case)) as dag:
        chain(
            run_job(use_case, training, "snapshot"),
            *run_trials(use_case, **trains),
            *run_train(use_case, **trains),
            run_job(use_case, training, "evaluate"),
            run_job(use_case, training, "gate", on_hold="skip"),
            run_job(use_case, training, "register"),
            *approval(use_case),
            run_job(use_case, training, "deploy"),
            run_job(use_case, training, "verify"),
            *([run_job(use_case, training, "release")] if use_case.deployment.edge is not None else []),
        )
    return dag


def form(use_case: UseCase) -> dict[str, Param]:
    """What a person may set in the form of a manual run."""
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


for case in good_use_cases():
    globals()[f"{case.name}__training"] = training_dag(case)
