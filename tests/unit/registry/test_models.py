"""Tracking and registry against a real MLflow database."""

import subprocess
import sys

import pytest

from pipelines_lib.errors import DataError
from pipelines_lib.registry import tracking
from pipelines_lib.registry.models import ModelRegistry


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/deep/mlflow.db"


@pytest.fixture
def client(uri):
    return tracking.connect(uri)


def new_run(client, tmp_path, run_id, experiment="demo", **trained):
    found = tracking.experiment(client, experiment, (tmp_path / "artefacts").as_uri())
    return tracking.run_of(client, found, run_id, trained, {"sluice.partition": "p"})


def aliases(client, name):
    return {alias: int(version) for alias, version in client.get_registered_model(name).aliases.items()}


def test_a_retry_finds_the_run_of_its_training_whatever_the_run_id(client, tmp_path):
    for run_id in ("manual__2026-01-01T00:00:00+00:00", "it's ` \" odd' OR 1=1 --"):
        run = new_run(client, tmp_path, run_id)
        assert new_run(client, tmp_path, run_id).info.run_id == run.info.run_id
        assert run.data.tags["sluice.run_id"] == run_id
    assert new_run(client, tmp_path, "another").info.run_id != run.info.run_id


def test_other_settings_or_data_under_the_same_run_id_are_another_run(client, tmp_path):
    first = new_run(client, tmp_path, "edited", epochs=3, snapshot="a")
    for trained in ({"epochs": 4, "snapshot": "a"}, {"epochs": 3, "snapshot": "b"}):
        assert new_run(client, tmp_path, "edited", **trained).info.run_id != first.info.run_id
    assert new_run(client, tmp_path, "edited", snapshot="a", epochs=3).info.run_id == first.info.run_id


def test_logging_again_changes_nothing(client, tmp_path):
    run = new_run(client, tmp_path, "logged")
    for _ in range(2):
        tracking.log(
            client,
            run,
            params={"epochs": 3, "hidden": [128, 64]},
            metrics={"roc_auc": 0.8},
            curves={"train_loss": [(epoch, 1 / epoch) for epoch in range(1, 701)]},
            tags={"sluice.snapshot": "abc"},
        )
    found = client.get_run(run.info.run_id)
    assert found.data.params == {"epochs": "3", "hidden": "[128, 64]"}
    assert found.info.status == "FINISHED"
    assert found.data.metrics["roc_auc"] == 0.8
    curve = client.get_metric_history(run.info.run_id, "train_loss")
    assert sorted((point.step, point.value) for point in curve) == [(epoch, 1 / epoch) for epoch in range(1, 701)]


def test_versions_walk_from_challenger_to_champion_to_previous(client, tmp_path):
    registry = ModelRegistry(client, "walk")
    assert registry.champion() is None
    refs = []
    for name in ("one", "two"):
        run = new_run(client, tmp_path, f"walk-{name}")
        refs.append(registry.register(f"walk/packages/{name}", f"file:///tmp/{name}", run.info.run_id, f"walk-{name}"))
        again = registry.register(f"walk/packages/{name}", f"file:///tmp/{name}", run.info.run_id, f"walk-{name}")
        assert again == refs[-1]
    first, second = refs
    assert (first.version, second.version, first.package) == (1, 2, "walk/packages/one")
    for _ in range(2):
        assert registry.promote(1) == first
        assert registry.champion() == first
        assert aliases(client, "walk")["champion"] == 1
        assert "previous" not in aliases(client, "walk")
    for _ in range(2):
        registry.promote(2)
        assert registry.champion() == second
        assert aliases(client, "walk") == {"champion": 2, "previous": 1}
    # Registering the champion's own run again leaves it champion, and no challenger of itself.
    assert registry.register(second.package, "file:///tmp/two", second.run_id, "walk-two") == second
    assert aliases(client, "walk") == {"champion": 2, "previous": 1}
    with pytest.raises(DataError, match="no version 3"):
        registry.promote(3)


def test_another_package_of_the_same_run_is_another_version(client, tmp_path):
    registry = ModelRegistry(client, "changed")
    run = new_run(client, tmp_path, "changed")
    first, second = (registry.register(f"changed/packages/{n}", f"file:///tmp/{n}", run.info.run_id, "changed") for n in "ab")
    assert (first.version, second.version) == (1, 2)


def test_the_page_of_a_run(client, tmp_path):
    run = new_run(client, tmp_path, "linked")
    link = tracking.page("http://127.0.0.1:5000/", run)["MLflow run"]
    assert link == f"http://127.0.0.1:5000/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    assert tracking.page(None, run) == {}


def test_two_processes_may_make_the_database_at_once(tmp_path):
    code = (
        "import sys; from pathlib import Path; from pipelines_lib.registry import tracking as t; c = t.connect(sys.argv[1]);"
        "print(t.experiment(c, 'same', Path(sys.argv[2]).as_uri()))"
    )
    command = [sys.executable, "-c", code, f"sqlite:///{tmp_path}/new/mlflow.db", str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    assert answers[0][0] == answers[1][0]
