"""The stage register: a package that opens, and one version however often it runs."""

from pathlib import Path

import pytest

from pipelines_lib.contracts import ModelRef
from pipelines_lib.errors import DataError, Held
from pipelines_lib.registry import tracking
from pipelines_lib.registry.models import ModelRegistry
from pipelines_lib.registry.package import Package


def registry(house):
    return ModelRegistry(tracking.connect(house.stage("register").profile.tracking_uri), "credit")


def test_the_package_opens_and_answers(trained):
    result = trained.run("evaluate", "gate", "register")
    model = ModelRef.model_validate(result.outputs["model"])
    package = Package.open(trained.home / "store" / model.package)
    assert package.manifest.classes == ("bad", "good")
    assert package.manifest.positive_index == 0
    assert package.manifest.snapshot.partitions[-1] == "2026-01-04"
    poor, rich = package.predict({"income": [-2.0, 2.0], "age": [30, 30], "member": [True, None], "town": ["Bonn", "Atlantis"]})
    assert poor[0] > 0.5 > rich[0]
    card = (package.folder / "card.md").read_text()
    assert "| `income` | number |" in card
    assert f"| roc_auc | {package.manifest.metrics['roc_auc']:.4f} |" in card
    assert list(result.links) == ["MLflow run"]


def test_registering_again_is_the_same_version(trained):
    first = trained.run("evaluate", "gate", "register")
    assert trained.run("register") == first
    assert len(list((trained.root / "packages").iterdir())) == 1


def test_the_whole_run_again_after_the_promotion_is_the_same_version(trained):
    champion = trained.promote()
    again = trained.run("snapshot", "train", "evaluate", "gate", "register")
    assert ModelRef.model_validate(again.outputs["model"]) == champion
    assert registry(trained).champion() == champion


def test_mlflow_says_why_the_training_ran_and_what_the_gate_said(trained):
    client = tracking.connect(trained.stage("register").profile.tracking_uri)
    run_id = trained.run("evaluate", reason="the new source is live").outputs["mlflow_run_id"]
    tags = client.get_run(run_id).data.tags
    assert (tags["sluice.reason"], tags["sluice.gate"]) == ("the new source is live", "not judged yet")
    trained.run("gate", "register")
    tags = client.get_run(run_id).data.tags
    assert tags["sluice.gate"] == "pass"
    assert tags["sluice.gate.champion"] == "pass: no champion serves yet"


def test_the_version_says_where_it_comes_from_and_the_run_has_the_report_with_verdicts(trained):
    result = trained.run("evaluate", "gate", "register")
    client = tracking.connect(trained.stage("register").profile.tracking_uri)
    version = client.get_model_version("credit", "1")
    snapshot = trained.stage("register").result_of("snapshot").outputs["snapshot"]
    assert version.tags.items() >= {
        "sluice.run_id": "run", "sluice.partition": "2026-01-04", "sluice.snapshot": snapshot["content_hash"], "sluice.gate": "pass",
        "sluice.gate.champion": "pass: no champion serves yet",
    }.items()  # fmt: skip
    assert version.description.endswith("card.md among the run's artefacts")
    run_id = result.outputs["model"]["run_id"]
    assert "All 5 gates pass" in artefact(client, run_id, "evaluation/report.html")
    assert artefact(client, run_id, "card.md").startswith("# ")


def artefact(client, run_id, path):
    return Path(client.download_artifacts(run_id, path)).read_text(encoding="utf-8")


def test_an_edited_setting_under_the_same_run_id_is_another_run_and_version(trained, make_credit):
    first = trained.promote()
    faster = make_credit(training={**trained.use_case.training.model_dump(), "learning_rate": 0.03})
    stages = ("snapshot", "train", "evaluate", "gate", "register")
    second = ModelRef.model_validate(trained.run(*stages, use_case=faster, force=True).outputs["model"])
    assert (first.version, second.version) == (1, 2)
    assert first.run_id != second.run_id
    client = tracking.connect(trained.stage("register").profile.tracking_uri)
    assert [client.get_run(model.run_id).data.params["learning_rate"] for model in (first, second)] == ["0.02", "0.03"]
    # And the same again is the same.
    assert ModelRef.model_validate(trained.run(*stages, use_case=faster, force=True).outputs["model"]) == second


def test_a_held_model_is_not_registered(trained, make_credit):
    strict = make_credit(gate={"metric": "roc_auc", "floor": 0.999})
    with pytest.raises(Held):
        trained.run("evaluate", "gate", use_case=strict)
    with pytest.raises(DataError, match="the gate held this model"):
        trained.run("register", use_case=strict)
    assert not (trained.root / "packages").exists()
