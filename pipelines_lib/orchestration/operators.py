"""`run_job`: a stage as an Airflow task. Where it runs is decided here alone; the text of the DAGs does not know."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, Literal

from airflow.sdk import BaseOperator, Connection
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowNotFoundException, AirflowSkipException

from pipelines_lib import failures
from pipelines_lib.config import Profile, Project
from pipelines_lib.connections import variable_of
from pipelines_lib.contracts import EXTRA_STAGES, SHARDED, STAGES, TUNE, ExitCode, JobResult, JobSpec, Pipeline
from pipelines_lib.errors import ConfigError
from pipelines_lib.launcher import Job
from pipelines_lib.orchestration.links import LINKS
from pipelines_lib.orchestration.partition import partition_of
from pipelines_lib.orchestration.retrainings import seen
from pipelines_lib.orchestration.store import open_store
from pipelines_lib.store import StorePath, beside, read_json
from pipelines_lib.use_case import UseCase

OnHold = Literal["fail", "skip"]


@dataclass(frozen=True)
class Asked:
    """What one try of a task is to do, and where."""

    project: Project
    use_case: UseCase
    profile: Profile
    spec: JobSpec
    folder: StorePath
    """The stage's own in the store."""

    def secrets(self) -> dict[str, str]:
        """The connections that the stage needs, as environment variables of its processes.

        Airflow masks in the task's log what it hands out here. A connection that Airflow lacks may be in the worker's own environment, or
        among the Secrets that the profile gives to every pod.
        """
        use_case, stage = self.use_case, self.spec.stage
        secrets = {}
        for name in (*use_case.connections(stage), *self.profile.connections(stage)):
            variable = variable_of(name)
            try:
                secrets[variable] = Connection.get(name).as_json()
            except AirflowNotFoundException:
                if own := os.environ.get(variable):
                    secrets[variable] = own
                # Without the key of its hashes a stage makes one on this machine, and says elsewhere what to do.
                elif name != use_case.privacy.connection and not self._pods_get_secrets:
                    raise AirflowFailException(
                        f"{stage} of {use_case.name} needs connection {name!r}, and Airflow has none of this name; make it under "
                        f"Admin → Connections, or with `airflow connections add {name} --conn-type … --conn-host …`, and clear the task"
                    ) from None
        return secrets

    @property
    def _pods_get_secrets(self) -> bool:
        kubernetes = self.profile.kubernetes
        return self.profile.launcher != "local" and kubernetes is not None and bool(kubernetes.secrets)


class StageOperator(BaseOperator):
    """A stage as a task; what is the same wherever it runs.

    Exit codes: done; bad input fails without a retry; held fails without a retry or skips what follows (`on_hold`); all else
    is retried, and the stage resumes.
    """

    ui_color = "#e8f1f5"
    operator_extra_links = LINKS

    def __init__(
        self,
        *,
        use_case_name: str,
        pipeline: str,
        stage: str,
        workers: int = 1,
        shards: int = 1,
        shard: int | None = None,
        on_hold: OnHold = "fail",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.use_case_name = use_case_name
        self.pipeline = pipeline
        self.stage = stage
        self.workers = workers
        self.shards = shards
        self.shard = shard
        self.on_hold = on_hold
        self.result_links: dict[str, str] = {}

    @property
    def works_in_a_group(self) -> bool:
        """Whether several processes do the stage together."""
        return self.workers > 1

    def asked(self, context: Mapping[str, Any]) -> Asked:
        """What this try is to do. Raises `AirflowFailException` where the settings are wrong or the run names no partition."""
        project = Project.from_environment()
        try:
            use_case, profile = project.use_case(self.use_case_name), project.profile()
            spec = self._spec(context, use_case, profile)
            return Asked(project, use_case, profile, spec, beside(open_store(profile), spec.stage_dir))
        except ConfigError as error:
            raise AirflowFailException(str(error)) from error

    def _spec(self, context: Mapping[str, Any], use_case: UseCase, profile: Profile) -> JobSpec:
        params = {key: value for key, value in context["params"].items() if key != "partition" and value is not None}
        if self.stage == "decide":
            params |= seen(context["ti"], open_store(profile), use_case.name)
        return JobSpec(
            stage=self.stage,
            pipeline=Pipeline(self.pipeline),
            use_case=use_case.name,
            partition_key=partition_of(context, use_case),
            run_id=context["run_id"],
            profile=profile.name,
            store=profile.store,
            workers=self.workers,
            shards=self.shards,
            shard=self.shard,
            params=params,
        )

    def outcome(self, asked: Asked, code: int, context: Mapping[str, Any], more: str = "") -> dict[str, Any]:
        """The stage's figures, or the exception that its exit code stands for; `more` is added to the message of a failure."""
        if code == ExitCode.BAD_INPUT:
            raise AirflowFailException(
                f"{self.stage}: bad input, so it is not tried again; the log's last ERROR line says what to change"
                f"{self.first_failure(asked)}{more}"
            )
        if code not in (ExitCode.DONE, ExitCode.HELD):
            how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
            raise AirflowException(f"{self.stage} {how}; a retry resumes it. The log above has the cause{self.first_failure(asked)}{more}")
        result = JobResult.model_validate(read_json(asked.folder / "result.json"))
        self.result_links = result.links
        if code == ExitCode.HELD:
            raise (AirflowSkipException if self.on_hold == "skip" else AirflowFailException)(f"held: {result.reason}")
        for asset in self.outlets:
            context["outlet_events"][asset].extra = {"partition_key": asked.spec.partition_key, **result.figures}
        return {"reason": result.reason, **result.figures}

    def first_failure(self, asked: Asked) -> str:
        """Of the processes that failed, the first: where several work on a stage, with its traceback."""
        found = failures.left(asked.folder)
        if not found:
            return ""
        return f". {failures.text(found)}" if self.works_in_a_group else f": {found[0].type}: {found[0].message}"


class LocalJobOperator(StageOperator):
    """Run a stage as a process group of the worker's machine. Its output streams into the task's log."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._job: Job | None = None

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Run the stage to its end and return its figures. Raises `AirflowFailException` where the store refuses its spec, or its result."""
        asked = self.asked(context)
        try:
            self._job = Job(asked.spec, asked.project, asked.profile.grace_seconds, secrets=asked.secrets())
            return self.outcome(asked, self._job.run(self.log.info), context)
        except ConfigError as error:
            raise AirflowFailException(str(error)) from error

    def on_kill(self) -> None:
        """End every process of the stage."""
        if self._job is not None:
            self._job.cancel()


RETRIES: dict[str, Any] = {"retries": 2, "retry_delay": timedelta(seconds=30), "retry_exponential_backoff": 2.0}
"""Of every task that does not say otherwise."""


def _operator() -> type[StageOperator]:
    """The operator of the profile's launcher."""
    if _launcher(Project.from_environment()) == "local":
        return LocalJobOperator
    from pipelines_lib.orchestration.pods.operator import PodJobOperator  # noqa: PLC0415 - slow to import, and a laptop needs none of it

    return PodJobOperator


@cache
def _launcher(project: Project) -> str:
    """Where stages of `project` run; read once in a process that parses many tasks."""
    return project.profile().launcher


def run_job(
    use_case: UseCase, pipeline: Pipeline, stage: str, *, on_hold: OnHold = "fail", workers: int = 1, shards: int = 1, **kwargs: Any
) -> BaseOperator:
    """The task of `stage`, which puts its shards together where there are several. `kwargs` are Airflow's own task arguments."""
    assert stage in (*STAGES[pipeline], *EXTRA_STAGES[pipeline]), f"{stage} is no stage of {pipeline}"
    return _operator()(
        task_id=stage,
        use_case_name=use_case.name,
        pipeline=str(pipeline),
        stage=stage,
        workers=workers,
        shards=shards,
        on_hold=on_hold,
        **{**RETRIES, **kwargs},
    )


def run_sharded(use_case: UseCase, pipeline: Pipeline, stage: str, **kwargs: Any) -> list[Any]:
    """The tasks of a stage that the use case splits: one mapped over its shards, `<stage>_shards`, and `stage`; or `stage` alone.

    Each shard is retried by itself. `kwargs` are Airflow's own arguments of the task `stage`.
    """
    assert stage in SHARDED, f"{stage} has no shards"
    whole = run_job(use_case, pipeline, stage, shards=use_case.shards, **kwargs)
    if use_case.shards == 1:
        return [whole]
    mapped = _operator().partial(
        task_id=f"{stage}_shards", use_case_name=use_case.name, pipeline=str(pipeline), stage=stage, shards=use_case.shards, **RETRIES
    )
    return [mapped.expand(shard=list(range(use_case.shards))), whole]


def run_trials(use_case: UseCase, **kwargs: Any) -> list[Any]:
    """The tasks of the tuning: one mapped over its trials, `tune_trials`, and `tune`, which picks the best; none where the use case has none.

    Each trial is retried by itself, and one that fails leaves the others to be picked from. `kwargs` are Airflow's own arguments of a trial.
    """
    tuning = use_case.tuning
    if tuning is None:
        return []
    mapped = _operator().partial(
        task_id=f"{TUNE}_trials",
        use_case_name=use_case.name,
        pipeline=str(Pipeline.TRAINING),
        stage=TUNE,
        shards=tuning.trials,
        workers=use_case.training.workers,
        max_active_tis_per_dagrun=tuning.parallel,
        **{**RETRIES, **kwargs},
    )
    picks = run_job(use_case, Pipeline.TRAINING, TUNE, shards=tuning.trials, trigger_rule="all_done_min_one_success")
    return [mapped.expand(shard=list(range(tuning.trials))), picks]


def setup_of(stage: str) -> str:
    """The task that prepares a stage of several machines."""
    return f"{stage}_setup"


def run_train(use_case: UseCase, **kwargs: Any) -> list[Any]:
    """The tasks of the training; `kwargs` are Airflow's own arguments of each machine's.

    One task, `train`; with the launcher `trainjob` always. Where it is to run on several machines and the launcher has them: `train_setup`, which makes the place where they meet,
    `train`, mapped over them, and beside what follows `train_teardown`, which removes it, whatever happens.
    """
    training, nodes = use_case.training, use_case.training.nodes
    launcher = _launcher(Project.from_environment())
    if launcher == "local" or (launcher == "kubernetes" and nodes[1] == 1):
        return [run_job(use_case, Pipeline.TRAINING, "train", workers=training.workers, **kwargs)]
    common: dict[str, Any] = {
        "use_case_name": use_case.name,
        "pipeline": str(Pipeline.TRAINING),
        "stage": "train",
        "workers": training.workers,
    }
    if launcher == "trainjob":
        from pipelines_lib.orchestration.pods.trainjob import TrainJobOperator  # noqa: PLC0415 - slow to import, seldom needed

        return [TrainJobOperator(task_id="train", **common, n_nodes=nodes[0], **{**RETRIES, **kwargs})]
    from pipelines_lib.orchestration.pods.rendezvous import SetUpOperator, TearDownOperator  # noqa: PLC0415 - slow to import, seldom needed

    set_up = SetUpOperator(task_id=setup_of("train"), **common, **RETRIES).as_setup()
    ranks = _operator().partial(task_id="train", **common, nodes=nodes, **{**RETRIES, **kwargs}).expand(node=list(range(nodes[1])))
    ranks >> TearDownOperator(task_id="train_teardown", **common, **RETRIES).as_teardown(setups=set_up)
    return [set_up, ranks]
