"""The metrics, each as a function of row weights: one formula gives the figure and all its bootstrap resamples.

A resample that draws a row twice is a weight of 2. Each metric is prepared once from labels and scores (the sorting) and
then maps weights [b, n] to values [b]; NaN where a resample leaves it undefined (no row of one class).
The formulas are scikit-learn's, which the tests hold them against; importing it would cost each evaluation 2.6 s.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines_lib.decision import predicted_places
from pipelines_lib.use_case import LIKELY, classes_in

Floats = NDArray[np.float64]
Weighted = Callable[[Floats], Floats]
"""Weights [b, n] → metric [b]."""

SMALLEST = 1e-15
"""A probability in a logarithm is at least this; a certain, wrong answer costs 34.5, not infinity."""

_BINS, _ROWS_OF_BIN = 15, 50
"""Bins of a calibration error, at most, and the rows that each should have."""


@dataclass(frozen=True)
class Truth:
    """The labels of a hold-out."""

    labels: NDArray[np.int64] | Floats | NDArray[np.bool_]
    """Class places [n], values [n] for a regression, or, where a row may have several classes, whether it has each [n, C]."""
    classes: tuple[str, ...]
    """Empty for a regression."""
    positive: int | None = None
    """Place of the positive class; binary tasks only."""
    lists: NDArray[np.int64] | None = None
    """Place of the list [n] that each row is of (what one entity was offered), where the order within lists counts."""
    k: int = 10
    """How many places of a list count."""

    def of(self, rows: NDArray[np.bool_]) -> "Truth":
        """The labels of some rows (marked in `rows` [n])."""
        return replace(self, labels=self.labels[rows], lists=None if self.lists is None else self.lists[rows])

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


def prepare(metric: str, truth: Truth, scores: NDArray[np.float32], operating_point: float | None = None) -> Weighted:
    """The metric of `scores` [n, C] against `truth`, ready to be weighted.

    What a binary task predicts follows `operating_point`, as it does in the service; without one the likelier class is predicted.
    """
    wide = scores.astype(np.float64)
    if metric in _OF_DECISIONS:
        return _OF_DECISIONS[metric](truth, predicted_places(wide, truth.positive, operating_point))
    return _METRICS[metric](truth, wide)


def value(metric: str, truth: Truth, scores: NDArray[np.float32], operating_point: float | None = None) -> float:
    """The metric of all rows, each counted once; NaN where it is undefined."""
    return float(prepare(metric, truth, scores, operating_point)(np.ones((1, len(scores))))[0])


def values(
    metrics: Sequence[str], truth: Truth, scores: NDArray[np.float32], operating_point: float | None = None
) -> dict[str, float | None]:
    """Several metrics; None where one is undefined."""
    found = {metric: value(metric, truth, scores, operating_point) for metric in metrics}
    return {metric: figure if np.isfinite(figure) else None for metric, figure in found.items()}


def operating_point(truth: Truth, scores: NDArray[np.float32]) -> float:
    """The score of the positive class from which on a yes gives the best F1; of rows that are not the hold-out's, or it flatters itself.

    It lies halfway to the next lower score: on another machine, or in another number format, a score differs in its last digits, and rows
    that stand on the point itself (where few values make few scores, that is many) would change sides there.
    """
    assert truth.positive is not None
    column = scores[:, truth.positive].astype(np.float64)
    order = np.argsort(-column, kind="stable")
    ranked, right = column[order], np.cumsum(truth.labels[order] == truth.positive)
    if not len(right) or not right[-1]:
        return LIKELY
    f1 = np.where(np.r_[ranked[1:] != ranked[:-1], True], 2 * right / (np.arange(1, len(right) + 1) + right[-1]), 0.0)
    lowest = ranked[best := int(f1.argmax())]
    lower = ranked[best + 1] if best + 1 < len(ranked) else 0.0
    return float((lowest + lower) / 2)


def aligned(scores: NDArray[np.float32], classes: Sequence[str], wanted: Sequence[str]) -> NDArray[np.float32]:
    """Columns of `scores` put in the order of `wanted`; 0 for a class that the model has never heard of."""
    out = np.zeros((len(scores), len(wanted)), np.float32)
    for place, name in enumerate(classes):
        if name in wanted:
            out[:, wanted.index(name)] = scores[:, place]
    return out


def _roc_auc(truth: Truth, scores: Floats) -> Weighted:
    """Mann and Whitney's U over the number of pairs; a tie counts one half. Of several classes the mean over each against the rest."""
    if truth.positive is None:
        each = [_roc_auc(*_one_of(truth, scores, place)) for place in range(len(truth.classes))]
        return lambda weights: mean_of_defined(np.stack([of_class(weights) for of_class in each]))
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
        return lambda weights: mean_of_defined(np.stack([of_class(weights) for of_class in each]))
    ranked = _Ranked(truth, scores)

    def average_precision(weights: Floats) -> Floats:
        positive = weights.take(ranked.positives, axis=1)
        true = _sums(positive).take(ranked.positives_not_below, axis=1)
        # Added up between one positive row and the next, in the table's order: fewer sums to go on with, and no weight is moved.
        between = np.stack([np.bincount(ranked.next_positive, of_row, len(ranked.positives) + 1) for of_row in weights])
        # Where nothing was drawn down to here, what stands here was not drawn either: its precision counts 0 times.
        precision = true / np.maximum(np.cumsum(between[:, :-1], axis=1), 1e-300)
        return _ratio(np.einsum("bn,bn->b", positive, precision), positive.sum(axis=1))

    return average_precision


def _one_of(truth: Truth, scores: Floats, place: int) -> tuple[Truth, Floats]:
    """One of several classes as a yes or no."""
    labels: NDArray[np.int64] = (truth.labels[:, place] if truth.has_several else truth.labels == place).astype(np.int64)
    return Truth(labels, ("", truth.classes[place]), 1), scores[:, [place, place]]


def mean_of_defined(figures: Floats) -> Floats:
    """The mean over those of [C, b] that are no NaN: [b], NaN where there is none."""
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
        self.next_positive = np.searchsorted(high, column, side="left")
        """Of every row [n], how many positive rows stand above it."""

    @property
    def has_ties(self) -> bool:
        """Whether a positive and a negative row have the same score."""
        return not np.array_equal(self.negatives_above, self.negatives_not_below)


def _sums(weights: Floats) -> Floats:
    """Sums of the first 0, 1, … n weights [b, n + 1]."""
    out = np.zeros((len(weights), weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=out[:, 1:])
    return out


def _accuracy(truth: Truth, predicted: NDArray[np.int64]) -> Weighted:
    return _mean((predicted == truth.labels).astype(np.float64))


def _log_loss(truth: Truth, scores: Floats) -> Weighted:
    # Probabilities from float32 don't sum to 1 exactly.
    chances = scores / np.maximum(scores.sum(axis=1, keepdims=True), SMALLEST)
    of_truth = chances[np.arange(len(scores)), truth.labels.astype(np.int64)]
    return _mean(-np.log(np.clip(of_truth, SMALLEST, 1.0)))


def _brier(truth: Truth, scores: Floats) -> Weighted:
    """Mean squared distance of the chances from what happened; of two classes the positive one's, of more the sum over all."""
    if truth.positive is not None:
        return _mean((scores[:, truth.positive] - (truth.labels == truth.positive)) ** 2)
    happened = np.arange(scores.shape[1]) == truth.labels[:, None]
    return _mean(((scores - happened) ** 2).sum(axis=1))


def _calibration_error(truth: Truth, scores: Floats) -> Weighted:
    """How far chances are from frequencies, over bins of equally many rows (adaptive calibration error; Nixon et al. 2019).

    With bins of equal width, as they are common too, nearly all rows of a rare class lie in the first one, and say nothing of the others.
    """
    chances, came = confidence(truth, scores)
    bins = equal_bins(chances)
    marks = (np.arange(bins.max(initial=0) + 1) == bins[:, None]).astype(np.float64)
    gaps = marks * (chances - came)[:, None]
    return lambda weights: _ratio(np.abs(weights @ gaps).sum(axis=1), weights.sum(axis=1))


def calibration_by_chance(
    truth: Truth, scores: NDArray[np.float32], owners: NDArray[np.int64] | None = None, seed: int = 0
) -> float | None:
    """The calibration error that a perfectly calibrated model with these scores stays below in 19 of 20 hold-outs; None without rows.

    Of a bin's rows with chances p, the sum of what comes differs from theirs by a normal amount of variance Σ p (1 - p). Where rows of one of the
    `owners` [n] come out alike, sums vary more, and those of different bins together.
    """
    chances, came = confidence(truth, scores.astype(np.float64))
    if not len(chances):
        return None
    bins = equal_bins(chances)
    variance = np.bincount(bins, np.clip(chances * (1 - chances), 0, None)).astype(np.float64)
    covariance = np.diag(variance) if owners is None else _covariance(chances - came, bins, owners, variance)
    drawn = np.random.default_rng(seed).multivariate_normal(np.zeros(len(variance)), covariance, size=2000, method="eigh")
    return float(np.quantile(np.abs(drawn).sum(axis=1), 0.95)) / len(chances)


def _covariance(missed: Floats, bins: NDArray[np.int64], owners: NDArray[np.int64], variance: Floats) -> Floats:
    """Of the bins' sums of what was `missed` [n], where the `variance` [bins] is that of rows that have nothing to do with one another.

    How much more sums vary is one figure for all bins (design effect): each has few owners. It is measured from 0, which a calibrated model misses by on average.
    """
    _, owner = np.unique(owners, return_inverse=True)
    n_owners, n_bins = int(owner.max()) + 1, len(variance)
    sums = np.bincount(owner * n_bins + bins, missed, minlength=n_owners * n_bins).reshape(n_owners, n_bins)
    seen = sums.T @ sums
    deviation = np.sqrt(np.maximum(np.diag(seen), SMALLEST))
    effect = max(1.0, float(np.trace(seen) / max(variance.sum(), SMALLEST)))
    scaled: Floats = seen / np.outer(deviation, deviation) * effect * np.sqrt(np.outer(variance, variance))
    np.fill_diagonal(scaled, effect * variance)
    return scaled


def confidence(truth: Truth, scores: Floats) -> tuple[Floats, Floats]:
    """The chance that the model gave, and whether (1, 0) it came so, of each row [n]: of the positive class, or of the likeliest one."""
    if truth.positive is not None:
        return scores[:, truth.positive], (truth.labels == truth.positive).astype(np.float64)
    return scores.max(axis=1), (scores.argmax(axis=1) == truth.labels).astype(np.float64)


def equal_bins(chances: Floats) -> NDArray[np.int64]:
    """Place of the bin of each row [n]: about equally many rows in each, equal chances in one; fewer bins of few rows."""
    n_bins = int(np.clip(len(chances) // _ROWS_OF_BIN, 2, _BINS))
    edges = np.unique(np.quantile(chances, np.arange(1, n_bins) / n_bins)) if len(chances) else np.zeros(0)
    return np.searchsorted(edges, chances, side="left").astype(np.int64)


def _f1(truth: Truth, predicted: NDArray[np.int64]) -> Weighted:
    said, true = predicted == truth.positive, truth.labels == truth.positive
    right, total = 2.0 * (said & true), said.astype(np.float64) + true
    return lambda weights: _ratio(weights @ right, weights @ total)


def _macro_f1(truth: Truth, scores: Floats) -> Weighted:
    """Mean over the classes that occur in labels or predictions; a class never found right counts 0."""
    said, true = _said_and_true(truth, scores)
    of_right, of_said, of_true = _sums_by_class(said & true), _sums_by_class(said), _sums_by_class(true)

    def macro_f1(weights: Floats) -> Floats:
        right, total = of_right(weights), of_said(weights) + of_true(weights)
        occurs = total > 0
        f1 = np.divide(2 * right, total, out=np.zeros_like(total), where=occurs)
        return _ratio(f1.sum(axis=1), occurs.sum(axis=1).astype(np.float64))

    return macro_f1


def _micro_f1(truth: Truth, scores: Floats) -> Weighted:
    """F1 of all classes' yeses together."""
    said, true = _said_and_true(truth, scores)
    right, total = (some.astype(np.float64) for some in ((said & true).sum(axis=1), said.sum(axis=1) + true.sum(axis=1)))
    return lambda weights: _ratio(2 * (weights @ right), weights @ total)


def _sums_by_class(marks: NDArray[np.bool_]) -> Weighted:
    """Weights [b, n] → their sums over the rows of each class [b, C], which `marks` [n, C] tells. What is not marked costs nothing."""
    place, row = np.nonzero(marks.T)
    present, starts = np.unique(place, return_index=True)

    def sums(weights: Floats) -> Floats:
        out = np.zeros((len(weights), marks.shape[1]))
        if len(starts):
            out[:, present] = np.add.reduceat(weights.take(row, axis=1), starts, axis=1)
        return out

    return sums


def _said_and_true(truth: Truth, scores: Floats) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which classes were predicted, and which are true [n, classes]."""
    if truth.has_several:
        return scores >= LIKELY, truth.labels.astype(bool)
    predicted = scores.argmax(axis=1)
    places = sorted(set(predicted.tolist()) | set(truth.labels.tolist()))
    said, true = (np.stack([found == place for place in places], axis=1) for found in (predicted, truth.labels))
    return said, true


def _rmse(truth: Truth, scores: Floats) -> Weighted:
    mean = _mean((scores[:, 0] - truth.labels) ** 2)
    return lambda weights: np.sqrt(mean(weights))


def _mae(truth: Truth, scores: Floats) -> Weighted:
    return _mean(np.abs(scores[:, 0] - truth.labels))


def _pinball(quantile: float) -> Callable[[Truth, Floats], Weighted]:
    """Mean cost of a forecast where a unit too little costs `quantile`, and one too much the rest of 1 (Koenker and Bassett 1978)."""

    def prepared(truth: Truth, scores: Floats) -> Weighted:
        missing = truth.labels - scores[:, 0]
        return _mean(np.maximum(quantile * missing, (quantile - 1) * missing))

    return prepared


@dataclass(frozen=True)
class _Lists:
    """The rows of all lists, list by list, the best score first.

    Of rows with equal scores every order is as likely, so what stands at their places is an expectation over these orders (McSherry and Najork,
    Computing information retrieval performance measures efficiently in the presence of tied scores, 2008). Which row came first in the table says nothing.
    """

    order: NDArray[np.int64]
    """Which row stands where [n]."""
    starts: NDArray[np.int64]
    """Where each list begins [L]."""
    place: Floats
    """From 1 in each list [n]."""
    wanted: Floats
    """Chance that what stands there is wanted [n]."""
    hits: Floats
    """Wanted rows from the list's first place down to here, where what stands here is wanted; else 0 [n]."""
    n_wanted: Floats
    """Wanted rows of each list [L]."""
    seen: Floats
    """Chance that the row is among the first k of its list [n]."""

    @classmethod
    def of(cls, truth: Truth, scores: Floats) -> "_Lists":
        assert truth.positive is not None
        assert truth.lists is not None
        column = scores[:, truth.positive]
        order = np.lexsort((-column, truth.lists))
        wanted, lists, ranked = (truth.labels == truth.positive)[order].astype(np.float64), truth.lists[order], column[order]
        of_list = _Runs.of(lists[1:] != lists[:-1])
        tied = _Runs.of((lists[1:] != lists[:-1]) | (ranked[1:] != ranked[:-1]))
        place = 1 + of_list.before_in_run
        size, n_right = tied.sizes[tied.run], tied.sums(wanted)[tied.run]
        chance = n_right / size
        # Of the wanted rows of a tie: this one, those of higher scores, and of the rest of the tie as many as chance puts before it.
        higher = (np.cumsum(wanted) - wanted)[tied.starts][tied.run] - (np.cumsum(wanted) - wanted)[of_list.starts][of_list.run]
        others = (n_right - 1) / np.maximum(size - 1, 1)
        hits = chance * (1 + higher + tied.before_in_run * others)
        seen = np.clip((truth.k - (place - 1 - tied.before_in_run)) / size, 0, 1)
        return cls(order, of_list.starts, place, chance, hits, of_list.sums(wanted), seen)

    def sums(self, of_row: Floats) -> Floats:
        """[n] → [L]."""
        return np.add.reduceat(of_row, self.starts) if len(self.starts) else np.zeros(0)


@dataclass(frozen=True)
class _Runs:
    """Neighbours that belong together."""

    starts: NDArray[np.int64]
    run: NDArray[np.int64]
    """Which run each is of [n]."""

    @classmethod
    def of(cls, breaks: NDArray[np.bool_]) -> "_Runs":
        """`breaks` [n - 1]: whether a new run begins behind each place but the last."""
        begins = np.r_[True, breaks]
        return cls(np.flatnonzero(begins), np.cumsum(begins) - 1)

    @property
    def sizes(self) -> Floats:
        return np.bincount(self.run).astype(np.float64)

    @property
    def before_in_run(self) -> Floats:
        return (np.arange(len(self.run)) - self.starts[self.run]).astype(np.float64)

    def sums(self, of_row: Floats) -> Floats:
        return np.add.reduceat(of_row, self.starts)


def _of_lists(gain: Callable[[_Lists], Floats], best: Callable[[Floats, int], Floats]) -> Callable[[Truth, Floats], Weighted]:
    """Mean over the lists with something that is wanted in them.

    `gain` gives what each of the first k places adds [n], `best` the most that a list with so many wanted rows [L] can have in k places [L]. A list counts
    by its rows' weights, which are equal where whole entities are drawn.
    """

    def prepared(truth: Truth, scores: Floats) -> Weighted:
        if not len(scores):
            return lambda weights: np.full(len(weights), np.nan)
        lists = _Lists.of(truth, scores)
        counted = (lists.n_wanted > 0).astype(np.float64)
        gained = lists.sums(np.where(lists.place <= truth.k, gain(lists), 0.0))
        figure = np.divide(gained, best(lists.n_wanted, truth.k), out=np.zeros_like(gained), where=counted > 0)
        sizes = lists.sums(np.ones(len(scores)))

        def mean(weights: Floats) -> Floats:
            of_lists = np.add.reduceat(weights[:, lists.order], lists.starts, axis=1) / sizes
            return _ratio(of_lists @ figure, of_lists @ counted)

        return mean

    return prepared


def _best_ndcg(n_wanted: Floats, k: int) -> Floats:
    """Gain falls with the logarithm of the place; over that of the best order (Järvelin and Kekäläinen 2002)."""
    gains = np.r_[0.0, np.cumsum(1 / np.log2(np.arange(2, k + 2)))]
    most: Floats = gains[np.minimum(n_wanted, k).astype(np.int64)]
    return most


_ndcg = _of_lists(lambda lists: lists.wanted / np.log2(lists.place + 1), _best_ndcg)
_recall = _of_lists(lambda lists: lists.wanted, lambda n_wanted, _: n_wanted)
_map = _of_lists(lambda lists: lists.hits / lists.place, np.minimum)
"""Mean of the precision at each wanted row, over as many as k places have room for."""


def coverage(items: NDArray[np.int64], truth: Truth, scores: NDArray[np.float32]) -> float:
    """Share of the items (`items` [n] names each row's) that are among the first k of somebody's list; NaN of no rows."""
    if not len(items):
        return float("nan")
    lists = _Lists.of(truth, scores.astype(np.float64))
    found, item = np.unique(items[lists.order], return_inverse=True)
    missed = np.ones(len(found))
    np.multiply.at(missed, item, 1 - lists.seen)
    return float(1 - missed.mean())


def _mean(of_row: Floats) -> Weighted:
    return lambda weights: _ratio(weights @ of_row, weights.sum(axis=1))


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


_OF_DECISIONS: Mapping[str, Callable[[Truth, NDArray[np.int64]], Weighted]] = {"accuracy": _accuracy, "f1": _f1}
"""Metrics of what is predicted, not of how likely it is."""

_METRICS: Mapping[str, Callable[[Truth, Floats], Weighted]] = {
    "roc_auc": _roc_auc,
    "average_precision": _average_precision,
    "macro_f1": _macro_f1,
    "micro_f1": _micro_f1,
    "log_loss": _log_loss,
    "rmse": _rmse,
    "mae": _mae,
    "brier": _brier,
    "calibration_error": _calibration_error,
    "pinball_10": _pinball(0.1),
    "pinball_90": _pinball(0.9),
    "ndcg": _ndcg,
    "recall": _recall,
    "map": _map,
}
