"""Compare a partition with what the model that answered was trained on, and, where labels have come, with the truth.

python -m pipelines_lib.jobs.measure --spec spec.json
"""

import json
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines_lib.contracts import JobResult, ModelRef
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import DataError
from pipelines_lib.jobs.stage import Stage, run_stage
from pipelines_lib.monitoring.answers import answered, main_version
from pipelines_lib.monitoring.drift import compare
from pipelines_lib.monitoring.history import PERFORMANCE, drift_rows, performance_row, window
from pipelines_lib.monitoring.performance import realised
from pipelines_lib.monitoring.sketch import DataProfile
from pipelines_lib.registry.package import MANIFEST, PROFILE, Manifest
from pipelines_lib.serving.pointer import deployed_version, package_folder
from pipelines_lib.store import read_json


def main(stage: Stage) -> JobResult:
    """Drift of every column into the table `drift`; performance into the result."""
    key = stage.spec.partition_key
    tables = Tables(stage.root)
    [row] = tables.read("profiles", [key]).to_pylist()
    version = main_version({int(v): n for v, n in json.loads(row["versions"]).items()})
    if version is None:
        tables.write("drift", key, drift_rows([], 0))
        tables.write("performance", key, pa.Table.from_pylist([], schema=PERFORMANCE))
        return JobResult(stage="measure", reason=f"nothing was answered on {key}, so there is nothing to compare", figures={"n_rows": 0})
    now = DataProfile.from_json(row["profile_json"])
    model = model_of(stage, version)
    drifts = compare(reference_profile(stage, model), now, stage.use_case.monitoring.psi)
    if not drifts:
        raise DataError(f"version {version} was trained on none of the columns that {key} has; train again with the use case as it is now")
    rows = drift_rows(drifts, version)
    tables.write("drift", key, rows)
    found = window(key, rows)
    manifest = Manifest.model_validate(read_json(package_folder(stage.root, model) / MANIFEST))
    performance = _performance(stage, tables, model, manifest)
    tables.write("performance", key, pa.Table.from_pylist(_performance_rows(stage, performance, model, manifest), schema=PERFORMANCE))
    drifted = [drift.column for drift in drifts if drift.drifted]
    return JobResult(
        stage="measure",
        reason=f"{found.n_drifted} of {found.n_inputs} input columns have drifted from version {version}'s training data"
        + (", and so have the predictions" if found.prediction_drifted else ""),
        figures={
            "n_rows": found.n_rows,
            "model_version": version,
            "drifted": list(drifted),
            "drifted_share": round(found.n_drifted / found.n_inputs, 4) if found.n_inputs else 0.0,
            "prediction_drifted": found.prediction_drifted,
            "performance": performance,
        },
        outputs={"model_version": version, "performance": performance},
    )


def model_of(stage: Stage, version: int) -> ModelRef:
    """The deployed model of that version. Raises `DataError` where none was deployed."""
    model = deployed_version(stage.root, version)
    if model is None:
        raise DataError(
            f"answers name model version {version}, and {stage.root / 'deployments'} knows no such; restore its file, or deploy the version again"
        )
    return model


def reference_profile(stage: Stage, model: ModelRef) -> DataProfile:
    """Profile of the rows `model` was trained on."""
    return DataProfile.from_json((package_folder(stage.root, model) / PROFILE).read_text(encoding="utf-8"))


def _performance(stage: Stage, tables: Tables, model: ModelRef, manifest: Manifest) -> dict[str, Any] | None:
    """Realised performance, or None where the labels have not come or no key tells whose they are."""
    key = stage.spec.partition_key
    if key not in tables.partitions("labelled"):
        return None
    rows = answered(tables, key)
    assert rows is not None
    mine = rows.filter(pc.equal(rows["model_version"], model.version))
    labelled = tables.read("labelled", [key])
    found = realised(mine, labelled, stage.use_case, manifest.classes, manifest.positive, operating_point=manifest.operating_point)
    return None if found is None else asdict(found)


def _performance_rows(stage: Stage, realised: dict[str, Any] | None, model: ModelRef, manifest: Manifest) -> list[dict[str, object]]:
    """What the governor looks at: the gate's metric beside the champion's own on its hold-out."""
    metric = stage.use_case.gate.metric
    if realised is None or realised["metrics"].get(metric) is None:
        return []
    row = performance_row(
        "realised",
        metric,
        value=realised["metrics"][metric],
        low=realised["low"],
        high=realised["high"],
        reference=manifest.metrics.get(metric),
        n_rows=realised["n_rows"],
        model_version=model.version,
    )
    return [row]


if __name__ == "__main__":
    run_stage(main)
