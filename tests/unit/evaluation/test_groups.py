"""Parts of the hold-out, and groups of people."""

import numpy as np
import pyarrow as pa
import pytest

from pipelines_lib.evaluation.groups import fairness, parts_of, slices
from pipelines_lib.evaluation.metrics import Truth, value
from pipelines_lib.evaluation.rates import Rate, ratio, shortfall
from pipelines_lib.use_case.gate import Slice


@pytest.fixture
def made(make_credit):
    def make(**gate):
        columns = make_credit().model_dump(mode="json")["columns"] | {"sex": {"type": "string", "role": "other"}}
        return make_credit(columns=columns, split={"by": "row"}, gate={"metric": "accuracy", "floor": 0.6, "resamples": 200, **gate})

    return make


def names(use_case, table, **asked):
    return {name: int(mine.sum()) for name, mine in parts_of(use_case, table, Slice(**asked))}


def test_parts_are_values_or_ranges_and_what_is_missing(made):
    table = pa.table({"town": ["Bonn", "Bonn", "Köln", None], "income": [1.0, 2.0, 3.0, float("nan")]})
    assert names(made(), table, column="town") == {"town Bonn": 2, "town Köln": 1, "town missing": 1}
    assert names(made(), table, column="town", values=["Köln", "Ulm"]) == {"town Köln": 1, "town Ulm": 0, "town missing": 1}
    assert names(made(), table, column="income", bins=2) == {"income ≤ 2": 2, "income > 2": 1, "income missing": 1}
    assert names(made(), pa.table({"income": [5.0] * 4}), column="income") == {"income ≤ 5": 4, "income > 5": 0}


def test_parts_of_a_column_about_people_show_no_value(made, make_credit):
    columns = make_credit().model_dump(mode="json")["columns"]
    private = make_credit(columns=columns | {"town": {"type": "string", "privacy": "sensitive"}})
    assert list(names(private, pa.table({"town": ["Bonn", "Köln"]}), column="town")) == ["town no. 1", "town no. 2"]


def test_each_part_has_its_figure_and_a_small_one_has_none(made):
    random = np.random.default_rng(0)
    towns = ["Bonn"] * 300 + ["Köln"] * 300 + ["Ulm"] * 10
    labels = random.integers(0, 2, 610)
    wrong = np.r_[random.random(300) < 0.1, random.random(300) < 0.5, np.zeros(10, bool)]
    chance = np.where(wrong, 1 - labels, labels)
    truth, scores = Truth(labels, ("bad", "good"), 0), np.stack([1 - chance, chance], axis=1).astype(np.float32)
    use_case = made(slices=[{"column": "town"}])
    bonn, koeln, ulm = slices(
        use_case, pa.table({"row_id": map(str, range(610)), "who": map(str, range(610)), "town": towns}), truth, scores, None
    )
    assert (bonn.name, bonn.n_rows) == ("town Bonn", 300)
    assert bonn.figure == pytest.approx(value("accuracy", truth.of(np.array(towns) == "Bonn"), scores[:300]))
    assert 0.85 < bonn.lower < bonn.figure < bonn.upper < 0.97
    assert koeln.upper < 0.6
    assert (ulm.n_rows, ulm.figure, ulm.lower) == (10, None, None)


def people(n, rates, seed=0, deserving=0.5):
    """Groups of `n`, whose members are chosen at `rates`, whatever they deserve."""
    random = np.random.default_rng(seed)
    sex = np.repeat(list(rates), n)
    labels = (random.random(len(sex)) < deserving).astype(int)
    chosen = random.random(len(sex)) < np.array([rates[s] for s in sex])
    chance = np.where(chosen, 0.9, 0.1)
    table = pa.table({"who": [f"u{i}" for i in range(len(sex))], "sex": sex.tolist()})
    return table, Truth(labels, ("bad", "good"), 1), np.stack([1 - chance, chance], axis=1).astype(np.float32)


def test_fairness_measures_each_group_against_the_best(made):
    use_case = made(fairness=[{"column": "sex"}])
    [impact], [opportunity] = fairness(use_case, *people(1000, {"f": 0.3, "m": 0.6}), 0.5)
    assert impact.name == opportunity.name == "sex f against sex m"
    assert impact.figure == pytest.approx(0.5, abs=0.06)
    assert impact.lower < impact.figure < impact.upper < 0.8
    assert opportunity.figure == pytest.approx(0.3, abs=0.06)
    assert 0.1 < opportunity.lower < opportunity.figure < opportunity.upper


def test_the_interval_of_an_impact_covers_the_true_one_as_often_as_it_says(made):
    use_case = made(fairness=[{"column": "sex"}])
    hits = 0
    for seed in range(60):
        [impact], _ = fairness(use_case, *people(300, {"f": 0.3, "m": 0.5}, seed), 0.5)
        hits += impact.lower <= 0.6 <= impact.upper
    assert 53 <= hits <= 60


def test_a_group_too_small_is_not_compared(made):
    use_case = made(fairness=[{"column": "sex", "min_rows": 2000}])
    for found in fairness(use_case, *people(1000, {"f": 0.3, "m": 0.6}), 0.5):
        assert [(group.name, group.figure) for group in found] == [("sex f", None), ("sex m", None)]


def test_of_opportunity_those_rows_count_that_deserve_a_yes(made):
    use_case = made(fairness=[{"column": "sex", "min_rows": 50}])
    [impact], opportunity = fairness(use_case, *people(100, {"f": 0.3, "m": 0.6}, deserving=0.1), 0.5)
    assert impact.figure < 0.8
    assert [(group.figure, group.n_rows < 50) for group in opportunity] == [(None, True), (None, True)]


@pytest.mark.parametrize(
    ("n", "rate", "groups", "bound"),
    [(60, 0.05, 2, "impact"), (60, 0.3, 8, "impact"), (120, 0.6, 8, "opportunity"), (50, 0.1, 2, "impact")],
)
def test_groups_that_are_treated_alike_are_seldom_called_unlike(made, n, rate, groups, bound):
    use_case, held = made(fairness=[{"column": "sex", "min_rows": 20}]), 0
    for seed in range(60):
        found = fairness(use_case, *people(n, dict.fromkeys("abcdefgh"[:groups], rate), seed), 0.5)
        gate = use_case.gate.fairness[0]
        held += (
            any(group.upper is not None and group.upper < gate.impact for group in found[0])
            if bound == "impact"
            else any(group.lower is not None and group.lower > gate.opportunity for group in found[1])
        )
    assert held <= 4  # 2.5 % of 60 are 1.5, give or take 1.2


def test_rows_of_an_owner_are_alike_in_a_rate():
    random = np.random.default_rng(0)
    owners = np.repeat(np.arange(100), 5)
    alike, apart = (random.random(100) < 0.3)[owners], random.random(500) < 0.3
    assert Rate.of(alike, owners).n_alone == pytest.approx(100, rel=0.05)
    assert Rate.of(apart, owners).n_alone > 350
    assert Rate.of(apart, None).n_alone == 500
    assert Rate.of(np.zeros(500, bool), owners).interval(0.95)[1] == pytest.approx(0.037, abs=0.003), (
        "of 100 owners, none: not proven to be 0"
    )


def test_ratios_and_differences_of_rates_have_the_intervals_of_the_literature():
    # Newcombe (1998), table II, example (a): 56 of 70 against 48 of 80.
    first, second = (Rate(value=r / n, n_rows=n, n_owners=10**9, n_alone=n) for r, n in ((56, 70), (48, 80)))
    assert shortfall(second, first, 0.95) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)
    figure, lower, upper = ratio(second, first, 0.95)
    assert figure == pytest.approx(0.75)
    assert 0.55 < lower < 0.65
    assert 0.9 < upper < 1
    none = Rate(value=0.0, n_rows=60, n_owners=60, n_alone=60)
    assert ratio(none, first, 0.95)[1] == 0 < ratio(none, first, 0.95)[2] < 0.1
    assert ratio(first, none, 0.95) == (None, None, None)


def test_the_threshold_of_a_group_is_the_operating_point_unless_it_is_given(made):
    data = people(500, {"f": 0.3, "m": 0.6})
    [everybody], _ = fairness(made(fairness=[{"column": "sex"}]), *data, 0.05)
    assert everybody.figure == 1
    [given], _ = fairness(made(fairness=[{"column": "sex", "threshold": 0.5}]), *data, 0.05)
    assert given.figure < 0.7
    [everybody], _ = fairness(made(fairness=[{"column": "sex"}]), *data, 0.0)
    assert everybody.figure == 1, "0 is an operating point, too"
