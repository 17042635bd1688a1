"""From a model's scores to its prediction: in a service, a table and on a device alike, so this module imports nothing that a device lacks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_KEPT = 100
"""Classes whose scores a table keeps; of more it has the predicted one's alone."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """How scores are read."""

    classes: Sequence[str]
    """Names of the scores' columns; none for a regression."""
    positive: int | None = None
    """Place of the positive class; binary tasks only."""
    operating_point: float | None = None
    """Score of the positive class from which on a row is predicted to be of it; None: the likelier class is predicted."""
    separator: str | None = None
    """What stands between the classes of an answer that may have several; None where it has one."""
    likely: float = 0.5
    """Score from which on an answer that may have several classes has one."""

    @property
    def keeps_scores(self) -> bool:
        """Whether a table keeps every score of a row (`scores`), since the one that stands beside its prediction says too little of the others."""
        return self.positive is None and 1 < len(self.classes) <= MOST_KEPT

    def of(self, scores: NDArray[np.float32]) -> tuple[list[str] | list[float], NDArray[np.float64]]:
        """What a person or a table wants of `scores` [n, C]: the prediction (class, or value) and one score a row.

        The score is the probability of the positive class (binary), of the predicted class (multiclass), the largest one (multilabel, whose prediction is
        the likely classes with the separator between them, an empty text where there are none), or the value.
        """
        if not self.classes:
            values = scores[:, 0].astype(np.float64)
            return values.tolist(), values
        if self.separator is not None:
            likely = [[name for name, said in zip(self.classes, row, strict=True) if said] for row in (scores >= self.likely).tolist()]
            return [self.separator.join(names) for names in likely], scores.max(axis=1).astype(np.float64)
        places = predicted_places(scores, self.positive, self.operating_point)
        column = places if self.positive is None else self.positive
        score = scores[np.arange(len(scores)), column].astype(np.float64)
        return [self.classes[place] for place in places.tolist()], score


def predicted_places(scores: NDArray[np.floating[Any]], positive: int | None, operating_point: float | None) -> NDArray[np.int64]:
    """Place of the class that each row of `scores` [n, C] is predicted to be of [n].

    From the operating point on the `positive` one, below it the likeliest of the others; the likeliest of all where either is None.
    """
    if positive is None or operating_point is None:
        return np.asarray(scores.argmax(axis=1), np.int64)
    others = scores.copy()
    others[:, positive] = -np.inf
    # In double precision, as the point is kept: a score that stands on it must not change sides.
    return np.where(scores[:, positive].astype(np.float64) >= operating_point, positive, others.argmax(axis=1)).astype(np.int64)
