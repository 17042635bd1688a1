"""The stage release: the new champion for the devices, if it answers there as the server does."""

import json
import shutil
from types import SimpleNamespace

import pytest

from pipelines_lib.contracts import JobResult
from pipelines_lib.edge import operate
from pipelines_lib.edge.__main__ import main
from pipelines_lib.edge.release import pointer, private_key
from pipelines_lib.errors import ConfigError, Held
from pipelines_lib.registry import tracking
from pipelines_lib.serving.pointer import Deployment, write_pointer
from pipelines_lib.store import write_json

SEED = "11" * 32


@pytest.fixture
def key(monkeypatch):
    from pipelines_lib.connections import connection

    monkeypatch.setenv("SLUICE_CONN_SLUICE_EDGE", json.dumps({"conn_type": "generic", "password": SEED}))
    return private_key(connection("sluice_edge"))


@pytest.fixture
def champion(trained):
    """The model of the run called "run", which was verified."""
    model = trained.promote()
    write_pointer(trained.root, Deployment.candidate(model, trained.use_case, None).verified())
    verified = JobResult(stage="verify", outputs={"model": model.model_dump(mode="json")})
    write_json(trained.stage("verify").folder / "result.json", verified)
    return model


def tag(house):
    return tracking.connect(house.stage("release").profile.tracking_uri).get_model_version("credit", "1").tags["sluice.edge"]


def test_the_champion_is_released_once_and_its_parity_told(trained, champion, key, make_credit):
    use_case = make_credit(deployment={"edge": {"group": "clinics", "precision": "int8_static"}})
    result = trained.run("release", use_case=use_case)
    assert result.figures["rows"] == trained.stage("release").result_of("evaluate").figures["holdout_rows"]
    assert 0 <= result.figures["mean_difference"] <= result.figures["largest_difference"] < 0.02
    assert abs(result.figures["metric_lost"]) < 0.01
    assert result.figures["server_metric"] == pytest.approx(trained.stage("release").result_of("evaluate").figures["roc_auc"])
    assert result.figures["bytes"]["fp16"] < result.figures["bytes"]["fp32"]
    assert {*result.figures["bytes"]} == {"fp32", "fp16", "int8", "int8_static"}
    group = trained.root / "edge" / "clinics"
    assert pointer(group, key)["stable"] == result.outputs["bundle"] == tag(trained)
    report = (trained.home / "store" / result.links["Evaluation"]).read_text()
    assert "device scores" in report
    assert "device metric" in report

    before = {path: path.read_bytes() for path in group.rglob("*") if path.is_file()}
    trained.run("release", use_case=use_case)
    assert {path: path.read_bytes() for path in group.rglob("*") if path.is_file()} == before


def test_what_answers_too_differently_is_held(trained, champion, key, make_credit):
    use_case = make_credit(deployment={"edge": {"bound": 1e-12}})
    with pytest.raises(Held, match=r"device scores: int8 moves a score by .* at most 1e-12 is let through") as held:
        trained.run("release", use_case=use_case)
    assert held.value.figures["largest_difference"] > 1e-12
    assert tag(trained).startswith("held: device scores")
    assert not (trained.root / "edge").exists()


def test_a_champion_that_was_replaced_meanwhile_reaches_no_device(trained, champion, key, make_credit):
    newer = champion.model_copy(update={"version": 2})
    write_pointer(trained.root, Deployment.candidate(newer, trained.use_case, None).verified())
    with pytest.raises(Held, match=r"version 1 is no longer the champion \(version 2 serves\)"):
        trained.run("release", use_case=make_credit(deployment={"edge": {}}))


def test_an_operator_releases_by_hand_what_the_stage_would_and_changes_the_key(trained, champion, key, monkeypatch, capsys):
    project = SimpleNamespace(use_case=lambda _: trained.use_case, profile=lambda: trained.stage("release").profile)
    monkeypatch.setattr(operate, "Project", SimpleNamespace(from_environment=lambda: project))
    monkeypatch.setenv("SLUICE_CONN_NEXT", json.dumps({"conn_type": "generic", "password": "22" * 32}))

    def asked(what, *arguments):
        code = main([what, "credit", *arguments])
        said = capsys.readouterr()
        return code, json.loads(said.out) if code == 0 else said.err

    code, reason = asked("release", "--loss", "-1")
    assert code == 3
    assert "device metric: roc_auc" in reason
    assert not (trained.root / "edge").exists()
    code, said = asked("release", "--precision", "int8_static")
    assert code == 0
    assert said["holdout"]["rows"] == trained.stage("release").result_of("evaluate").figures["holdout_rows"]
    assert asked("status")[1]["stable"] == said["bundle"]
    assert asked("resign", "--key", "next", "--was", "sluice_edge")[1]["stable"] == said["bundle"]
    code, reason = asked("status")
    assert code == 2
    assert "let `sluice edge resign` sign it anew" in reason

    shutil.rmtree(trained.root / "tables" / "labelled")
    assert asked("release", "--precision", "int8_static", "--key", "next")[0] == 2
    assert main(["release", "credit", "--precision", "fp16", "--key", "next"]) == 0
    said = capsys.readouterr()
    assert "only the package's recorded rows judge" in said.err
    assert {*json.loads(said.out)["figures"]} == {"fp32", "fp16", "int8"}


@pytest.mark.parametrize(("value", "what"), [(None, "there is none"), ("short", "its password is no ed25519 key")])
def test_a_training_does_not_begin_without_the_key(trained, monkeypatch, make_credit, value, what):
    monkeypatch.delenv("SLUICE_CONN_SLUICE_EDGE", raising=False)
    if value is not None:
        monkeypatch.setenv("SLUICE_CONN_SLUICE_EDGE", json.dumps({"conn_type": "generic", "password": value}))
    with pytest.raises(ConfigError, match=f"connection 'sluice_edge': .*{what}"):
        trained.run("snapshot", use_case=make_credit(deployment={"edge": {}}))


def test_only_the_first_stage_and_the_release_are_given_the_key(make_credit):
    use_case = make_credit(deployment={"edge": {"connection": "signing"}})
    assert [stage for stage in ("snapshot", "train", "evaluate", "deploy", "verify", "release") if use_case.connections(stage)] == [
        "snapshot",
        "release",
    ]
