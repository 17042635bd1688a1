"""MLflow's database is there whole or not at all."""

import sqlite3

import pytest

from pipelines_lib.errors import Unavailable
from pipelines_lib.registry import tracking


def test_a_database_that_was_left_half_made_is_made_anew(tmp_path):
    (tmp_path / ".mlflow.db.making").write_bytes(b"half")
    (tmp_path / ".mlflow.db.making-journal").write_bytes(b"half")
    client = tracking.connect(f"sqlite:///{tmp_path}/mlflow.db")

    assert client.get_experiment_by_name("Default") is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow.db", "mlflow.db.lock"]
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()


def test_a_server_that_does_not_answer_is_unavailable_and_the_remedy_is_told(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    client = tracking.connect("http://127.0.0.1:9")  # discard: nobody listens there
    with pytest.raises(Unavailable, match=r"MLflow does not answer .*tracking_uri.*clear this task"):
        tracking.retried(lambda: client.get_experiment_by_name("shop"))
