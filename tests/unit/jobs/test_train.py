"""The stage train: what it leaves, what it says, how it fails under torchrun."""

import json
import logging
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
import torch
import yaml

from pipelines_lib import failures
from pipelines_lib.config import CheckpointStore, Prices, Project
from pipelines_lib.contracts import ExitCode
from pipelines_lib.cost.budget import Budget
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import BadInput, ConfigError, DataError, Held
from pipelines_lib.features.transform import FeatureTransform
from pipelines_lib.jobs import train
from pipelines_lib.launcher import Job
from pipelines_lib.store import read_json
from pipelines_lib.training.distributed import World
from pipelines_lib.training.loop import Loop
from pipelines_lib.training.progress import Stopped


def files(house):
    folder = house.root / "runs" / "training" / "run" / "train"
    return {name: (folder / name).read_bytes() for name in ("model.onnx", "transform.json", "training.json")}


def test_it_leaves_a_graph_a_transform_and_its_history(trained):
    found = files(trained)
    onnx.checker.check_model(onnx.load_from_string(found["model.onnx"]))
    transform = FeatureTransform.from_json(found["transform.json"].decode())
    assert transform.columns == {"income": "number", "age": "integer", "member": "boolean", "town": "string"}
    training = json.loads(found["training.json"])
    assert training["classes"] == ["bad", "good"]
    assert [epoch["epoch"] for epoch in training["history"]] == [1, 2]
    result = read_json(trained.root / "runs" / "training" / "run" / "train" / "result.json")
    assert result["outputs"] == {"folder": "credit/runs/training/run/train"}


def test_its_arrays_are_in_the_scratch_folder_while_it_trains(trained, tmp_path, monkeypatch):
    before, seen = files(trained), []
    shutil.rmtree(trained.root / "runs" / "training" / "run" / "train" / "checkpoints")
    run = Loop.run

    def run_seeing(loop):
        seen.extend((tmp_path / "scratch").glob("sluice-*/arrays-0/*/train-labels.npy"))
        return run(loop)

    monkeypatch.setattr(Loop, "run", run_seeing)
    stage = trained.stage("train")
    train.main(replace(stage, profile=stage.profile.model_copy(update={"scratch": str(tmp_path / "scratch")})))

    assert len(seen) == 1
    assert not list(tmp_path.rglob("arrays-0"))
    assert files(trained) == before


def test_the_transform_is_fitted_on_the_training_rows_alone(trained):
    transform = FeatureTransform.from_json(files(trained)["transform.json"].decode())
    rows = Tables(trained.root).read("labelled")
    incomes = [
        i for i, side in zip(rows["income"].to_pylist(), rows["split"].to_pylist(), strict=True) if side == "train" and i is not None
    ]
    assert transform.numeric[0].median == float(np.median(incomes))


def test_running_it_again_resumes_and_changes_nothing(trained, caplog):
    before = files(trained)
    with caplog.at_level(logging.INFO, logger="sluice"):
        trained.run("train")
    assert files(trained) == before
    assert "resumed from the checkpoint" in caplog.text
    assert "loss" not in caplog.text


def test_checkpoints_are_kept_where_the_profile_says(house):
    house.run("snapshot")
    stage = house.stage("train")
    kept = CheckpointStore(path=str(house.home / "kept"))
    train.main(replace(stage, profile=stage.profile.model_copy(update={"checkpoints": kept})))
    assert list((house.home / "kept" / "credit" / "runs" / "training" / "run" / "train").glob("step-*/manifest.json"))
    assert not (stage.folder / "checkpoints").exists()


def test_other_rows_start_a_training_of_their_own(trained, write_day, caplog):
    write_day(trained.root, "2026-01-02", sharp=-3.0)
    before = files(trained)
    trained.run("snapshot", "train")
    assert files(trained)["model.onnx"] != before["model.onnx"]
    assert "another snapshot" in caplog.text


@pytest.fixture
def launched(house, database, make_credit):
    """Returns `launch(**training)`: runs the stage train with two processes, as the launcher does; gives exit code and log."""
    project = Project(house.home / "project", house.home, house.home / "use_cases", "local")
    (project.folder / "include" / "profiles").mkdir(parents=True)
    (project.folder / "pipelines_lib").symlink_to(Path(__file__).parents[3] / "pipelines_lib")
    (project.folder / "include" / "profiles" / "local.yaml").write_text(
        f"name: local\nstore: '{house.home}/store'\ntracking_uri: '{database}'\n"
    )

    def launch(on_line=lambda line: None, **training):
        use_case = make_credit(training=make_credit().training.model_dump() | training)
        folder = project.use_cases / "credit"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "use_case.yaml").write_text(yaml.safe_dump(use_case.model_dump(mode="json", exclude_none=True)))
        house.run("snapshot", use_case=use_case)
        spec = house.stage("train", use_case=use_case).spec.model_copy(update={"workers": 2})
        lines: list[str] = []

        def hear(line: str) -> None:
            lines.append(line)
            on_line(line)

        return Job(spec, project).run(hear), "\n".join(lines)

    return launch


def test_bad_input_stays_bad_input_under_torchrun(launched):
    code, log = launched(learning_rate=1e30)
    assert code == ExitCode.BAD_INPUT, log
    assert "DataError: the loss is" in log or "DataError: the validation loss" in log
    assert "ERROR first failure: rank " in log
    assert "all ranks start again" not in log


def test_a_rank_that_is_stopped_is_named_and_costs_no_retry(launched, house):
    hit = []

    def strike(line: str) -> None:
        if "epoch 2/" in line and not hit:
            # The ranks are the agent's children.
            [rank] = [
                process.pid
                # Asked so, what is hidden, and anybody's process that is about to end, is None instead of an error.
                for process in psutil.process_iter(["ppid", "cmdline", "environ"])
                if process.info["ppid"] != os.getpid()
                and str(house.home) in " ".join(process.info["cmdline"] or ())
                and (process.info["environ"] or {}).get("RANK") == "1"
            ]
            hit.append(rank)
            os.kill(rank, signal.SIGSTOP)

    code, log = launched(on_line=strike, epochs=150, patience=150, timeout="5s")
    assert hit
    assert code == 0, log
    assert f"first failure: rank 1 on {failures.host_name()}: Hang: no sign of it for 5 s" in log
    assert log.count("all ranks start again") == 1
    assert "resumed from the checkpoint" in log
    result = read_json(house.root / "runs" / "training" / "run" / "train" / "result.json")
    assert result["figures"]["epochs"] == 150


def test_two_ranks_write_one_result(launched, house):
    code, log = launched()
    assert code == 0, log
    result = read_json(house.root / "runs" / "training" / "run" / "train" / "result.json")
    assert result["figures"]["workers"] == 2
    assert log.count("epoch 1/2") == 1
    assert "OMP_NUM_THREADS" not in log
    assert "[rank 1]" not in log


@pytest.fixture
def tracked(trained):
    """The house after a training, with a tracker beside the next one."""
    return replace(trained, tracked=True)


def runs(house):
    from pipelines_lib.registry import tracking

    client = tracking.connect(house.stage("train").profile.tracking_uri)
    experiment = client.get_experiment_by_name("credit")
    return client, client.search_runs([experiment.experiment_id]) if experiment else []


def test_a_training_has_one_run_in_mlflow_in_which_its_evaluation_goes_on(tracked):
    result = tracked.run("snapshot", "train", run_id="other")
    client, [run] = runs(tracked)
    history = json.loads((tracked.home / "store" / result.outputs["folder"] / "training.json").read_text())["history"]
    for name in ("train_loss", "validation_loss"):
        points = client.get_metric_history(run.info.run_id, name)
        assert [(point.step, point.value) for point in points] == [(epoch["epoch"], epoch[name]) for epoch in history]
    assert run.info.status == "FINISHED"
    assert {"rows_per_second", "learning_rate"} <= run.data.metrics.keys()
    assert (run.data.tags["sluice.ranks"], run.data.tags["sluice.device"], run.data.tags["sluice.strategy"]) == ("1", "cpu", "ddp")
    assert run.data.tags["sluice.version.torch"] == str(torch.__version__)
    assert run.inputs.dataset_inputs[0].dataset.name == "credit.labelled"

    evaluated = tracked.run("evaluate", run_id="other")
    client, [after] = runs(tracked)
    assert after.info.run_id == evaluated.outputs["mlflow_run_id"] == run.info.run_id
    assert "holdout_roc_auc" in after.data.metrics
    assert len(client.get_metric_history(run.info.run_id, "train_loss")) == 2


def test_without_a_tracking_server_the_training_is_the_same_and_the_evaluation_logs_it(tracked, capfd):
    whole = files(tracked)
    shutil.rmtree(tracked.root / "runs" / "training" / "run" / "train")
    replace(tracked, server="http://127.0.0.1:9").run("train")
    assert files(tracked) == whole
    assert capfd.readouterr().out.count("MLflow can't be written now") == 1

    tracked.run("evaluate")
    client, [run] = runs(tracked)
    assert "rows_per_second" in run.data.metrics
    assert [file.path for file in client.list_artifacts(run.info.run_id, "curves")] != []
    assert run.info.status == "FINISHED"


def test_a_training_that_fails_has_failed_in_mlflow(tracked, make_credit):
    use_case = make_credit(training=make_credit().training.model_dump() | {"learning_rate": 1e30})
    with pytest.raises(DataError):
        tracked.run("train", use_case=use_case)
    deadline = time.monotonic() + 60
    while not (found := runs(tracked)[1]) or found[0].info.status == "RUNNING":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert found[0].info.status == "FAILED"


def test_event_files_for_tensorboard_lie_where_the_result_says(tracked, make_credit):
    pytest.importorskip("tensorboard")
    use_case = make_credit(training=make_credit().training.model_dump() | {"tensorboard": True})
    result = tracked.run("train", use_case=use_case)
    assert list((tracked.home / "store" / result.outputs["tensorboard"]).glob("events.out.tfevents.*"))


def test_tensorboard_that_is_not_installed_is_said_before_any_work(tracked, make_credit, monkeypatch):
    monkeypatch.setattr(train, "find_spec", lambda name: None)
    use_case = make_credit(training=make_credit().training.model_dump() | {"tensorboard": True})
    with pytest.raises(ConfigError, match=r"training.tensorboard is true, and the package tensorboard is not installed; run `pip install"):
        tracked.run("train", use_case=use_case)


OWN = """\
import torch


class Linear(torch.nn.Module):
    def __init__(self, shape, settings):
        super().__init__()
        self.numbers = torch.nn.Linear(len(shape.numeric), settings.options["width"])
        self.towns = torch.nn.Embedding(shape.categories[0], settings.options["width"])
        self.head = torch.nn.Linear(settings.options["width"], shape.n_outputs)

    def forward(self, numeric, categorical):
        return self.head(torch.relu(self.numbers(numeric) + self.towns(categorical[:, 0])))


def model(shape, settings):
    return Linear(shape, settings)
"""


def test_a_model_of_the_users_own_is_trained_and_exported(house, make_credit, caplog):
    training = make_credit().training.model_dump() | {"model": {"type": "hooks", "options": {"width": 6}}}
    use_case = make_credit(training=training)
    (house.home / "credit").mkdir()
    hooks = house.home / "credit" / "hooks.py"
    hooks.write_text(OWN)
    house.run("snapshot", "train", use_case=use_case)
    graph = files(house)["model.onnx"]
    assert {value.name for value in onnx.load_from_string(graph).graph.input} == {"numeric", "categorical"}

    # Another model is another training, though the settings are the same.
    hooks.write_text(OWN.replace("torch.relu", "torch.tanh"))
    house.run("train", use_case=use_case)
    assert files(house)["model.onnx"] != graph
    assert "another snapshot" in caplog.text


def test_a_training_that_can_never_begin_leaves_no_arrays(house, make_credit):
    use_case = make_credit(training=make_credit().training.model_dump() | {"model": {"type": "hooks"}})
    house.run("snapshot", use_case=use_case)
    (house.home / "credit").mkdir()
    (house.home / "credit" / "hooks.py").write_text("def model(shape, settings):\n    return None\n")
    with pytest.raises(BadInput):
        house.run("train", use_case=use_case)
    assert not list(house.home.rglob("arrays-0"))


HANGING = (
    OWN
    + """

def hanging_once(shape, settings, own=model):
    import os, pathlib, time
    seen = pathlib.Path(__file__).with_name("seen-" + os.environ["RANK"])
    if not seen.exists():
        seen.touch()
        time.sleep(1000)
    return own(shape, settings)


model = hanging_once
"""
)


def test_a_model_of_the_users_own_that_hangs_while_it_is_made_is_found(launched, house):
    (house.home / "use_cases" / "credit").mkdir(parents=True)
    (house.home / "use_cases" / "credit" / "hooks.py").write_text(HANGING)
    code, log = launched(model={"type": "hooks", "options": {"width": 6}}, timeout="10s")
    assert code == 0, log
    assert "Hang: no progress for 10 s (training.timeout) after step 0; it is in " in log
    assert "in hanging_once" in log
    assert log.count("all ranks start again") == 1


STOPPED = (
    OWN
    + """

def stopped_at_the_end(shape, settings, own=model):
    import os, pathlib, signal
    seen = pathlib.Path(__file__).with_name("seen")
    # Once for the training, and on the first rank again for the export; this file is read anew for each.
    if "MADE" in os.environ and not seen.exists():
        seen.touch()
        os.kill(os.getpid(), signal.SIGSTOP)
    os.environ["MADE"] = "once"
    return own(shape, settings)


model = stopped_at_the_end
"""
)


def test_a_rank_that_is_stopped_while_it_writes_the_model_is_named_and_costs_no_retry(launched, house):
    (house.home / "use_cases" / "credit").mkdir(parents=True)
    (house.home / "use_cases" / "credit" / "hooks.py").write_text(STOPPED)
    code, log = launched(model={"type": "hooks", "options": {"width": 6}}, timeout="10s")
    assert code == 0, log
    assert f"first failure: rank 0 on {failures.host_name()}: Hang: no sign of it for 10 s" in log
    assert log.count("all ranks start again") == 1
    assert "resumed from the checkpoint" in log
    assert files(house)["model.onnx"]


def test_a_training_beyond_its_budget_is_held_and_goes_on_where_it_was(house, caplog):
    house.run("snapshot")
    house.run("snapshot", "train", run_id="undisturbed")
    prices = Prices(currency="USD", cpu_hour=3600, memory_gib_hour=0, gpu_hour={"default": 0})
    stage = house.stage("train")
    budget = Budget(1e-6, cloud="here", prices=prices, run_dir=Path(stage.spec.run_dir), meter=stage.meter)
    with (
        caplog.at_level(logging.INFO, logger="sluice"),
        pytest.raises(Held, match=r"the run's budget is 1e-06 USD: .* raise `budget` and run the stage again"),
    ):
        train.main(replace(stage, budget=budget))
    assert stage.meter.now().kept_seconds > 0

    with caplog.at_level(logging.INFO, logger="sluice"):
        house.run("train")
    assert "resumed from the checkpoint in epoch 1, step 1" in caplog.text
    folders = [house.stage("train", run_id=run_id).folder for run_id in ("run", "undisturbed")]
    assert (folders[0] / "model.onnx").read_bytes() == (folders[1] / "model.onnx").read_bytes()


def test_every_rank_knows_why_it_is_held(monkeypatch):
    said = []
    monkeypatch.setattr(World, "told", lambda self, rank, text: said.append(text) or text if self.rank == rank else said[-1])
    first, second = World(rank=0, size=2), World(rank=1, size=2)
    held = Held("spent", {"spent": 5.0})
    assert train._known_to_all(Stopped(held), first) is held
    told = train._known_to_all(Stopped(None), second)
    assert isinstance(told, Held)
    assert (told.reason, told.figures) == ("spent", {"spent": 5.0})

    why = RuntimeError("pruned")
    assert train._known_to_all(Stopped(why), first) is why
    assert isinstance(train._known_to_all(Stopped(None), second), Stopped)
