"""What a training takes over from the tuning before it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import JsonValue, ValidationError

from pipelines_lib.errors import ConfigError, DataError
from pipelines_lib.jobs.snapshot import snapshot_of
from pipelines_lib.jobs.stage import Stage, is_first_rank, log
from pipelines_lib.use_case.training import OF_THE_MACHINES
from pipelines_lib.use_case.tuning import tuned

_MAY_CHANGE = {"trials", "parallel", "time", "cost"}
"""Settings of a tuning that do not decide what a trial tries and what comes of it: with more trials the same study goes on."""


def study_name(stage: Stage) -> str:
    """Name of the run's study: another snapshot or other settings are another study, and a retry has the same."""
    use_case = stage.use_case
    assert use_case.tuning is not None
    types = use_case.feature_types
    decides = [
        snapshot_of(stage).content_hash,
        use_case.training.model_dump(mode="json", exclude=set(OF_THE_MACHINES)),
        use_case.tuning.model_dump(mode="json", exclude=_MAY_CHANGE),
        types,
        own_model(stage),
    ]
    mark = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
    return f"{use_case.name}/{stage.spec.run_id}/{mark}"


def own_model(stage: Stage) -> str:
    """The text of `hooks.py`, where the model is the user's own: another text may be another model."""
    if stage.use_case.training.model.type != "hooks":
        return ""
    return Path(str(stage.hooks().__file__)).read_text(encoding="utf-8")


def chosen(stage: Stage) -> Stage:
    """The stage with the settings of the best trial, where its use case has `tuning:`. Raises `DataError` where they were chosen under others."""
    if stage.use_case.tuning is None:
        return stage
    outputs = stage.result_of("tune").outputs
    values = outputs["values"]
    assert isinstance(values, dict)
    if outputs["study"] != study_name(stage):
        raise DataError(
            f"the trials of this run were made of other rows or under other settings than those of now; run tune for all {stage.use_case.tuning.trials} "
            "trials again (in Airflow: clear tune_trials with what follows it)"
        )
    if is_first_rank():
        log.info("settings of trial %s: %s", outputs["trial"], ", ".join(f"{name} {value}" for name, value in values.items()))
    return with_settings(stage, values)


def with_settings(stage: Stage, values: Mapping[str, JsonValue]) -> Stage:
    """The stage with these settings of its training. Raises `ConfigError` where they do not go together."""
    try:
        training = tuned(stage.use_case.training, values)
    except ValidationError as error:
        told = "; ".join(str(problem["msg"]) for problem in error.errors())
        raise ConfigError(f"these settings do not go together ({', '.join(map(str, values))}): {told}; change tuning.space") from error
    return replace(stage, use_case=stage.use_case.model_copy(update={"training": training}))
