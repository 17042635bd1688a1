"""How far a partition has moved from what the model was trained on: effect sizes with their uncertainty, not p-values.

Numbers are compared by the population stability index (PSI) over the reference's deciles, categories by the Jensen-Shannon
divergence. With few rows both are large by chance alone. Without drift, PSI is distributed about as
(1/n + 1/m) χ² with B - 1 degrees of freedom (Yurdakul, "Statistical Properties of Population Stability Index",
2018): the effect is the figure less its expectation there, and what lies within that law's 99 % is no drift. With drift its
interval follows from the multinomial law of the bins by the delta method; without it, where the slopes are 0, from the χ² law.

A text is compared by its lengths, its tokens and the regions of an embedding space that texts lie in. A text has many tokens, so their shares vary less
than those of values that a row has one of: their divergence is divided by how much less (Rao and Scott's first-order correction, 1981).
"""

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipelines_lib.monitoring.sketch import ColumnProfile, DataProfile, Kind
from pipelines_lib.monitoring.summaries import Categories, Quantiles, Tokens
from pipelines_lib.use_case import ColumnType

BINS = 10
JS_TO_PSI = 8.0
"""For small differences PSI ≈ Σ (p - q)² / p and JS (in nats) ≈ one eighth of that; so 8 JS is read on PSI's scale."""
MIN_POOLED = 5.0
"""Expected rows below which a category joins the pooled rest (Cochran's rule for χ² laws)."""
_Z99 = 2.3263
_Z95 = 1.6449

Floats = npt.NDArray[np.float64]


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
    effect_lower: float | None = None
    effect_upper: float | None = None
    """Bounds of the effect, each with 95 % confidence."""
    wasserstein: float | None = None
    """How far a number must be carried on average to make the one distribution of the other, in the reference's standard deviations."""
    wasserstein_noise: float | None = None
    """What that is expected to be without drift, with so many rows."""
    part: str | None = None
    """What of a text moved most: characters, words (its lengths), tokens or clusters."""
    missing_reference: float
    missing_now: float
    """Shares of the rows without a value."""
    new_share: float | None
    """Share of the rows whose category the reference never saw."""
    new_categories: tuple[str, ...] = ()
    lost_categories: tuple[str, ...] = ()
    """The most frequent ones, up to five."""
    auc: float | None = None
    """Of all inputs together: how well a classifier tells the rows from the reference's; 0.5 is not at all."""
    weight: float | None = None
    """Of an input: its share of what all of them are worth to the model. The weights sum to 1."""
    drifted: bool


def compare(reference: DataProfile, now: DataProfile, threshold: float, importance: Mapping[str, float] | None = None) -> list[ColumnDrift]:
    """Drift of every column that both profiles have with the same type, in the reference's order.

    A column has drifted where its effect reaches `threshold` (on PSI's scale) and noise does not explain it. `importance` is what the model
    loses without a column (see `weights`); without it all inputs are worth the same.
    """
    shared = {name: column for name, column in reference.columns.items() if name in now.columns and now.columns[name].type == column.type}
    worth = weights([name for name, column in shared.items() if column.kind == "input"], importance or {})
    return [replace(compare_column(name, column, now.columns[name], threshold), weight=worth.get(name)) for name, column in shared.items()]


def weights(inputs: Sequence[str], importance: Mapping[str, float]) -> dict[str, float]:
    """What each input is worth, summing to 1: half of it the same for all, half in proportion to its permutation importance.

    The first half is for inputs that say the same: each of them looks unimportant, since the other one is still there.
    """
    gains = {name: max(0.0, importance.get(name, 0.0)) for name in inputs}
    total = sum(gains.values())
    return {name: 1 / len(inputs) if total == 0 else 0.5 / len(inputs) + 0.5 * gain / total for name, gain in gains.items()}


def compare_column(name: str, reference: ColumnProfile, now: ColumnProfile, threshold: float) -> ColumnDrift:
    """Drift of one column; the missing are a bin of their own."""
    nothing = ColumnDrift(
        column=name,
        type=reference.type,
        kind=reference.kind,
        n_reference=reference.n_rows,
        n_now=now.n_rows,
        psi=None,
        js=None,
        noise_floor=None,
        effect=None,
        missing_reference=reference.missing_share,
        missing_now=now.missing_share,
        new_share=None,
        drifted=False,
    )
    if not reference.n_rows or not now.n_rows:
        return nothing
    # A text is compared by several counts; the one that moved most speaks for it.
    figures = max((_figures(part) for part in _parts(reference, now)), key=lambda found: found.effect)
    drift = replace(
        nothing,
        psi=figures.psi,
        js=figures.js,
        noise_floor=figures.noise,
        effect=max(0.0, figures.effect),
        effect_lower=max(0.0, figures.effect - _Z95 * figures.deviation),
        effect_upper=max(0.0, figures.effect + _Z95 * figures.deviation),
        part=figures.part,
        drifted=figures.effect >= threshold and figures.is_beyond_noise,
    )
    if reference.categories is not None and now.categories is not None:
        new, lost, share = _novelty(reference.categories, now.categories)
        return replace(drift, new_categories=new, lost_categories=lost, new_share=share)
    if "value" in reference.quantiles:
        distance, noise = scaled_wasserstein(reference.quantiles["value"], now.quantiles["value"])
        return replace(drift, wasserstein=distance, wasserstein_noise=noise)
    return drift


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


def scaled_wasserstein(reference: Quantiles, now: Quantiles) -> tuple[float | None, float | None]:
    """Wasserstein-1 distance in the reference's standard deviations, and its expectation without drift; None where either is undefined.

    Without drift the difference of the two distribution functions at x is about normal with variance F (1 - F) (1/n + 1/m), and the
    distance is the integral of its absolute value (del Barrio, Giné and Matrán 1999).
    """
    if not reference.n or not now.n:
        return None, None
    deviation = reference.deviation
    if deviation == 0 or not math.isfinite(deviation):
        return (0.0, 0.0) if reference.low == reference.high == now.low == now.high else (None, None)
    points = np.unique(np.concatenate([reference.values, now.values]))
    then, today = reference.shares_up_to(points[:-1]), now.shares_up_to(points[:-1])
    steps = np.diff(points)
    noise = np.sqrt(2 / math.pi * (1 / reference.n + 1 / now.n) * np.clip(then * (1 - then), 0, None))
    return float(np.abs(then - today) @ steps) / deviation, float(noise @ steps) / deviation


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


@dataclass(frozen=True)
class _Part:
    """Two histograms over the same bins, as counts [B]."""

    name: str | None
    expected: Floats
    actual: Floats
    by_js: bool
    design: float = 1.0
    """How the shares vary, over how those of single draws would."""


@dataclass(frozen=True, kw_only=True)
class _Figures:
    part: str | None
    psi: float | None
    js: float | None
    on_psi_scale: float
    noise: float
    critical: float
    deviation: float
    """Standard error of the effect."""

    @property
    def effect(self) -> float:
        return self.on_psi_scale - self.noise

    @property
    def is_beyond_noise(self) -> bool:
        return self.on_psi_scale > self.critical


def _parts(reference: ColumnProfile, now: ColumnProfile) -> Iterator[_Part]:
    """What of a column is compared. The missing are a bin of their own, of a text with its lengths."""

    def with_missing(name: str | None, pair: tuple[Floats, Floats], *, by_js: bool) -> _Part:
        return _Part(name, np.append(pair[0], reference.n_missing), np.append(pair[1], now.n_missing), by_js)

    if reference.categories is not None and now.categories is not None:
        yield with_missing(None, _pooled(reference.categories, now.categories), by_js=True)
    for name, quantiles in reference.quantiles.items():
        yield with_missing(name if reference.type == "text" else None, _binned(quantiles, now.quantiles[name]), by_js=False)
    if reference.clusters and now.clusters and reference.clusters.n and now.clusters.n:
        yield _Part("clusters", *_pooled(reference.clusters, now.clusters), by_js=True)
    if reference.tokens and now.tokens and reference.tokens.n and now.tokens.n:
        yield _Part("tokens", reference.tokens.sums, now.tokens.sums, by_js=True, design=_design(reference.tokens, now.tokens))


def _design(reference: Tokens, now: Tokens) -> float:
    """How the shares of tokens vary, over how they would if each text were one token: mean over the buckets."""
    n, sums, squares = reference.n + now.n, reference.sums + now.sums, reference.squares + now.squares
    shares = sums[sums > 0] / n
    varies = squares[sums > 0] / n - shares**2
    # Texts that are all alike do not vary; what is left of them by rounding must not become a divisor.
    return max(float((varies / shares).sum()) / max(1, len(shares) - 1), 1e-3)


def _figures(part: _Part) -> _Figures:
    expected, actual = _nonempty(part.expected, part.actual)
    n, m = float(expected.sum()), float(actual.sum())
    noise, critical = noise_of_psi(len(expected), n, m)
    psi = None if part.by_js else population_stability_index(expected, actual)
    js = jensen_shannon_divergence(expected, actual) if part.by_js else None
    on_psi_scale = psi if psi is not None else JS_TO_PSI * (js or 0.0) / part.design
    deviation = _slope_deviation(expected, actual, by_js=part.by_js) / math.sqrt(part.design)
    by_chance = math.sqrt(2 * (len(expected) - 1)) * (1 / n + 1 / m)
    return _Figures(
        part=part.name,
        psi=psi,
        js=js,
        on_psi_scale=on_psi_scale,
        noise=noise,
        critical=critical,
        deviation=math.hypot(deviation, by_chance),
    )


def _slope_deviation(expected: Floats, actual: Floats, *, by_js: bool) -> float:
    """Standard error of PSI (8 JS) by the delta method: its slopes in the shares, whose covariances are a multinomial's."""
    p, q = _smoothed(expected), _smoothed(actual)
    if by_js:
        middle = (p + q) / 2
        slopes = JS_TO_PSI / 2 * np.log(p / middle), JS_TO_PSI / 2 * np.log(q / middle)
    else:
        slopes = np.log(p / q) + 1 - q / p, np.log(q / p) + 1 - p / q
    variances = [
        float(shares @ slope**2 - (shares @ slope) ** 2) / float(counts.sum())
        for shares, slope, counts in zip((p, q), slopes, (expected, actual), strict=True)
    ]
    return math.sqrt(max(0.0, sum(variances)))


def _binned(reference: Quantiles, now: Quantiles) -> tuple[Floats, Floats]:
    if not reference.n:
        return np.zeros(1), np.array([float(now.n)])
    edges = decile_edges(reference)
    return reference.counts(edges), now.counts(edges)


def _pooled(reference: Categories, now: Categories) -> tuple[Floats, Floats]:
    """Counts of the categories frequent enough to be compared, and, last, of all others together.

    A category that one side did not keep may be among its others: it is compared only where it is far more frequent here than that allows.
    """
    total, smaller = reference.n + now.n, min(reference.n, now.n)
    names = sorted({*reference.counts, *now.counts} - _hidden(reference, now) - _hidden(now, reference))
    both = [(reference.counts.get(name, 0), now.counts.get(name, 0)) for name in names]
    kept = [pair for pair in both if total and sum(pair) / total * smaller >= MIN_POOLED]
    counts = np.array(kept, dtype=np.float64).reshape(-1, 2)
    rest = np.array([reference.n, now.n], dtype=np.float64) - counts.sum(axis=0)
    counts = np.vstack([counts, rest])
    return counts[:, 0], counts[:, 1]


def _hidden(side: Categories, other: Categories) -> set[str]:
    """Categories of `other` that may be among what `side` did not keep, about as often as `other` has them."""
    if not side.n_other:
        return set()
    most = _at_most(_at_most(min(side.counts.values())) / side.n * other.n)
    return {name for name, count in other.counts.items() if name not in side.counts and count <= most}


def _novelty(reference: Categories, now: Categories) -> tuple[tuple[str, ...], tuple[str, ...], float | None]:
    """New and lost categories, and the share of the rows with a new one (None where the reference could not keep them all)."""
    new = now.counts.keys() - reference.counts.keys() - _hidden(reference, now)
    lost = reference.counts.keys() - now.counts.keys() - _hidden(now, reference)
    share = None if reference.n_other or not now.n else sum(now.counts[name] for name in new) / now.n
    return _most_frequent(now, new), _most_frequent(reference, lost), share


def _at_most(count: float) -> float:
    """Beyond four deviations of a Poisson count, which no chance reaches among a few thousand."""
    return count + 4 * math.sqrt(count) + 4


def _most_frequent(categories: Categories, names: Set[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=lambda name: (-categories.counts[name], name))[:5])


def _nonempty(expected: npt.ArrayLike, actual: npt.ArrayLike) -> tuple[Floats, Floats]:
    p, q = np.asarray(expected, dtype=np.float64), np.asarray(actual, dtype=np.float64)
    assert p.shape == q.shape
    assert p.sum() > 0 < q.sum(), "no rows, nothing to compare"
    some = (p > 0) | (q > 0)
    return p[some], q[some]


def _smoothed(counts: Floats) -> Floats:
    shares: Floats = (counts + 0.5) / (counts.sum() + 0.5 * len(counts))
    return shares


def _entropy_terms(p: Floats, middle: Floats) -> float:
    some = p > 0
    return float(np.sum(p[some] * np.log(p[some] / middle[some])))
