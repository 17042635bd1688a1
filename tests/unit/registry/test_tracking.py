"""MLflow's database is there whole or not at all."""

import sqlite3

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
