"""What verify makes of answers; its way through a real service is in test_deploy.py."""

from pathlib import Path

import pytest

from pipelines_lib.contracts import JobResult, ModelRef
from pipelines_lib.errors import DataError, Held, Unavailable
from pipelines_lib.jobs import deploy, verify
from pipelines_lib.registry import tracking
from pipelines_lib.registry.models import ModelRegistry
from pipelines_lib.registry.package import Package
from pipelines_lib.serving import local
from pipelines_lib.serving.pointer import Deployment, read_pointer, write_pointer
from pipelines_lib.serving.replica import Replica
from pipelines_lib.store import write_json

MODEL = ModelRef(name="shop", version=2, package="shop/packages/p", run_id="run")
HERE = Replica("127.0.0.1", 1)


@pytest.fixture
def package(sandbox, make_package):
    root = sandbox.project.home / "store" / "shop"
    return Package.open(root.parent / make_package(root))


def answers(package, monkeypatch, status=200, version="2", shift=0.0):
    def ask(self, path, document):
        assert document["parameters"] == {"log": False}
        columns = {tensor["name"]: tensor["data"] for tensor in document["inputs"]}
        scores = package.predict(columns) + shift
        return status, {
            "model_version": version, "error": "no", "outputs": [{"name": "scores", "shape": list(scores.shape), "data": scores.ravel().tolist()}],
        }  # fmt: skip

    monkeypatch.setattr(Replica, "ask", ask)


@pytest.fixture
def verdict(package, sandbox, make_use_case):
    """Returns `verdict()`: the figures of a comparison. Raises `Held`."""

    def compare():
        figures = verify._compare(package, MODEL, HERE)
        verify._hold_if_wrong(sandbox.stage("verify", make_use_case(), "2026-01-05"), MODEL, figures)
        return figures

    return compare


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"status": 500}, "21 of 21 requests failed (status 500: no)"),
        ({"version": "1"}, "21 of 21 requests failed (version 1 answered)"),
        ({"shift": 0.5}, "its answers differ from the evaluation's by 0.5"),
        ({"shift": float("nan")}, "its answers differ from the evaluation's by nan"),
    ],
)
def test_a_wrong_answer_holds(package, monkeypatch, verdict, how, why):
    answers(package, monkeypatch, **how)
    with pytest.raises(Held) as held:
        verdict()
    assert why in held.value.reason


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ({"errors": 1, "requests": 20, "first_error": "status 500"}, r"1 of 20 requests to /recommend failed \(status 500\)"),
        ({"errors": 0, "largest_difference": 0.25}, "its recommendations differ from its own scores by 0.25"),
    ],
)
def test_wrong_recommendations_hold(package, sandbox, make_use_case, found, why):
    figures = {"errors": 0, "largest_difference": 0.0, "recommend": found}
    with pytest.raises(Held, match=why):
        verify._hold_if_wrong(sandbox.stage("verify", make_use_case(), "2026-01-05"), MODEL, figures)


def test_right_answers_pass(package, monkeypatch, verdict):
    answers(package, monkeypatch)
    figures = verdict()
    assert (figures["rows"], figures["requests"], figures["errors"]) == (20, 21, 0)


# --- whatever goes wrong, no candidate stays up ---------------------------------------------------------------------


FIRST = MODEL.model_copy(update={"version": 1})


class Outside:
    """The service and the registry, and which of them is out of order."""

    def __init__(self) -> None:
        self.broken: dict[str, Exception] = {}
        self.promoted: list[int] = []
        self.champion: ModelRef | None = None
        """The registry's of now."""

    def does(self, what, answer):
        """A stand-in for `what` that gives `answer(...)`, or raises what is set for it."""

        def call(*given, **named):
            if what in self.broken:
                raise self.broken[what]
            return answer(*given, **named)

        return call


@pytest.fixture
def outside(monkeypatch, package):
    made = Outside()
    service = local.Service("shop", "http://127.0.0.1:1", 1, 1)
    monkeypatch.setattr(local, "ensure", made.does("ensure", lambda *_, **__: service))
    monkeypatch.setattr(local, "stop", lambda *_, **__: True)
    monkeypatch.setattr(deploy, "wait_for", made.does("wait", lambda *_, **__: [HERE]))
    monkeypatch.setattr(verify, "wait_for", made.does("hand over", lambda *_, **__: [HERE]))
    monkeypatch.setattr(verify, "connect", made.does("connect", lambda uri: None))
    monkeypatch.setattr(verify.ModelRegistry, "champion", lambda _: made.champion)
    monkeypatch.setattr(verify.ModelRegistry, "promote", lambda _, version: made.promoted.append(version))
    answers(package, monkeypatch)
    monkeypatch.setattr(Replica, "ask", made.does("ask", Replica.ask))
    return made


@pytest.fixture
def put_up(package, sandbox, make_use_case):
    """Returns `put_up(before, approve=False)`: points to version 2 as deploy does, after version 1 where `before`, and returns the stage verify."""

    def make(before, approve=False):
        stage = sandbox.stage("verify", make_use_case(deployment={"approve": approve}), "2026-01-05")
        model = MODEL.model_copy(update={"package": str(package.folder.relative_to(stage.spec.store))})
        served = Deployment.candidate(FIRST, stage.use_case, None).verified() if before else None
        write_pointer(stage.root, served)
        write_pointer(stage.root, Deployment.candidate(model, stage.use_case, served))
        result = JobResult(stage="deploy", outputs={"model": model.model_dump(mode="json")})
        write_json(Path(f"{stage.spec.run_dir}/deploy/result.json"), result)
        evaluated = JobResult(stage="evaluate", outputs={"champion": 1 if before else None})
        write_json(Path(f"{stage.spec.run_dir}/evaluate/result.json"), evaluated)
        return stage

    return make


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("ensure", Unavailable("no port is free")),
        ("wait", DataError("the service can't serve version 2")),
        ("ask", ConnectionResetError("gone")),
        ("ask", ValueError("no JSON")),
        ("connect", Unavailable("MLflow's database stayed locked")),
    ],
)
def test_a_failure_leaves_no_candidate_and_a_retry_puts_it_up_again(outside, put_up, what, error, before):
    stage = put_up(before)
    outside.broken[what] = error
    for _ in range(2):
        with pytest.raises(type(error), match=str(error)):
            verify.main(stage)
        pointer = read_pointer(stage.root)
        assert (pointer and (pointer.model.version, pointer.state)) == ((1, "serving") if before else None)
    assert outside.promoted == []

    outside.broken.clear()
    verify.main(stage)
    assert (read_pointer(stage.root).model.version, read_pointer(stage.root).state) == (2, "serving")
    assert outside.promoted == [2]


@pytest.mark.parametrize(("before", "compared"), [(True, "version 1"), (False, "none")])
@pytest.mark.parametrize(("winner", "remedy"), [(3, "start the training again"), (1, "clear `evaluate`")])
def test_of_two_trainings_at_once_the_second_must_be_compared_with_the_first(outside, put_up, before, compared, winner, remedy):  # noqa: PLR0917
    stage = put_up(before, approve=True)  # which leaves the comparing to a person
    outside.champion = MODEL.model_copy(update={"version": winner})
    if before and winner == 1:  # the champion that it was compared with
        verify.main(stage)
        assert outside.promoted == [2]
        return
    with pytest.raises(Held, match=f"version {winner} became the champion .* compared with {compared}; {remedy}") as held:
        verify.main(stage)
    assert held.value.figures["champion_version"] == winner
    assert outside.promoted == []
    assert (read_pointer(stage.root) and read_pointer(stage.root).model.version) == (1 if before else None)


@pytest.fixture
def again(monkeypatch, outside):
    """What is run again: the evaluation compares with the champion of now, and `again.held` is what the gate says."""

    class Again(list):
        held = False

    made = Again()

    def run(stage, name):
        made.append(name)
        if name == "evaluate":
            evaluated = JobResult(stage="evaluate", outputs={"champion": outside.champion.version})
            write_json(Path(f"{stage.spec.run_dir}/evaluate/result.json"), evaluated)
        elif name == "gate" and made.held:
            raise Held("worse than version 1")

    monkeypatch.setattr(verify, "_run_again", run)
    return made


def test_a_champion_that_came_meanwhile_is_compared_with(outside, put_up, again):
    stage = put_up(False)
    outside.champion = FIRST
    verify.main(stage)
    assert again == ["evaluate", "gate", "register"]
    assert outside.promoted == [2]


def test_a_version_that_loses_against_a_champion_that_came_meanwhile_is_rolled_back(outside, put_up, again):
    stage = put_up(True)
    outside.champion, again.held = FIRST.model_copy(update={"version": 0}), True
    with pytest.raises(Held, match="worse than version 1"):
        verify.main(stage)
    assert outside.promoted == []
    assert read_pointer(stage.root).model.version == 1


def test_no_version_becomes_champion_while_another_is_put_up_and_a_retry_goes_on(outside, put_up, monkeypatch):
    stage = put_up(True)
    overtaken = verify._hold_if_overtaken

    def another(stage, model):
        overtaken(stage, model)
        write_pointer(stage.root, Deployment.candidate(MODEL.model_copy(update={"version": 3}), stage.use_case, read_pointer(stage.root)))

    monkeypatch.setattr(verify, "_hold_if_overtaken", another)
    with pytest.raises(Unavailable, match="version 3 was put up while version 2 was verified"):
        verify.main(stage)
    assert outside.promoted == []
    assert read_pointer(stage.root).model.version == 3

    write_pointer(stage.root, read_pointer(stage.root).rolled_back())
    monkeypatch.setattr(verify, "_hold_if_overtaken", overtaken)
    verify.main(stage)
    assert outside.promoted == [2]


def test_champions_that_keep_coming_hold_it_at_last(outside, put_up, monkeypatch):
    stage = put_up(False)
    outside.champion = FIRST
    n_tries = []
    monkeypatch.setattr(verify, "_run_again", lambda stage, name: n_tries.append(name))  # always behind
    with pytest.raises(Held, match="version 1 became the champion"):
        verify.main(stage)
    assert n_tries.count("gate") == verify.COMPARISONS
    assert outside.promoted == []


def test_a_champion_that_is_verified_again_stays_it(outside, put_up):
    stage = put_up(True)
    outside.champion = MODEL
    verify.main(stage)
    assert outside.promoted == [2]


def test_a_damaged_package_leaves_no_candidate(outside, put_up, package):
    stage = put_up(True)
    (package.folder / "model.onnx").write_bytes(b"")
    with pytest.raises(DataError, match="was changed"):
        verify.main(stage)
    assert read_pointer(stage.root).model.version == 1


def test_a_candidate_of_another_run_is_left_alone(outside, put_up, monkeypatch):
    stage = put_up(True)
    third = MODEL.model_copy(update={"version": 3})

    def another_run_is_quicker(*_):
        write_pointer(stage.root, Deployment.candidate(third, stage.use_case, read_pointer(stage.root)))
        raise ConnectionResetError

    monkeypatch.setattr(Replica, "ask", another_run_is_quicker)
    with pytest.raises(ConnectionResetError):
        verify.main(stage)
    assert (read_pointer(stage.root).model.version, read_pointer(stage.root).state) == (3, "candidate")


def test_a_version_that_was_verified_stays_when_a_second_look_fails(outside, put_up):
    stage = put_up(True)
    verify.main(stage)
    outside.broken["ask"] = ConnectionResetError("gone")
    with pytest.raises(ConnectionResetError):
        verify.main(stage)
    assert (read_pointer(stage.root).model.version, read_pointer(stage.root).state) == (2, "serving")


def test_a_server_that_does_not_come_round_fails_the_stage_and_the_version_stays(outside, put_up):
    stage = put_up(True)
    outside.broken["hand over"] = Unavailable("not every server took over")
    with pytest.raises(Unavailable):
        verify.main(stage)
    assert (read_pointer(stage.root).model.version, read_pointer(stage.root).state) == (2, "serving")
    outside.broken.clear()
    verify.main(stage)
    assert outside.promoted == [2, 2]


def test_an_evaluation_that_is_run_again_meets_the_champion_of_now_and_is_the_same_version(trained):
    champion = trained.promote()
    trained.run("snapshot", "train", "evaluate", "gate", "register", run_id="second")
    later = ModelRegistry(tracking.connect(trained.stage("verify").profile.tracking_uri), "credit")
    stage = trained.stage("verify", run_id="second")
    registered = stage.result_of("register")
    path = stage.folder_of("evaluate") / "result.json"
    before = stage.result_of("evaluate")
    write_json(path, before.model_copy(update={"outputs": {**before.outputs, "champion": None}, "seconds": 7.0}))

    for name in ("evaluate", "gate", "register"):
        verify._run_again(stage, name)

    assert stage.result_of("evaluate").outputs["champion"] == later.champion().version == champion.version
    assert stage.result_of("evaluate").seconds == 7.0
    assert stage.result_of("gate").figures["champion"] is not None
    assert stage.result_of("register").outputs == registered.outputs
