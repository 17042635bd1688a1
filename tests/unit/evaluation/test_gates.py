"""What the gates let through, and what they say."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipelines_lib.evaluation.compare import Comparison
from pipelines_lib.evaluation.evidence import Evidence, Measured
from pipelines_lib.evaluation.gates import gained_points, held, judge, standing
from pipelines_lib.use_case import Gate

GATE = Gate(metric="roc_auc", floor=0.7, margin=0.01, min_rows=50)
FIRST = Evidence(n_rows=100, metric=0.8, comparison=None, champion=None, incomparable=None, champion_end=None)


def against(difference, lower, upper=0.5, **changes):
    comparison = Comparison(
        metric="roc_auc",
        n_rows=100,
        n_owners=100,
        challenger=0.8,
        champion=0.8 - difference,
        difference=difference,
        lower=lower,
        upper=upper,
        confidence=0.95,
        resamples=400,
    )
    return FIRST.model_copy(update={"comparison": comparison, "champion": 3, "champion_end": "2026-01-14", **changes})


def verdicts(evidence, settings=GATE, partition_key="2026-01-14", force=False):
    return {result.gate: result.verdict for result in judge(settings, evidence, partition_key=partition_key, force=force)}


def reason(evidence, settings=GATE, partition_key="2026-01-14", force=False):
    return held(judge(settings, evidence, partition_key=partition_key, force=force))


def test_the_first_model_needs_only_rows_and_the_floor():
    assert set(verdicts(FIRST).values()) == {"pass"}
    assert reason(FIRST) is None


def test_too_few_rows_hold():
    assert verdicts(FIRST.model_copy(update={"n_rows": 49}))["rows"] == "hold"
    assert verdicts(FIRST.model_copy(update={"n_rows": 50}))["rows"] == "pass"


def test_the_floor_is_a_ceiling_for_losses():
    assert reason(FIRST.model_copy(update={"metric": 0.69})) == "floor: roc_auc 0.6900, and it must be at least 0.7"
    loss = Gate(metric="rmse", floor=4)
    assert verdicts(FIRST.model_copy(update={"metric": 3.9}), loss)["floor"] == "pass"
    assert reason(FIRST.model_copy(update={"metric": 4.1}), loss) == "floor: rmse 4.1000, and it must be at most 4"


def test_an_undefined_metric_holds():
    assert "shows one class" in reason(FIRST.model_copy(update={"metric": None}))


@pytest.mark.parametrize(
    ("difference", "lower", "verdict"),
    [
        (0.0, -0.2, "pass"),  # as good on the hold-out, however small that is
        (0.02, -0.2, "pass"),
        (-0.005, -0.009, "pass"),  # worse, and provably by less than the margin
        (-0.005, -0.011, "hold"),  # worse, and perhaps by more
        (-0.02, -0.03, "hold"),
        (-0.005, None, "hold"),  # worse, and nobody can say by how much
        (0.0, None, "pass"),
    ],
)
def test_the_champion_gate(difference, lower, verdict):
    assert verdicts(against(difference, lower))["champion"] == verdict


def test_the_reason_has_the_figures():
    [result] = [r for r in judge(GATE, against(-0.02, -0.03, -0.005), partition_key="2026-01-14", force=False) if r.gate == "champion"]
    assert (result.figure, result.bound) == (-0.02, -0.01)
    assert result.reason == (
        "worse: 0.0200 worse than version 3 (roc_auc 0.8000 against 0.8200; 95% interval -0.0300 … -0.0050; up to 0.01 worse is let through)"
    )


def test_the_reason_says_where_part_of_the_hold_out_was_compared_on():
    evidence = against(-0.02, -0.03, -0.005)
    fewer = evidence.model_copy(update={"comparison": evidence.comparison.model_copy(update={"n_rows": 60})})
    assert "0.8000 against 0.8200 on the 60 rows that it did not learn from;" in reason(fewer)


@pytest.mark.parametrize(
    ("difference", "lower", "verdict"),
    [(0.02, 0.001, "better"), (0.02, 0.0, "not worse"), (0.02, None, "not worse"), (-0.005, -0.01, "not worse"), (-0.005, -0.011, "worse")],
)
def test_what_is_called_better_is_proven(difference, lower, verdict):
    assert standing(against(difference, lower).comparison, 0.01) == verdict
    strict = GATE.model_copy(update={"promote": "better"})
    assert verdicts(against(difference, lower), strict)["champion"] == ("pass" if verdict == "better" else "hold")
    if verdict == "not worse" and lower is not None:
        assert "only what is proven better is let through" in reason(against(difference, lower), strict)


@given(st.floats(-1, 1), st.floats(0, 1), st.floats(0, 0.5), st.floats(0, 0.5))
def test_a_better_challenger_never_fares_worse(difference, width, margin, better):
    settings = GATE.model_copy(update={"margin": margin})
    assume(verdicts(against(difference, difference - width), settings)["champion"] == "pass")
    assert verdicts(against(difference + better, difference + better - width), settings)["champion"] == "pass"


def test_the_error_rates_are_those_the_docstring_states():
    """Normal differences with standard error 1."""
    random = np.random.default_rng(0)

    def passes(truth, margin, n=4000):
        settings = GATE.model_copy(update={"margin": margin})
        draws = truth + random.normal(size=n)
        return np.mean([verdicts(against(d, d - 1.96), settings)["champion"] == "pass" for d in draws])

    better = [standing(against(d, d - 1.96).comparison, 4.0) for d in random.normal(size=4000)].count("better")
    assert better / 4000 == pytest.approx(0.025, abs=0.008)
    assert passes(0, margin=0) == pytest.approx(0.5, abs=0.03)
    assert passes(0, margin=4) >= 0.97
    assert passes(-2, margin=2) == pytest.approx(0.025, abs=0.01)
    assert passes(-1, margin=1) == pytest.approx(0.16, abs=0.03)
    assert passes(-3, margin=0) <= 0.005


def test_an_older_run_holds_unless_it_is_forced():
    newer = against(0.1, 0.05)
    assert verdicts(newer, partition_key="2026-01-13")["old partition"] == "hold"
    assert verdicts(newer, partition_key="2026-01-13", force=True)["old partition"] == "pass"
    assert verdicts(newer, partition_key="2026-01-14")["old partition"] == "pass"


def test_a_champion_that_can_not_be_compared_holds_unless_it_is_forced():
    broken = FIRST.model_copy(update={"champion": 3, "champion_end": "2026-01-01", "incomparable": "it reads columns that are gone"})
    assert "columns that are gone; run again with `force`" in reason(broken)
    assert reason(broken, force=True) is None


def test_too_few_owners_prove_nothing_unless_it_is_forced():
    close = against(0.05, None, None, n_owners=12)
    few = close.model_copy(update={"comparison": close.comparison.model_copy(update={"n_owners": 12})})
    assert reason(few) == (
        "champion: roc_auc 0.8000 against 0.7500: these rows belong to 12 entities or groups, and fewer than 20 prove nothing; "
        "widen training.window or raise split.test, or run again with `force` to replace it"
    )
    assert reason(few, force=True) is None
    [rows] = [result for result in judge(GATE, few, partition_key="2026-01-14", force=False) if result.gate == "rows"]
    assert rows.reason == "100 rows of 12 entities or groups in the hold-out, 50 rows needed"


def test_a_champion_whose_package_does_not_open_is_not_taken_for_none():
    broken = FIRST.model_copy(update={"champion": 3, "incomparable": "model.onnx was changed"})
    assert verdicts(broken)["old partition"] == "hold"
    assert "nobody can say which data version 3 saw" in reason(broken)
    results = judge(GATE, broken, partition_key="2026-01-14", force=True)
    assert held(results) is None
    assert not any("no champion" in result.reason for result in results)


def test_force_does_not_excuse_a_worse_model():
    assert reason(against(-0.1, -0.2), force=True).startswith("champion: worse: 0.1000 worse")
    assert reason(against(0.1, 0.05, metric=0.6), force=True).startswith("floor:")


def test_all_reasons_are_named():
    said = reason(against(-0.1, -0.2, metric=0.5, n_rows=3), partition_key="2026-01-01")
    assert [part.split(":")[0] for part in said.split("; ") if ":" in part and part.split(":")[0] in verdicts(FIRST)] == [
        "rows",
        "floor",
        "champion",
        "old partition",
    ]


# --- gates that a use case asks for -----------------------------------------------------------------------------------


def asked(settings, **evidence):
    """The results of the gates beyond those that each use case has."""
    gate = Gate.model_validate({"metric": "roc_auc", "floor": 0.7, **settings})
    return {r.gate: r for r in judge(gate, FIRST.model_copy(update=evidence), partition_key="2026-01-14", force=False)[5:]}


def part(name, figure, lower=None, upper=None, *, of="town", n_rows=100):
    return Measured(of=of, name=name, n_rows=n_rows, figure=figure, lower=lower, upper=upper)


def test_nothing_more_is_judged_than_is_asked():
    assert (
        asked({}, slices=(part("town Bonn", 0.1, 0.1, 0.1),), calibration=0.9, calibration_by_chance=0.1, milliseconds=1e6, n_bytes=10**9)
        == {}
    )


def test_rows_that_were_learned_from_hold():
    known = FIRST.model_copy(update={"known_rows": 3})
    assert verdicts(known)["unseen rows"] == "hold"
    assert "3 of 100 rows of the hold-out belong to who was learned from; prepare" in reason(known)


def test_a_part_holds_where_it_is_proven_to_miss_its_floor():
    slices = {"slices": [{"column": "town", "floor": 0.6}]}
    bad, unlucky, small = part("town Bonn", 0.5, 0.45, 0.59), part("town Köln", 0.5, 0.3, 0.7), part("town Ulm", None, n_rows=3)
    result = asked(slices, slices=(bad, unlucky, small))["slices"]
    assert (result.verdict, result.figure, result.bound) == ("hold", 0.5, 0.6)
    assert result.reason == "town Bonn 0.5000 (100 rows, 0.4500 … 0.5900), and it must be at least 0.6"
    result = asked(slices, slices=(unlucky, small))["slices"]
    assert (result.verdict, result.reason) == (
        "pass",
        "no part of 1 is proven to miss its floor, 1 have too few rows; nearest: town Köln 0.5000 (100 rows, 0.3000 … 0.7000)",
    )


def test_a_gate_that_could_judge_nothing_of_a_column_holds():
    good, small, no_interval = part("town Bonn", 0.9, 0.8, 0.95), part("town Ulm", None, n_rows=3), part("town Köln", 0.9)
    for found in ((), (small,), (no_interval,)):
        result = asked({"slices": [{"column": "town"}]}, slices=found)["slices"]
        assert result.verdict == "hold"
        assert result.reason.startswith("no part of town has the rows")
    two = {"slices": [{"column": "town"}, {"column": "age"}]}
    result = asked(two, slices=(good, part("age ≤ 30", None, of="age", n_rows=7)))["slices"]
    assert (result.verdict, result.figure) == ("hold", 0.9)
    assert result.reason.startswith("no part of age has the rows")


def test_a_value_that_the_hold_out_does_not_have_holds():
    settings = {"slices": [{"column": "town", "values": ["Bonn", "Klön"]}]}
    good, mistyped = part("town Bonn", 0.9, 0.8, 0.95), part("town Klön", None, n_rows=0)
    assert asked(settings, slices=(good, mistyped))["slices"].reason == (
        "the hold-out has no row of town Klön; correct `values` in gate.slices, or widen training.window"
    )
    assert asked(settings, slices=(good, part("town Klön", None, n_rows=3)))["slices"].verdict == "pass", "it is there, and small"
    empty = asked(
        {"slices": [{"column": "age"}]}, slices=(part("age ≤ 5", 0.9, 0.8, 0.95, of="age"), part("age > 5", None, of="age", n_rows=0))
    )
    assert empty["slices"].verdict == "pass", "nobody named that range"


def test_of_two_columns_of_groups_one_that_can_not_be_compared_holds():
    settings = {"fairness": [{"column": "sex"}, {"column": "age"}]}
    fair = {"impact": (part("f against m", 0.95, 0.9, 1.0, of="sex"),), "opportunity": (part("f against m", 0.02, 0.0, 0.05, of="sex"),)}
    found = asked(settings, **fair)
    assert [result.verdict for result in found.values()] == ["hold", "hold"]
    assert "no two groups of age have the rows" in found["disparate impact"].reason
    assert {r.verdict for r in asked({"fairness": [{"column": "sex"}]}, **fair).values()} == {"pass"}


def test_the_floor_of_a_part_is_a_ceiling_for_losses_and_the_gates_own_when_absent():
    settings = {"metric": "rmse", "floor": 4, "slices": [{"column": "town"}]}
    assert asked(settings, slices=(part("town Bonn", 5, 4.1, 6),))["slices"].verdict == "hold"
    assert asked(settings, slices=(part("town Bonn", 5, 3.9, 6),))["slices"].verdict == "pass"


@pytest.mark.parametrize(
    ("found", "chance", "verdict"), [(0.04, 0.01, "pass"), (0.06, 0.01, "hold"), (0.06, 0.07, "pass"), (None, None, "hold")]
)
def test_calibration_holds_beyond_the_bound_and_beyond_chance(found, chance, verdict):
    assert asked({"calibration": 0.05}, calibration=found, calibration_by_chance=chance)["calibration"].verdict == verdict


def test_robustness_judges_the_worst_kind():
    kinds = (part("noise (0.1)", 0.01, of="noise"), part("missing values (0.1)", 0.03, of="missing values"))
    settings = {"robustness": {"loss": 0.02}}
    result = asked(settings, robustness=kinds)["robustness"]
    assert (result.verdict, result.figure) == ("hold", 0.03)
    assert result.reason == "roc_auc loses by noise (0.1) +0.0100, missing values (0.1) +0.0300; at most 0.02 asked"
    assert asked(settings, robustness=kinds[:1])["robustness"].verdict == "pass"
    assert asked(settings, robustness=())["robustness"].verdict == "hold"


def test_unfairness_holds_where_it_is_proven():
    settings = {"fairness": [{"column": "sex"}]}
    groups = {"impact": (part("f against m", 0.5, 0.4, 0.6, of="sex"),), "opportunity": (part("f against m", 0.15, 0.05, 0.25, of="sex"),)}
    found = asked(settings, **groups)
    assert (found["disparate impact"].verdict, found["equal opportunity"].verdict) == ("hold", "pass")
    assert found["disparate impact"].reason == "f against m 0.5000 (100 rows, 0.4000 … 0.6000); at least 0.8 asked"
    assert found["equal opportunity"].reason.startswith("no gap beyond the bound is proven; widest: f against m 0.1500")
    surely = {**groups, "opportunity": (part("f against m", 0.15, 0.11, 0.25, of="sex"),)}
    assert asked(settings, **surely)["equal opportunity"].verdict == "hold"
    assert asked(settings)["disparate impact"].verdict == "hold", "groups that can't be compared are no proof of fairness"


def test_latency_and_size_have_ceilings():
    settings = {"milliseconds": 2, "max_bytes": 1000}
    assert {g: r.verdict for g, r in asked(settings, milliseconds=1.5, n_bytes=1000).items()} == {"latency": "pass", "size": "pass"}
    assert {g: r.verdict for g, r in asked(settings, milliseconds=2.5, n_bytes=1001).items()} == {"latency": "hold", "size": "hold"}


def test_the_cost_is_judged_by_the_point_of_gain():
    def cost(difference, paid=3.0, bound=2.0):
        evidence = against(difference, -1).model_copy(update={"cost": paid, "currency": "EUR"})
        settings = GATE.model_copy(update={"cost_per_point": bound})
        return next(r for r in judge(settings, evidence, partition_key="2026-01-14", force=False) if r.gate == "cost")

    assert (cost(0.02).verdict, cost(0.02).figure) == ("pass", pytest.approx(1.5))
    assert cost(0.01).verdict == "hold"
    assert cost(0.0).reason == "3 EUR brought no gain, and at most 2 a point is asked"
    assert "give the profile `prices`" in cost(0.02, paid=None).reason
    assert asked({"cost_per_point": 1})["cost"].verdict == "pass", "a first model has nothing to gain over"


def test_a_point_of_an_error_is_one_per_cent_of_the_champions():
    comparison = against(0.05, 0).comparison.model_copy(update={"metric": "rmse", "champion": 2.0})
    assert gained_points(comparison) == pytest.approx(2.5)
