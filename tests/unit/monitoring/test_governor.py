import datetime as dt
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.monitoring.governor import Facts, Fired, Window, decide
from pipelines_lib.use_case import Monitoring

START = dt.datetime(2026, 1, 1)
SETTINGS = Monitoring(min_rows=100, need=2, of=3, cooldown=3, max_retrainings=2, share=0.25)


def key(day):
    return (START + dt.timedelta(days=day)).strftime("%Y-%m-%d")


def window(day, *, n_rows=500, n_drifted=4, prediction_drifted=False, model_version=1):
    return Window(
        partition_key=key(day),
        n_rows=n_rows,
        model_version=model_version,
        n_inputs=10,
        n_drifted=n_drifted,
        prediction_drifted=prediction_drifted,
    )


def facts(day, *, champion=1, in_flight=0, fired=()):
    return Facts(
        partition_key=key(day),
        moment=START + dt.timedelta(days=day),
        champion_version=champion,
        trainings_in_flight=in_flight,
        fired=tuple(Fired(partition_key=key(f), partitions_away=f - day, moment=START + dt.timedelta(days=f)) for f in fired),
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


def test_the_budget_is_of_any_thirty_days():
    day = 60
    history = [window(day - 1), window(day)]
    assert decide(history, SETTINGS, facts(day, fired=[29, 30])).action == "retrain", "no 30 days hold all three"
    assert decide(history, SETTINGS, facts(day, fired=[45, 75])).action == "retrain"
    assert decide(history, SETTINGS, facts(day, fired=[45, 70])).action == "hold"
    assert decide(history, SETTINGS, facts(day, fired=[65, 70])).action == "hold"


windows = st.lists(
    st.builds(
        window, st.integers(8, 10), n_rows=st.integers(0, 1000), n_drifted=st.integers(0, 10), prediction_drifted=st.booleans(),
        model_version=st.integers(1, 2),
    ),
    max_size=3,
    unique_by=lambda w: w.partition_key,
)  # fmt: skip
all_facts = st.builds(
    facts, st.just(10), champion=st.sampled_from([None, 1, 2]), in_flight=st.integers(0, 2),
    fired=st.lists(st.integers(-40, 60).filter(lambda day: day != 10), max_size=4, unique=True),
)  # fmt: skip
settings = st.builds(
    lambda need, more, cooldown, budget, share: SETTINGS.model_copy(
        update={"need": need, "of": need + more, "cooldown": cooldown, "max_retrainings": budget, "share": share}
    ),
    st.integers(1, 3), st.integers(0, 2), st.integers(0, 5), st.integers(0, 4), st.floats(0.05, 1),
)  # fmt: skip


@given(windows, settings, all_facts)
def test_a_retraining_breaks_no_rule_and_every_hold_has_a_reason(history, settings, facts):
    decision = decide(history, settings, facts)
    assert decision == decide(list(reversed(history))[::-1], settings, facts)
    assert decision.reason
    assert (decision.action == "hold") == bool(decision.figures["objections"])
    if decision.action == "retrain":
        assert facts.champion_version is not None
        assert facts.trainings_in_flight == 0
        assert all(abs(fired.partitions_away) > settings.cooldown for fired in facts.fired)
        good = [w for w in history if w.drifted(settings) and w.n_rows >= settings.min_rows and w.model_version == facts.champion_version]
        assert len(good) >= settings.need
        assert any(w.partition_key == facts.partition_key for w in good)


@given(windows, settings, all_facts)
def test_a_fact_against_it_never_turns_a_hold_into_a_retraining(history, settings, facts):
    if decide(history, settings, facts).action == "hold":
        assert decide(history, settings, replace(facts, trainings_in_flight=facts.trainings_in_flight + 1)).action == "hold"
        more = Fired(partition_key="2026-03-01", partitions_away=20, moment=facts.moment + dt.timedelta(days=20))
        assert decide(history, settings, replace(facts, fired=(*facts.fired, more))).action == "hold"
        assert decide(history, settings.model_copy(update={"min_rows": settings.min_rows + 100}), facts).action == "hold"
