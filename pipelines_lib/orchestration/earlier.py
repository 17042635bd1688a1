"""What an operator of our own needs to know of the run that it stands in: its partition, and what an earlier stage left."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow.sdk.exceptions import AirflowFailException

from pipelines_lib.config import Project
from pipelines_lib.contracts import JobResult, JobSpec, Pipeline
from pipelines_lib.errors import ConfigError
from pipelines_lib.orchestration.partition import partition_of
from pipelines_lib.orchestration.store import open_store
from pipelines_lib.store import StorePath, beside, read_json
from pipelines_lib.use_case import UseCase


@dataclass(frozen=True)
class Earlier:
    """An earlier stage of a run."""

    use_case: UseCase
    store: StorePath
    partition_key: str
    run_folder: StorePath
    """What the folders of the run's stages lie in."""
    result: JobResult


def earlier(context: Mapping[str, Any], use_case_name: str, pipeline: Pipeline, stage: str) -> Earlier:
    """What `stage` of this run left. Raises `AirflowFailException` where the settings are wrong or the run names no partition."""
    project = Project.from_environment()
    try:
        use_case = project.use_case(use_case_name)
        profile = project.profile()
        store, key = open_store(profile), partition_of(context, use_case)
        spec = JobSpec(
            stage=stage, pipeline=pipeline, use_case=use_case.name, partition_key=key, run_id=context["run_id"], store=profile.store
        )
        result = JobResult.model_validate(read_json(beside(store, f"{spec.stage_dir}/result.json")))
    except ConfigError as error:
        raise AirflowFailException(str(error)) from error
    return Earlier(use_case, store, key, beside(store, spec.run_dir), result)
