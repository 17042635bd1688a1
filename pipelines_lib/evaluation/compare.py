"""How much better is the challenger than the champion? The paired bootstrap of the difference of a metric.

Both models answer the same rows, and each resample draws the same rows for both, so what is hard about a row cancels out
(Efron and Tibshirani, An Introduction to the Bootstrap, 1993). Rows of one entity are not independent: where the split
goes by entity, entities are drawn, with all their rows.

Of few owners (entities, or rows where each stands for itself) the bootstrap's percentiles lie too close together. They are taken further out, by as much as
Student's quantile is above the normal one (expanded percentiles; Hesterberg, What Teachers Should Know About the Bootstrap, 2015), and below
`MIN_OWNERS` there is no interval.
"""

from collections.abc import Iterator
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from pipelines_lib.contracts import Contract
from pipelines_lib.evaluation.metrics import Floats, Truth, prepare
from pipelines_lib.use_case import HIGHER_IS_BETTER

_BLOCK = 1 << 17
"""Weights held at once (float64: 1 MB): what a core's own cache takes, in which sums are four times as fast."""
MIN_OWNERS = 20
"""Entities, groups or rows that an interval needs."""
_DEFINED = 0.9
"""Share of the resamples in which the metric must be defined for the interval to be one."""


class Comparison(Contract):
    """Challenger minus champion, positive where the challenger is better (errors and losses are turned around)."""

    metric: str
    n_rows: int
    """Rows compared on; fewer than the hold-out has, where the champion learned from some of them."""
    n_owners: int
    """Entities or groups that they belong to; as many as rows where each stands for itself."""
    challenger: float
    champion: float
    difference: float
    lower: float | None
    """Ends of the percentile interval; None of too few owners, and where too many resamples left the metric undefined."""
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
    n_owners = len(challenger) if groups is None else len(np.unique(groups))
    lower, upper = interval(differences, confidence, n_owners)
    figures = float(new(once)[0]), float(old(once)[0])
    return Comparison(
        metric=metric,
        n_rows=len(challenger),
        n_owners=n_owners,
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


def interval(drawn: Floats, confidence: float, n_owners: int) -> tuple[float | None, float | None]:
    """Ends of the percentile interval of a figure in the resamples of `n_owners`; None below `MIN_OWNERS`, and where too many leave it undefined."""
    defined = drawn[np.isfinite(drawn)]
    if n_owners < MIN_OWNERS or len(defined) < _DEFINED * len(drawn):
        return None, None
    outside = NormalDist().cdf(-float(np.sqrt(n_owners / (n_owners - 1))) * t_quantile((1 + confidence) / 2, n_owners - 1))
    lower, upper = np.quantile(defined, [outside, 1 - outside])
    return float(lower), float(upper)


def t_quantile(share: float, freedom: float) -> float:
    """The point that Student's t with so many degrees of `freedom` stays below with chance `share` (Cornish and Fisher 1937: to 0.1 % from 19 on)."""
    z = NormalDist().inv_cdf(share)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
