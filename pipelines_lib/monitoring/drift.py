"""How far a partition has moved from what the model was trained on: effect sizes, not p-values.

Numbers are compared by the population stability index over the reference's deciles, categories by the Jensen-Shannon
divergence. With few rows both are large by chance alone. Without drift, PSI is distributed about as
(1/n + 1/m) χ² with B - 1 degrees of freedom (Yurdakul, "Statistical Properties of Population Stability Index",
2018): the effect is the figure less its expectation there, and what lies within that law's 99 % is no drift.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines_lib.monitoring.sketch import ColumnProfile, DataProfile, Kind
from pipelines_lib.monitoring.summaries import Categories, Quantiles
from pipelines_lib.use_case import ColumnType

BINS = 10
JS_TO_PSI = 8.0
"""For small differences PSI ≈ Σ (p - q)² / p and JS (in nats) ≈ one eighth of that; so 8 JS is read on PSI's scale."""
MIN_POOLED = 5.0
"""Expected rows below which a category joins the pooled rest (Cochran's rule for χ² laws)."""
_Z99 = 2.3263


@dataclass(frozen=True, kw_only=True)
class ColumnDrift:
    """One column now against the reference. Figures are None where one side has no rows."""

    column: str
    type: ColumnType
    kind: Kind
    n_reference: int
    n_now: int
    psi: float | None
    js: float | None
    """Jensen-Shannon divergence in nats, of categories; 0 (equal) to ln 2 = 0.69 (nothing in common)."""
    noise_floor: float | None
    """What PSI (8 JS) is expected to be without drift, with so many rows."""
    effect: float | None
    """PSI (8 JS) less the noise floor, at least 0: what is compared with the setting."""
    missing_reference: float
    missing_now: float
    """Shares of the rows without a value."""
    new_share: float | None
    """Share of the rows whose category the reference never saw."""
    new_categories: tuple[str, ...] = ()
    lost_categories: tuple[str, ...] = ()
    """The most frequent ones, up to five."""
    drifted: bool


def compare(reference: DataProfile, now: DataProfile, threshold: float) -> list[ColumnDrift]:
    """Drift of every column that both profiles have with the same type, in the reference's order.

    A column has drifted where its effect reaches `threshold` (on PSI's scale) and noise does not explain it.
    """
    shared = [name for name, column in reference.columns.items() if name in now.columns and now.columns[name].type == column.type]
    return [compare_column(name, reference.columns[name], now.columns[name], threshold) for name in shared]


def compare_column(name: str, reference: ColumnProfile, now: ColumnProfile, threshold: float) -> ColumnDrift:
    """Drift of one column; the missing are a bin of their own."""
    psi = js = floor = effect = new_share = None
    new: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    drifted = False
    if reference.n_rows and now.n_rows:
        if reference.categories is not None and now.categories is not None:
            expected, actual = _pooled(reference.categories, now.categories)
            new, lost, new_share = _novelty(reference.categories, now.categories)
            binned = [(np.append(expected, reference.n_missing), np.append(actual, now.n_missing))]
        else:
            binned = [
                (np.append(expected, reference.n_missing), np.append(actual, now.n_missing))
                for part in reference.quantiles
                for expected, actual in [_binned(reference.quantiles[part], now.quantiles[part])]
            ]
        figures = [_figures(expected, actual, categories=reference.categories is not None) for expected, actual in binned]
        # A text is compared by several counts; the one that moved most speaks for it.
        psi, js, on_psi_scale, floor, critical = max(figures, key=lambda figure: figure[2] - figure[3])
        effect = max(0.0, on_psi_scale - floor)
        drifted = effect >= threshold and on_psi_scale > critical
    return ColumnDrift(
        column=name,
        type=reference.type,
        kind=reference.kind,
        n_reference=reference.n_rows,
        n_now=now.n_rows,
        psi=psi,
        js=js,
        noise_floor=floor,
        effect=effect,
        missing_reference=reference.missing_share,
        missing_now=now.missing_share,
        new_share=new_share,
        new_categories=new,
        lost_categories=lost,
        drifted=drifted,
    )


def population_stability_index(expected: npt.ArrayLike, actual: npt.ArrayLike) -> float:
    """PSI of two histograms given as counts over the same bins, shape [B]; symmetric, and 0 for equal shares.

    Half a row is added to each bin (Jeffreys' prior), so that an empty one stays finite. Bins empty on both sides say nothing.
    """
    p, q = _nonempty(expected, actual)
    p, q = _smoothed(p), _smoothed(q)
    return float(np.sum((q - p) * np.log(q / p)))


def jensen_shannon_divergence(expected: npt.ArrayLike, actual: npt.ArrayLike) -> float:
    """In nats, of two histograms given as counts over the same bins, shape [B]; symmetric, 0 to ln 2."""
    p, q = _nonempty(expected, actual)
    p, q = p / p.sum(), q / q.sum()
    middle = (p + q) / 2
    return max(0.0, float((_entropy_terms(p, middle) + _entropy_terms(q, middle)) / 2))


def noise_of_psi(bins: int, n: float, m: float) -> tuple[float, float]:
    """Expectation and 99 % point of PSI between two samples of sizes `n` and `m` of one distribution over `bins` bins.

    The χ² quantile is Wilson and Hilferty's (1931) approximation.
    """
    degrees = bins - 1
    if degrees < 1:
        return 0.0, 0.0
    scale = 1 / n + 1 / m
    quantile = degrees * (1 - 2 / (9 * degrees) + _Z99 * math.sqrt(2 / (9 * degrees))) ** 3
    return degrees * scale, quantile * scale


def decile_edges(reference: Quantiles) -> list[float]:
    """Inner edges of up to `BINS` bins of equal share, ascending and distinct; a bin holds its upper edge.

    Where a value is so frequent that an edge falls on the smallest, what lies below it has a bin of its own.
    """
    edges = sorted({reference.quantile(i / BINS) for i in range(1, BINS)})
    return [math.nextafter(edges[0], -math.inf), *edges] if edges[0] == reference.low else edges


def _figures(
    expected: npt.NDArray[np.float64], actual: npt.NDArray[np.float64], *, categories: bool
) -> tuple[float | None, float | None, float, float, float]:
    bins = len(_nonempty(expected, actual)[0])
    floor, critical = noise_of_psi(bins, float(expected.sum()), float(actual.sum()))
    if categories:
        js = jensen_shannon_divergence(expected, actual)
        return None, js, JS_TO_PSI * js, floor, critical
    psi = population_stability_index(expected, actual)
    return psi, None, psi, floor, critical


def _binned(reference: Quantiles, now: Quantiles) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    if not reference.n:
        return np.zeros(1), np.array([float(now.n)])
    edges = decile_edges(reference)
    return reference.counts(edges), now.counts(edges)


def _pooled(reference: Categories, now: Categories) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Counts of the categories frequent enough to be compared, and, last, of all others together."""
    total, smaller = reference.n + now.n, min(reference.n, now.n)
    names = sorted({*reference.counts, *now.counts})
    both = [(reference.counts.get(name, 0), now.counts.get(name, 0)) for name in names]
    kept = [pair for pair in both if total and sum(pair) / total * smaller >= MIN_POOLED]
    counts = np.array(kept, dtype=np.float64).reshape(-1, 2)
    rest = np.array([reference.n, now.n], dtype=np.float64) - counts.sum(axis=0)
    counts = np.vstack([counts, rest])
    return counts[:, 0], counts[:, 1]


def _novelty(reference: Categories, now: Categories) -> tuple[tuple[str, ...], tuple[str, ...], float | None]:
    """New and lost categories, and the share of the rows with a new one (None where the reference could not keep them all)."""
    new = _most_frequent(now, [name for name in now.counts if name not in reference.counts])
    lost = _most_frequent(reference, [name for name in reference.counts if name not in now.counts])
    if reference.n_other or not now.n:
        return (), () if now.n_other else lost, None
    n_new = sum(count for name, count in now.counts.items() if name not in reference.counts)
    return new, () if now.n_other else lost, n_new / now.n


def _most_frequent(categories: Categories, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=lambda name: (-categories.counts[name], name))[:5])


def _nonempty(expected: npt.ArrayLike, actual: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    p, q = np.asarray(expected, dtype=np.float64), np.asarray(actual, dtype=np.float64)
    assert p.shape == q.shape
    assert p.sum() > 0 < q.sum(), "no rows, nothing to compare"
    some = (p > 0) | (q > 0)
    return p[some], q[some]


def _smoothed(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shares: npt.NDArray[np.float64] = (counts + 0.5) / (counts.sum() + 0.5 * len(counts))
    return shares


def _entropy_terms(p: npt.NDArray[np.float64], middle: npt.NDArray[np.float64]) -> float:
    some = p > 0
    return float(np.sum(p[some] * np.log(p[some] / middle[some])))
