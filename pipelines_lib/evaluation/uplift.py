"""How well a model tells whom a treatment helps, on a hold-out of a randomised experiment.

Nobody is seen under two arms, so no row says what its uplift was, and only groups can be compared. All figures assume that chance decided
who was treated, with the same odds for everybody; each row then counts by the inverse of its arm's share (Horvitz and Thompson, 1952). Where people
chose their arm, or somebody chose it for them, the figures mix the effect with the reasons for the choice, and say nothing.

Rows are ranked by predicted uplift, the highest first (Radcliffe, Using control groups to target on predicted lift, 2007):

- `qini`: the area between the curve of what treating the first so many rows brings, per row of the hold-out and in the outcome's units, and
  the line that treating as many at random follows. 0 is a ranking that says nothing; `qini_lower` and `qini_upper` bound it.
- `auuc`: the whole area under that curve: what the ranking brings, and what treating anybody brings, together.
- `uplift_at_30`: the difference between the arms' mean outcomes among the first 30 % of the rows.
- `average_uplift`: the same among all rows, whatever the model says.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines_lib.evaluation.compare import draws, interval
from pipelines_lib.evaluation.holdout import entities_of, features_of
from pipelines_lib.evaluation.metrics import Floats, Truth
from pipelines_lib.registry.package import Scorer
from pipelines_lib.use_case import UseCase

_FIRST = 0.3

Figures = dict[str, float | None]


def figures(use_case: UseCase, test: pa.Table, truth: Truth, scorer: Scorer) -> Figures:
    """The figures of each treatment against the control, on the rows of `test` that had one of the two; none without a treatment.

    Of several treatments each has its name behind its figures. None where an arm has no row in the hold-out.
    """
    column = use_case.treatment
    if column is None:
        return {}
    arms = np.array(test[column].to_pylist(), object)
    outcome = np.asarray(truth.labels == truth.positive if truth.classes else truth.labels, np.float64)
    control, treatments = use_case.training.model.control, sorted(set(arms) - {use_case.training.model.control})
    place = 0 if truth.positive is None else truth.positive
    features, entities = features_of(use_case, test), entities_of(use_case, test)

    def under(arm: str | None) -> Floats:
        return scorer.predict({**features, column: [arm] * test.num_rows})[:, place].astype(np.float64)

    base, found = under(control), Figures()
    for name, suffix in zip(treatments, suffixes(treatments), strict=True):
        mine = np.isin(arms, [name, control])
        of_arm = of_treatment(
            outcome[mine],
            np.asarray(arms[mine] == name),
            (under(name) - base)[mine],
            groups=None if entities is None else np.unique(entities[mine], return_inverse=True)[1],
            confidence=use_case.gate.confidence,
            resamples=use_case.gate.resamples,
            seed=use_case.training.seed,
        )
        found |= {f"{figure}{suffix}": value for figure, value in of_arm.items()}
    return found


def suffixes(treatments: Sequence[str]) -> list[str]:
    """What stands behind a figure's name: nothing for the only treatment, else the treatment's name, in letters that a tracking server takes."""
    if len(treatments) == 1:
        return [""]
    plain = [re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_") for name in treatments]
    return [f"_{name}" if name and plain.count(name) == 1 else f"_{place}" for place, name in enumerate(plain, start=1)]


def of_treatment(
    outcome: Floats,
    treated: NDArray[np.bool_],
    uplift: Floats,
    *,
    groups: NDArray[np.int64] | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Figures:
    """The figures of one treatment. `outcome` [n], whether each row was `treated` or is of the control [n], its predicted `uplift` [n].

    `groups` [n] as in `compare`: the bootstrap draws whole entities.
    """
    ranked = _Ranked(outcome, treated, uplift)
    once = np.ones((1, len(outcome)))
    lower, upper = None, None
    if len(outcome):
        drawn = np.concatenate([ranked.qini(w) for w in draws(len(outcome), groups, resamples, seed)])
        lower, upper = interval(drawn, confidence, len(outcome) if groups is None else len(np.unique(groups)))
    values: Mapping[str, float] = {
        "qini": float(ranked.qini(once)[0]),
        "auuc": float(ranked.auuc(once)[0]),
        "uplift_at_30": float(ranked.uplift_of_first(once, _FIRST)[0]),
        "average_uplift": float(ranked.uplift_of_first(once, 1.0)[0]),
    }
    return {name: value if np.isfinite(value) else None for name, value in values.items()} | {"qini_lower": lower, "qini_upper": upper}


class _Ranked:
    """Rows by predicted uplift, the highest first; rows of equal uplift share their places. Every figure is a function of row weights [b, n]."""

    def __init__(self, outcome: Floats, treated: NDArray[np.bool_], uplift: Floats) -> None:
        self._order = np.argsort(-uplift, kind="stable")
        ranked = uplift[self._order]
        self._starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]][: len(ranked)])
        self._outcome = outcome[self._order]
        self._treated = treated[self._order].astype(np.float64)

    def qini(self, weights: Floats) -> Floats:
        """[b]; NaN without a row of each arm."""
        area, whole = self._curve(weights)
        return area - whole / 2

    def auuc(self, weights: Floats) -> Floats:
        """[b]; NaN without a row of each arm."""
        return self._curve(weights)[0]

    def _curve(self, weights: Floats) -> tuple[Floats, Floats]:
        """The area under the curve of gains, and its end: two arrays [b], NaN without a row of each arm."""
        if not len(self._starts):
            return np.full(len(weights), np.nan), np.full(len(weights), np.nan)
        weights = weights[:, self._order]
        total, n_treated = weights.sum(axis=1, keepdims=True), (weights * self._treated).sum(axis=1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            # The mean adds nothing to the difference of the arms, but its noise: what a row adds is measured from there.
            centred = self._outcome - (weights * self._outcome).sum(axis=1, keepdims=True) / total
            signed = centred * np.where(self._treated > 0, total / n_treated, -total / (total - n_treated))
        signed = np.where(weights > 0, signed, 0.0)
        gain = _from_zero(np.add.reduceat(weights * signed, self._starts, axis=1) / total)
        share = _from_zero(np.add.reduceat(weights, self._starts, axis=1) / total)
        area = (np.diff(share, axis=1) * (gain[:, 1:] + gain[:, :-1]) / 2).sum(axis=1)
        defined = ((n_treated > 0) & (n_treated < total))[:, 0]
        return np.where(defined, area, np.nan), np.where(defined, gain[:, -1], np.nan)

    def uplift_of_first(self, weights: Floats, share: float) -> Floats:
        """[b]: mean outcome of the treated less that of the control among the first `share` of the rows; NaN where one has no row there.

        Of rows of equal uplift, of which not all fit, each counts in part.
        """
        if not len(self._starts):
            return np.full(len(weights), np.nan)
        weights = weights[:, self._order]
        in_group = np.add.reduceat(weights, self._starts, axis=1)
        before = np.cumsum(in_group, axis=1) - in_group
        room = share * weights.sum(axis=1, keepdims=True) - before
        part = np.clip(np.divide(room, in_group, out=np.zeros_like(room), where=in_group > 0), 0.0, 1.0)
        counted = weights * np.repeat(part, np.diff(np.r_[self._starts, weights.shape[1]]), axis=1)
        means = [
            np.divide(
                (counted * arm * self._outcome).sum(axis=1),
                (counted * arm).sum(axis=1),
                out=np.full(len(weights), np.nan),
                where=(counted * arm).sum(axis=1) > 0,
            )
            for arm in (self._treated, 1.0 - self._treated)
        ]
        difference: Floats = means[0] - means[1]
        return difference


def _from_zero(steps: Floats) -> Floats:
    """Sums of the first 0, 1, … steps [b, k + 1]."""
    return np.concatenate([np.zeros((len(steps), 1)), np.cumsum(steps, axis=1)], axis=1)
