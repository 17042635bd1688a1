"""How the model does on parts of the hold-out, and whether it treats groups of people alike."""

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines_lib.evaluation.compare import MIN_OWNERS, draws, interval
from pipelines_lib.evaluation.evidence import Measured
from pipelines_lib.evaluation.holdout import entities_of
from pipelines_lib.evaluation.metrics import Truth, prepare
from pipelines_lib.evaluation.rates import Gap, Rate, ratio, shortfall
from pipelines_lib.use_case import LIKELY, UseCase
from pipelines_lib.use_case.gate import Fairness, Slice

_MOST_PARTS = 20

Marks = NDArray[np.bool_]


def slices(use_case: UseCase, test: pa.Table, truth: Truth, scores: NDArray[np.float32], operating_point: float | None) -> list[Measured]:
    """`gate.metric` of each part of `gate.slices`, with its interval; of parts with too few rows the number of rows alone."""
    gate, groups = use_case.gate, entities_of(use_case, test)
    found = []
    for asked in gate.slices:
        for name, mine in parts_of(use_case, test, asked):
            n_rows = int(mine.sum())
            if n_rows < asked.min_rows:
                found.append(Measured(of=asked.column, name=name, n_rows=n_rows, figure=None))
                continue
            metric = prepare(gate.metric, truth.of(mine), scores[mine], operating_point)
            own = None if groups is None else np.unique(groups[mine], return_inverse=True)[1]
            drawn = np.concatenate([metric(weights) for weights in draws(n_rows, own, gate.resamples, use_case.training.seed)])
            lower, upper = interval(drawn, gate.confidence, n_rows if own is None else int(own.max()) + 1)
            figure = float(metric(np.ones((1, n_rows)))[0])
            known = figure if np.isfinite(figure) else None
            found.append(Measured(of=asked.column, name=name, n_rows=n_rows, figure=known, lower=lower, upper=upper))
    return found


def parts_of(use_case: UseCase, test: pa.Table, asked: Slice) -> Iterator[tuple[str, Marks]]:
    """Name and rows of each part. Of a column about people the parts are numbered: their values are nobody's to read."""
    column, private = test[asked.column].combine_chunks(), asked.column in use_case.private()
    if use_case.columns[asked.column].type in ("number", "integer") and not asked.values:
        values = np.asarray(pc.fill_null(pc.cast(column, pa.float64(), safe=False), np.nan), np.float64)
        known = values[np.isfinite(values)]
        edges = np.unique(np.quantile(known, np.arange(1, asked.bins) / asked.bins)) if len(known) else np.zeros(0)
        places = np.where(np.isfinite(values), np.searchsorted(edges, values, side="left"), -1)
        ends = [f"{edge:.4g}" for edge in edges]
        names = [f"≤ {end}" for end in ends[:1]] + [f"{low} … {high}" for low, high in pairwise(ends)] + [f"> {end}" for end in ends[-1:]]
        parts = [(name, places == place) for place, name in enumerate(names or ["all"])]
        missing = places == -1
    else:
        texts = pc.cast(column, pa.string())
        counts = sorted(pc.value_counts(texts.drop_null()).to_pylist(), key=lambda entry: (-entry["counts"], entry["values"]))
        wanted = asked.values or [entry["values"] for entry in counts[:_MOST_PARTS]]
        parts = [(value, np.asarray(pc.fill_null(pc.equal(texts, value), False), bool)) for value in wanted]
        missing = np.asarray(pc.is_null(texts), bool)
    if missing.any():
        parts.append(("missing", missing))
    for number, (name, mine) in enumerate(parts, start=1):
        yield f"{asked.column} {f'no. {number}' if private else name}", mine


def fairness(
    use_case: UseCase, test: pa.Table, truth: Truth, scores: NDArray[np.float32], operating_point: float | None
) -> tuple[list[Measured], list[Measured]]:
    """Disparate impact and the difference of opportunity of each group against the best one, with intervals of `gate.confidence`.

    The intervals of a column hold together: of any two of its groups either may look the best by chance, so each pair has its share of the risk (Bonferroni).
    A group with fewer than `min_rows` rows, or owners than an interval needs, has no figure; of opportunity those rows count that deserve a yes.
    """
    impact: list[Measured] = []
    opportunity: list[Measured] = []
    owners = entities_of(use_case, test)
    for asked in use_case.gate.fairness:
        chosen = scores[:, truth.positive] >= _threshold(asked, operating_point)
        deserving = np.asarray(truth.labels == truth.positive, bool)
        parts = dict(parts_of(use_case, test, Slice(column=asked.column)))
        rates = {name: _rate(chosen, mine, owners) for name, mine in parts.items()}
        among = {name: _rate(chosen, mine & deserving, owners) for name, mine in parts.items()}
        impact += _against_best(asked, rates, ratio, use_case.gate.confidence)
        opportunity += _against_best(asked, among, shortfall, use_case.gate.confidence)
    return impact, opportunity


def _threshold(asked: Fairness, operating_point: float | None) -> float:
    points = (asked.threshold, operating_point, LIKELY)
    return next(point for point in points if point is not None)


def _rate(chosen: Marks, mine: Marks, owners: NDArray[np.int64] | None) -> Rate:
    return Rate.of(chosen[mine], None if owners is None else owners[mine])


def _against_best(asked: Fairness, rates: Mapping[str, Rate], gap: Callable[[Rate, Rate, float], Gap], confidence: float) -> list[Measured]:
    """Each group's gap to the one with the highest rate; groups too small to be compared have none."""
    known = [name for name, rate in rates.items() if rate.n_rows >= asked.min_rows and rate.n_owners >= MIN_OWNERS]
    best = max(known, key=lambda name: rates[name].value, default=None)
    n_pairs = len(known) * (len(known) - 1) // 2
    found = []
    for name, rate in rates.items():
        if best is None or name not in known:
            found.append(Measured(of=asked.column, name=name, n_rows=rate.n_rows, figure=None))
        elif name != best:
            figure, lower, upper = gap(rate, rates[best], 1 - (1 - confidence) / n_pairs)
            about = Measured(of=asked.column, name=f"{name} against {best}", n_rows=rate.n_rows, figure=figure, lower=lower, upper=upper)
            found.append(about)
    return found
