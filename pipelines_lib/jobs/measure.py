"""Compare a partition with what the model that answered was trained on, and, where labels have come, with the truth.

python -m pipelines_lib.jobs.measure --spec spec.json
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines_lib.contracts import JobResult, ModelRef
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import DataError
from pipelines_lib.jobs.stage import Stage, run_stage
from pipelines_lib.monitoring.answers import answer_keys, answered, main_version, with_answers_of
from pipelines_lib.monitoring.estimate import LossModel
from pipelines_lib.monitoring.health import health
from pipelines_lib.monitoring.history import PERFORMANCE, drift_rows, look_back, performance_row, window
from pipelines_lib.monitoring.joint import drift_of_answers
from pipelines_lib.monitoring.performance import estimated, realised
from pipelines_lib.monitoring.reference import Reference, inputs_by_importance
from pipelines_lib.monitoring.sketch import DataProfile
from pipelines_lib.registry.package import MANIFEST, PROFILE, Manifest
from pipelines_lib.serving.pointer import deployed_version, package_folder
from pipelines_lib.store import read_json


@dataclass(frozen=True)
class _Answered:
    """A partition and the model that answered it."""

    partition_key: str
    model: ModelRef


def main(stage: Stage) -> JobResult:
    """Drift of every column into the table `drift`; performance into the result."""
    key = stage.spec.partition_key
    tables = Tables(stage.root)
    [row] = tables.read("profiles", [key]).to_pylist()
    by_version = {int(v): n for v, n in json.loads(row["versions"]).items()}
    version = main_version(by_version)
    fared = health(tables, stage.use_case, key, row["n_rows"])
    tables.write("health", key, fared.row())
    if version is None:
        tables.write("drift", key, drift_rows([], 0))
        tables.write("performance", key, pa.Table.from_pylist([], schema=PERFORMANCE))
        return JobResult(
            stage="measure",
            reason=f"nothing was answered on {key}, so there is nothing to compare",
            figures={"n_rows": 0, "health": asdict(fared)},
        )
    model = model_of(stage, version)
    reference = reference_of(stage, model)
    today = _Answered(key, model)
    rows_now = _rows(stage, tables, today, reference)
    if not rows_now.num_rows:
        raise DataError(f"the answers of version {version} on {key} have been replaced since they were profiled; clear `profile`")
    profile = DataProfile.from_json(row["profile_json"])
    if len(by_version) > 1:
        profile = with_answers_of(profile, rows_now, stage.use_case)
    drifts = drift_of_answers(reference, profile, rows_now, stage.use_case.monitoring.psi)
    if not drifts:
        raise DataError(f"version {version} was trained on none of the columns that {key} has; train again with the use case as it is now")
    rows = drift_rows(drifts, version)
    tables.write("drift", key, rows)
    found = window(key, rows)
    performance, guess = _performance(stage, tables, today, reference, rows_now)
    filled = []
    for earlier in _newly_labelled(stage, tables):
        known = reference_of(stage, earlier.model)
        then = _rows(stage, tables, earlier, known)
        if then.num_rows:
            _performance(stage, tables, earlier, known, then)
            filled.append(earlier)
    drifted = [drift.column for drift in drifts if drift.drifted]
    return JobResult(
        stage="measure",
        reason=f"{found.n_drifted} of {found.n_inputs} input columns have drifted from version {version}'s training data"
        + (", and so have the predictions" if found.prediction_drifted else ""),
        figures={
            "n_rows": found.n_rows,
            "model_version": version,
            "drifted": list(drifted),
            "drifted_share": round(found.drifted_share, 4),
            "prediction_drifted": found.prediction_drifted,
            "performance": performance,
            "estimated": guess,
            "health": asdict(fared),
            "labels_came": [earlier.partition_key for earlier in filled],
        },
        outputs={"model_version": version, "performance": performance, "estimated": guess, "health": asdict(fared)},
    )


def model_of(stage: Stage, version: int) -> ModelRef:
    """The deployed model of that version. Raises `DataError` where none was deployed."""
    model = deployed_version(stage.root, version)
    if model is None:
        raise DataError(
            f"answers name model version {version}, and {stage.root / 'deployments'} knows no such; restore its file, or deploy the version again"
        )
    return model


def reference_of(stage: Stage, model: ModelRef) -> Reference:
    """What `model` was trained on, and what it knows of itself."""
    return Reference.from_json((package_folder(stage.root, model) / PROFILE).read_text(encoding="utf-8"))


def reference_profile(stage: Stage, model: ModelRef) -> DataProfile:
    """Profile of the rows `model` was trained on."""
    return reference_of(stage, model).profile


def _rows(stage: Stage, tables: Tables, of: _Answered, reference: Reference) -> pa.Table:
    """The answers of one version, none where another has scored the partition anew since; with their inputs where something looks at these row by row."""
    keys = answer_keys(stage.use_case)
    looked_at = inputs_by_importance(reference) if reference.sample is not None or isinstance(reference.estimator, LossModel) else ()
    kinds = [name for name in looked_at if reference.profile.columns[name].type == "string" and name not in keys]
    rows = answered(tables, stage.use_case, of.partition_key, {*keys, *looked_at}, kinds)
    return pa.table({}) if rows is None else rows.filter(pc.equal(rows["model_version"], of.model.version))


def _performance(
    stage: Stage, tables: Tables, of: _Answered, reference: Reference, answers: pa.Table
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """(What was realised, what is estimated of the gate's metric), which also go into the table `performance`.

    The first is None where the labels have not come, or no key tells whose they are, the second where it can't be estimated.
    """
    key, model = of.partition_key, of.model
    manifest = Manifest.model_validate(read_json(package_folder(stage.root, model) / MANIFEST))
    metric = stage.use_case.gate.metric
    told = partial(
        performance_row, metric=metric, reference=manifest.metrics.get(metric), reference_error=reference.holdout_error, model_version=model.version
    )  # fmt: skip
    rows = []
    guess = estimated(answers, stage.use_case, reference, manifest.decision.operating_point).get(metric)
    if guess is not None:
        rows.append(told("estimated", value=guess.value, low=guess.low, high=guess.high, n_rows=answers.num_rows))
    _, labels = tables.contents("labelled")
    found = None
    if key in labels:
        found = realised(
            answers,
            tables.read("labelled", [key]),
            stage.use_case,
            manifest.classes,
            manifest.positive,
            operating_point=manifest.decision.operating_point,
        )
    if found is not None and found.metrics.get(metric) is not None:
        value = found.metrics[metric]
        rows.append(told("realised", value=value, low=found.low, high=found.high, n_rows=found.n_rows, labels=labels[key]))
    tables.write("performance", key, pa.Table.from_pylist(rows, schema=PERFORMANCE))
    return None if found is None else asdict(found), None if guess is None else asdict(guess) | {"metric": metric}


def _newly_labelled(stage: Stage, tables: Tables) -> Iterator[_Answered]:
    """Measured partitions of the last `look_back` whose labels have come, or changed, since they were measured, oldest first."""
    key, use_case = stage.spec.partition_key, stage.use_case
    _, labels = tables.contents("labelled")
    recent = sorted(
        {use_case.shift(key, -back) for back in range(1, look_back(use_case) + 1)} & labels.keys() & set(tables.partitions("drift"))
    )
    if not recent:
        return
    figures = tables.read("performance", recent).to_pylist() if tables.partitions("performance") else []
    used = {row["partition_key"]: row["labels"] for row in figures if row["row_id"] == "realised"}
    versions = {row["partition_key"]: row["model_version"] for row in tables.read("drift", recent, columns=["model_version"]).to_pylist()}
    for earlier in recent:
        model = deployed_version(stage.root, versions[earlier])
        if used.get(earlier) != labels[earlier] and model is not None:
            yield _Answered(earlier, model)


if __name__ == "__main__":
    run_stage(main)
