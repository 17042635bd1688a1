import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.errors import DataError
from pipelines_lib.evaluation.metrics import Truth, value
from pipelines_lib.monitoring.encoding import Encoder
from pipelines_lib.monitoring.estimate import LOSSES, Calibration, ClassCalibration, LabelCalibration, LossModel, _of_classes, _of_labels
from pipelines_lib.monitoring.reference import Reference, Sample
from pipelines_lib.monitoring.sketch import profile_columns

METRICS = ["roc_auc", "average_precision", "accuracy", "f1", "log_loss", "brier"]


def overconfident(rng, n, shift=0.0):
    """Scores of a model that is twice as sure as it should be, and what came."""
    log_odds = rng.normal(shift, 1.0, n)
    came = (rng.random(n) < 1 / (1 + np.exp(-log_odds))).astype(float)
    return 1 / (1 + np.exp(-2 * log_odds)), came


def test_calibration_finds_how_often_it_comes_so():
    scores, came = overconfident(np.random.default_rng(0), 5000)
    found = Calibration.fit(scores, came)
    asked = np.array([0.05, 0.5, 0.9])
    log_odds = np.log(asked / (1 - asked)) / 2
    np.testing.assert_allclose(found.chances(asked), 1 / (1 + np.exp(-log_odds)), atol=0.03)
    certain = Calibration.fit(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    assert np.isfinite(certain.covariance).all()


@pytest.mark.parametrize(("n_known", "n_now", "shift"), [(300, 200, 0.0), (300, 200, -1.0), (3000, 1000, 1.0)])
def test_intervals_hold_what_is_realised_before_anybody_knew(n_known, n_now, shift):
    rng = np.random.default_rng(n_known + int(shift))
    inside = dict.fromkeys(METRICS, 0)
    n_worlds = 40
    for _ in range(n_worlds):
        known = Calibration.fit(*overconfident(rng, n_known))
        scores, came = overconfident(rng, n_now, shift)
        truth = Truth(came.astype(np.int64), ("no", "yes"), 1)
        for name, found in known.binary(METRICS, scores, 0.5).items():
            realised = value(name, truth, np.stack([1 - scores, scores], axis=1).astype(np.float32), 0.5)
            inside[name] += found.low <= realised <= found.high
    assert min(inside.values()) >= 0.85 * n_worlds, inside


def test_of_many_classes_accuracy_is_told():
    rng = np.random.default_rng(4)
    scores = rng.uniform(0.4, 1.0, 4000)
    came = (rng.random(4000) < scores - 0.2).astype(float)
    found = Calibration.fit(scores[:2000], came[:2000]).accuracy(scores[2000:])["accuracy"]
    assert found.low <= came[2000:].mean() <= found.high
    assert found.high - found.low < 0.08


OF_LABELS = ["micro_f1", "macro_f1", "average_precision"]
OF_CLASSES = ["accuracy", "macro_f1", "roc_auc", "log_loss", "brier"]


def sure_of_four(rng, n, shift=0.0):
    """Chances that a model gives four classes, the last one rare, twice as sure as it should be, and which came."""
    logits = rng.normal(np.array([shift, 0, 0, -1]), 1.2, (n, 4))
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    said = chances**2 / (chances**2).sum(axis=1, keepdims=True)
    return said, np.minimum((rng.random((n, 1)) > chances.cumsum(axis=1)).sum(axis=1), 3)


@pytest.mark.parametrize(("n_known", "n_now", "shift"), [(300, 200, -1.0), (1000, 500, 1.0)])
def test_intervals_of_many_classes_hold_what_is_realised(n_known, n_now, shift):
    rng = np.random.default_rng(n_known + int(shift))
    inside = dict.fromkeys(OF_CLASSES, 0)
    n_worlds = 25
    for _ in range(n_worlds):
        known = ClassCalibration.fit(*sure_of_four(rng, n_known))
        scores, came = sure_of_four(rng, n_now, shift)
        for name, found in known.estimate(OF_CLASSES, scores).items():
            realised = value(name, Truth(came, ("a", "b", "c", "d")), scores.astype(np.float32))
            inside[name] += found.low <= realised <= found.high
    assert min(inside.values()) >= 20, inside  # of 25 at 95 %: fewer than 20 has chance 0.1 %


def test_intervals_of_several_labels_hold_what_is_realised():
    rng = np.random.default_rng(8)
    inside = dict.fromkeys(OF_LABELS, 0)

    def world(n, shift=0.0):
        pairs = [overconfident(rng, n, shift + place - 1) for place in range(3)]
        return np.stack([scores for scores, _ in pairs], axis=1), np.stack([came for _, came in pairs], axis=1) > 0

    for _ in range(25):
        known = LabelCalibration.fit(*world(300))
        scores, came = world(200, -0.5)
        for name, found in known.estimate(OF_LABELS, scores).items():
            realised = value(name, Truth(came, ("a", "b", "c")), scores.astype(np.float32))
            inside[name] += found.low <= realised <= found.high
    assert min(inside.values()) >= 20, inside


@given(n=st.integers(1, 40), n_classes=st.integers(2, 5), seed=st.integers(0, 10**6))
def test_where_it_is_certain_what_came_an_estimate_is_the_metric(n, n_classes, seed):
    rng = np.random.default_rng(seed)
    scores = rng.dirichlet(np.ones(n_classes), n).astype(np.float32)
    came = rng.integers(0, n_classes, n)
    truth = Truth(came, tuple("abcde"[:n_classes]))
    marks = rng.random((n, n_classes)) < 0.5
    for name in OF_LABELS:
        found = _of_labels(name, scores.astype(np.float64))(marks[None].astype(float))[0]
        assert found == pytest.approx(value(name, Truth(marks, truth.classes), scores), nan_ok=True, abs=1e-6), name
    for name in OF_CLASSES:
        found = _of_classes(name, scores.astype(np.float64))(np.eye(n_classes)[came][None])[0]
        assert found == pytest.approx(value(name, truth, scores), nan_ok=True, abs=1e-6), name


def test_one_row_is_enough_to_be_told_what_can_be_told():
    found = ClassCalibration(np.array([[1.0] * 3, [0.0] * 3]), np.eye(6) * 0.01).estimate(OF_CLASSES, np.array([[0.7, 0.2, 0.1]]))
    assert found["accuracy"].value == pytest.approx(0.7, abs=1e-3)
    assert np.isnan(found["roc_auc"].low)


def test_no_interval_goes_beyond_what_the_metric_can_be():
    good = np.r_[np.full(30, 0.98), np.full(30, 0.01)]
    found = Calibration(np.array([1.0, 1.0, 0.0]), np.eye(3) * 0.5).binary(["accuracy", "roc_auc", "brier", "log_loss"], good, None)
    assert (found["accuracy"].high, found["roc_auc"].high, found["brier"].low, found["log_loss"].low) == (1.0, 1.0, 0.0, 0.0)
    unsure = ClassCalibration(np.array([[1.0] * 3, [0.0] * 3]), np.eye(6) * 9.0).estimate(OF_CLASSES, np.full((3, 3), 1 / 3))
    assert all(
        0 <= one.low <= one.high <= {"brier": 2.0, "log_loss": np.inf}.get(name, 1.0) for name, one in unsure.items() if name != "roc_auc"
    )


def harder_for_large(rng, n, shift=0.0):
    x = rng.normal(shift, 1.0, n)
    return {"x": x, "score": x * 2}, rng.normal(0, 0.2 + np.abs(x), n)


def test_losses_are_told_where_rows_become_harder():
    rng = np.random.default_rng(5)
    columns, _ = harder_for_large(rng, 4000)
    profile = profile_columns({"x": columns["x"]}, {"x": "number"}, scores=columns["score"])
    encoder = Encoder(profile, ("score", "x"))
    inside = dict.fromkeys(LOSSES, 0)
    for _ in range(30):
        columns, missing = harder_for_large(rng, 1500)
        model = LossModel.fit([*LOSSES], encoder.spread(encoder.encode(columns, 1500)), missing)
        now, truth = harder_for_large(rng, 300, 0.7)
        figures = model.estimate(encoder.spread(encoder.encode(now, 300)))
        for name, found in figures.items():
            realised = LOSSES[name](truth).mean()
            inside[name] += found.low <= (np.sqrt(realised) if name == "rmse" else realised) <= found.high
    assert min(inside.values()) >= 24, inside
    assert figures["mae"].value > 1.05 * np.abs(missing).mean(), "these rows are harder than those it learned from"


def test_a_reference_is_a_profile_with_more_in_it():
    rng = np.random.default_rng(6)
    columns, missing = harder_for_large(rng, 200)
    profile = profile_columns({"x": columns["x"]}, {"x": "number"}, scores=columns["score"])
    encoder = Encoder(profile, ("x",))
    codes = encoder.encode(columns, 200)
    of_classes = ClassCalibration.fit(*sure_of_four(rng, 100))
    of_labels = LabelCalibration.fit(rng.random((100, 2)), rng.random((100, 2)) < 0.5)
    for estimator in (
        Calibration.fit(*overconfident(rng, 100)),
        of_classes,
        of_labels,
        LossModel.fit(["mae"], encoder.spread(codes), missing),
    ):
        there = Reference(profile=profile, importance={"x": 0.5}, sample=Sample(columns=("x",), codes=codes), estimator=estimator)
        back = Reference.from_json(there.to_json())
        assert back.to_json() == there.to_json()
        assert back.sample is not None
        np.testing.assert_array_equal(back.sample.codes, codes)
    old = Reference.from_json(profile.to_json())
    assert (old.sample, old.estimator, dict(old.importance)) == (None, None, {})
    with pytest.raises(DataError, match="Deploy an earlier version"):
        Reference.from_json(there.to_json().replace('"losses"', '"guesses"'))
