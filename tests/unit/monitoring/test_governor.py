import datetime as dt
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.monitoring.governor import Facts, Fired, Loss, Window, decide
from pipelines_lib.use_case import Monitoring
from pipelines_lib.use_case.monitoring import QuietPeriod

START = dt.datetime(2026, 1, 1)
SETTINGS = Monitoring(min_rows=100, need=2, of=3, cooldown=3, max_retrainings=2, share=0.25)


def key(day):
    return (START + dt.timedelta(days=day)).strftime("%Y-%m-%d")


def loss(share, spread=0.01):
    return Loss(metric="roc_auc", source="realised", share=share, low=share - spread, high=share + spread)


def guess(share, spread=0.01):
    return replace(loss(share, spread), source="estimated")


def window(day, *, n_rows=500, n_drifted=4, prediction_drifted=False, model_version=1, loss=None, bad_data=""):
    return Window(
        partition_key=key(day),
        n_rows=n_rows,
        model_version=model_version,
        n_inputs=10,
        n_drifted=n_drifted,
        prediction_drifted=prediction_drifted,
        loss=loss,
        bad_data=bad_data,
    )


def fired_for(day, seen_from, **more):
    return Fired(partition_key=key(day), partitions_away=day - seen_from, moment=START + dt.timedelta(days=day), **more)


def facts(day, *, champion=1, in_flight=0, fired=(), of=None, until=0, cost=0.0, next_cost=0.0, labelled=()):
    """`of` is the champion that each of `fired` was to replace, `until` the newest day whose labels its decision knew."""
    return Facts(
        partition_key=key(day),
        moment=START + dt.timedelta(days=day),
        champion_version=champion,
        trainings_in_flight=in_flight,
        fired=tuple(fired_for(f, day, model_version=of, labels_until=key(until), cost=cost) for f in fired),
        next_cost=next_cost,
        labelled=tuple(labelled),
    )


DRIFTED = [window(9), window(10)]


def test_two_of_three_drifted_partitions_are_retrained_for():
    decision = decide(DRIFTED, SETTINGS, facts(10))
    assert decision.action == "retrain"
    assert decision.reason == "2 of the last 3 partitions have drifted (2026-01-10, 2026-01-11); 2 are enough"
    assert decide([window(9, n_drifted=0, prediction_drifted=True), window(10)], SETTINGS, facts(10)).action == "retrain"


def refusal(history, facts, settings=SETTINGS):
    decision = decide(history, settings, facts)
    assert decision.action == "hold"
    return decision.figures["objections"][0], decision.reason


def test_each_rule_holds_with_its_reason():
    assert refusal(DRIFTED, facts(10, champion=None)) == (
        "champion",
        "no model serves, so there is nothing to retrain; run the training DAG",
    )
    assert refusal([window(9), window(10, n_rows=99)], facts(10))[0] == "min_rows"
    assert refusal([window(9)], facts(10)) == (
        "min_rows",
        "0 predictions in 2026-01-11; fewer than 100 (monitoring.min_rows) say too little",
    )
    assert refusal([window(8), window(9), window(10, n_drifted=2)], facts(10))[0] == "quiet"
    assert refusal([window(8, n_drifted=0), window(10)], facts(10)) == (
        "need",
        "1 of the last 3 partitions have drifted (2026-01-11); 2 are needed (monitoring.need)",
    )
    assert refusal([window(9, n_rows=99), window(10)], facts(10))[0] == "need"
    assert refusal([window(9, model_version=0), window(10)], facts(10))[0] == "need", "measured against another champion"
    assert refusal(DRIFTED, facts(10, in_flight=1))[0] == "in_flight"
    assert refusal(DRIFTED, facts(10, fired=[7])) == (
        "cooldown",
        "a retraining was fired for 2026-01-08, 3 partition(s) away; 3 must pass (monitoring.cooldown)",
    )
    assert refusal(DRIFTED, facts(10, fired=[12]))[0] == "cooldown", "one fired for a later partition counts as well"
    assert refusal(DRIFTED, facts(10, fired=[1, 5]))[0] == "budget"


def test_a_retraining_in_vain_is_not_tried_again_every_day():
    """Drift that no training mends, on every day, without a cool-down and with a budget that never ends."""
    settings = SETTINGS.model_copy(update={"cooldown": 0, "max_retrainings": 1000})
    fired: list[int] = []
    for day in range(1, 40):
        if decide([window(day - 1), window(day)], settings, facts(day, fired=fired, of=1)).action == "retrain":
            fired.append(day)
    assert fired == [1, 3, 6, 11, 20, 37]
    assert refusal([window(38), window(39)], facts(39, fired=fired, of=1), settings) == (
        "cooldown",
        "6 retraining(s) left version 1 in place, the nearest for 2026-02-07, 2 partition(s) away; 32 must pass (monitoring.cooldown, longer each time)",
    )
    replaced = facts(39, champion=2, fired=fired, of=1)
    assert decide([window(day, model_version=2) for day in (38, 39)], settings, replaced).action == "retrain"
    assert refusal(DRIFTED, facts(10, fired=[7], of=1))[1].endswith("3 partition(s) away; 3 must pass (monitoring.cooldown)")


def test_the_budget_is_of_any_thirty_days():
    day = 60
    history = [window(day - 1), window(day)]
    assert decide(history, SETTINGS, facts(day, fired=[29, 30])).action == "retrain", "no 30 days hold all three"
    assert decide(history, SETTINGS, facts(day, fired=[45, 75])).action == "retrain"
    assert decide(history, SETTINGS, facts(day, fired=[45, 70])).action == "hold"
    assert decide(history, SETTINGS, facts(day, fired=[65, 70])).action == "hold"


def test_performance_outranks_inputs():
    lost = [window(day, n_drifted=0, loss=loss(0.2)) for day in (9, 10)]
    assert decide(lost, SETTINGS, facts(10)).reason == (
        "2 of the 2 newest partitions with labels have lost roc_auc (2026-01-10 20.0%, 2026-01-11 20.0%); 2 are enough"
    )
    mixed = [lost[0], window(10, loss=guess(0.2))]
    assert decide(mixed, SETTINGS, facts(10)).reason == (
        "2 of the last 3 partitions have lost performance or drifted (2026-01-10, 2026-01-11); 2 are enough; "
        "1 of the 1 newest partitions with labels (2026-01-10) have lost roc_auc"
    )
    kept = [window(day, loss=loss(0.01)) for day in (9, 10)]
    decision = decide(kept, SETTINGS, facts(10))
    assert (decision.action, decision.figures["objections"][0]) == ("alert", "no_loss")
    assert decision.reason == (
        "drift without a loss of performance in 2026-01-11: 4 of 10 input columns have drifted, and realised roc_auc has lost 1.0% "
        "(0.0% to 2.0%), less than 5.0% (monitoring.loss)"
    )
    assert decide([window(9, n_drifted=0), kept[1]], SETTINGS, facts(10)).action == "hold", "one day is no alert"
    unclear = [window(day, loss=loss(0.04, spread=0.05)) for day in (9, 10)]
    assert decide(unclear, SETTINGS, facts(10)).action == "retrain", "where performance is not clear, the inputs decide"
    chance = [window(day, n_drifted=0, loss=loss(0.06, spread=0.1)) for day in (9, 10)]
    assert refusal(chance, facts(10))[0] == "quiet", "a fall that chance explains is none"
    shown = SETTINGS.model_copy(update={"loss": None})
    assert decide(kept, shown, facts(10)).action == "retrain"
    assert refusal(lost, facts(10), shown)[0] == "quiet"


def retrained(n_days, delay, is_lost, *, in_vain=False):
    """Days on which a retraining is fired, where inputs do not move, estimates see nothing, and labels come `delay` days late (None: never).

    `is_lost(day)` says whether performance was; another champion is in place the day after, unless it is `in_vain`.
    """
    settings = SETTINGS.model_copy(update={"max_retrainings": 1000})
    days, champions, known = [], [], []
    for day in range(n_days):
        champions.append(1 if in_vain else 1 + len(days))
        windows = [window(before, n_drifted=0, model_version=version, loss=guess(0.0)) for before, version in enumerate(champions)]
        for before in range(0 if delay is None else max(0, day - delay + 1)):
            windows[before] = replace(windows[before], loss=loss(0.3 if is_lost(before) else 0.0))
        fired = tuple(fired_for(f, day, model_version=champions[f], labels_until=until) for f, until in zip(days, known, strict=True))
        seen = replace(facts(day, champion=champions[-1], labelled=windows), fired=fired)
        decision = decide(windows[-3:], settings, seen)
        if decision.action == "retrain":
            days.append(day)
            known.append(decision.labels_until)
    return days


@pytest.mark.parametrize(("delay", "first"), [(0, [31]), (1, [32]), (2, [33]), (7, [38]), (40, [71]), (None, [])])
def test_a_loss_that_labels_alone_tell_of_is_retrained_for_as_soon_as_two_have_come(delay, first):
    assert retrained(75, delay, lambda day: day >= 30)[:1] == first


@pytest.mark.parametrize("delay", [0, 1, 2, 7, 40])
def test_a_retraining_that_mends_it_is_the_only_one(delay):
    """What it left behind are late labels of the old champion's answers, which go on to come for `delay` days, and speak no more."""
    mended = 31 + delay
    assert retrained(120, delay, lambda day: 30 <= day <= mended) == [mended]


@pytest.mark.parametrize("delay", [0, 1, 2, 7, 40])
def test_without_a_loss_nothing_is_retrained_for(delay):
    assert retrained(60, delay, lambda _: False) == []
    assert retrained(60, delay, lambda day: day % 3 == 0) == [], "one of three is not enough"


def test_the_same_labels_fire_once():
    """Labels of ten days come at once, and then no more. The retraining leaves the champion in place, so that they stay its newest."""
    told = [window(day, n_drifted=0, loss=loss(0.2)) for day in range(10)]
    quiet = [window(day, n_drifted=0, loss=guess(0.0)) for day in (38, 39)]
    seen = facts(39, labelled=told)
    assert decide(quiet, SETTINGS, seen).action == "retrain"
    assert decide(quiet, SETTINGS, seen).labels_until == key(9)
    ten = decide(quiet, SETTINGS.model_copy(update={"of": 10}), seen).reason
    assert ten == "10 of the 10 newest partitions with labels have lost roc_auc (2026-01-01 20.0%, …, 2026-01-10 20.0%); 2 are enough"
    assert refusal(quiet, facts(39, labelled=told, fired=[10], of=1, until=9)) == (
        "quiet",
        "0 of 10 input columns have drifted in 2026-02-09, 0% of what all are worth to the model and less than 25% (monitoring.share), and the predictions have not; 3 of the 3 newest partitions with labels (2026-01-08, 2026-01-09, 2026-01-10) have lost roc_auc, 3 of which a retraining was fired for already",
    )
    assert decide(quiet, SETTINGS, facts(39, labelled=told, fired=[10], of=1, until=7)).action == "retrain", "it knew less"
    assert decide(quiet, SETTINGS, facts(39, labelled=told, fired=[10], of=0, until=9)).action == "retrain", "of another champion"


@pytest.mark.parametrize("delay", [0, 1, 7, 40])
def test_a_loss_that_no_training_mends_is_tried_less_and_less_often(delay):
    fired = [day + delay for day in (31, 35, 42, 55, 80)]
    assert retrained(100, delay, lambda day: day >= 30, in_vain=True) == [day for day in fired if day < 100]


def test_the_truth_overrules_estimates():
    """Two of three days moved, and an estimate says that nothing is lost."""
    moved = [window(day, loss=guess(0.0)) for day in (9, 10)]
    assert decide(moved, SETTINGS, facts(10)).action == "alert"
    assert decide(moved, SETTINGS, facts(10, labelled=[window(3, loss=loss(0.0))])).action == "alert"
    assert decide(moved, SETTINGS, facts(10, labelled=[window(3, loss=loss(0.3))])).action == "retrain", "it can't see what was lost"
    feared = [window(day, n_drifted=0, loss=guess(0.3)) for day in (8, 9, 10)]
    assert decide(feared, SETTINGS, facts(10)).action == "retrain"
    assert decide(feared, SETTINGS, facts(10, labelled=[window(7, loss=loss(0.0))])).action == "retrain", "the truth is of an earlier day"
    told = [feared[0], window(9, n_drifted=0, loss=loss(0.0)), feared[2]]
    assert refusal(told, facts(10))[0] == "need", "day 8 lies before the newest labelled one"


def test_labels_that_do_not_count():
    quiet = [window(day, n_drifted=0) for day in (9, 10)]
    told = [window(day, loss=loss(0.2)) for day in (2, 3)]
    assert decide(quiet, SETTINGS, facts(10, labelled=told)).action == "retrain"
    assert decide(quiet, SETTINGS, facts(10, labelled=told, fired=[8])).figures["objections"] == ["cooldown"]
    assert refusal(quiet, facts(10, labelled=told[:1]))[0] == "quiet"
    for change in ({"model_version": 0}, {"bad_data": "held"}, {"n_rows": 99}, {"loss": guess(0.2)}):
        assert refusal(quiet, facts(10, labelled=[replace(one, **change) for one in told]))[0] == "quiet", change
    assert refusal(quiet, facts(10, labelled=[*told, window(4, loss=loss(0.0))]))[0] == "quiet", "the newest has recovered"
    held = [quiet[0], replace(quiet[1], bad_data="its data was held")]
    assert decide(held, SETTINGS, facts(10, labelled=told)).action == "alert", "nothing is trained on bad data"
    assert refusal(quiet, facts(10, labelled=told), SETTINGS.model_copy(update={"min_gain": 0.3}))[0] == "gain"


def test_bad_data_trains_no_model():
    held = window(10, bad_data="its data was held (too many rows)")
    decision = decide([window(8), window(9), held], SETTINGS, facts(10))
    assert (decision.action, decision.figures["objections"]) == ("alert", ["bad_data"])
    assert decision.reason == (
        "bad data rather than drift in 2026-01-11: its data was held (too many rows). Mend it; nothing is trained on it"
    )
    assert refusal([window(9, bad_data="its data was held"), window(10)], facts(10))[0] == "need", "and counts for no other day"
    for quiet in (window(10, n_drifted=0, bad_data="its data was held"), window(10, n_rows=3, bad_data="its data was held")):
        assert decide([quiet], SETTINGS, facts(10)).reason == (
            "bad data rather than drift in 2026-01-11: its data was held. Mend it; nothing is trained on it"
        )


def test_what_a_retraining_may_cost_and_must_bring():
    settings = SETTINGS.model_copy(update={"max_cost": 10.0, "min_gain": 0.1})
    lost = [window(9, loss=loss(0.2)), window(10, loss=loss(0.06))]
    assert decide(lost, settings, facts(10, fired=[1], cost=4, next_cost=6)).action == "retrain"
    assert refusal(lost, facts(10, fired=[1], cost=4, next_cost=6.1), settings) == (
        "cost",
        "retrainings cost 4 within 30 days, and the next is expected to cost 6.1; together 10 are allowed (monitoring.max_cost)",
    )
    assert refusal([window(9, loss=loss(0.06)), lost[1]], facts(10), settings) == (
        "gain",
        "a retraining is expected to win back 6.0% of the metric; 10.0% make one (monitoring.min_gain)",
    )
    assert decide(DRIFTED, settings, facts(10)).action == "retrain", "nobody knows what they lost"


def test_in_a_quiet_period_nothing_is_fired():
    settings = SETTINGS.model_copy(update={"quiet": (QuietPeriod(first=dt.date(2026, 1, 10), last=dt.date(2026, 1, 11), why="the sale"),)})
    assert refusal(DRIFTED, facts(10), settings) == (
        "quiet_period",
        "no retraining from 2026-01-10 to 2026-01-11: the sale (monitoring.quiet)",
    )
    assert decide([window(10), window(11)], settings, facts(11)).action == "retrain"


shares, spreads = st.floats(-0.2, 0.4), st.floats(0, 0.2)
losses = st.none() | st.builds(loss, shares, spreads) | st.builds(guess, shares, spreads)
bad_news = st.none() | st.builds(loss, st.floats(0.1, 0.4), st.floats(0, 0.05)) | st.builds(guess, shares, spreads)
windows = st.lists(
    st.builds(
        window, st.integers(8, 10), n_rows=st.integers(0, 1000), n_drifted=st.integers(0, 10), prediction_drifted=st.booleans(),
        model_version=st.integers(1, 2), loss=losses, bad_data=st.sampled_from(["", "", "held"]),
    ),
    max_size=3,
    unique_by=lambda w: w.partition_key,
)  # fmt: skip
labelled = st.lists(
    st.builds(window, st.integers(0, 6), n_rows=st.integers(0, 1000), model_version=st.integers(1, 2), loss=losses),
    max_size=4, unique_by=lambda w: w.partition_key,
)  # fmt: skip
all_facts = st.builds(
    facts, st.just(10), champion=st.sampled_from([None, 1, 2]), in_flight=st.integers(0, 2),
    fired=st.lists(st.integers(-40, 60), max_size=4, unique=True), of=st.sampled_from([None, 1, 2]), until=st.integers(0, 10), cost=st.floats(0, 5),
    next_cost=st.floats(0, 5), labelled=labelled,
)  # fmt: skip
settings = st.builds(
    lambda need, more, cooldown, budget, share, max_cost, min_gain, quiet: SETTINGS.model_copy(
        update={"need": need, "of": need + more, "cooldown": cooldown, "max_retrainings": budget, "share": share, "max_cost": max_cost,
                "min_gain": min_gain, "quiet": quiet}
    ),
    st.integers(1, 3), st.integers(0, 2), st.integers(0, 5), st.integers(0, 4), st.floats(0.05, 1), st.none() | st.floats(1, 20),
    st.none() | st.floats(0.01, 0.3), st.sampled_from([(), (QuietPeriod(first=dt.date(2026, 1, 1), last=dt.date(2026, 1, 20)),)]),
)  # fmt: skip


@given(windows, settings, all_facts)
def test_a_retraining_breaks_no_rule_and_all_else_has_a_reason(history, settings, facts):
    decision = decide(history, settings, facts)
    assert decision.reason
    assert (decision.action == "retrain") == (not decision.figures["objections"])
    assert decision.action != "alert" or {"bad_data", "no_loss"} & {*decision.figures["objections"]}
    if decision.action == "retrain":
        assert facts.champion_version is not None
        assert facts.trainings_in_flight == 0
        assert all(abs(fired.partitions_away) > settings.cooldown for fired in facts.fired)
        assert not settings.quiet
        good = [w for w in (*history, *facts.labelled) if w.n_rows >= settings.min_rows and w.model_version == facts.champion_version]
        good = [w for w in good if not w.bad_data]
        assert len([w for w in good if w.lost(settings) or w.moved(settings)]) >= settings.need
        assert any(w.partition_key == facts.partition_key for w in good)


@given(windows, settings, all_facts, st.randoms())
def test_the_order_in_which_partitions_were_measured_has_no_say(history, settings, facts, random):
    shuffled = list(history)
    random.shuffle(shuffled)
    fired = list(facts.fired)
    random.shuffle(fired)
    told = list(facts.labelled)
    random.shuffle(told)
    seen = replace(facts, fired=tuple(fired), labelled=tuple(told))
    assert decide(shuffled, settings, seen) == decide(history, settings, facts)


@given(st.permutations(range(8)), st.lists(st.tuples(shares, spreads), min_size=8, max_size=8), st.integers(0, 8), settings, all_facts)
def test_the_order_in_which_late_labels_came_has_no_say(order, truth, n_come, settings, facts):
    """Days 3 to 10 are measured, and the labels of some come in some order; what was decided in between is of no account."""
    windows = {day: window(day, loss=guess(0.0)) for day in range(3, 11)}

    def decided(days):
        return decide(
            [windows[day] for day in range(11 - settings.of, 11)], settings, replace(facts, labelled=tuple(windows[d] for d in days))
        )

    come = order[:n_come]
    for place in come:
        windows[3 + place] = replace(windows[3 + place], loss=loss(*truth[place]))
        decision = decided([3 + one for one in come])
    if come:
        assert decision == decided(sorted(windows))


@given(windows, settings, all_facts)
def test_a_fact_against_it_never_turns_a_hold_into_a_retraining(history, settings, facts):
    if decide(history, settings, facts).action != "retrain":
        assert decide(history, settings, replace(facts, trainings_in_flight=facts.trainings_in_flight + 1)).action != "retrain"
        for version in (None, facts.champion_version):
            later = facts.moment + dt.timedelta(days=20)
            more = Fired(partition_key="2026-03-01", partitions_away=20, moment=later, model_version=version, cost=1.0)
            assert decide(history, settings, replace(facts, fired=(*facts.fired, more))).action != "retrain"
        if not any(w.loss for w in (*history, *facts.labelled)):  # whose truth may be what spoke against it
            assert decide(history, settings.model_copy(update={"min_rows": settings.min_rows + 100}), facts).action != "retrain"


@given(windows, settings, all_facts, st.integers(1, 10), bad_news)
def test_more_evidence_never_turns_a_retraining_into_a_hold_but_by_a_rule_that_is_named(history, settings, facts, n_drifted, its_loss):
    if decide(history, settings, facts).action == "retrain":
        more = window(7, n_drifted=n_drifted, prediction_drifted=True, model_version=facts.champion_version, loss=its_loss)
        decision = decide([*history, more], settings, facts)
        assert decision.action == "retrain" or decision.figures["objections"] == ["gain"]
        worse = [replace(w, n_drifted=10, prediction_drifted=True) for w in history]
        assert decide(worse, settings, facts).action == "retrain"


@given(
    settings,
    st.lists(st.tuples(st.integers(0, 70), st.integers(0, 10)), max_size=70, unique_by=lambda day: day[0]),
    st.sampled_from([None, 1]),
)
def test_no_history_in_any_order_breaks_cooldown_or_budget(settings, days, of):
    """Days come in any order, each with so many drifted columns; what was decided is fired at once."""
    settings = settings.model_copy(update={"quiet": (), "need": 1, "of": 1})
    fired: list[int] = []
    for day, n_drifted in days:
        seen = facts(day, fired=fired, of=of, cost=2.0, next_cost=2.0)
        if decide([window(day, n_drifted=n_drifted)], settings, seen).action == "retrain":
            fired.append(day)
    assert all(abs(one - other) > settings.cooldown for one in fired for other in fired if one != other)
    for start in fired:
        in_30_days = [day for day in fired if start <= day < start + 30]
        assert len(in_30_days) <= settings.max_retrainings
        assert settings.max_cost is None or 2.0 * len(in_30_days) <= settings.max_cost
