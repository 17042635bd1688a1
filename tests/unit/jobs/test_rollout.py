"""A roll-out as verify watches it; its way through a real service is in test_deploy.py."""

import time
from pathlib import Path

import pytest

from pipelines_lib.contracts import ModelRef
from pipelines_lib.errors import Held, Unavailable
from pipelines_lib.jobs import deploy, rollout
from pipelines_lib.jobs.rollout import chance_of, problem, roll_out
from pipelines_lib.serving.pointer import Deployment, Traffic, read_pointer, write_pointer
from pipelines_lib.serving.replica import Replica
from pipelines_lib.serving.rollout import Counts, Report
from pipelines_lib.use_case.serving import Rollout

FIRST, SECOND, THIRD = (ModelRef(name="shop", version=version, package="shop/packages/p", run_id="run") for version in (1, 2, 3))
ASKED = {"mode": "canary", "share": 0.1, "requests": 100, "timeout": "30min"}


def counts(requests, errors=0, step=20):
    return Counts(requests=requests, errors=errors, times={step: requests - errors} if requests > errors else {})


def report(champion, challenger, **more):
    return Report(version=2, mode="canary", share=0.1, champion=champion, challenger=challenger, **more)


# --- the verdict -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "chance"),
    [((3, 4, 1, 4), 0.242857), ((8, 10, 1, 6), 0.024476), ((0, 500, 0, 4500), 1.0), ((0, 500, 9, 4500), 1.0), ((0, 0, 0, 0), 1.0), ((2, 2, 0, 0), 1.0)],
)  # fmt: skip
def test_the_chance_is_fishers(table, chance):
    assert chance_of(*table) == pytest.approx(chance, abs=1e-5)


def test_of_two_that_fail_equally_often_few_are_taken_for_worse():
    """Of 500 and 4,500 requests with a failure in a hundred, whatever the sum of the failures: the exact test keeps its level."""
    for all_errors in (1, 5, 50, 200):
        wrong = [k for k in range(all_errors + 1) if chance_of(k, 500, all_errors - k, 4500) < rollout.FINAL]
        assert chance_of(min(wrong), 500, all_errors - min(wrong), 4500) < rollout.FINAL if wrong else True
        assert all_errors < 2 or wrong, "and it finds those that are"


@pytest.mark.parametrize(
    ("champion", "challenger", "final", "why"),
    [
        (counts(900), counts(100), True, None),
        (counts(900, 9), counts(100, 2), True, None),
        (counts(900), counts(100, 2), True, r"failed on 2 of 100 requests, and the champion on 0 of 900; .* chance of 0\.01"),
        (counts(900), counts(100, 2), False, None),
        (counts(900), counts(100, 5), False, "failed on 5 of 100 requests"),
        (
            counts(900, step=20),
            counts(100, step=32),
            True,
            r"its answers take 2\.56 ms of a processor \(median\), the champion's 0\.32; 2 times",
        ),
        (counts(900, step=20), counts(100, step=32), False, "2.56 ms of a processor"),
        (counts(900, step=20), counts(99, step=32), False, None),
        (counts(900, step=0), counts(100, step=20), True, None),  # 0.3 ms more, which nobody notices
        (counts(900, step=20), counts(10, step=32), True, None),
        (counts(900, step=40), counts(100, step=43), True, None),
    ],
)
def test_errors_and_times_decide(champion, challenger, final, why):
    found = problem(report(champion, challenger), Rollout.model_validate(ASKED), final=final)
    if why is None:
        assert found is None
    else:
        import re

        assert re.search(why, found)


def test_the_slow_end_counts_too():
    slow = Counts(requests=100, times={20: 90, 40: 10})
    asked, met = Rollout.model_validate(ASKED), report(counts(900, step=20), slow)
    assert "95th percentile" in problem(met, asked, final=True)
    assert problem(met, asked, final=False) is None, "the end of few answers is soon long by chance"


def test_what_failed_last_is_told():
    found = report(counts(900), counts(100, 50), last_failure="columns: the model needs age")
    assert "at last with columns: the model needs age" in problem(found, Rollout.model_validate(ASKED), final=False)


# --- the way there ---------------------------------------------------------------------------------------------------


class Place:
    """Two servers, and what they say of the roll-out, look by look."""

    seconds = 0.0

    def __init__(self, admits=False):
        self.admits = admits
        self.calls = []
        self.looks = {False: [], True: []}

    def put_up(self, *, candidate):
        self.calls.append(("put_up", candidate))
        return "http://shop"

    def replicas(self, *, candidate):
        return [Replica("champion" if not candidate else "candidate", 1)], ""

    def admit(self, share):
        self.calls.append(("admit", share))
        return self.admits

    def end(self, *, candidate):
        self.calls.append(("end", candidate))

    def ask(self, replica, path, timeout):
        looks = self.looks[replica.host == "candidate"]
        said = looks.pop(0) if len(looks) > 1 else looks[0]
        if said is None:
            raise ConnectionRefusedError
        return 200, {"parameters": {"rollout": said.model_dump(mode="json")}}


@pytest.fixture
def place(monkeypatch):
    made = Place()
    monkeypatch.setattr(rollout, "LOOK_SECONDS", 0)
    monkeypatch.setattr(rollout, "place_of_stage", lambda _: made)
    monkeypatch.setattr(deploy, "place_of_stage", lambda _: made)
    monkeypatch.setattr(Replica, "ask", lambda *given, **named: made.ask(*given, **named))  # noqa: PLW0108
    return made


@pytest.fixture
def stage(sandbox, make_use_case):
    """Returns `stage(**rollout)`: verify of version 2, which is up beside version 1."""

    def make(before=FIRST, **changes):
        made = sandbox.stage("verify", make_use_case(deployment={"rollout": {**ASKED, **changes}}), "2026-01-05")
        served = None if before is None else Deployment.candidate(before, made.use_case, None).verified()
        write_pointer(made.root, Deployment.candidate(SECOND, made.use_case, served))
        return made

    return make


def test_a_canary_goes_on_until_it_has_met_enough(place, stage):
    made = stage()
    seen = []
    place.looks[False] = [report(counts(90), counts(10)), report(counts(500), counts(60)), report(counts(910), counts(101))]
    ask = place.ask

    def looked(*given, **named):
        seen.append(read_pointer(made.root).traffic)
        return ask(*given, **named)

    place.ask = looked
    found = roll_out(made, SECOND)["rollout"]
    assert (found["challenger"]["requests"], found["champion"]["requests"], found["by_pods"]) == (101, 910, False)
    assert found["challenger"]["milliseconds_p50"] == pytest.approx(0.32)
    assert [(traffic.mode, traffic.share) for traffic in seen] == [("canary", 0.1)] * 3
    assert time.time() + 1700 < seen[0].until < time.time() + 1900


def test_one_that_fails_more_often_is_rolled_back_at_once(place, stage):
    made = stage()
    place.looks[False] = [report(counts(50), counts(6, 6))]
    with pytest.raises(Held, match=r"version 2 is not promoted: it failed on 6 of 6 requests.*version 1 serves again") as held:
        roll_out(made, SECOND)
    assert held.value.figures["rollout"]["challenger"]["errors"] == 6
    pointer = read_pointer(made.root)
    assert (pointer.model, pointer.traffic) == (FIRST, None)
    assert place.calls == [("admit", 0.1), ("end", True)]


def test_too_few_requests_hold_with_a_remedy(place, stage):
    made = stage(timeout="1s")
    place.looks[False] = [report(counts(90), counts(10))]
    with pytest.raises(
        Held, match=r"its canary met 10 of 100 requests in time .*a larger share.*the version stays registered; version 1 serves again"
    ):
        roll_out(made, SECOND)
    assert read_pointer(made.root).model == FIRST


def test_with_pods_of_its_own_both_sides_are_added_up(place, stage):
    made = stage()
    place.admits = True
    place.looks[False], place.looks[True] = [report(counts(910), Counts())], [report(Counts(), counts(101))]
    found = roll_out(made, SECOND)["rollout"]
    assert (found["champion"]["requests"], found["challenger"]["requests"], found["by_pods"]) == (910, 101, True)


def test_a_try_after_one_that_was_killed_goes_on_with_it(place, stage):
    made = stage()
    until = time.time() + 100
    write_pointer(made.root, read_pointer(made.root).meeting(Traffic(mode="canary", share=0.1, pods=True, until=until)))
    place.looks[False], place.looks[True] = [report(counts(910), Counts())], [report(Counts(), counts(101))]
    roll_out(made, SECOND)
    assert read_pointer(made.root).traffic.until == until
    assert place.calls == [("admit", 0.1)], "putting the candidate up again has taken its share back"


def test_settings_that_were_changed_begin_another(place, stage):
    made = stage(mode="shadow", share=1)
    write_pointer(made.root, read_pointer(made.root).meeting(Traffic(mode="canary", share=0.1, until=time.time() + 100)))
    place.looks[False] = [report(counts(910), counts(101))]
    roll_out(made, SECOND)
    assert read_pointer(made.root).traffic.mode == "shadow"
    assert place.calls == [], "a shadow is not seen by users, whoever makes it"


def test_a_server_that_ends_and_begins_again_is_put_down_to_the_version(place, stage):
    made = stage()
    place.looks[False] = [report(counts(50), counts(6)), report(counts(2), counts(0))]
    with pytest.raises(Held, match="the server champion:1 ended and began again while the version met users' requests"):
        roll_out(made, SECOND)
    assert place.calls[-1] == ("put_up", False)


def test_servers_that_are_gone_are_put_up_again(place, stage, monkeypatch):
    made = stage()
    monkeypatch.setattr(rollout, "LOST_SECONDS", 0.0)
    place.looks[False] = [report(counts(50), counts(6)), None]
    with pytest.raises(Held, match="no server told of the roll-out"):
        roll_out(made, SECOND)
    assert place.calls[-1] == ("put_up", False)


def test_another_deployment_ends_it_and_is_left_alone(place, stage):
    made = stage()
    ask = place.ask

    def another_run_is_quicker(*given, **named):
        write_pointer(made.root, Deployment.candidate(THIRD, made.use_case, read_pointer(made.root)))
        return ask(*given, **named)

    place.ask = another_run_is_quicker
    place.looks[False] = [report(counts(50), counts(6))]
    with pytest.raises(Held, match="ended from elsewhere, and version 3 is deployed now"):
        roll_out(made, SECOND)
    assert read_pointer(made.root).model == THIRD
    assert ("end", True) not in place.calls


def test_that_they_cannot_be_put_up_again_does_not_hide_the_reason(place, stage, monkeypatch, caplog):
    monkeypatch.setattr(rollout, "LOST_SECONDS", 0.0)
    place.looks[False] = [report(counts(50), counts(6)), None]

    def cannot(*, candidate):
        raise Unavailable("no port is free")

    place.put_up = cannot
    with pytest.raises(Held, match="no server told of the roll-out"):
        roll_out(stage(), SECOND)
    assert "no port is free" in caplog.text


def test_a_canary_leaves_the_champion_enough_to_be_compared_by():
    with pytest.raises(ValueError, match=r"share 0\.6 of a canary is more than one half.*`mode: shadow`"):
        Rollout(mode="canary", share=0.6)
    assert Rollout(mode="shadow", share=1.0).share == 1


@pytest.mark.parametrize("first", [True, False])
def test_without_another_version_there_is_nothing_to_compare_with(place, stage, first):
    made = stage(before=None)
    if not first:
        write_pointer(made.root, read_pointer(made.root).verified())
    assert roll_out(made, SECOND) == {}
    assert place.calls == []


def test_a_canary_that_was_left_is_ended_by_the_next_deployment(place, stage, monkeypatch):
    made = stage()
    write_pointer(made.root, read_pointer(made.root).meeting(Traffic(mode="canary", share=0.1, until=time.time() + 100)))
    monkeypatch.setattr(deploy, "wait_for", lambda *_, **__: [])
    from pipelines_lib.contracts import JobResult
    from pipelines_lib.store import write_json

    for model in (SECOND, THIRD):
        write_json(
            Path(f"{made.spec.run_dir}/register/result.json"), JobResult(stage="register", outputs={"model": model.model_dump(mode="json")})
        )
        deploy.main(made)
        pointer = read_pointer(made.root)
        assert (pointer.model, pointer.traffic, pointer.champion) == (model, None, FIRST)
