"""The metrics are scikit-learn's, and a weight of two is a row seen twice."""

import numpy as np
import pyarrow as pa
import pytest
import sklearn.metrics as sk
from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.evaluation.metrics import Truth, aligned, prepare, several, value, values
from pipelines_lib.use_case import HIGHER_IS_BETTER, METRICS

CLASSES = {"binary": ("no", "yes"), "multiclass": ("a", "b", "c", "d"), "multilabel": ("a", "b", "c")}
SKLEARN = {
    "roc_auc": lambda y, p: sk.roc_auc_score(y == 1, p[:, 1]),
    "average_precision": lambda y, p: sk.average_precision_score(y == 1, p[:, 1]),
    "accuracy": lambda y, p: sk.accuracy_score(y, p.argmax(axis=1)),
    "macro_f1": lambda y, p: sk.f1_score(y, p.argmax(axis=1), average="macro", zero_division=0),
    "log_loss": lambda y, p: sk.log_loss(y, p, labels=list(range(p.shape[1]))),
    "micro_f1": lambda y, p: sk.f1_score(y, p >= 0.5, average="micro"),
    "rmse": lambda y, p: sk.root_mean_squared_error(y, p[:, 0]),
    "mae": lambda y, p: sk.mean_absolute_error(y, p[:, 0]),
}
SEVERAL = {
    "micro_f1": SKLEARN["micro_f1"],
    "macro_f1": lambda y, p: sk.f1_score(y, p >= 0.5, average="macro", zero_division=np.nan),
    "average_precision": lambda y, p: np.mean([sk.average_precision_score(y[:, c], p[:, c]) for c in range(y.shape[1]) if y[:, c].any()]),
}
EACH = [(task, metric) for task, metrics in METRICS.items() for metric in metrics]


def problem(task, n, seed):
    """Labels and scores with many ties, and scores that know something."""
    random = np.random.default_rng(seed)
    if task == "regression":
        labels = random.normal(size=n)
        return Truth(labels, ()), (labels + random.normal(size=n)).astype(np.float32)[:, None]
    n_classes = len(CLASSES[task])
    if task == "multilabel":
        marks = random.random((n, n_classes)) < 0.4
        marks[0] = True
        return Truth(marks, CLASSES[task]), (random.integers(0, 50, (n, n_classes)) / 64 + 0.2 * marks).astype(np.float32)
    labels = random.integers(0, n_classes, n)
    labels[:n_classes] = range(n_classes)
    # Multiples of 1/64 that sum to one: ties, and no rounding for scikit-learn to complain about.
    scores = (random.multinomial(60, [1 / n_classes] * n_classes, n) + 4 * np.eye(n_classes, dtype=int)[labels]) / 64
    return Truth(labels, CLASSES[task], 1 if task == "binary" else None), scores.astype(np.float32)


@pytest.mark.parametrize(("task", "metric"), EACH)
@given(n=st.integers(4, 60), seed=st.integers(0, 10**6))
def test_a_metric_is_scikit_learns(task, metric, n, seed):
    truth, scores = problem(task, n, seed)
    known = (SEVERAL if task == "multilabel" else SKLEARN)[metric]
    assert value(metric, truth, scores) == pytest.approx(known(truth.labels, scores.astype(np.float64)), abs=1e-6)


@pytest.mark.parametrize(("task", "metric"), EACH)
@given(seed=st.integers(0, 10**6))
def test_a_weight_is_a_number_of_copies(task, metric, seed):
    truth, scores = problem(task, 30, seed)
    weights = np.random.default_rng(seed).integers(0, 3, (4, 30))
    found = prepare(metric, truth, scores)(weights.astype(np.float64))
    for one, expected in zip(weights, found, strict=True):
        copies = np.repeat(np.arange(30), one)
        again = value(metric, Truth(truth.labels[copies], truth.classes, truth.positive), scores[copies])
        assert again == pytest.approx(expected, nan_ok=True)


def test_a_hold_out_of_one_class_leaves_the_ranking_undefined():
    truth = Truth(np.array([1, 1, 1]), ("no", "yes"), 1)
    scores = np.array([[0.5, 0.5], [0.1, 0.9], [0.9, 0.1]], np.float32)
    found = values(METRICS["binary"], truth, scores)
    assert found["roc_auc"] is None
    assert found["accuracy"] == pytest.approx(1 / 3)


def test_a_certain_wrong_answer_costs_much_and_not_infinity():
    truth = Truth(np.array([0, 1]), ("no", "yes"), 1)
    assert value("log_loss", truth, np.array([[0, 1], [0, 1]], np.float32)) == pytest.approx(-np.log(1e-15) / 2)


def test_scores_are_put_into_the_wanted_order():
    scores = np.array([[0.1, 0.2, 0.7]], np.float32)
    np.testing.assert_allclose(aligned(scores, ["c", "a", "x"], ["a", "b", "c"]), [[0.2, 0.0, 0.1]], rtol=1e-6)


def test_every_metric_says_which_way_is_better():
    assert {metric for _, metric in EACH} == set(HIGHER_IS_BETTER)


def test_labels_of_several_classes_are_marks():
    found = several(pa.chunked_array([["b;a", ""], ["c", "x; a"]]), ("a", "b", "c"), ";")
    assert found.tolist() == [[True, True, False], [False, False, False], [False, False, True], [True, False, False]]
    assert several(pa.array([], pa.string()), ("a", "b"), ";").shape == (0, 2)
