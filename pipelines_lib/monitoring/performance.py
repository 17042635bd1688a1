"""How right the answers were: once the truth has come, by joining them with labels on the use case's key columns; before, as estimated."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines_lib.data.typed import cast
from pipelines_lib.evaluation import metrics
from pipelines_lib.evaluation.compare import draws, interval
from pipelines_lib.monitoring.answers import answer_keys, columns_of
from pipelines_lib.monitoring.estimate import Calibration, ClassCalibration, Estimated, LabelCalibration, LossModel
from pipelines_lib.monitoring.reference import Reference, inputs_by_importance
from pipelines_lib.use_case import METRICS, Task, UseCase, classes_in

_RESAMPLES = 200


@dataclass(frozen=True, kw_only=True)
class Performance:
    """Metrics of the answers whose label is known."""

    n_rows: int
    n_answered: int
    """Answers of the version, labelled or not."""
    metrics: dict[str, float | None]
    """None where these rows leave one undefined."""
    low: float | None = None
    high: float | None = None
    """Ends of the 95 % interval of the gate's metric."""


def realised(
    answers: pa.Table,
    labelled: pa.Table,
    use_case: UseCase,
    classes: Sequence[str],
    positive: str | None,
    *,
    operating_point: float | None = None,
) -> Performance | None:
    """Performance of `answers` (one version's), or None where no key tells which label belongs to which answer."""
    keys = answer_keys(use_case)
    if not keys or not all(key in answers.column_names and key in labelled.column_names for key in keys):
        return None
    truth = {
        key: label for key, label in zip(_tuples(labelled, keys, use_case), labelled["label"].to_pylist(), strict=True) if None not in key
    }
    found = [(place, label) for place, key in enumerate(_tuples(answers, keys, use_case)) if (label := truth.get(key)) is not None]
    if use_case.label.separator is None:
        # A class the model has never heard of has no column in its scores.
        found = [(place, label) for place, label in found if not classes or label in classes]
    if not found:
        return Performance(n_rows=0, n_answered=answers.num_rows, metrics={})
    rows, labels = answers.take([place for place, _ in found]), [label for _, label in found]
    if use_case.label.separator is None:
        known, scores = _known(labels, classes, positive), _scores(rows, use_case.task, classes, positive)
    else:
        known, scores = _of_several(rows, labels, classes, use_case.label.separator)
    figures = metrics.values(_computable(rows, use_case.task, len(classes)), known, scores, operating_point)
    low, high = _interval(use_case.gate.metric, known, scores, operating_point) if use_case.gate.metric in figures else (None, None)
    return Performance(n_rows=len(found), n_answered=answers.num_rows, metrics=figures, low=low, high=high)


def estimated(answers: pa.Table, use_case: UseCase, reference: Reference, operating_point: float | None) -> dict[str, Estimated]:
    """Performance of `answers` (one version's, at least one) before their labels have come; without the metrics that can't be told.

    Where of many classes the predicted one's chance alone was kept, that is all but accuracy.
    """
    scores: NDArray[np.float64] = answers["score"].to_numpy().astype(np.float64)
    if isinstance(reference.estimator, LossModel):
        encoder = reference.encoder(("score", *inputs_by_importance(reference)))
        codes = encoder.encode({**columns_of(answers, reference), "score": scores}, len(scores))
        return reference.estimator.estimate(encoder.spread(codes))
    names = [name for name in METRICS[use_case.task] if name != "calibration_error"]  # which calibration takes for 0
    if isinstance(reference.estimator, ClassCalibration | LabelCalibration):
        of_classes = _all_scores(answers, reference.estimator.n_classes)
        found = {} if of_classes is None else reference.estimator.estimate(names, of_classes.astype(np.float64))
    elif not isinstance(reference.estimator, Calibration):
        return {}
    elif use_case.task != "binary":
        return reference.estimator.accuracy(scores)
    else:
        found = reference.estimator.binary(names, scores, operating_point)
    return {name: figure for name, figure in found.items() if np.isfinite([figure.value, figure.low, figure.high]).all()}


def _interval(
    metric: str, known: metrics.Truth, scores: NDArray[np.float32], operating_point: float | None
) -> tuple[float | None, float | None]:
    """The bootstrap's percentile interval."""
    figure = metrics.prepare(metric, known, scores, operating_point)
    return interval(np.concatenate([figure(weights) for weights in draws(len(scores), None, _RESAMPLES, seed=0)]), 0.95, len(scores))


def _known(labels: list[Any], classes: Sequence[str], positive: str | None) -> metrics.Truth:
    places = np.array([classes.index(label) for label in labels], np.int64) if classes else np.array(labels, np.float64)
    return metrics.Truth(places, tuple(classes), None if positive is None else classes.index(positive))


def _of_several(rows: pa.Table, labels: list[str], classes: Sequence[str], separator: str) -> tuple[metrics.Truth, NDArray[np.float32]]:
    """Truth, and the scores; where they were not kept, what was predicted as 1 and 0.

    A class that the model has never heard of is one that it did not find.
    """
    every = tuple(sorted({*classes, *(name for label in labels for name in classes_in(label, separator))}))
    truth = metrics.Truth(metrics.several(pa.array(labels, pa.string()), every, separator), every)
    if (scores := _all_scores(rows, len(classes))) is not None:
        return truth, metrics.aligned(scores, classes, every)
    return truth, metrics.several(rows["prediction"], every, separator).astype(np.float32)


def _computable(rows: pa.Table, task: Task, n_classes: int) -> list[str]:
    """The metrics that can be told by what was kept of the answers."""
    of_chances: dict[Task, tuple[str, ...]] = {
        "multiclass": ("roc_auc", "log_loss", "brier", "calibration_error"),
        "multilabel": ("average_precision",),
    }
    lost = of_chances.get(task, ()) if _all_scores(rows, n_classes) is None else ()
    return [metric for metric in METRICS[task] if metric not in lost]


def _all_scores(rows: pa.Table, n_classes: int) -> NDArray[np.float32] | None:
    """Every class's score [n, C]; None where one of the rows was kept without."""
    if "scores" not in rows.column_names or rows["scores"].null_count or not rows.num_rows:
        return None
    of_all: NDArray[np.float32] = rows["scores"].combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    return of_all.reshape(rows.num_rows, n_classes)


def _scores(rows: pa.Table, task: Task, classes: Sequence[str], positive: str | None) -> NDArray[np.float32]:
    """Scores [n, C] as far as the log holds them."""
    score: NDArray[np.float32] = rows["score"].to_numpy().astype(np.float32)
    if task == "regression":
        return score[:, None]
    scores = np.zeros((rows.num_rows, len(classes)), np.float32)
    if task == "binary" and positive is not None:
        place = classes.index(positive)
        scores[:, place], scores[:, 1 - place] = score, 1 - score
        return scores
    if (of_all := _all_scores(rows, len(classes))) is not None:
        return of_all
    scores[np.arange(rows.num_rows), [classes.index(prediction) for prediction in rows["prediction"].to_pylist()]] = 1
    return scores


def _tuples(table: pa.Table, keys: Sequence[str], use_case: UseCase) -> list[tuple[str | None, ...]]:
    """The keys of each row. A time is logged as it was sent, and may be written in many ways."""
    columns = {key: table[key].combine_chunks() for key in keys}
    for key, column in columns.items():
        if key in use_case.columns and use_case.columns[key].type == "timestamp" and pa.types.is_string(column.type):
            columns[key], _ = cast(column, "timestamp")
    return list(zip(*(column.cast(pa.string()).to_pylist() for column in columns.values()), strict=True))
