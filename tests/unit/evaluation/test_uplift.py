"""The figures of uplift: what they must be whatever the data, and what they are where the truth is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.evaluation.uplift import _Ranked, of_treatment, suffixes


def experiment(n: int, seed: int, levels: int = 5):
    """Outcomes, arms and predictions with many ties."""
    random = np.random.default_rng(seed)
    treated = random.random(n) < 0.4
    treated[:2] = True, False
    return random.normal(size=n), treated, random.integers(0, levels, n).astype(float)


seeds = st.integers(0, 10**6)


def qini(outcome, treated, uplift, weights=None) -> float:
    weights = np.ones(len(outcome)) if weights is None else weights
    return float(_Ranked(outcome, treated, uplift).qini(weights[None].astype(float))[0])


@given(st.integers(4, 50), seeds)
def test_the_reverse_ranking_is_as_bad_as_the_ranking_is_good(n, seed):
    outcome, treated, uplift = experiment(n, seed)
    assert qini(outcome, treated, -uplift) == pytest.approx(-qini(outcome, treated, uplift), abs=1e-9)


@given(st.integers(4, 50), seeds)
def test_a_ranking_that_tells_nobody_apart_is_worth_nothing(n, seed):
    outcome, treated, _ = experiment(n, seed)
    assert qini(outcome, treated, np.zeros(n)) == pytest.approx(0, abs=1e-9)


@given(st.integers(4, 50), seeds, st.floats(-100, 100), st.floats(0.1, 10))
def test_only_the_scale_of_the_outcome_counts_and_only_the_order_of_the_predictions(n, seed, shift, scale):
    outcome, treated, uplift = experiment(n, seed)
    assert qini(shift + scale * outcome, treated, np.exp(uplift)) == pytest.approx(scale * qini(outcome, treated, uplift), abs=1e-6)


@given(seeds)
def test_a_weight_is_a_number_of_copies(seed):
    outcome, treated, uplift = experiment(30, seed)
    weights = np.random.default_rng(seed).integers(0, 3, 30)
    copies = np.repeat(np.arange(30), weights)
    again = outcome[copies], treated[copies], uplift[copies]
    assert qini(outcome, treated, uplift, weights) == pytest.approx(qini(*again), abs=1e-9, nan_ok=True)
    ranked = _Ranked(outcome, treated, uplift).uplift_of_first(weights[None].astype(float), 0.3)[0]
    assert ranked == pytest.approx(_Ranked(*again).uplift_of_first(np.ones((1, len(copies))), 0.3)[0], nan_ok=True)


@given(st.integers(4, 50), seeds)
def test_the_areas_are_those_under_the_curve_drawn_step_by_step(n, seed):
    outcome, treated, uplift = experiment(n, seed)
    share, gain = [0.0], [0.0]
    for bound in sorted(set(uplift), reverse=True):
        first = uplift >= bound
        per_arm = [(outcome - outcome.mean())[first & arm].sum() / arm.sum() for arm in (treated, ~treated)]
        share.append(first.mean())
        gain.append(per_arm[0] - per_arm[1])
    found = of_treatment(outcome, treated, uplift, resamples=2)
    area = np.trapezoid(gain, share)
    assert found["auuc"] == pytest.approx(area, abs=1e-9)
    assert found["qini"] == pytest.approx(area - gain[-1] / 2, abs=1e-9)


def test_where_the_truth_is_known_it_is_found():
    random = np.random.default_rng(0)
    n = 40_000
    effect = 2 * random.random(n)  # uniform, so the curve is 2φ - φ², and the area between it and the line is 1/6
    treated = random.random(n) < 0.3
    outcome = 5 + effect * treated + random.normal(size=n)
    found = of_treatment(outcome, treated, effect, resamples=60)
    assert found["qini"] == pytest.approx(1 / 6, abs=0.02)
    assert found["auuc"] == pytest.approx(2 / 3, abs=0.03)
    assert found["qini_lower"] < 1 / 6 < found["qini_upper"]
    assert found["average_uplift"] == pytest.approx(1, abs=0.05)
    assert found["uplift_at_30"] == pytest.approx(1.7, abs=0.1)  # the mean of the upper 30 % of a uniform one up to 2


def test_a_useless_ranking_has_an_interval_around_nothing():
    inside = 0
    for seed in range(40):
        outcome, treated, _ = experiment(200, seed)
        found = of_treatment(outcome, treated, np.random.default_rng(seed + 1000).random(200), resamples=200, seed=seed)
        inside += found["qini_lower"] <= 0 <= found["qini_upper"]
    assert inside >= 34  # of 40 at 95 %: fewer than 34 has chance 0.2 %


def test_of_rows_of_equal_uplift_each_counts_in_part():
    # 30 % of ten rows are three: one of uplift 2, and two ninths … of the others' weight.
    uplift = np.array([2.0] * 2 + [1.0] * 8)
    treated = np.array([True, False] * 5)
    outcome = np.array([10.0, 4.0] + [1.0, 0.0] * 4)
    found = of_treatment(outcome, treated, uplift, resamples=10)
    one = (10 + 1 * 4 / 8) / (1 + 4 / 8) - (4 + 0) / (1 + 4 / 8)  # two whole rows, and an eighth of each of the eight
    assert found["uplift_at_30"] == pytest.approx(one)
    assert found["average_uplift"] == pytest.approx((10 + 4) / 5 - 4 / 5)


def test_an_arm_without_rows_leaves_them_undefined():
    for n in (0, 5):
        found = of_treatment(np.arange(n, dtype=float), np.ones(n, bool), np.arange(n, dtype=float), resamples=10)
        assert set(found.values()) == {None}


def test_figures_are_named_after_their_treatment():
    assert suffixes(["drug"]) == [""]
    assert suffixes(["drug + X", "placebo 2"]) == ["_drug_X", "_placebo_2"]
    assert suffixes(["a+b", "a-b", "é"]) == ["_1", "_2", "_3"]
