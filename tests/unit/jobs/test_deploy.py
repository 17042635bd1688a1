import re
from collections import Counter
from pathlib import Path
from threading import Event, Thread

import pytest

from pipelines_lib.contracts import JobResult, ModelRef
from pipelines_lib.errors import DataError, Held
from pipelines_lib.jobs import deploy as deploy_job
from pipelines_lib.jobs import rollout as rollout_job
from pipelines_lib.jobs import verify as verify_job
from pipelines_lib.serving import local
from pipelines_lib.serving.pointer import read_pointer
from pipelines_lib.store import read_json, write_json
from pipelines_lib.use_case.serving import Deployment, Rollout

DAY = "2026-01-05"
RECORD = {"amount": 0.5, "age": 40, "member": True, "country": "de"}


class FakeRegistry:
    """Remembers who was promoted."""

    promoted: list[int]

    def __init__(self, client, name):
        assert name == "shop"

    def champion(self):
        return ModelRef(name="shop", version=self.promoted[-1], package="", run_id="mlflow") if self.promoted else None

    def promote(self, version):
        type(self).promoted.append(version)


@pytest.fixture
def promoted(monkeypatch):
    FakeRegistry.promoted = []
    monkeypatch.setattr(verify_job, "ModelRegistry", FakeRegistry)
    monkeypatch.setattr(verify_job, "connect", lambda uri: None)
    return FakeRegistry.promoted


@pytest.fixture
def root(sandbox):
    yield sandbox.project.home / "store" / "shop"
    local.stop("shop", sandbox.project)
    local.stop("shop", sandbox.project, candidate=True)


@pytest.fixture
def release(sandbox, shop, root, promoted):
    """Returns `release(version, package, **params)`: runs deploy and verify as a training run of that version."""

    def run(version, package, stages=("deploy", "verify"), rollout=None, **params):
        use_case = shop if rollout is None else shop.model_copy(update={"deployment": Deployment(rollout=rollout)})
        model = ModelRef(name="shop", version=version, package=package, run_id="mlflow")
        for name in stages:
            stage = sandbox.stage(name, use_case, DAY, run_id=f"v{version}")
            spec = stage.spec.model_copy(update={"params": params})
            stage = type(stage)(spec, stage.use_case, stage.profile, stage.project)
            register = JobResult(stage="register", outputs={"model": model.model_dump(mode="json")})
            write_json(Path(f"{spec.run_dir}/register/result.json"), register)
            evaluated = JobResult(stage="evaluate", outputs={"champion": promoted[-1] if promoted else None})
            write_json(Path(f"{spec.run_dir}/evaluate/result.json"), evaluated)
            result = {"deploy": deploy_job, "verify": verify_job}[name].main(stage)
            write_json(stage.folder / "result.json", result)
        return result

    return run


def test_from_the_first_version_to_a_bad_one(release, make_package, root, promoted, sandbox):
    """One service for all of it, so that the test is quick."""
    first = make_package(root)
    result = release(1, first)
    assert promoted == [1]
    assert result.figures["errors"] == 0
    assert result.figures["largest_difference"] < 1e-6
    assert result.figures["milliseconds_single_row_champion"] is None, "nobody served before"
    assert (read_pointer(root).state, read_pointer(root).previous) == ("serving", None)
    status = read_json(root / "status" / "deployment.json")
    assert status == {
        "model_version": 1, "url": result.outputs["url"], "metrics": {"roc_auc": 0.9}, "run_id": f"v1-{DAY}", "partition_key": DAY,
        "mlflow_run_id": "mlflow",
    }  # fmt: skip
    assert not (root / "tables" / "predictions").exists(), "verify's own questions are not logged"

    # Again: nothing changes, and the champion is not put up as a candidate in between.
    release(1, first, stages=("deploy",))
    assert read_pointer(root).state == "serving"

    # While 2 is up for verification, users are answered by 1; then by 2, and the candidate's server is gone.
    second = make_package(root, bias=1)
    release(2, second, stages=("deploy",))
    [users] = local.running(sandbox.project)
    assert local.ask(users.port, "/v2/models/shop")[1]["versions"] == ["1"]
    assert release(2, second).figures["milliseconds_single_row_champion"] > 0
    assert local.ask(users.port, "/v2/models/shop")[1]["versions"] == ["2"]
    assert [path.name for path in (sandbox.project.home / "services").glob("*.json")] == ["serving-shop.json"]
    assert (read_pointer(root).model.version, read_pointer(root).previous.model.version) == (2, 1)

    # Its answers are not the evaluation's: held, rolled back, and 2 serves on.
    with pytest.raises(Held, match=r"version 3 is not promoted: its answers differ .* version 2 serves again") as held:
        release(3, make_package(root, bias=2, wrong_scores=0.01))
    assert held.value.figures["largest_difference"] == pytest.approx(0.01, rel=1e-3)
    assert (read_pointer(root).model.version, read_pointer(root).state) == (2, "serving")
    assert promoted == [1, 2]

    # Its package is damaged: the service refuses it, the pointer goes back.
    bad = make_package(root, bias=4)
    (root.parent / bad / "transform.json").write_text("{}")
    with pytest.raises(DataError, match=r"can't serve version 4.*was changed"):
        release(4, bad)
    assert read_pointer(root).model.version == 2

    # An old run that runs again does not move the champion, unless it is told to.
    with pytest.raises(Held, match="version 2 serves, and 1 is older"):
        release(1, first)
    assert read_pointer(root).model.version == 2
    release(1, first, force=True)
    assert (read_pointer(root).model.version, promoted) == (1, [1, 2, 1])


def test_a_canary_meets_users_before_it_is_promoted(  # noqa: PLR0917
    release, make_package, root, promoted, sandbox, monkeypatch
):
    monkeypatch.setattr(rollout_job, "LOOK_SECONDS", 0.1)
    canary = Rollout(mode="canary", share=0.5, requests=30)
    release(1, make_package(root), rollout=canary)  # with nobody to compare with
    [users] = local.running(sandbox.project)
    answered, stop = Counter(), Event()

    def keep_asking():
        while not stop.is_set():
            status, answer = local.ask(users.port, "/invocations", {"dataframe_records": [RECORD], "params": {"partition_key": DAY}})
            answered[status, answer.get("model_version")] += 1

    asker = Thread(target=keep_asking)
    asker.start()
    try:
        result = release(2, make_package(root, bias=1), rollout=canary)
    finally:
        stop.set()
        asker.join()
    found = result.figures["rollout"]
    assert (found["challenger"]["errors"], found["champion"]["errors"]) == (0, 0)
    assert found["challenger"]["requests"] >= 30
    assert {status for status, _ in answered} == {200}
    assert answered[200, "2"] >= 30
    assert re.search(r"failed on 0 of \d+ requests of its canary and is the champion", result.reason)
    assert (read_pointer(root).state, read_pointer(root).traffic, promoted) == ("serving", None, [1, 2])


def test_a_first_version_that_fails_leaves_nothing_serving(release, make_package, root, sandbox, promoted):
    with pytest.raises(Held, match="nothing serves"):
        release(1, make_package(root, wrong_scores=0.5))
    assert read_pointer(root) is None
    assert local.running(sandbox.project) == []
    assert promoted == []
