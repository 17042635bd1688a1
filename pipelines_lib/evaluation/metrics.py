"""The metrics, each as a function of row weights: one formula gives the figure and all its bootstrap resamples.

A resample that draws a row twice is a weight of 2. Each metric is prepared once from labels and scores (the sorting) and
then maps weights [b, n] to values [b]; NaN where a resample leaves it undefined (no row of one class).
The formulas are scikit-learn's, which the tests hold them against; importing it would cost each evaluation 2.6 s.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines_lib.use_case import LIKELY, classes_in

Floats = NDArray[np.float64]
Weighted = Callable[[Floats], Floats]
"""Weights [b, n] → metric [b]."""

SMALLEST = 1e-15
"""A probability in a logarithm is at least this; a certain, wrong answer costs 34.5, not infinity."""


@dataclass(frozen=True)
class Truth:
    """The labels of a hold-out."""

    labels: NDArray[np.int64] | Floats | NDArray[np.bool_]
    """Class places [n], values [n] for a regression, or, where a row may have several classes, whether it has each [n, C]."""
    classes: tuple[str, ...]
    """Empty for a regression."""
    positive: int | None = None
    """Place of the positive class; binary tasks only."""

    @property
    def has_several(self) -> bool:
        """Whether a row may have several classes."""
        return self.labels.ndim == 2


def several(labels: Any, classes: Sequence[str], separator: str) -> NDArray[np.bool_]:
    """An Arrow column of labels with several classes as [n, C]: whether a row has each of `classes`."""
    known = labels.combine_chunks() if isinstance(labels, pa.ChunkedArray) else labels
    known = known.dictionary_encode()
    sets = [frozenset(classes_in(text, separator)) for text in known.dictionary.to_pylist()]
    table = np.array([[name in some for name in classes] for some in sets], bool).reshape(len(sets), len(classes))
    found: NDArray[np.bool_] = table[known.indices.to_numpy(zero_copy_only=False)]
    return found


def prepare(metric: str, truth: Truth, scores: NDArray[np.float32]) -> Weighted:
    """The metric of `scores` [n, C] against `truth`, ready to be weighted."""
    return _METRICS[metric](truth, scores.astype(np.float64))


def value(metric: str, truth: Truth, scores: NDArray[np.float32]) -> float:
    """The metric of all rows, each counted once; NaN where it is undefined."""
    return float(prepare(metric, truth, scores)(np.ones((1, len(scores))))[0])


def values(metrics: Sequence[str], truth: Truth, scores: NDArray[np.float32]) -> dict[str, float | None]:
    """Several metrics; None where one is undefined."""
    found = {metric: value(metric, truth, scores) for metric in metrics}
    return {metric: figure if np.isfinite(figure) else None for metric, figure in found.items()}


def aligned(scores: NDArray[np.float32], classes: Sequence[str], wanted: Sequence[str]) -> NDArray[np.float32]:
    """Columns of `scores` put in the order of `wanted`; 0 for a class that the model has never heard of."""
    out = np.zeros((len(scores), len(wanted)), np.float32)
    for place, name in enumerate(classes):
        if name in wanted:
            out[:, wanted.index(name)] = scores[:, place]
    return out


def _roc_auc(truth: Truth, scores: Floats) -> Weighted:
    """Mann and Whitney's U over the number of pairs; a tie counts one half."""
    ranked = _Ranked(truth, scores)

    def auc(weights: Floats) -> Floats:
        positive, negative = weights[:, ranked.positives], _sums(weights[:, ranked.negatives])
        beaten = negative[:, ranked.negatives_above]
        if ranked.has_ties:
            beaten = (beaten + negative[:, ranked.negatives_not_below]) / 2
        pairs = np.einsum("bn,bn->b", positive, negative[:, -1:] - beaten)
        return _ratio(pairs, positive.sum(axis=1) * negative[:, -1])

    return auc


def _average_precision(truth: Truth, scores: Floats) -> Weighted:
    """Σ (recall step) · precision, over thresholds from the highest score down. Of several classes the mean over those that a row has."""
    if truth.has_several:
        each = [_average_precision(*_one_of(truth, scores, place)) for place in range(len(truth.classes))]
        return lambda weights: _mean_of_defined(np.stack([of_class(weights) for of_class in each]))
    ranked = _Ranked(truth, scores)

    def average_precision(weights: Floats) -> Floats:
        positive = weights[:, ranked.positives]
        true = _sums(positive)[:, ranked.positives_not_below]
        false = _sums(weights[:, ranked.negatives])[:, ranked.negatives_not_below]
        # Where nothing was drawn down to here, what stands here was not drawn either: its precision counts 0 times.
        precision = true / np.maximum(true + false, 1e-300)
        return _ratio(np.einsum("bn,bn->b", positive, precision), positive.sum(axis=1))

    return average_precision


def _one_of(truth: Truth, scores: Floats, place: int) -> tuple[Truth, Floats]:
    """One of several classes as a yes or no."""
    labels: NDArray[np.int64] = truth.labels[:, place].astype(np.int64)
    return Truth(labels, ("", truth.classes[place]), 1), scores[:, [place, place]]


def _mean_of_defined(figures: Floats) -> Floats:
    """[C, b] → [b]."""
    defined = np.isfinite(figures)
    return _ratio(np.where(defined, figures, 0.0).sum(axis=0), defined.sum(axis=0).astype(np.float64))


class _Ranked:
    """Rows by the positive class's score, the highest first; for each positive row, how many rows stand above it.

    The sorting is done once: what a resample needs of it are sums over the two classes in this order.
    """

    def __init__(self, truth: Truth, scores: Floats) -> None:
        assert truth.positive is not None
        column = -scores[:, truth.positive]
        order = np.argsort(column, kind="stable")
        is_positive = (truth.labels == truth.positive)[order]
        self.positives, self.negatives = order[is_positive], order[~is_positive]
        high, low = column[self.positives], column[self.negatives]
        self.negatives_above = np.searchsorted(low, high, side="left")
        self.negatives_not_below = np.searchsorted(low, high, side="right")
        self.positives_not_below = np.searchsorted(high, high, side="right")

    @property
    def has_ties(self) -> bool:
        """Whether a positive and a negative row have the same score."""
        return not np.array_equal(self.negatives_above, self.negatives_not_below)


def _sums(weights: Floats) -> Floats:
    """Sums of the first 0, 1, … n weights [b, n + 1]."""
    out = np.zeros((len(weights), weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=out[:, 1:])
    return out


def _accuracy(truth: Truth, scores: Floats) -> Weighted:
    return _mean((scores.argmax(axis=1) == truth.labels).astype(np.float64))


def _log_loss(truth: Truth, scores: Floats) -> Weighted:
    # Probabilities from float32 don't sum to 1 exactly.
    chances = scores / np.maximum(scores.sum(axis=1, keepdims=True), SMALLEST)
    of_truth = chances[np.arange(len(scores)), truth.labels.astype(np.int64)]
    return _mean(-np.log(np.clip(of_truth, SMALLEST, 1.0)))


def _macro_f1(truth: Truth, scores: Floats) -> Weighted:
    """Mean over the classes that occur in labels or predictions; a class never found right counts 0."""
    said, true = _said_and_true(truth, scores)

    def macro_f1(weights: Floats) -> Floats:
        right, total = weights @ (said * true), weights @ (said + true)
        occurs = total > 0
        f1 = np.divide(2 * right, total, out=np.zeros_like(total), where=occurs)
        return _ratio(f1.sum(axis=1), occurs.sum(axis=1).astype(np.float64))

    return macro_f1


def _micro_f1(truth: Truth, scores: Floats) -> Weighted:
    """F1 of all classes' yeses together."""
    said, true = _said_and_true(truth, scores)
    right, total = (said * true).sum(axis=1), (said + true).sum(axis=1)
    return lambda weights: _ratio(2 * (weights @ right), weights @ total)


def _said_and_true(truth: Truth, scores: Floats) -> tuple[Floats, Floats]:
    """Which classes were predicted, and which are true: 1 and 0 [n, classes]."""
    if truth.has_several:
        return (scores >= LIKELY).astype(np.float64), truth.labels.astype(np.float64)
    predicted = scores.argmax(axis=1)
    places = sorted(set(predicted.tolist()) | set(truth.labels.tolist()))
    said, true = (np.stack([found == place for place in places], axis=1) for found in (predicted, truth.labels))
    return said.astype(np.float64), true.astype(np.float64)


def _rmse(truth: Truth, scores: Floats) -> Weighted:
    mean = _mean((scores[:, 0] - truth.labels) ** 2)
    return lambda weights: np.sqrt(mean(weights))


def _mae(truth: Truth, scores: Floats) -> Weighted:
    return _mean(np.abs(scores[:, 0] - truth.labels))


def _mean(of_row: Floats) -> Weighted:
    return lambda weights: _ratio(weights @ of_row, weights.sum(axis=1))


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


_METRICS: Mapping[str, Callable[[Truth, Floats], Weighted]] = {
    "roc_auc": _roc_auc,
    "average_precision": _average_precision,
    "accuracy": _accuracy,
    "macro_f1": _macro_f1,
    "micro_f1": _micro_f1,
    "log_loss": _log_loss,
    "rmse": _rmse,
    "mae": _mae,
}
