"""How much better is the challenger than the champion? The paired bootstrap of the difference of a metric.

Both models answer the same rows, and each resample draws the same rows for both, so what is hard about a row cancels out
(Efron and Tibshirani, An Introduction to the Bootstrap, 1993). Rows of one entity are not independent: where the split
goes by entity, entities are drawn, with all their rows.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipelines_lib.contracts import Contract
from pipelines_lib.evaluation.metrics import Floats, Truth, prepare
from pipelines_lib.use_case import HIGHER_IS_BETTER

_BLOCK = 1 << 17
"""Weights held at once (float64: 1 MB): what a core's own cache takes, in which sums are four times as fast."""
_DEFINED = 0.9
"""Share of the resamples in which the metric must be defined for the interval to be one."""


class Comparison(Contract):
    """Challenger minus champion, positive where the challenger is better (errors and losses are turned around)."""

    metric: str
    n_rows: int
    """Rows compared on; fewer than the hold-out has, where the champion learned from some of them."""
    challenger: float
    champion: float
    difference: float
    lower: float | None
    """Ends of the percentile interval; None where too many resamples left the metric undefined."""
    upper: float | None
    confidence: float
    resamples: int


def compare(
    metric: str,
    truth: Truth,
    challenger: NDArray[np.float32],
    champion: NDArray[np.float32],
    *,
    confidence: float,
    resamples: int,
    seed: int,
    groups: NDArray[np.int64] | None = None,
    operating_points: tuple[float | None, float | None] = (None, None),
) -> Comparison:
    """Compare two models' scores [n, C] on the same rows. `groups` [n], 0 … g - 1, names each row's entity; each row its own, when None.

    Each model predicts by its own operating point, the challenger's first.
    """
    new, old = (prepare(metric, truth, scores, point) for scores, point in zip((challenger, champion), operating_points, strict=True))
    sign = 1.0 if HIGHER_IS_BETTER[metric] else -1.0
    once = np.ones((1, len(challenger)))
    differences = np.concatenate([sign * (new(w) - old(w)) for w in draws(len(challenger), groups, resamples, seed)])
    lower, upper = interval(differences, confidence)
    figures = float(new(once)[0]), float(old(once)[0])
    return Comparison(
        metric=metric,
        n_rows=len(challenger),
        challenger=figures[0],
        champion=figures[1],
        difference=sign * (figures[0] - figures[1]),
        lower=lower,
        upper=upper,
        confidence=confidence,
        resamples=resamples,
    )


def standard_error(
    metric: str,
    truth: Truth,
    scores: NDArray[np.float32],
    *,
    groups: NDArray[np.int64] | None = None,
    operating_point: float | None = None,
    resamples: int = 200,
) -> float | None:
    """Of a model's metric on these rows, by the bootstrap; `groups` as in `compare`. None where too many resamples leave the metric undefined, or there are no rows."""
    if not len(scores):
        return None
    figure = prepare(metric, truth, scores, operating_point)
    figures = np.concatenate([figure(weights) for weights in draws(len(scores), groups, resamples, seed=0)])
    defined = figures[np.isfinite(figures)]
    return float(defined.std()) if len(defined) >= _DEFINED * len(figures) else None


def draws(n_rows: int, groups: NDArray[np.int64] | None, resamples: int, seed: int) -> Iterator[Floats]:
    """Blocks [b, n]: how often each resample of a bootstrap drew each row."""
    n_groups = n_rows if groups is None else int(groups.max()) + 1
    random = np.random.default_rng(seed)
    block = max(1, _BLOCK // max(n_rows, n_groups))
    for start in range(0, resamples, block):
        b = min(block, resamples - start)
        drawn = random.integers(0, n_groups, (b, n_groups))
        # One count over the whole block: the draws of resample i lie in [i · g, (i + 1) · g).
        places = (drawn + np.arange(b)[:, None] * n_groups).ravel()
        counts = np.bincount(places, minlength=b * n_groups).reshape(b, n_groups).astype(np.float64)
        yield counts if groups is None else counts[:, groups]


def interval(differences: Floats, confidence: float) -> tuple[float | None, float | None]:
    """Ends of the percentile interval; None where too many resamples left the figure undefined."""
    defined = differences[np.isfinite(differences)]
    if len(defined) < _DEFINED * len(differences):
        return None, None
    lower, upper = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(lower), float(upper)
