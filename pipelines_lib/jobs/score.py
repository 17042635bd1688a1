"""Score a partition's clean rows with the version that serves: the layer `scored`.

python -m pipelines_lib.jobs.score --spec spec.json

The same rows and the same version give the same bytes, so doing it again makes no commit.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines_lib.contracts import JobResult, ModelRef
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import DataError, Held
from pipelines_lib.evaluation.holdout import scores_of
from pipelines_lib.jobs.stage import Stage, run_stage
from pipelines_lib.registry.package import Package, predicted
from pipelines_lib.serving.pointer import package_folder, read_pointer
from pipelines_lib.serving.prediction_log import SCORES
from pipelines_lib.use_case import ColumnType

NOT_FINITE = "its score is not a finite number"


def main(stage: Stage) -> JobResult:
    """One row of `scored` for each of `clean`: a prediction, or the reason why there is none. Raises `Held` where no version serves yet."""
    key, tables = stage.spec.partition_key, Tables(stage.root)
    prepared = stage.result_of("prepare")
    model = _champion(stage)
    package = Package.open(package_folder(stage.root, model))
    types: Mapping[str, ColumnType] = {feature.name: feature.type for feature in package.manifest.features}
    version = int(str(prepared.outputs["clean_version"]))
    there = tables.schema("clean", version)
    if absent := [name for name in types if name not in there.names]:
        raise DataError(
            f"version {model.version} reads {', '.join(absent)}, which the clean rows no longer have; train a version on the columns of now"
        )
    names = [name for name in stage.use_case.columns_with("key", "entity") if name in there.names]
    reasons: Counter[str] = Counter()
    with tables.writer("scored", key) as writer:
        for rows in (there.empty_table(), *tables.scan("clean", key, version=version, columns=[*types, *names])):
            scored = _scored(package, rows, types, names, model.version)
            reasons.update(scored["reason"].drop_null().to_pylist())
            writer.add(scored)
    return JobResult(
        stage="score",
        reason=f"version {model.version} scored {writer.n_rows - reasons.total()} of {writer.n_rows} rows of {key}",
        figures={
            "model_version": model.version,
            "n_rows": writer.n_rows,
            "n_scored": writer.n_rows - reasons.total(),
            "not_scored": dict(reasons),
            **_kept_back(stage, prepared),
        },
        outputs={"scored_version": writer.version, "model": model.model_dump(mode="json")},
    )


def _champion(stage: Stage) -> ModelRef:
    pointer = read_pointer(stage.root)
    if pointer is None or pointer.champion is None:
        raise Held(f"no version of {stage.use_case.name} serves yet, so nothing is scored; after its first training clear `score`")
    return pointer.champion


def _scored(package: Package, rows: pa.Table, types: Mapping[str, ColumnType], names: list[str], version: int) -> pa.Table:
    """Rows of `scored`: the columns `names`, what is predicted, and by which version."""
    scores = scores_of(package, rows, types)
    predictions, score = predicted(package.manifest, scores)
    wrong: Any = ~np.isfinite(scores).all(axis=1)
    reason = pa.array(np.where(wrong, NOT_FINITE, ""), pa.string(), mask=~wrong)
    kind = pa.string() if package.manifest.classes else pa.float64()
    made = {
        "prediction": pa.array(predictions, kind, mask=wrong),
        "score": pa.array(score, pa.float64(), mask=wrong),
        "reason": reason,
        **({"scores": pa.array(scores.tolist(), SCORES)} if package.manifest.decision.keeps_scores else {}),
        "model_version": pa.array(np.full(len(wrong), version), pa.int64()),
    }
    return pa.table({**{name: rows[name] for name in ("row_id", *names)}, **made})


def _kept_back(stage: Stage, prepared: JobResult) -> dict[str, Any]:
    """How many of the partition's rows never came this far: rejected by validation, or dropped by cleaning."""
    changes: Any = prepared.figures["changes"]
    return {
        "n_quarantined": stage.result_of("validate").figures["n_quarantined"],
        "n_dropped": sum(change["rows_dropped"] for change in changes.values()),
    }


if __name__ == "__main__":
    run_stage(main)
