"""From the journal to MLflow and TensorBoard: live, once, and again where the server was away."""

import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines_lib.contracts import DatasetRef
from pipelines_lib.registry import tracker
from pipelines_lib.registry.journal import About, Journal, Writer
from pipelines_lib.registry.tracker import Patient, Task, follow

ROOT = Path(__file__).parents[3]
REF = DatasetRef(
    use_case="credit",
    table="labelled",
    version=3,
    partitions=("2026-01-01", "2026-01-02"),
    n_rows=5,
    config_hash="c",
    content_hash="d" * 64,
)


@pytest.fixture
def writer(tmp_path) -> Writer:
    """A journal with two epochs."""
    writer = Writer(tmp_path / "journal.jsonl")
    trained = {"learning_rate": 0.1, "use_case": "credit", "task": "binary"}
    writer.start(
        About(
            use_case="credit", run_id="monday", artifacts=(tmp_path / "artifacts").as_uri(), trained=trained, parameters=trained,
            tags={"sluice.ranks": "2", "mlflow.source.git.commit": "abc"}, dataset=REF,
        )
    )  # fmt: skip
    for epoch in (1, 2):
        writer.figures(epoch, {"train_loss": 1 / epoch, "validation_loss": 2 / epoch, "rows_per_second": 100.0, "learning_rate": 0.1})
    return writer


def recorded(uri):
    from pipelines_lib.registry import tracking

    client = tracking.connect(uri)
    [run] = client.search_runs([client.get_experiment_by_name("credit").experiment_id])
    return client, run


def curve(client, run, name):
    return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]


def test_a_run_is_there_while_the_training_runs_and_one_after_it(tmp_path, writer):
    from pipelines_lib.registry.tracking import LiveRun

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    live = LiveRun(uri, 0)
    live.take(Journal.read(writer.path))
    client, run = recorded(uri)
    assert run.info.status == "RUNNING"
    assert run.data.params["learning_rate"] == "0.1"
    assert run.data.tags["sluice.ranks"] == "2"
    assert run.data.tags["mlflow.source.git.commit"] == "abc"
    [rows] = run.inputs.dataset_inputs
    assert (rows.dataset.name, rows.dataset.digest) == ("credit.labelled", "d" * 36)
    assert curve(client, run, "train_loss") == [(1, 1.0), (2, 0.5)]

    # Killed, and started again: the same run goes on, and no point is there twice.
    again = LiveRun(uri, 0)
    again.take(Journal.read(writer.path))
    writer.figures(3, {"train_loss": 0.25})
    writer.end("FINISHED")
    again.end(Journal.read(writer.path), "FINISHED")
    client, run = recorded(uri)
    assert run.info.status == "FINISHED"
    assert curve(client, run, "train_loss") == [(1, 1.0), (2, 0.5), (3, 0.25)]
    assert [file.path for file in client.list_artifacts(run.info.run_id, "curves")] == [
        f"curves/{name}.png" for name in ("learning_rate", "loss", "rows_per_second")
    ]
    [picture] = (tmp_path / "artifacts").rglob("loss.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert {point.timestamp for point in client.get_metric_history(run.info.run_id, "train_loss")} == {run.info.start_time}


def test_what_the_server_missed_is_logged_later_and_once(tmp_path, writer, monkeypatch):
    from pipelines_lib.registry import tracking

    writer.end("FINISHED")
    client, journal = tracking.connect(f"sqlite:///{tmp_path}/mlflow.db"), Journal.read(writer.path)
    run = tracking.run_of_journal(client, journal.about)
    tracking.catch_up(client, run, journal)
    assert curve(client, run, "rows_per_second") == [(1, 100.0), (2, 100.0)]

    monkeypatch.setattr(tracking, "_log_points", lambda *_: pytest.fail("it is there already"))
    tracking.catch_up(client, run, journal)
    tracking.catch_up(client, run, Journal([]))


def launch(writer, uri, tensorboard=None):
    task = Task(journal=str(writer.path), tracking_uri=uri, system_metrics_seconds=0, tensorboard=tensorboard)
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines_lib.registry.tracker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    process.stdin.write(task.model_dump_json() + "\n")
    process.stdin.flush()
    return process


def test_a_training_that_was_killed_has_failed(tmp_path, writer):
    """Its end of the pipe closes, and its journal has no end."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    process = launch(writer, uri)
    deadline = time.monotonic() + 60
    while not (tmp_path / "mlflow.db").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.terminate()  # whoever ends the training's processes must not end its story
    assert process.communicate(timeout=60)[0] == ""
    assert process.returncode == 0
    assert recorded(uri)[1].info.status == "FAILED"


def test_without_a_server_it_warns_once_and_event_files_are_written_all_the_same(tmp_path, writer):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    writer.end("FINISHED")
    process = launch(writer, "http://user:hush@127.0.0.1:9", str(tmp_path / "tb"))
    said, _ = process.communicate(timeout=90)
    assert process.returncode == 0
    [line] = [line for line in said.splitlines() if "MLflow" in line]
    assert line.startswith("[tracker] WARNING MLflow can't be written now (Unavailable, MlflowException")
    assert "hush" not in said
    [file] = (tmp_path / "tb").glob("events.out.tfevents.*")
    points = [(event.step, value.tag) for event in EventFileLoader(str(file)).Load() for value in event.summary.value]
    assert points.count((2, "validation_loss")) == 1
    assert len(points) == 8


def test_event_files_of_a_resumed_training_have_each_step_once(tmp_path, writer):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    from pipelines_lib.registry.tensorboard import EventFiles

    EventFiles(tmp_path / "tb").end(Journal.read(writer.path), "KILLED")
    writer.figures(3, {"train_loss": 0.25})
    second = EventFiles(tmp_path / "tb")
    second.take(Journal.read(writer.path))
    second.end(Journal.read(writer.path), "FINISHED")

    [file] = (tmp_path / "tb").glob("events.out.tfevents.*")
    steps = [event.step for event in EventFileLoader(str(file)).Load() for value in event.summary.value if value.tag == "train_loss"]
    assert steps == [1, 2, 3]


class Flaky:
    """A sink that fails until it is told not to."""

    def __init__(self):
        self.broken, self.calls, self.ended = True, 0, []

    def take(self, journal):
        self.calls += 1
        if self.broken:
            raise OSError("password=hush")

    def end(self, journal, status):
        self.take(journal)
        self.ended.append(status)


def test_a_sink_that_fails_is_told_once_and_left_alone_for_a_while(writer, caplog, monkeypatch):
    sink, now = Flaky(), [0.0]
    monkeypatch.setattr(tracker.time, "monotonic", lambda: now[0])
    patient, journal = Patient("MLflow", lambda: sink), Journal.read(writer.path)
    with caplog.at_level(logging.WARNING):
        for now[0] in (0.0, 1.0, 14.0, 15.0, 16.0):
            patient.take(journal)
        patient.end(journal, "FINISHED")

    assert sink.calls == 2
    assert caplog.text.count("can't be written") == 1
    assert "hush" not in caplog.text
    sink.broken, now[0] = False, 31.0
    patient.end(journal, "FINISHED")
    assert sink.ended == ["FINISHED"]


def test_the_journals_last_word_is_the_status_and_none_is_a_failure(writer):
    sink = Flaky()
    sink.broken = False
    follow(writer.path, [Patient("MLflow", lambda: sink)], lambda _: True)
    writer.end("KILLED")
    follow(writer.path, [Patient("MLflow", lambda: sink)], lambda _: True)
    assert sink.ended == ["FAILED", "KILLED"]
