"""The end of a training's record, where the store that keeps it gives trouble."""

import pytest

from pipelines_lib.registry.journal import JOURNAL
from pipelines_lib.training import reporter
from pipelines_lib.training.reporter import Reporter


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Returns `make(kept)`: a reporter with a journal, and the list of what it left for the end of the process."""
    at_exit = []
    monkeypatch.setattr(reporter.atexit, "register", at_exit.append)
    (tmp_path / JOURNAL).write_text('{"moment": 1.0}\n', encoding="utf-8")

    def with_journal(kept):
        settings = {"tracking_uri": "", "system_metrics_seconds": 0, "tensorboard": False}
        return Reporter(tmp_path, tmp_path, kept=kept, **settings), at_exit

    return with_journal


@pytest.mark.usefixtures("impatient")
def test_a_record_that_can_not_be_kept_does_not_undo_a_training(make, troubled, troubled_bucket, caplog):
    troubled.fail("answer", methods="PUT", times=10_000, status=503, code="SlowDown")
    told, at_exit = make(troubled_bucket)
    with told:
        pass
    assert "the last points of its journal could not be kept, so MLflow may lack them" in caplog.text
    assert "does not answer (SlowDown, status 503)" in caplog.text
    assert not at_exit
    assert not (troubled_bucket / JOURNAL).exists()


def test_what_ended_a_training_is_kept_before_its_record(make, bucket):
    told, at_exit = make(bucket)
    with pytest.raises(ValueError, match="the loss"), told:
        raise ValueError("the loss")
    assert not (bucket / JOURNAL).exists()
    [wait] = at_exit
    wait()
    assert (bucket / JOURNAL).read_text() == '{"moment": 1.0}\n'
