"""What becomes of the answers where inputs are worse than the hold-out's, which inputs matter, and how long an answer takes.

Everything goes through the transform, as a request does, on a bounded number of rows, with a seed.
"""

import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines_lib.evaluation.evidence import Measured
from pipelines_lib.evaluation.holdout import features_of, lists_of, scores_of, truth_of
from pipelines_lib.evaluation.metrics import value
from pipelines_lib.registry.package import Scorer
from pipelines_lib.use_case import HIGHER_IS_BETTER, UseCase
from pipelines_lib.use_case.gate import Robustness

UNSEEN = "\x00 never seen"
"""A category that no data has."""
_IMPORTANCE_ROWS = 1000
_MOST_INPUTS = 100
_SINGLE_ROWS = 50


class Probe:
    """The metric that decides, of a scorer on some `rows` of the hold-out's rows, from all over it."""

    def __init__(
        self, use_case: UseCase, test: pa.Table, scorer: Scorer, classes: tuple[str, ...], *, operating_point: float | None, rows: int
    ) -> None:
        self.use_case, self.rows, self._scorer = use_case, test.take(pa.array(_chosen(use_case, test, rows))), scorer
        self._truth = truth_of(use_case, self.rows, classes)
        self._point = operating_point
        self._clean = self._metric(self.rows)

    def loss(self, changed: pa.Table) -> float | None:
        """How much worse the metric is where the rows are `changed`; None where it is undefined."""
        sign = 1.0 if HIGHER_IS_BETTER[self.use_case.gate.metric] else -1.0
        lost = sign * (self._clean - self._metric(changed))
        return lost if np.isfinite(lost) else None

    def _metric(self, rows: pa.Table) -> float:
        return value(self.use_case.gate.metric, self._truth, scores_of(self._scorer, rows, self.use_case.feature_types), self._point)


def _chosen(use_case: UseCase, test: pa.Table, n_rows: int) -> NDArray[np.int64]:
    """Places of `n_rows` rows of `test`, or of all where it has fewer.

    Evenly spread; where lists are judged whole lists, until there are as many: of a list thinned out to a row or two no order is left to be spoilt.
    """
    if test.num_rows <= n_rows:
        return np.arange(test.num_rows)
    lists = lists_of(use_case, test)
    if lists is None:
        return np.unique(np.linspace(0, test.num_rows - 1, n_rows).astype(np.int64))
    sizes = np.bincount(lists)
    order = np.random.default_rng(use_case.training.seed).permutation(len(sizes))
    before = np.cumsum(sizes[order]) - sizes[order]
    return np.flatnonzero(np.isin(lists, order[before < n_rows]))


def robustness(probe: Probe, asked: Robustness) -> list[Measured]:
    """The loss by each kind of worse input that `asked` names, and that the features can have."""
    random = np.random.default_rng(probe.use_case.training.seed)
    n_rows = probe.rows.num_rows
    kinds = ((_noisy, asked.noise, "noise"), (_with_gaps, asked.missing, "missing values"), (_shifted, asked.shifted, "shifted categories"))
    found = []
    for change, share, name in kinds:
        changed = change(probe.use_case, probe.rows, share, random) if share else probe.rows
        if changed is not probe.rows:
            found.append(Measured(of=name, name=f"{name} ({share:g})", n_rows=n_rows, figure=probe.loss(changed)))
    return found


def importance(probe: Probe) -> dict[str, float]:
    """Input → the metric's loss where its values are dealt out among the rows anew (Breiman 2001); a window of a sensor is one input.

    Two inputs that say the same each look unimportant: the other one is still there.
    """
    random = np.random.default_rng(probe.use_case.training.seed)
    found = {}
    for name, columns in _inputs(probe.use_case):
        order = pa.array(random.permutation(probe.rows.num_rows))
        changed = probe.rows
        for column in columns:
            changed = _replaced(changed, column, probe.rows[column].take(order))
        if (lost := probe.loss(changed)) is not None:
            found[name] = lost
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def milliseconds(use_case: UseCase, test: pa.Table, scorer: Scorer) -> float | None:
    """Median time of one row, transform and graph, on this machine; None without a row."""
    seconds = []
    for row in range(-3, min(_SINGLE_ROWS, test.num_rows)):  # the first few warm up
        columns = features_of(use_case, test.slice(max(row, 0), 1))
        started = time.perf_counter()
        scorer.predict(columns)
        if row >= 0:
            seconds.append(time.perf_counter() - started)
    return 1000 * float(np.median(seconds)) if seconds else None


def importance_rows(test: pa.Table) -> int:
    """How many rows the importance is measured on."""
    return min(_IMPORTANCE_ROWS, int(test.num_rows))


def _inputs(use_case: UseCase) -> Iterator[tuple[str, list[str]]]:
    windows = use_case.series
    in_window = {column for columns in windows.values() for column in columns}
    inputs = [(sensor, list(columns)) for sensor, columns in windows.items()] + [
        (name, [name]) for name in use_case.features() if name not in in_window
    ]
    yield from inputs[:_MOST_INPUTS]


def _noisy(use_case: UseCase, rows: pa.Table, share: float, random: np.random.Generator) -> pa.Table:
    for name in use_case.features("number", "integer"):
        values = _numbers(rows[name])
        if np.isfinite(values).any():
            noisy = values + share * np.nanstd(np.where(np.isfinite(values), values, np.nan)) * random.normal(size=len(values))
            whole = use_case.columns[name].type == "integer"
            rows = _replaced(rows, name, _column(np.round(noisy) if whole else noisy, rows[name].type))
    return rows


def _with_gaps(use_case: UseCase, rows: pa.Table, share: float, random: np.random.Generator) -> pa.Table:
    for name in use_case.features():
        if name != use_case.treatment and use_case.columns[name].nullable:  # else the service refuses a row with a gap
            gone = pa.array(random.random(rows.num_rows) < share)
            rows = _replaced(rows, name, pc.if_else(gone, pa.scalar(None, rows[name].type), rows[name]))
    return rows


def _shifted(use_case: UseCase, rows: pa.Table, share: float, random: np.random.Generator) -> pa.Table:
    for name in use_case.features("string"):
        if name != use_case.treatment:
            changed = pa.array(random.random(rows.num_rows) < share)
            rows = _replaced(rows, name, pc.if_else(changed, pa.scalar(UNSEEN, rows[name].type), rows[name]))
    return rows


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    return np.array(pc.fill_null(pc.cast(column, pa.float64(), safe=False), np.nan), np.float64)


def _column(values: NDArray[np.float64], kind: pa.DataType) -> pa.Array:
    return pa.array(values, pa.float64(), mask=~np.isfinite(values)).cast(kind, safe=False)


def _replaced(rows: pa.Table, name: str, column: pa.Array | pa.ChunkedArray) -> pa.Table:
    return rows.set_column(rows.column_names.index(name), name, column)
