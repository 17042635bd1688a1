"""The metrics are scikit-learn's, and a weight of two is a row seen twice."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pyarrow as pa
import pytest
import sklearn.metrics as sk
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from pipelines_lib.decision import Decision, predicted_places
from pipelines_lib.evaluation.metrics import (
    Truth,
    aligned,
    calibration_by_chance,
    coverage,
    operating_point,
    prepare,
    several,
    value,
    values,
)
from pipelines_lib.use_case import HIGHER_IS_BETTER, METRICS, OF_LISTS

CLASSES = {"binary": ("no", "yes"), "multiclass": ("a", "b", "c", "d"), "multilabel": ("a", "b", "c")}
SKLEARN = {
    "roc_auc": lambda y, p: sk.roc_auc_score(y, p[:, 1] if p.shape[1] == 2 else p, multi_class="ovr"),
    "average_precision": lambda y, p: sk.average_precision_score(y == 1, p[:, 1]),
    "accuracy": lambda y, p: sk.accuracy_score(y, p.argmax(axis=1)),
    "macro_f1": lambda y, p: sk.f1_score(y, p.argmax(axis=1), average="macro", zero_division=0),
    "log_loss": lambda y, p: sk.log_loss(y, p, labels=list(range(p.shape[1]))),
    "micro_f1": lambda y, p: sk.f1_score(y, p >= 0.5, average="micro"),
    "brier": lambda y, p: sk.brier_score_loss(
        y, p[:, 1] if p.shape[1] == 2 else p, labels=range(p.shape[1]), scale_by_half=p.shape[1] == 2
    ),
    "f1": lambda y, p: sk.f1_score(y == 1, p.argmax(axis=1) == 1, zero_division=0),
    "pinball_10": lambda y, p: sk.mean_pinball_loss(y, p[:, 0], alpha=0.1),
    "pinball_90": lambda y, p: sk.mean_pinball_loss(y, p[:, 0], alpha=0.9),
    "rmse": lambda y, p: sk.root_mean_squared_error(y, p[:, 0]),
    "mae": lambda y, p: sk.mean_absolute_error(y, p[:, 0]),
}
SEVERAL = {
    "micro_f1": SKLEARN["micro_f1"],
    "macro_f1": lambda y, p: sk.f1_score(y, p >= 0.5, average="macro", zero_division=np.nan),
    "average_precision": lambda y, p: np.mean([sk.average_precision_score(y[:, c], p[:, c]) for c in range(y.shape[1]) if y[:, c].any()]),
}
EACH = [(task, metric) for task, metrics in METRICS.items() for metric in metrics]
SKLEARNS = [(task, metric) for task, metric in EACH if metric != "calibration_error"]


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


@pytest.mark.parametrize(("task", "metric"), SKLEARNS)
@given(n=st.integers(4, 60), seed=st.integers(0, 10**6))
def test_a_metric_is_scikit_learns(task, metric, n, seed):
    truth, scores = problem(task, n, seed)
    known = (SEVERAL if task == "multilabel" else SKLEARN)[metric]
    assert value(metric, truth, scores) == pytest.approx(known(truth.labels, scores.astype(np.float64)), abs=1e-6)


@pytest.mark.parametrize(("task", "metric"), SKLEARNS)
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
    assert {metric for _, metric in EACH} | set(OF_LISTS) == set(HIGHER_IS_BETTER)


def test_labels_of_several_classes_are_marks():
    found = several(pa.chunked_array([["b;a", ""], ["c", "x; a"]]), ("a", "b", "c"), ";")
    assert found.tolist() == [[True, True, False], [False, False, False], [False, False, True], [True, False, False]]
    assert several(pa.array([], pa.string()), ("a", "b"), ";").shape == (0, 2)


def chances_of(positive):
    return np.stack([1 - positive, positive], axis=1).astype(np.float32)


@given(n=st.integers(100, 2000), seed=st.integers(0, 10**6))
def test_the_calibration_error_is_that_of_scikit_learns_curve(n, seed):
    random = np.random.default_rng(seed)
    chance = np.unique(random.random(n)).astype(np.float32)
    labels = (random.random(len(chance)) < chance**2).astype(int)
    n_bins = int(np.clip(len(chance) // 50, 2, 15))
    came, said = calibration_curve(labels, chance.astype(np.float64), n_bins=n_bins, strategy="quantile")
    sizes = np.histogram(chance.astype(np.float64), np.quantile(chance.astype(np.float64), np.linspace(0, 1, n_bins + 1)))[0]
    found = value("calibration_error", Truth(labels, ("no", "yes"), 1), chances_of(chance))
    # Which bin takes a row that lies on an edge is a convention: at most one row a bin.
    assert found == pytest.approx((np.abs(came - said) * sizes).sum() / len(chance), abs=2 * n_bins / len(chance))


def test_chances_that_come_true_are_calibrated_and_sure_ones_are_not():
    random = np.random.default_rng(0)
    chance = random.random(20_000)
    truth = Truth((random.random(20_000) < chance).astype(int), ("no", "yes"), 1)
    assert value("calibration_error", truth, chances_of(chance)) < 0.015
    assert value("calibration_error", truth, chances_of((chance > 0.5).astype(float))) == pytest.approx(0.25, abs=0.015)


def test_what_chance_makes_of_a_calibrated_model_is_passed_once_in_twenty():
    beyond = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        chance = random.random(400)
        truth = Truth((random.random(400) < chance).astype(int), ("no", "yes"), 1)
        beyond += value("calibration_error", truth, chances_of(chance)) > calibration_by_chance(truth, chances_of(chance))
    assert 2 <= beyond <= 19  # 10, give or take 3.1


def test_rows_of_one_owner_that_come_out_alike_are_less_proof_against_a_calibrated_model():
    owners, beyond, blind = np.repeat(np.arange(100), 10), 0, 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        chance = random.beta(2, 2, 100)
        truth = Truth((random.random(100) < chance).astype(int)[owners], ("no", "yes"), 1)
        scores = chances_of(chance[owners])
        found = value("calibration_error", truth, scores)
        beyond += found > calibration_by_chance(truth, scores, owners)
        blind += found > calibration_by_chance(truth, scores)
    assert beyond <= 11  # 5, give or take 2.2
    assert blind > 50


def test_owners_do_not_excuse_a_model_that_is_wrong_everywhere():
    random = np.random.default_rng(0)
    owners, chance = np.repeat(np.arange(200), 5), random.random(1000)
    truth = Truth((random.random(1000) < chance**2).astype(int), ("no", "yes"), 1)
    assert value("calibration_error", truth, chances_of(chance)) > 2 * calibration_by_chance(truth, chances_of(chance), owners)


def test_a_calibration_error_of_several_classes_is_of_the_likeliest():
    truth = Truth(np.array([0] * 60 + [1] * 40), ("a", "b", "c"))
    assert value("calibration_error", truth, np.tile(np.array([0.6, 0.3, 0.1], np.float32), (100, 1))) == pytest.approx(0, abs=1e-6)
    assert value("calibration_error", truth, np.tile(np.array([0.9, 0.1, 0.0], np.float32), (100, 1))) == pytest.approx(0.3, abs=1e-6)


@given(n=st.integers(5, 60), seed=st.integers(0, 10**6))
def test_no_other_operating_point_has_a_better_f1(n, seed):
    truth, scores = problem("binary", n, seed)
    best = value("f1", truth, scores, operating_point(truth, scores))
    assert best >= max(value("f1", truth, scores, float(point)) for point in scores[:, 1]) - 1e-12


@given(n=st.integers(4, 60), seed=st.integers(0, 10**6), point=st.floats(0, 1), positive=st.integers(0, 1))
def test_what_is_predicted_is_judged_from_the_operating_point_on_as_it_is_served(n, seed, point, positive):
    truth, scores = problem("binary", n, seed)
    truth = replace(truth, positive=positive)
    served, _ = Decision(classes=truth.classes, positive=positive, operating_point=point).of(scores)
    labels = [truth.classes[place] for place in truth.labels]
    yes = truth.classes[positive]
    assert value("accuracy", truth, scores, point) == pytest.approx(sk.accuracy_score(labels, served))
    assert value("f1", truth, scores, point) == pytest.approx(sk.f1_score(labels, served, pos_label=yes, zero_division=0))
    assert served == [yes if score >= point else truth.classes[1 - positive] for score in scores[:, positive].astype(float)]


def test_below_the_operating_point_the_likeliest_other_class_is_said():
    # Three of them where challenger and champion were trained with other names for a no.
    scores = np.array([[0.2, 0.5, 0.3], [0.5, 0.1, 0.4], [0.1, 0.3, 0.6]], np.float32)
    assert predicted_places(scores, 2, 0.5).tolist() == [1, 0, 2]


def test_no_score_lies_on_the_operating_point_where_a_last_digit_would_decide():
    scores = chances_of(np.array([0.2, 0.6, 0.6, 0.8]))
    assert operating_point(Truth(np.array([0, 1, 1, 1]), ("no", "yes"), 1), scores) == pytest.approx(0.4)
    assert operating_point(Truth(np.ones(4, int), ("no", "yes"), 1), scores) == pytest.approx(0.1)


def test_without_a_yes_the_operating_point_is_the_likelier_class():
    assert operating_point(Truth(np.zeros(3, int), ("no", "yes"), 1), chances_of(np.array([0.1, 0.2, 0.3]))) == 0.5


@given(n_lists=st.integers(1, 8), k=st.integers(1, 12), seed=st.integers(0, 10**6))
def test_metrics_of_lists_are_those_of_each_list(n_lists, k, seed):
    random = np.random.default_rng(seed)
    lists = np.sort(random.integers(0, n_lists, 60))
    labels, chance = random.integers(0, 2, 60), random.permutation(60) / 64
    truth = Truth(labels, ("no", "yes"), 1, np.unique(lists, return_inverse=True)[1], k)
    expected = {name: [] for name in OF_LISTS}
    for place in np.unique(lists):
        wanted, score = labels[lists == place], chance[lists == place]
        if not wanted.any():
            continue
        first = wanted[np.argsort(-score)][:k]
        expected["recall"].append(first.sum() / wanted.sum())
        # scikit-learn wants two rows or more: one that is unwanted and comes last changes nothing.
        expected["ndcg"].append(sk.ndcg_score([[*wanted, 0]], [[*score, -1]], k=k))
        hits = [first[: i + 1].mean() for i in range(len(first)) if first[i]]
        expected["map"].append(sum(hits) / min(wanted.sum(), k))
    shuffled = random.permutation(60)
    mixed = Truth(labels[shuffled], truth.classes, 1, truth.lists[shuffled], k)
    for name, figures in expected.items():
        found = value(name, mixed, chances_of(chance[shuffled]))
        assert found == pytest.approx(np.mean(figures) if figures else np.nan, nan_ok=True, abs=1e-6)


def orders_of_ties(score):
    """Every order of a list that its scores allow."""
    return [order for order in permutations(range(len(score))) if (np.diff(score[list(order)]) <= 0).all()]


@given(labels=st.lists(st.booleans(), min_size=2, max_size=6).filter(any), k=st.integers(1, 7), seed=st.integers(0, 10**6))
def test_of_equal_scores_every_order_counts_the_same(labels, k, seed):
    wanted, score = np.array(labels, int), np.random.default_rng(seed).integers(0, 3, len(labels)) / 4
    truth = Truth(wanted, ("no", "yes"), 1, np.zeros(len(wanted), int), k)
    firsts = [wanted[list(order)][:k] for order in orders_of_ties(score)]
    expected = {
        "ndcg": sk.ndcg_score([wanted], [score], k=k),
        "recall": np.mean([first.sum() / wanted.sum() for first in firsts]),
        "map": np.mean([(np.cumsum(f) / np.arange(1, len(f) + 1))[f == 1].sum() / min(wanted.sum(), k) for f in firsts]),
    }
    assert {name: value(name, truth, chances_of(score)) for name in expected} == pytest.approx(expected)
    items = np.arange(len(wanted)) % 4
    apart = Truth(wanted, truth.classes, 1, np.arange(len(wanted)) // 4, k)  # no list offers an item twice
    mixed = np.random.default_rng(seed).permutation(len(wanted))
    turned = replace(apart, labels=wanted[mixed], lists=apart.lists[mixed])
    for name in expected:
        assert value(name, turned, chances_of(score[mixed])) == pytest.approx(value(name, apart, chances_of(score)), nan_ok=True)
    assert coverage(items[mixed], turned, chances_of(score[mixed])) == pytest.approx(coverage(items, apart, chances_of(score)))


def test_a_model_that_ranks_nothing_covers_what_chance_would():
    truth = Truth(np.array([1, 0, 0, 0]), ("no", "yes"), 1, np.zeros(4, int), 1)
    assert coverage(np.arange(4), truth, chances_of(np.full(4, 0.5))) == pytest.approx(1 / 4)


def test_drawing_a_list_twice_counts_it_twice():
    truth = Truth(np.array([1, 0, 0, 1]), ("no", "yes"), 1, np.array([0, 0, 1, 1]), 1)
    recall = prepare("recall", truth, chances_of(np.array([0.9, 0.1, 0.8, 0.2])))  # list 0 is right, list 1 wrong
    assert recall(np.array([[1.0, 1, 1, 1], [2, 2, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]])) == pytest.approx(
        [1 / 2, 2 / 3, 0, np.nan], nan_ok=True
    )


def test_coverage_is_the_share_of_items_that_somebody_is_shown():
    truth = Truth(np.array([1, 0, 0, 1]), ("no", "yes"), 1, np.array([0, 0, 1, 1]), 1)
    scores = chances_of(np.array([0.9, 0.1, 0.8, 0.2]))
    assert coverage(np.array([0, 1, 0, 2]), truth, scores) == pytest.approx(1 / 3)
    assert coverage(np.array([0, 1, 2, 0]), truth, scores) == pytest.approx(2 / 3)
