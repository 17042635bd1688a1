"""Drift that no single column shows: can a classifier tell the day's rows from the training rows?

Its cross-fitted area under the ROC curve (AUC) is 0.5 where they are alike, whatever the columns (Lopez-Paz and Oquab, "Revisiting classifier
two-sample tests", 2017). The classifier is kernel ridge regression with a quadratic kernel, which sees every column and every pair of them, and is
the solution of a linear system.
"""

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines_lib.monitoring.answers import columns_of
from pipelines_lib.monitoring.drift import ColumnDrift, compare
from pipelines_lib.monitoring.reference import Reference
from pipelines_lib.monitoring.sketch import DataProfile

Floats = npt.NDArray[np.float64]

ROWS = 1000
"""Rows of either side that are looked at, at most."""
ALL_INPUTS = "(all inputs)"
"""Stands in place of a column's name."""
_FOLDS = 5
_RIDGE = 1.0
_PRECISION = 1e-8
"""Of the regressions' normal equations, relative; an AUC needs the order of the rows alone."""
_SHARED = math.sqrt(2)
"""The folds learn from rows that they share, and so err together: by up to 1.4 times what Mann and Whitney's law says, as simulation shows."""
_Z95, _Z99 = 1.6449, 2.3263


def drift_of_answers(reference: Reference, now: DataProfile, answers: pa.Table, threshold: float) -> list[ColumnDrift]:
    """Drift of each column, and of the inputs together that have not drifted by themselves. `now` is the profile of `answers`."""
    drifts = compare(reference.profile, now, threshold, reference.importance)
    if reference.sample is None or not drifts:
        return drifts
    encoder = reference.encoder(reference.sample.columns)
    quiet = {drift.column for drift in drifts if not drift.drifted}
    kept = [name in quiet for name in encoder.names]
    places = np.unique(np.linspace(0, answers.num_rows - 1, min(ROWS, answers.num_rows)).astype(np.int64))
    some = answers.take(pa.array(places))
    codes = encoder.encode(columns_of(some, reference), some.num_rows)
    together = joint_drift(
        encoder.spread(reference.sample.codes, kept),
        encoder.spread(codes, kept),
        threshold,
        n_reference=reference.profile.n_rows,
        n_now=answers.num_rows,
    )
    return drifts if together is None else [*drifts, together]


def separation(then: Floats, now: Floats) -> tuple[float, float, float]:
    """(AUC, its standard error without drift, its standard error) of a classifier between rows `then` [n, d] and `now` [m, d], at least five of each.

    Each fold is judged by what was learned from the others, and its AUC is a Mann-Whitney statistic: without drift of variance
    (n + m + 1) / (12 n m), with drift as Hanley and McNeil (1982) have it.
    """
    rows = np.concatenate([then, now])
    is_now = np.r_[np.zeros(len(then), bool), np.ones(len(now), bool)]
    # Neighbours go to different folds, and each fold has its share of either side.
    folds = np.r_[np.arange(len(then)) % _FOLDS, np.arange(len(now)) % _FOLDS]
    scores = _cross_fitted(_kernel(rows), folds, np.where(is_now, len(then) / len(rows), -len(now) / len(rows)))
    of_folds = [_auc(scores[(folds == fold) & is_now], scores[(folds == fold) & ~is_now]) for fold in range(_FOLDS)]
    auc, n, m = float(np.mean(of_folds)), len(then), len(now)
    by_chance = _SHARED * math.sqrt((n + m + 1) / (12 * n * m))
    beaten, beats = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = (auc * (1 - auc) + (m - 1) * (beaten - auc**2) + (n - 1) * (beats - auc**2)) / (n * m)
    return auc, by_chance, _SHARED * math.sqrt(max(variance, 0.0))


def joint_drift(then: Floats, now: Floats, threshold: float, *, n_reference: int, n_now: int) -> ColumnDrift | None:
    """Drift of all columns of `then` [n, d] and `now` [m, d] together; None of too few rows, or of no column.

    It is read on PSI's scale: a normal column that moves by δ deviations has PSI δ², and separates with AUC Φ(δ / √2).
    """
    if min(len(then), len(now)) < 10 * _FOLDS or not then.shape[1]:
        return None
    auc, by_chance, error = separation(then, now)
    effect, lower, upper = (_on_psi_scale(figure) for figure in (auc, auc - _Z95 * error, auc + _Z95 * error))
    return ColumnDrift(
        column=ALL_INPUTS,
        type="number",
        kind="joint",
        n_reference=n_reference,
        n_now=n_now,
        psi=None,
        js=None,
        noise_floor=_on_psi_scale(0.5 + by_chance),
        effect=effect,
        effect_lower=lower,
        effect_upper=upper,
        auc=auc,
        missing_reference=0.0,
        missing_now=0.0,
        new_share=None,
        drifted=effect >= threshold and auc > 0.5 + _Z99 * by_chance,
    )


def _on_psi_scale(auc: float) -> float:
    """PSI of one normal column that separates as well."""
    return 2 * NormalDist().inv_cdf(min(max(auc, 0.5), 1 - 1e-9)) ** 2


def _kernel(rows: Floats) -> Floats:
    """Quadratic, of the columns less their means; the linear and the quadratic part weigh about the same."""
    centred = rows - rows.mean(axis=0)
    inner = centred @ centred.T
    scale = math.sqrt(float((inner**2).mean())) or 1.0
    kernel: Floats = (1 + inner / scale) ** 2 - 1
    return kernel


def _cross_fitted(kernel: Floats, folds: npt.NDArray[np.int64], target: Floats) -> Floats:
    """What is predicted of each row [n] by a ridge regression on the rows of the other folds.

    Solved by conjugate gradients, for all folds at once: the ridge keeps the system well conditioned, so some thirty products with the
    kernel do for five solutions by elimination, in a quarter of the time.
    """
    known = (folds[:, None] != np.arange(_FOLDS)).astype(np.float64)
    ridge = np.maximum(_RIDGE * (np.diag(kernel) @ known) / known.sum(axis=0), 1e-12)  # rows that are all alike have a kernel of zeros
    left = known * target[:, None]
    learned, direction, size = np.zeros_like(left), left, (left**2).sum(axis=0)
    enough = _PRECISION**2 * size
    while (size > enough).any():
        image = known * (kernel @ direction) + ridge * direction
        step = size / (direction * image).sum(axis=0)
        learned, left, before = learned + step * direction, left - step * image, size
        size = (left**2).sum(axis=0)
        direction = left + size / before * direction
    scores: Floats = (kernel @ learned)[np.arange(len(folds)), folds]
    return scores


def _auc(high: Floats, low: Floats) -> float:
    ordered = np.sort(low)
    below, up_to = (np.searchsorted(ordered, high, side=side) for side in ("left", "right"))
    return float((below + up_to).mean() / (2 * len(low)))
