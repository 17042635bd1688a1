"""How right the answers are before the truth has come, with the interval in which the realised figure lies in 95 of 100 windows.

Of a class: by the model's own chances, after they were calibrated on rows that it has not learned from (confidence-based performance
estimation: Garg et al. 2022; NannyML's CBPE). Each row counts as every class, with the class's chance. Of a number: by a model of its losses (NannyML's direct loss estimation).

Both hold where rows like these have been seen, and what a row means has not changed: they see that inputs became harder, never that the world
answers differently to the same inputs (concept drift). So what was estimated is kept beside what was realised.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pipelines_lib.evaluation import metrics
from pipelines_lib.use_case import LIKELY

Floats = npt.NDArray[np.float64]

_DRAWS = 200
_DRAWN_ROWS = 1000
_Z975 = 1.96
_MOST = {"log_loss": np.inf}
"""The largest value of a classifier's metric, where it is not 1."""
_GROUPS = 10
_FIT_ROWS = 20_000
_DRAWN_CHANCES = 50_000
"""Chances of classes in one draw, at most."""

LOSSES: Mapping[str, Callable[[Floats], Floats]] = {
    "rmse": np.square,
    "mae": np.abs,
    "pinball_10": lambda missing: np.maximum(0.1 * missing, -0.9 * missing),
    "pinball_90": lambda missing: np.maximum(0.9 * missing, -0.1 * missing),
}
"""Metric of a regression → the loss of a row, whose mean (of `rmse` its root) it is, by what was too little in a forecast."""


@dataclass(frozen=True, kw_only=True)
class Estimated:
    """One metric."""

    value: float
    low: float
    high: float
    """Ends of its 95 % interval."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """From the chance that a model gives to how often it came so (beta calibration: Kull, Silva Filho and Flach 2017)."""

    coefficients: Floats
    """Of ln s, -ln(1 - s) and 1, shape [3]; 1, 1, 0 where the model is right about itself."""
    covariance: Floats
    """Of the coefficients, shape [3, 3]."""

    @classmethod
    def fit(cls, scores: Floats, came: Floats) -> Self:
        """By chances [n] and whether (1, 0) it came so [n]. Where rows are few, a weak prior keeps to what the model says."""
        rows, trusted, weight = _log_odds_parts(scores), np.array([1.0, 1.0, 0.0]), np.array([1.0, 1.0, 0.25])
        found = trusted.copy()
        hessian = np.diag(weight)
        for _ in range(50):
            chances = _chance(rows @ found)
            hessian = rows.T @ (rows * (chances * (1 - chances))[:, None]) + np.diag(weight)
            step = np.linalg.solve(hessian, rows.T @ (came - chances) - weight * (found - trusted))
            found = found + step / max(1.0, float(np.abs(step).max()))
            if np.abs(step).max() < 1e-8:
                break
        return cls(found, np.linalg.inv(hessian))

    def chances(self, scores: Floats, coefficients: Floats | None = None) -> Floats:
        """Calibrated chances [n]."""
        return _chance(_log_odds_parts(scores) @ (self.coefficients if coefficients is None else coefficients))

    def draws(self, n: int, random: np.random.Generator) -> Floats:
        """Coefficients that fit about as well [n, 3]."""
        return random.multivariate_normal(self.coefficients, self.covariance, n, method="cholesky")

    def binary(self, names: Sequence[str], scores: Floats, operating_point: float | None) -> dict[str, Estimated]:
        """The metrics of a model with two classes by the positive one's scores [n], at least one."""
        figures = {name: _twice(name, scores, operating_point) for name in names}
        spread = self._spread(scores, lambda places: {name: _twice(name, scores[places], operating_point) for name in names})
        chances = self.chances(scores)[None]
        return {name: _between(float(figure(chances)[0]), spread[name], _MOST.get(name, 1.0)) for name, figure in figures.items()}

    def accuracy(self, scores: Floats) -> dict[str, Estimated]:
        """Accuracy of a model by the scores [n] of the classes that it predicted, at least one."""
        spread = self._spread(scores, lambda _: {"accuracy": lambda came: came.mean(axis=1)})
        return {"accuracy": _between(float(self.chances(scores).mean()), spread["accuracy"])}

    def _spread(
        self, scores: Floats, prepare: Callable[[npt.NDArray[np.int64]], dict[str, Callable[[Floats], Floats]]]
    ) -> dict[str, float]:
        """Standard error of each figure: of what comes by chance given the chances, and of what calibration does not know.

        Both are drawn on a bounded number of rows. The first falls with the number of rows, the second does not.
        """
        random = np.random.default_rng(0)
        places = np.unique(np.linspace(0, len(scores) - 1, min(len(scores), _DRAWN_ROWS)).astype(np.int64))
        some = scores[places]
        came = (random.random((_DRAWS, len(some))) < self.chances(some)).astype(np.float64)
        others = np.stack([self.chances(some, drawn) for drawn in self.draws(_DRAWS, random)])
        return {
            name: float(np.sqrt(_variance(figure(came)) * len(some) / len(scores) + _variance(figure(others))))
            for name, figure in prepare(places).items()
        }

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"kind": "calibration", "coefficients": self.coefficients.tolist(), "covariance": self.covariance.tolist()}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """The reverse of `to_dict`."""
        return cls(np.array(document["coefficients"], np.float64), np.array(document["covariance"], np.float64))


@dataclass(frozen=True, eq=False)
class LossModel:
    """The loss that a row is expected to have: ridge regression on what an `Encoder` makes of the row."""

    names: tuple[str, ...]
    """Metrics, keys of `LOSSES`."""
    coefficients: Floats
    """Shape [1 + groups, metrics, d]: learned from all rows, then from all but one group (the jackknife's)."""
    variances: Floats
    """The same for the square of what the model leaves of a row's loss, shape [metrics, d]: harder rows have losses of a wider spread."""

    @classmethod
    def fit(cls, names: Sequence[str], rows: Floats, missing: Floats) -> Self:
        """By encoded rows [n, d] and what was too little in their forecasts [n]; rows that the forecasting model has not learned from."""
        places = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _FIT_ROWS)).astype(np.int64))
        rows, missing = _with_one(rows[places]), missing[places]
        losses = np.stack([LOSSES[name](missing) for name in names], axis=1)
        ridge = _best_ridge(rows, losses)
        groups = np.arange(len(rows)) % _GROUPS
        fits = [_ridge(rows, losses, ridge), *(_ridge(rows[groups != g], losses[groups != g], ridge) for g in range(_GROUPS))]
        variances = _ridge(rows, (losses - rows @ fits[0]) ** 2, ridge).T
        return cls(tuple(names), _kept(np.stack([fit.T for fit in fits])), _kept(variances))

    def estimate(self, rows: Floats) -> dict[str, Estimated]:
        """The metrics of forecasts by their encoded rows [n, d], at least one."""
        mean_row = _with_one(rows).mean(axis=0)
        means = self.coefficients @ mean_row
        unsure = (len(means) - 2) / (len(means) - 1) * ((means[1:] - means[1:].mean(axis=0)) ** 2).sum(axis=0)
        errors = np.sqrt(unsure + np.maximum(self.variances @ mean_row, 0) / len(rows))
        found = {}
        for name, mean, error in zip(self.names, means[0].tolist(), errors.tolist(), strict=True):
            ends = [max(0.0, mean + side * _Z975 * error) for side in (-1, 0, 1)]
            low, value, high = np.sqrt(ends).tolist() if name == "rmse" else ends
            found[name] = Estimated(value=value, low=low, high=high)
        return found

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "kind": "losses",
            "names": list(self.names),
            "shape": list(self.coefficients.shape),
            "coefficients": _encoded(self.coefficients),
            "variances": _encoded(self.variances),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """The reverse of `to_dict`."""
        coefficients = _decoded(document["coefficients"]).reshape(document["shape"])
        return cls(tuple(document["names"]), coefficients, _decoded(document["variances"]).reshape(coefficients.shape[1:]))


@dataclass(frozen=True, eq=False)
class ClassCalibration:
    """From the chances that a model gives to three classes or more to how often each came (vector scaling: Guo et al. 2017)."""

    coefficients: Floats
    """Slopes and shifts of the classes' log chances, shape [2, C]; ones and zeros where the model is right about itself."""
    covariance: Floats
    """Of the coefficients one after the other, shape [2 C, 2 C]."""

    @classmethod
    def fit(cls, scores: Floats, labels: npt.NDArray[np.int64]) -> Self:
        """By chances [n, C] and the places of the classes that came [n]. Where rows are few, a weak prior keeps to what the model says."""
        places = np.unique(np.linspace(0, len(scores) - 1, min(len(scores), _FIT_ROWS)).astype(np.int64))
        logs, came = _logs(scores[places]), np.eye(scores.shape[1])[labels[places]]
        n_classes = scores.shape[1]
        trusted = np.repeat([1.0, 0.0], n_classes)
        weight, found = np.repeat([1.0, 0.25], n_classes), trusted.copy()
        slope, shift = np.arange(n_classes), np.arange(n_classes) + n_classes
        hessian = np.diag(weight)
        for _ in range(50):
            chances = _softmax(logs * found[slope] + found[shift])
            spread = np.concatenate([chances * logs, chances], axis=1)
            hessian = np.diag(weight) - spread.T @ spread
            hessian[slope, slope] += (chances * logs**2).sum(axis=0)
            hessian[shift, shift] += chances.sum(axis=0)
            hessian[slope, shift] += (chances * logs).sum(axis=0)
            hessian[shift, slope] += (chances * logs).sum(axis=0)
            missing = came - chances
            gradient = np.concatenate([(missing * logs).sum(axis=0), missing.sum(axis=0)]) - weight * (found - trusted)
            step = np.linalg.solve(hessian, gradient)
            found = found + step / max(1.0, float(np.abs(step).max()))
            if np.abs(step).max() < 1e-8:
                break
        return cls(_kept(found.reshape(2, n_classes)), _kept(np.linalg.inv(hessian)))

    def chances(self, scores: Floats, coefficients: Floats | None = None) -> Floats:
        """Calibrated chances [n, C]."""
        slopes, shifts = self.coefficients if coefficients is None else coefficients
        return _softmax(_logs(scores) * slopes + shifts)

    def estimate(self, names: Sequence[str], scores: Floats) -> dict[str, Estimated]:
        """The metrics of a model by its chances [n, C], of at least one row."""
        random, some = np.random.default_rng(0), _some(scores)
        ends = self.chances(some).cumsum(axis=1)
        came = np.eye(self.n_classes)[np.minimum((random.random((_DRAWS, len(some), 1)) > ends).sum(axis=2), self.n_classes - 1)]
        drawn = random.multivariate_normal(self.coefficients.ravel(), self.covariance, _DRAWS, method="eigh")
        others = np.stack([self.chances(some, one.reshape(2, -1)) for one in drawn])
        now = self.chances(scores)
        most = {**_MOST, "brier": 2.0}
        return {
            name: _by_draws(_of_classes(name, some), _of_classes(name, scores), now, came=came, others=others, most=most.get(name, 1.0))
            for name in names
        }

    @property
    def n_classes(self) -> int:
        """C."""
        return int(self.coefficients.shape[1])

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "kind": "class calibration",
            "n_classes": self.coefficients.shape[1],
            "coefficients": _encoded(self.coefficients),
            "covariance": _encoded(self.covariance),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """The reverse of `to_dict`."""
        n = int(document["n_classes"])
        return cls(_decoded(document["coefficients"]).reshape(2, n), _decoded(document["covariance"]).reshape(2 * n, 2 * n))


@dataclass(frozen=True, eq=False)
class LabelCalibration:
    """The same for rows that may have several classes: a calibration for each. A row's classes count as independent, given their chances."""

    each: tuple[Calibration, ...]

    @classmethod
    def fit(cls, scores: Floats, labels: npt.NDArray[np.bool_]) -> Self:
        """By chances and whether rows have the classes, both [n, C]."""
        found = [Calibration.fit(*pair) for pair in zip(scores.T, labels.T.astype(np.float64), strict=True)]
        return cls(tuple(Calibration(_kept(one.coefficients), _kept(one.covariance)) for one in found))

    def estimate(self, names: Sequence[str], scores: Floats) -> dict[str, Estimated]:
        """The metrics of a model by its chances [n, C], of at least one row."""
        random, some = np.random.default_rng(0), _some(scores)
        came = (random.random((_DRAWS, *some.shape)) < self._chances(some)).astype(np.float64)
        drawn = zip(*(one.draws(_DRAWS, random) for one in self.each), strict=True)
        others = np.stack([self._chances(some, coefficients) for coefficients in drawn])
        now = self._chances(scores)
        return {name: _by_draws(_of_labels(name, some), _of_labels(name, scores), now, came=came, others=others) for name in names}

    def _chances(self, scores: Floats, coefficients: Sequence[Floats | None] | None = None) -> Floats:
        """Calibrated chances [n, C]."""
        given = coefficients or [None] * self.n_classes
        return np.stack([one.chances(*pair) for one, *pair in zip(self.each, scores.T, given, strict=True)], axis=1)

    @property
    def n_classes(self) -> int:
        """C."""
        return len(self.each)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"kind": "label calibration", "each": [one.to_dict() for one in self.each]}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """The reverse of `to_dict`."""
        return cls(tuple(Calibration.from_dict(one) for one in document["each"]))


Estimator = Calibration | ClassCalibration | LabelCalibration | LossModel


def _kept(array: Floats) -> Floats:
    """In single precision, as it is kept: a package that is read again estimates the same."""
    return array.astype(np.float32).astype(np.float64)


def _encoded(array: Floats) -> str:
    return base64.b64encode(array.astype("<f4").tobytes()).decode("ascii")


def _decoded(text: str) -> Floats:
    return np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float64)


def _between(value: float, error: float, most: float = 1.0) -> Estimated:
    """The interval does not go beyond what the metric can be, 0 to `most`."""
    low, high = np.clip([value - _Z975 * error, value + _Z975 * error], 0.0, most).tolist()
    return Estimated(value=value, low=low, high=high)


def _variance(figures: Floats) -> float:
    """Of those that are defined; NaN where none is."""
    defined = figures[np.isfinite(figures)]
    return float(defined.var()) if len(defined) else float("nan")


def _twice(metric: str, scores: Floats, operating_point: float | None) -> Callable[[Floats], Floats]:
    """The metric as a function of chances [b, n]: each row counts as a yes with its chance, and as a no with the rest."""
    labels = np.r_[np.ones(len(scores), np.int64), np.zeros(len(scores), np.int64)]
    both = np.stack([1 - scores, scores], axis=1).astype(np.float32)
    figure = metrics.prepare(metric, metrics.Truth(labels, ("no", "yes"), 1), np.concatenate([both, both]), operating_point)
    return lambda chances: figure(np.concatenate([chances, 1 - chances], axis=1))


def _of_classes(metric: str, scores: Floats) -> Callable[[Floats], Floats]:
    """The metric of scores [n, C] as a function of chances [b, n, C], each row counting as every class with its chance.

    Not by `metrics.prepare` on every row as every class: that would take C² figures a row.
    """
    if metric == "roc_auc":
        of_each = [_twice(metric, of_class, None) for of_class in scores.T]
        return lambda chances: metrics.mean_of_defined(np.stack([figure(chances[:, :, place]) for place, figure in enumerate(of_each)]))
    said = np.eye(scores.shape[1])[scores.argmax(axis=1)]
    if metric == "macro_f1":
        return _macro_f1(said)
    of_row = {
        "accuracy": said,
        "log_loss": -np.log(np.clip(scores / scores.sum(axis=1, keepdims=True), metrics.SMALLEST, 1)),
        "brier": (scores**2).sum(axis=1, keepdims=True) - 2 * scores + 1,
    }[metric]
    return lambda chances: np.einsum("bnc,nc->b", chances, of_row) / len(of_row)


def _of_labels(metric: str, scores: Floats) -> Callable[[Floats], Floats]:
    """The same where a row may have several classes."""
    if metric == "average_precision":
        of_each = [_twice(metric, of_class, None) for of_class in scores.T]
        return lambda chances: metrics.mean_of_defined(np.stack([figure(chances[:, :, place]) for place, figure in enumerate(of_each)]))
    said = (scores >= LIKELY).astype(np.float64)
    if metric == "macro_f1":
        return _macro_f1(said)

    def micro_f1(chances: Floats) -> Floats:
        total = chances.sum(axis=(1, 2)) + said.sum()
        found: Floats = np.divide(2 * np.einsum("bnc,nc->b", chances, said), total, out=np.full_like(total, np.nan), where=total > 0)
        return found

    return micro_f1


def _macro_f1(said: Floats) -> Callable[[Floats], Floats]:
    """By which classes were predicted, 1 and 0 [n, C]: over those that occur."""

    def macro_f1(chances: Floats) -> Floats:
        total = chances.sum(axis=1) + said.sum(axis=0)
        f1 = np.divide(2 * np.einsum("bnc,nc->bc", chances, said), total, out=np.full_like(total, np.nan), where=total > 0)
        return metrics.mean_of_defined(f1.T)

    return macro_f1


def _some(scores: Floats) -> Floats:
    """Rows of [n, C] from all over them, as many as draws are made of."""
    n_rows = min(len(scores), _DRAWN_ROWS, _DRAWN_CHANCES // scores.shape[1])
    return scores[np.unique(np.linspace(0, len(scores) - 1, n_rows).astype(np.int64))]


def _by_draws(
    of_some: Callable[[Floats], Floats],
    of_all: Callable[[Floats], Floats],
    chances: Floats,
    *,
    came: Floats,
    others: Floats,
    most: float = 1.0,
) -> Estimated:
    """A figure by the `chances` of all rows [n, C], with the spread that draws of some rows have [b, m, C]: of what `came`, and of `others`' calibrations."""
    by_chance = _variance(of_some(came)) * came.shape[1] / len(chances)
    return _between(float(of_all(chances[None])[0]), float(np.sqrt(by_chance + _variance(of_some(others)))), most)


def _logs(scores: Floats) -> Floats:
    return np.log(np.clip(scores, 1e-6, 1.0))


def _softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float64)


def _log_odds_parts(scores: Floats) -> Floats:
    """[n, 3]; a certain answer counts as nearly certain."""
    scores = np.clip(scores, 1e-6, 1 - 1e-6)
    return np.stack([np.log(scores), -np.log1p(-scores), np.ones(len(scores))], axis=1)


def _chance(log_odds: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(log_odds, -40, 40))), np.float64)


def _with_one(rows: Floats) -> Floats:
    return np.concatenate([rows, np.ones((len(rows), 1))], axis=1)


def _ridge(rows: Floats, targets: Floats, ridge: float) -> Floats:
    """Coefficients [d, t]; the last column, which is 1, is not held back."""
    held_back = np.full(rows.shape[1], ridge)
    held_back[-1] = 1e-6
    return np.asarray(np.linalg.solve(rows.T @ rows + np.diag(held_back), rows.T @ targets), np.float64)


def _best_ridge(rows: Floats, targets: Floats) -> float:
    """By generalised cross-validation (Golub, Heath and Wahba 1979), over all targets in units of their variance."""
    scale = np.maximum(targets.var(axis=0), 1e-300)
    gram = rows.T @ rows

    def error(ridge: float) -> float:
        left = (((targets - rows @ _ridge(rows, targets, ridge)) ** 2).mean(axis=0) / scale).sum()
        used = float(np.trace(np.linalg.solve(gram + ridge * np.eye(len(gram)), gram)))
        return float(left) / max(1e-9, 1 - used / len(rows)) ** 2

    return min((10.0**power for power in range(6)), key=error)
