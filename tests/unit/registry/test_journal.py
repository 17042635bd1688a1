"""What a training says of itself: whole after a kill, one story of a training that went on, and nothing of another one."""

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.contracts import DatasetRef
from pipelines_lib.registry.journal import About, Journal, Writer, environment, identity

REF = DatasetRef(
    use_case="credit", table="labelled", version=3, partitions=("2026-01-01",), n_rows=5, config_hash="c", content_hash="d" * 64
)


def about(**changes):
    settings = {"learning_rate": 0.1}
    given = {
        "use_case": "credit", "run_id": "r", "artifacts": "/a", "trained": identity(settings, "credit", "binary", REF),
        "parameters": settings, "tags": {"a": "b"}, "dataset": REF,
    }  # fmt: skip
    return About(**given | changes)


def test_what_was_written_is_read(tmp_path):
    writer = Writer(tmp_path / "journal.jsonl")
    writer.start(about())
    writer.figures(1, {"train_loss": 0.5, "validation_loss": 0.25})
    writer.figures(2, {"train_loss": 0.125})

    journal = Journal.read(writer.path)
    assert journal.about == about()
    assert journal.curves == {"train_loss": {1: 0.5, 2: 0.125}, "validation_loss": {1: 0.25}}
    assert journal.status is None
    writer.end("FINISHED")
    assert Journal.read(writer.path).status == "FINISHED"


def test_a_training_that_goes_on_keeps_its_lines_and_another_one_starts_its_own(tmp_path):
    writer = Writer(tmp_path / "journal.jsonl")
    writer.start(about())
    writer.figures(1, {"loss": 0.5})
    writer.end("KILLED")
    writer.start(about(tags={"a": "other machine"}))
    writer.figures(1, {"loss": 0.75})  # done again after a kill

    journal = Journal.read(writer.path)
    assert journal.curves == {"loss": {1: 0.5}}
    assert journal.status is None
    assert journal.about.tags == {"a": "other machine"}
    writer.start(about(trained={"learning_rate": 0.2}))
    assert Journal.read(writer.path).curves == {}


@given(cut=st.integers(1, 60))
def test_a_line_that_was_cut_costs_that_line_alone(tmp_path_factory, cut):
    writer = Writer(tmp_path_factory.mktemp("journal") / "journal.jsonl")
    writer.start(about())
    writer.figures(1, {"loss": 0.5})
    whole = writer.path.read_bytes()
    writer.figures(2, {"loss": 0.25})
    last = writer.path.read_bytes()[len(whole) :]
    writer.path.write_bytes(whole + last[: min(cut, len(last) - 2)])
    writer.figures(3, {"loss": 0.125})

    assert Journal.read(writer.path).curves == {"loss": {1: 0.5, 3: 0.125}}


def test_no_journal_is_an_empty_one(tmp_path):
    assert Journal.read(tmp_path / "journal.jsonl").about is None


def test_the_commit_is_that_of_the_folder(tmp_path):
    assert "mlflow.source.git.commit" not in environment(tmp_path)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.com"]
    (tmp_path / "a").write_text("1")
    for command in (["init", "-q"], ["add", "a"], ["commit", "-q", "-m", "a"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()

    tags = environment(tmp_path)
    assert (tags["mlflow.source.git.commit"], tags["sluice.git_changed"]) == (commit, "false")
    (tmp_path / "a").write_text("2")
    assert environment(tmp_path)["sluice.git_changed"] == "true"


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    tags = environment(tmp_path)
    assert "mlflow.source.git.commit" not in tags
    assert tags["sluice.version.torch"].startswith("2.")


@pytest.mark.parametrize("other", [{"version": 4}, {"content_hash": "e" * 64}])
def test_the_rows_and_not_the_table_version_make_the_training(other):
    moved = REF.model_copy(update=other)
    same = identity({}, "credit", "binary", moved) == identity({}, "credit", "binary", REF)
    assert same == ("version" in other)
