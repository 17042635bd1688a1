"""The hold-out: rows, their truth, a recorded sample, and the champion's answers to the same rows."""

import hashlib
import math
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines_lib.data.snapshot import feature_columns
from pipelines_lib.errors import DataError
from pipelines_lib.evaluation.compare import Comparison, compare
from pipelines_lib.evaluation.metrics import Truth, aligned
from pipelines_lib.registry.package import Holdout, Package
from pipelines_lib.use_case import UseCase

SAMPLE_ROWS = 200


def features_of(use_case: UseCase, rows: pa.Table) -> dict[str, Any]:
    """The use case's feature columns of `rows`, as a transform and a profile take them."""
    return feature_columns(rows, {name: use_case.columns[name].type for name in use_case.features()})


def truth_of(use_case: UseCase, rows: pa.Table, classes: tuple[str, ...]) -> Truth:
    """The labels of `rows`, in terms of `classes`."""
    if use_case.task == "regression":
        return Truth(np.asarray(rows["label"].to_pylist(), np.float64), ())
    places = {name: place for place, name in enumerate(classes)}
    labels = np.array([places[name] for name in rows["label"].to_pylist()], np.int64)
    positive = use_case.label.positive
    return Truth(labels, classes, None if positive is None else places[positive])


def compare_with(champion: Package, use_case: UseCase, test: pa.Table, classes: tuple[str, ...], scores: NDArray[np.float32]) -> Comparison:
    """Score `champion` on the rows of `test` and compare the challenger's `scores` [n, C], C in the order of `classes`, with it.

    Raises `DataError` where the champion answers another question, or from columns that there are no more.
    """
    theirs = champion.manifest
    if (theirs.task, theirs.positive) != (use_case.task, use_case.label.positive):
        raise DataError(f"it was trained for another task ({theirs.task}, positive {theirs.positive!r})")
    if absent := sorted(feature.name for feature in theirs.features if feature.name not in use_case.features()):
        raise DataError(f"it reads columns that the use case no longer has: {', '.join(absent)}")
    types = {feature.name: feature.type for feature in theirs.features}
    their_scores = champion.predict(feature_columns(test, types))
    if use_case.task != "regression":
        # A class that one of the two has never seen has chance 0 in its answer.
        union = tuple(sorted({*classes, *theirs.classes}))
        scores, their_scores = (aligned(s, c, union) for s, c in ((scores, classes), (their_scores, theirs.classes)))
        classes = union
    gate = use_case.gate
    return compare(
        gate.metric,
        truth_of(use_case, test, classes),
        scores,
        their_scores,
        confidence=gate.confidence,
        resamples=gate.resamples,
        seed=use_case.training.seed,
        groups=_entities(use_case, test),
    )


def sample(use_case: UseCase, test: pa.Table, scores: NDArray[np.float32]) -> Holdout:
    """Up to SAMPLE_ROWS rows, chosen by a hash of their id: the same ones each time, from all over the hold-out."""
    ids = test["row_id"].to_pylist()
    chosen = sorted(range(len(ids)), key=lambda place: hashlib.sha256(ids[place].encode()).digest())[:SAMPLE_ROWS]
    rows = test.take(chosen)
    return Holdout(
        row_ids=tuple(rows["row_id"].to_pylist()),
        columns={name: tuple(_json_value(value) for value in rows[name].to_pylist()) for name in use_case.features()},
        scores=tuple(tuple(row) for row in scores[chosen].astype(float).tolist()),
    )


def _entities(use_case: UseCase, rows: pa.Table) -> NDArray[np.int64] | None:
    """Place of each row's entity, where the split keeps entities together."""
    if use_case.split.by != "entity" or use_case.entity is None:
        return None
    return np.asarray(rows[use_case.entity].combine_chunks().dictionary_encode(null_encoding="encode").indices, np.int64)


def _json_value(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
