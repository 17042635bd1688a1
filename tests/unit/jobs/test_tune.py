"""Trials, the choice of the best, and the training that takes it over."""

import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines_lib.config import Prices, Project
from pipelines_lib.contracts import JobResult
from pipelines_lib.cost.usage import Usage, of_folder
from pipelines_lib.errors import ConfigError, DataError, Unavailable
from pipelines_lib.jobs import train, tune
from pipelines_lib.launcher import Job
from pipelines_lib.store import read_json, write_json
from pipelines_lib.training import loop, watchdog

ROOT = Path(__file__).parents[3]
TUNING: dict[str, Any] = {
    "trials": 3,
    "epochs": 2,
    "space": {"learning_rate": {"low": 1e-3, "high": 0.1, "log": True}, "model.hidden": [[8], [4]]},
}


@pytest.fixture
def tuning(house, make_credit) -> Callable[..., Callable[..., Any]]:
    """Returns `tuning(**settings)`, which returns `stage(name, shard=None)`; the snapshot is taken."""

    def of(**settings: Any) -> Callable[..., Any]:
        use_case = make_credit(tuning={**TUNING, **settings})
        house.run("snapshot", use_case=use_case)

        def stage(name: str, shard: int | None = None) -> Any:
            made = house.stage(name, use_case=use_case)
            spec = made.spec.model_copy(update={"shards": use_case.tuning.trials if name == "tune" else 1, "shard": shard})
            return replace(made, spec=spec, profile=made.profile.model_copy(update={"tuning_storage": f"sqlite:///{house.home}/t.db"}))

        return stage

    return of


def run(stage: Any, main: Callable[[Any], JobResult]) -> JobResult:
    """The result of a stage, left as `run_stage` leaves it."""
    result = main(stage)
    write_json(stage.folder / "result.json", result)
    return result


def test_the_best_of_the_trials_is_trained_in_full(tuning, house, caplog):
    stage = tuning()
    with caplog.at_level(logging.INFO, logger="sluice"):
        done = [run(stage("tune", shard), tune.main) for shard in range(3)]
        picked = run(stage("tune"), tune.main)
        run(stage("train"), train.main)

    assert [result.figures["state"] for result in done] == ["completed"] * 3
    losses = [result.figures["loss"] for result in done]
    assert picked.figures["best_loss"] == min(losses)
    assert picked.outputs["trial"] == losses.index(min(losses)) + 1
    assert picked.figures["first_loss"] == losses[0]
    # The first is the use case as it is written, and is what its training ends in.
    assert done[0].figures["learning_rate"] == 0.02

    page = (house.home / "store" / picked.links["Trials"]).read_text(encoding="utf-8")
    assert page.count("<tr") == 4
    assert "<tr class=best>" in page
    settings = read_json(stage("train").folder / "training.json")["settings"]
    assert settings["learning_rate"] == picked.outputs["values"]["learning_rate"]
    assert settings["model"]["hidden"] == picked.outputs["values"]["model.hidden"]
    assert settings["epochs"] == 2
    assert not list(stage("tune").folder.glob("shard-*/checkpoints/*"))

    # Once more, nothing is done anew.
    with caplog.at_level(logging.INFO, logger="sluice"):
        caplog.clear()
        assert run(stage("tune", 1), tune.main).figures == done[1].figures
    assert "epoch" not in caplog.text


def test_a_trial_gives_what_the_training_of_its_settings_gives(tuning, house, make_credit):
    stage = tuning()
    trial = run(stage("tune", 2), tune.main)
    settings = {**make_credit().training.model_dump(), "learning_rate": trial.figures["learning_rate"]}
    settings["model"] = {**settings["model"], "hidden": trial.figures["model.hidden"]}
    house.run("snapshot", "train", use_case=make_credit(training=settings), run_id="alone")
    alone = read_json(house.root / "runs" / "training" / "alone" / "train" / "result.json")

    assert alone["figures"]["validation_loss"] == trial.figures["loss"]


def test_a_trial_is_watched_as_a_training_is(tuning, monkeypatch):
    stage, seen = tuning(), []
    monkeypatch.setattr(watchdog.Watchdog, "beat", lambda _, step: seen.append(step))
    run(stage("tune", 0), tune.main)
    assert 0 in seen


def test_other_settings_are_another_study_and_more_trials_are_not(tuning):
    stage = tuning()
    for shard in range(2):
        run(stage("tune", shard), tune.main)
    run(stage("tune"), tune.main)

    longer = tuning(trials=4, parallel=2, time="9h")
    assert tune.study_name(longer("tune")) == tune.study_name(stage("tune"))
    patient = longer("tune").use_case
    training = patient.training.model_copy(update={"timeout": timedelta(hours=1), "checkpoint_steps": 10})
    patient = replace(longer("tune"), use_case=patient.model_copy(update={"training": training}))
    assert tune.study_name(patient) == tune.study_name(stage("tune"))
    other = tuning(epochs=1)
    with pytest.raises(
        DataError, match=r"under other settings than those of now; run tune for all 3 trials again \(in Airflow: clear tune_trials"
    ):
        train.main(other("train"))


def test_a_model_of_the_users_own_that_was_mended_is_tried_anew(tuning, house, make_credit):
    stage = tuning(space={"learning_rate": [0.01, 0.02]})("tune", 0)
    training = make_credit(training={"model": {"type": "hooks"}}).training
    stage = replace(stage, use_case=stage.use_case.model_copy(update={"training": training}))
    (house.home / "credit").mkdir()
    hooks = house.home / "credit" / "hooks.py"
    hooks.write_text("def model(shape, settings):\n    return None\n")
    broken = run(stage, tune.main)
    assert broken.figures["state"] == "failed"
    assert "returned a NoneType" in broken.reason

    hooks.write_text("import torch\n\n\ndef model(shape, settings):\n    return torch.nn.Module()\n")
    assert "returned a module without a parameter" in run(stage, tune.main).reason


def test_trials_that_fail_are_told_and_do_not_fail_the_tuning(tuning):
    stage = tuning(space={"learning_rate": [0.02, 1e30]}, trials=4)
    done = [run(stage("tune", shard), tune.main) for shard in range(4)]
    failed = [result for result in done if result.figures["state"] == "failed"]
    picked = run(stage("tune"), tune.main)

    assert failed
    assert "lower training.learning_rate" in failed[0].reason
    assert picked.figures["failed"] == len(failed)
    assert picked.outputs["values"] == {"learning_rate": 0.02}


def test_where_all_fail_it_is_said_why(tuning):
    stage = tuning(space={"learning_rate": [1e29, 1e30]}, trials=2)
    for shard in range(2):
        run(stage("tune", shard), tune.main)
    with pytest.raises(
        DataError, match=r"none of the 2 trials was completed, so there is nothing to choose from: .*loss is .*\(\d×\).*change tuning.space"
    ):
        run(stage("tune"), tune.main)


def test_a_trial_after_the_budget_is_left_out_but_never_all(tuning, house):
    stage = tuning(time="1h")
    write_json(
        stage("tune", 0).folder / "usage" / "1-0.json",
        Usage(attempt=1, rank=0, launch="a", started=0, seconds=4000, cpu_seconds=0, memory_gib_seconds=0, outcome="done"),
    )
    # Nothing is completed yet, whatever it took.
    assert run(stage("tune", 0), tune.main).figures["state"] == "completed"
    left_out = run(stage("tune", 1), tune.main)
    assert left_out.reason == "skipped: the trials have taken 4000 s, and tuning.time is 1h"
    picked = run(stage("tune"), tune.main)
    assert (picked.figures["completed"], picked.figures["skipped"]) == (1, 2)

    priced = tuning(cost=1.0)
    with pytest.raises(ConfigError, match=r"credit sets tuning.cost, and profile local names no cloud whose prices count"):
        tune.main(priced("tune", 2))
    prices = Prices(currency="USD", cpu_hour=0, memory_gib_hour=0, gpu_hour={"default": 1.0})
    made = priced("tune", 0)
    write_json(
        made.folder / "usage" / "1-0.json",
        Usage(attempt=1, rank=0, launch="a", started=0, seconds=1, cpu_seconds=0, memory_gib_seconds=0, gpu="T4", gpu_seconds=7200),
    )
    with_prices = made.profile.model_copy(update={"prices": {"here": prices}, "cloud": "here"})
    left_out = tune.main(replace(priced("tune", 1), profile=with_prices))
    assert left_out.reason == "skipped: the trials have cost 2 USD, and tuning.cost is 1"


def test_a_trial_under_way_ends_when_the_time_is_spent(tuning, monkeypatch):
    stage = tuning(time="1h")
    run(stage("tune", 0), tune.main)
    monkeypatch.setattr(tune, "_SECONDS_BETWEEN_QUESTIONS", 0.0)
    update = loop.Loop._update

    def update_for_hours(*given):
        write_json(
            stage("tune", 1).folder / "usage" / "1-0.json",
            Usage(attempt=1, rank=0, launch="a", started=0, seconds=4000, cpu_seconds=0, memory_gib_seconds=0),
        )
        update(*given)

    monkeypatch.setattr(loop.Loop, "_update", update_for_hours)
    ended = run(stage("tune", 1), tune.main)
    assert (ended.figures["state"], ended.figures["epochs"]) == ("pruned", 0)
    assert ended.reason == "trial 2 is pruned: the trials have taken 4000 s, and tuning.time is 1h"
    assert run(stage("tune"), tune.main).figures["pruned"] == 1


def test_a_use_case_without_it_is_told(house):
    with pytest.raises(ConfigError, match=r"credit has no `tuning:`, so there is nothing to try"):
        house.run("tune")


def test_a_pruned_trial_ends_early_as_done(tuning, monkeypatch):
    stage = tuning(trials=8, epochs=4, space={"learning_rate": [0.02, 0.03], "model.dropout": [0.0, 0.1]})
    with tune._study(stage("tune"), stage("tune").use_case.tuning) as study:
        for task in range(6):
            study.begin(task)
            for epoch in range(1, 5):
                study.report(task, epoch, 0.5)
            study.end(task, "completed", loss=0.5)
    losses = iter([50.0, 50.0, 50.0, 50.0])
    monkeypatch.setattr(loop.Loop, "_validation_loss", lambda _: next(losses))
    trial = run(stage("tune", 6), tune.main)

    assert (trial.figures["state"], trial.figures["epochs"]) == ("pruned", 2)
    assert trial.reason == "trial 7 is pruned with a validation loss of 50: given up after epoch 2"


@pytest.fixture
def project(house, database, make_credit) -> Callable[..., Project]:
    """Returns `project(**settings)`: a project whose jobs are processes; the snapshot is taken."""
    made = Project(house.home / "project", house.home, house.home / "use_cases", "local")

    def of(training: dict[str, Any] | None = None, **settings: Any) -> Project:
        use_case = make_credit(tuning={**TUNING, **settings}, training=make_credit().training.model_dump() | (training or {}))
        (made.folder / "include" / "profiles").mkdir(parents=True)
        (made.folder / "pipelines_lib").symlink_to(ROOT / "pipelines_lib")
        profile = {"name": "local", "store": f"{house.home}/store", "tracking_uri": database}
        (made.folder / "include" / "profiles" / "local.yaml").write_text(yaml.safe_dump(profile), encoding="utf-8")
        folder = made.use_cases / "credit"
        folder.mkdir(parents=True)
        (folder / "use_case.yaml").write_text(yaml.safe_dump(use_case.model_dump(mode="json", exclude_none=True)), encoding="utf-8")
        house.run("snapshot", use_case=use_case)
        return made

    return of


def killed_after(project: Project, spec: Any, what: str) -> list[str]:
    """The lines of a stage that is killed when it says `what`."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SLUICE")}
    environment |= {"SLUICE_PROJECT": str(project.folder), "SLUICE_HOME": str(project.home), "SLUICE_USE_CASES": str(project.use_cases)}
    write_json(Path(f"{spec.stage_dir}/spec.json"), spec)
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines_lib.jobs.tune", "--spec", f"{spec.stage_dir}/spec.json"],
        env={**environment, "PYTHONPATH": str(project.folder)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=project.folder,
    )  # fmt: skip
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if re.search(what, line):
            process.kill()
    process.communicate()
    assert re.search(what, "".join(lines)), lines
    return lines


def test_a_trial_that_is_killed_goes_on_as_the_same_trial(project, house):
    space = {"learning_rate": {"low": 1e-6, "high": 1e-4}, "model.dropout": {"low": 0, "high": 0.2}}
    made = project(epochs=5000, pruner="none", space=space)
    spec = house.stage("tune").spec.model_copy(update={"shards": 3, "shard": 1})
    before = killed_after(made, spec, "epoch 3/5000  loss")
    after = killed_after(made, spec, "epoch .*/5000  loss")

    first, second = (next(line for line in lines if "trial 2 of 3 tries" in line) for lines in (before, after))
    assert first == second
    [resumed] = [line for line in after if "resumed from the checkpoint" in line]
    assert int(re.findall(r"epoch (\d+)", resumed)[0]) >= 2
    assert [used.outcome for used in of_folder(Path(spec.stage_dir))] == ["running", "running"]


def test_ranks_of_a_trial_train_along_and_leave_one_result(project, house):
    made = project(training={"workers": 2})
    spec = house.stage("tune").spec.model_copy(update={"shards": 3, "shard": 0, "workers": 2})
    lines: list[str] = []
    code = Job(spec, made).run(lines.append)

    assert code == 0, lines
    assert read_json(Path(f"{spec.stage_dir}/result.json"))["figures"]["state"] == "completed"
    assert any("2 process(es)" in line for line in lines)


EXPLODES = """\
import os
import torch


class Explodes(torch.nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.head, self.seen = torch.nn.Linear(shape.n_numeric, shape.n_outputs), 0

    def forward(self, numeric, categorical):
        self.seen += self.training
        return self.head(numeric) * (float("inf") if self.seen == 4 and os.environ.get("RANK") == "1" else 1.0)


def model(shape, settings):
    return Explodes(shape)
"""


def test_a_trial_whose_loss_explodes_on_another_rank_has_failed_and_is_not_tried_again(project, house):
    made = project(training={"workers": 2, "shares": "equal", "model": {"type": "hooks"}}, space={"learning_rate": [0.01, 0.02]})
    (made.use_cases / "credit" / "hooks.py").write_text(EXPLODES)
    spec = house.stage("tune").spec.model_copy(update={"shards": 3, "shard": 0, "workers": 2})
    lines: list[str] = []
    code = Job(spec, made).run(lines.append)

    assert code == 0, lines
    result = read_json(Path(f"{spec.stage_dir}/result.json"))
    assert result["figures"]["state"] == "failed"
    assert "the loss is nan in epoch 1, step " in result["reason"]
    assert not any("start again" in line for line in lines)


def test_the_other_ranks_do_what_the_first_of_their_launch_has_found(tuning, monkeypatch):
    stage = tuning()("tune", 1)
    monkeypatch.setattr(tune, "_SECONDS_FOR_PLAN", 0.3)
    write_json(stage.folder / "trial.json", {"launch": "another", "values": {"learning_rate": 1.0}})
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(Unavailable, match=r"the first rank has not begun the trial"):
        tune.main(stage)

    tune._plan(stage, None)
    assert tune.main(stage) == JobResult(stage="tune")
