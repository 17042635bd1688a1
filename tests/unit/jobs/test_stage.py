"""What every stage does around its work: parameters are checked first, exit codes say what is to be done."""

import errno
import re
import sys
import tempfile
import time
import traceback
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from pipelines_lib import cli, failures, launcher
from pipelines_lib.contracts import JobResult, JobSpec, Params
from pipelines_lib.cost.usage import of_folder
from pipelines_lib.errors import BadInput, ConfigError, Unavailable
from pipelines_lib.jobs import stage as stages
from pipelines_lib.store import read_json, write_json


@pytest.fixture
def project(tmp_path, monkeypatch, make_credit):
    """A project of its own with the use case credit."""
    folder = tmp_path / "use_cases" / "credit"
    folder.mkdir(parents=True)
    (folder / "use_case.yaml").write_text(yaml.safe_dump(make_credit().model_dump(mode="json")), encoding="utf-8")
    profiles = tmp_path / "include" / "profiles"
    profiles.mkdir(parents=True)
    (profiles / "local.yaml").write_text('name: local\nstore: "{home}/store"\ntracking_uri: ""\n', encoding="utf-8")
    for name, value in {"PROJECT": tmp_path, "HOME": tmp_path / "home", "USE_CASES": tmp_path / "use_cases", "PROFILE": "local"}.items():
        monkeypatch.setenv(f"SLUICE_{name}", str(value))
    return tmp_path


@pytest.fixture
def run(project, monkeypatch):
    """Returns `run(work, **params)`: the exit code of a stage with these parameters, and its spec."""

    def as_process(work, **params):
        spec = JobSpec(
            stage="train", pipeline="training", use_case="credit", partition_key="2026-01-01", run_id="r",
            store=str(project / "home" / "store"), params=params,
        )  # fmt: skip
        write_json(Path(f"{spec.stage_dir}/spec.json"), spec)
        monkeypatch.setattr(sys, "argv", ["stage", "--spec", f"{spec.stage_dir}/spec.json"])
        return stages._run(work), spec

    return as_process


WRONG = [
    ({"epochs": "many"}, "parameter 'epochs': Input should be a valid integer (found 'many'); change the value or leave it out"),
    ({"window": 0}, "parameter 'window': Input should be greater than or equal to 1 (found 0); change the value or leave it out"),
    ({"force": "yes"}, "parameter 'force': Input should be a valid boolean (found 'yes'); change the value or leave it out"),
    (
        {"epoch": 3},
        "parameter 'epoch': unknown; known are window, epochs, force, reason, trainings_in_flight, retrainings_known. Fix the spelling or leave it",
    ),
]


@pytest.mark.parametrize(("params", "says"), WRONG)
def test_a_wrong_parameter_is_bad_input_before_any_work(run, caplog, params, says):
    code, spec = run(lambda stage: pytest.fail("the stage has worked"), **params)

    assert code == 2
    assert says in caplog.text
    [failure] = failures.left(Path(spec.stage_dir))
    assert (failure.kind, failure.exit_code) == ("bad_input", 2)
    assert says in failure.message


def test_window_and_epochs_override_the_use_case(run, make_credit):
    seen = []

    def work(stage):
        seen.append(stage.use_case.training)
        return JobResult(stage="train")

    code, _ = run(work, window=3, epochs=7, reason="a try", force=True)

    assert code == 0
    assert seen == [make_credit().training.model_copy(update={"window": 3, "epochs": 7})]


def private(project, make_credit):
    """Let a column of the use case be about people."""
    columns = make_credit().model_dump(mode="json")["columns"]
    settings = make_credit(columns={**columns, "town": {"type": "string", "privacy": "quasi_identifier"}})
    path = project / "use_cases" / "credit" / "use_case.yaml"
    path.write_text(yaml.safe_dump(settings.model_dump(mode="json")), encoding="utf-8")


def test_a_rank_that_lost_the_others_is_known_as_that_where_rows_are_about_people_too(run, project, make_credit):
    def work(stage):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer")

    private(project, make_credit)
    with pytest.raises(RuntimeError, match="its message is not shown"):
        run(work)
    [failure] = failures.left(next(project.rglob("failures")).parent)

    assert failure.kind == "lost"


def test_a_defect_does_not_quote_a_person(run, project, make_credit):
    def work(stage):
        raise ValueError(f"could not convert string to float: '{'Zo' + 'ë'}'")

    with pytest.raises(ValueError, match="Zoë"):
        run(work)
    private(project, make_credit)
    with pytest.raises(RuntimeError, match=r"ValueError \(its message is not shown") as caught:
        run(work)
    told = "".join(traceback.format_exception(caught.value))

    assert "Zoë" not in told
    assert "in work" in told


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "-", "/a/file"), RuntimeError("Unable to copy: … (os error 28)")])
def test_a_full_disk_is_told_with_its_remedy_and_tried_again(run, error, caplog):
    def work(stage):
        raise error

    assert run(work)[0] == 1
    assert re.search(
        r"Unavailable: train of 2026-01-01: the system refused \(No space left on device.*then run the stage again", caplog.text
    )


def priced(project):
    """Prices in which a second of this process costs a lot."""
    path = project / "include" / "profiles" / "local.yaml"
    prices = "{currency: USD, cpu_hour: 1.0e+6, memory_gib_hour: 0, gpu_hour: {default: 0}}"
    path.write_text(f"{path.read_text(encoding='utf-8')}cloud: here\nprices: {{here: {prices}}}\n", encoding="utf-8")


def test_the_result_says_what_all_tries_used_and_cost(run, project):
    priced(project)

    def fails(stage):
        raise Unavailable("the world is away")

    code, spec = run(fails)
    assert code == 1
    code, _ = run(lambda stage: JobResult(stage="train"))
    assert code == 0

    used = read_json(Path(f"{spec.stage_dir}/result.json"))["usage"]
    assert [record.outcome for record in of_folder(Path(spec.stage_dir))] == ["failed", "done"]
    assert used["cost"]["here"] > used["wasted"]["here"] > 0
    assert used["seconds"] > used["wasted_seconds"] > 0


def test_a_checkpoint_keeps_what_a_failed_try_did(run):
    def fails(stage):
        stage.meter.kept(time.monotonic())
        raise Unavailable("the world is away")

    _, spec = run(fails)
    [record] = of_folder(Path(spec.stage_dir))

    assert record.seconds * 0.5 < record.kept_seconds <= record.seconds


def test_a_stage_that_starts_after_the_budget_is_spent_is_held(run, project, make_credit, caplog):
    priced(project)
    settings = make_credit(budget=1.0).model_dump(mode="json")
    (project / "use_cases" / "credit" / "use_case.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    code, spec = run(lambda stage: pytest.fail("the stage has worked"))

    assert code == 3
    assert "HELD: the run's budget is 1 USD" in caplog.text
    assert read_json(Path(f"{spec.stage_dir}/result.json"))["figures"]["budget"] == 1.0
    assert [record.outcome for record in of_folder(Path(spec.stage_dir))] == ["held"]


def test_every_wrong_parameter_is_told():
    with pytest.raises(ConfigError, match=r"parameter 'epochs'.*; parameter 'window'|parameter 'window'.*; parameter 'epochs'"):
        Params.checked({"epochs": 1.5, "window": True})


@pytest.mark.parametrize(("params", "says"), WRONG)
def test_by_hand_a_wrong_parameter_stops_the_run_before_its_first_stage(project, monkeypatch, params, says):
    monkeypatch.setattr(launcher, "Job", lambda *_: SimpleNamespace(run=lambda _: pytest.fail("a stage has run")))
    [(name, value)] = params.items()

    with pytest.raises(ConfigError) as caught:
        cli.run("credit", "training", "2026-01-01", param=[f"{name}={value}"])

    assert str(caught.value).startswith(says)


def test_by_hand_the_trials_come_before_the_training(project, monkeypatch, make_credit):
    seen = []

    def job(spec, *_):
        seen.append((spec.stage, spec.shard, spec.shards, spec.workers))
        return SimpleNamespace(run=lambda _: 0)

    monkeypatch.setattr(launcher, "Job", job)
    cli.run("credit", "training", "2026-01-01")
    assert "tune" not in [stage for stage, *_ in seen]
    with pytest.raises(BadInput, match=r"training has no stage 'tune'; its stages are snapshot, train"):
        cli.run("credit", "training", "2026-01-01", stage="tune")

    tuning = {"trials": 2, "space": {"learning_rate": [0.1, 0.2]}}
    settings = make_credit(tuning=tuning, training={"workers": 3}, shards=5).model_dump(mode="json", exclude_none=True)
    (project / "use_cases" / "credit" / "use_case.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    seen.clear()
    cli.run("credit", "training", "2026-01-01")
    assert seen[:5] == [("snapshot", None, 1, 1), ("tune", 0, 2, 3), ("tune", 1, 2, 3), ("tune", None, 2, 1), ("train", None, 1, 3)]


def test_where_the_store_is_a_bucket_work_is_closed_to_others(sandbox, make_use_case, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    stage = sandbox.stage("train", make_use_case(), "2026-01-01")
    assert stage.work == stage.folder
    in_bucket = replace(stage, spec=stage.spec.model_copy(update={"store": "s3://bucket/prefix"}))
    assert in_bucket.work == tmp_path / "tmp" / in_bucket.spec.work_name
    assert in_bucket.work.stat().st_mode & 0o777 == 0o700

    again = replace(in_bucket, spec=in_bucket.spec.model_copy(update={"run_id": "another"}))
    (tmp_path / "tmp" / again.spec.work_name).symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="is another user's, and rows would lie there; have it removed, or set TMPDIR"):
        _ = again.work
