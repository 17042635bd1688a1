"""How the model does on parts of the hold-out, and whether it treats groups of people alike."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines_lib.evaluation.compare import draws, interval
from pipelines_lib.evaluation.evidence import Measured
from pipelines_lib.evaluation.holdout import entities_of
from pipelines_lib.evaluation.metrics import Floats, Truth, prepare
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
            figure = float(metric(np.ones((1, n_rows)))[0])
            found.append(_measured(Measured(of=asked.column, name=name, n_rows=n_rows, figure=figure), drawn, gate.confidence))
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

    Which group is best is seen once, on the hold-out: looked for in every resample, chance alone would make a gap.
    """
    impact: list[Measured] = []
    opportunity: list[Measured] = []
    for asked in use_case.gate.fairness:
        chosen = scores[:, truth.positive] >= (asked.threshold or operating_point or LIKELY)
        deserving = np.asarray(truth.labels == truth.positive, bool)
        parts = [part for part in parts_of(use_case, test, _groups(asked)) if part[1].sum() >= asked.min_rows]
        rates = [_Rate(chosen, mine) for _, mine in parts]
        among = [_Rate(chosen, mine & deserving) for _, mine in parts]
        impact += _against_best(use_case, test, asked, parts, rates, ratio=True)
        opportunity += _against_best(use_case, test, asked, parts, among, ratio=False)
    return impact, opportunity


def _groups(asked: Fairness) -> Slice:
    return Slice(column=asked.column, min_rows=asked.min_rows)


class _Rate:
    """Share of the rows in a group that are chosen, as a function of weights."""

    def __init__(self, chosen: Marks, mine: Marks) -> None:
        self._mine, self._both = mine.astype(np.float64), (chosen & mine).astype(np.float64)
        self.n_rows = int(mine.sum())
        self.value = float(self._both.sum() / self.n_rows) if self.n_rows else float("nan")

    def __call__(self, weights: Floats) -> Floats:
        below = weights @ self._mine
        return np.divide(weights @ self._both, below, out=np.full_like(below, np.nan), where=below > 0)


def _against_best(
    use_case: UseCase, test: pa.Table, asked: Fairness, parts: list[tuple[str, Marks]], rates: list[_Rate], *, ratio: bool
) -> list[Measured]:
    known = [place for place, rate in enumerate(rates) if np.isfinite(rate.value)]
    if len(known) < 2:
        return []
    best = max(known, key=lambda place: rates[place].value)
    gate = use_case.gate

    def gap(of: Floats, best: Floats) -> Floats:
        if not ratio:
            return best - of
        return np.divide(of, best, out=np.full_like(of, np.nan), where=best > 0)

    drawn: list[list[Floats]] = [[] for _ in rates]
    for weights in draws(test.num_rows, entities_of(use_case, test), gate.resamples, use_case.training.seed):
        of_best = rates[best](weights)
        for place in known:
            drawn[place].append(gap(rates[place](weights), of_best))
    found = []
    for place in known:
        if place == best:
            continue
        figure = float(gap(np.array([rates[place].value]), np.array([rates[best].value]))[0])
        name = f"{parts[place][0]} against {parts[best][0]}"
        about = Measured(of=asked.column, name=name, n_rows=rates[place].n_rows, figure=figure)
        found.append(_measured(about, np.concatenate(drawn[place]), gate.confidence))
    return found


def _measured(about: Measured, drawn: Floats, confidence: float) -> Measured:
    lower, upper = interval(drawn, confidence)
    figure = about.figure if about.figure is not None and np.isfinite(about.figure) else None
    return about.model_copy(update={"figure": figure, "lower": lower, "upper": upper})
