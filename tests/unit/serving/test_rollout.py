"""A server's part in a roll-out, with versions played by functions."""

import threading
import time

import pytest

from pipelines_lib.serving import rollout
from pipelines_lib.serving.pointer import Traffic
from pipelines_lib.serving.rollout import Counts, Disagreement, Rollout, Tally, compared
from pipelines_lib.serving.rows import RequestError

REFUSED = RequestError("lacks age", where="columns", rule="the model needs age", remedy="Send it")


def traffic(mode, share=1.0, **more):
    return Traffic(**{"mode": mode, "share": share, "until": time.time() + 600, **more})


def answer_of(score, prediction="yes"):
    return {"predictions": [{"prediction": prediction, "score": score}]}


def way(version):
    """A version that answers with itself, or raises itself."""
    if isinstance(version, Exception):
        raise version
    return answer_of(version)


def asked(given, served=1.0, request_id="q"):
    return given.answer(served, request_id, way, way, 10)


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


# --- who answers -----------------------------------------------------------------------------------------------------


def test_the_share_is_as_asked_and_an_id_falls_to_the_same_version_in_every_server():
    ids = [f"q{i}" for i in range(20_000)]
    here, there = (Rollout(4, traffic("canary", 0.1), 2.0) for _ in range(2))
    taken = [here.takes(name) for name in ids]
    assert 0.09 < sum(taken) / len(ids) < 0.11
    assert taken == [there.takes(name) for name in ids]
    # Another version's canary is not borne by the same requests.
    both = sum(a and Rollout(5, traffic("canary", 0.1), 2.0).takes(name) for a, name in zip(taken, ids, strict=True))
    assert both < 0.02 * len(ids)


def test_in_a_canary_the_challenger_answers():
    given = Rollout(4, traffic("canary"), 2.0)
    assert asked(given) == answer_of(2.0)
    report = given.report()
    assert (report.challenger.requests, report.challenger.errors, report.champion.requests) == (1, 0, 0)


@pytest.mark.parametrize(
    ("failure", "told"), [(ValueError("of Anna"), "ValueError in test_rollout.py, line "), (REFUSED, "columns: the model needs age")]
)
def test_where_the_challenger_fails_the_champion_answers(failure, told):
    given = Rollout(4, traffic("canary"), failure)
    assert asked(given) == answer_of(1.0)
    report = given.report()
    assert (report.challenger.requests, report.challenger.errors, report.champion.requests) == (1, 1, 0)
    assert report.last_failure.startswith(told)
    assert "Anna" not in report.model_dump_json()


@pytest.mark.parametrize("mode", ["canary", "shadow"])
def test_what_the_client_gets_wrong_counts_for_nobody(mode):
    given = Rollout(4, traffic(mode), REFUSED)
    with pytest.raises(RequestError, match="lacks age"):
        asked(given, served=REFUSED)
    report = given.report()
    assert (report.champion, report.challenger) == (Counts(), Counts())
    given.close()


def test_a_failure_of_the_champion_is_its_own():
    given = Rollout(4, traffic("canary", 1e-9), 2.0)
    with pytest.raises(ValueError, match="broken"):
        asked(given, served=ValueError("broken"))
    assert (given.report().champion.errors, given.report().challenger.requests) == (1, 0)


def test_a_roll_out_that_nobody_ends_ends_by_itself():
    given = Rollout(4, traffic("canary", until=time.time() - 1), 2.0)
    assert asked(given) == answer_of(1.0)


@pytest.mark.parametrize(("candidate", "counted"), [(False, "champion"), (True, "challenger")])
def test_with_servers_of_its_own_each_counts_what_it_answers(candidate, counted):
    given = Rollout(4, traffic("canary", 0.5, pods=True), candidate=candidate)
    assert asked(given) == answer_of(1.0)
    assert getattr(given.report(), counted).requests == 1


# --- shadow ----------------------------------------------------------------------------------------------------------


def test_a_shadow_answer_is_compared_and_goes_to_nobody():
    given = Rollout(4, traffic("shadow"), 0.75)
    assert asked(given) == answer_of(1.0)
    until(lambda: given.report().disagreement.rows)
    report = given.report()
    assert (report.champion.requests, report.challenger.requests) == (1, 1)
    assert report.disagreement == Disagreement(rows=1, other_predictions=0, score_difference=0.25)
    given.close()


def test_a_shadow_that_fails_or_hangs_holds_nobody_up(monkeypatch):
    monkeypatch.setattr(rollout, "MAX_WAITING", 3)
    go_on = threading.Event()

    def hangs(version):
        go_on.wait(10)
        raise ValueError

    given = Rollout(4, traffic("shadow"), 2.0)
    for _ in range(10):
        assert given.answer(1.0, "q", way, hangs, 10) == answer_of(1.0)
    dropped = given.report().dropped
    assert dropped in (6, 7), "one may be at work already"
    go_on.set()
    until(lambda: given.report().challenger.errors == 10 - dropped)
    given.close()


def test_the_bodies_that_wait_are_bounded():
    given = Rollout(4, traffic("shadow"), 2.0)
    given.answer(1.0, "q", way, way, rollout.MAX_WAITING_BYTES + 1)
    assert given.report().dropped == 1
    given.close()


@pytest.mark.parametrize(
    ("mine", "theirs", "found"),
    [
        (answer_of(0.5, "no"), answer_of(0.75, "yes"), (1, 1, 0.25)),
        (answer_of(10.0, 10.0), answer_of(10.5, 10.5), (1, 0, 0.5)),
        ({"outputs": [{"name": "score", "data": [1, 2]}]}, {"outputs": [{"name": "score", "data": [1, 3]}]}, (2, 0, 1.0)),
        ({"outputs": [{"name": "prediction", "data": ["a", "b"]}]}, {"outputs": [{"name": "prediction", "data": ["a", "c"]}]}, (2, 1, 0.0)),
        ({"items": [{"item": 1}, {"item": 2}]}, {"items": [{"item": 2}, {"item": 3}]}, (2, 1, 0.0)),
    ],
)  # fmt: skip
def test_answers_are_compared_in_every_dialect(mine, theirs, found):
    got = compared(mine, theirs)
    assert (got.rows, got.other_predictions, got.score_difference) == found


# --- figures ---------------------------------------------------------------------------------------------------------


def test_times_of_several_servers_add_up_and_are_told_to_a_tenth():
    tallies = [Tally(), Tally()]
    for i in range(1000):
        tallies[i % 2].answered(0.001 * (1 + i / 1000))
    counts = tallies[0].counts().plus(Counts.model_validate_json(tallies[1].counts().model_dump_json()))
    assert counts.requests == 1000
    assert counts.milliseconds(0.5) == pytest.approx(1.5, rel=0.1)
    assert counts.milliseconds(0.95) == pytest.approx(1.95, rel=0.1)
    assert Counts().milliseconds(0.5) is None


def test_prometheus_gets_both_sides():
    given = Rollout(4, traffic("canary"), 2.0)
    asked(given)
    lines = list(given.lines())
    assert 'sluice_rollout_requests_total{side="challenger",challenger="4"} 1' in lines
    assert any(line.startswith('sluice_rollout_processor_seconds{side="challenger",challenger="4",quantile="0.95"}') for line in lines)
