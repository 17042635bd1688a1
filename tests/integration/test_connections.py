"""A stage that reads through a connection, started by hand and as the Airflow world starts it: its secret is in no file and no output."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines_lib.config import Project
from pipelines_lib.contracts import ExitCode, JobSpec, Pipeline
from pipelines_lib.data.tables import Tables
from pipelines_lib.launcher import Job

ROOT = Path(__file__).parents[2]
SECRET = "unm1stakable"

USE_CASE = """\
name: shop
title: Shop
owner: tests
task: binary
start: 2026-01-01
source:
  sql:
    connection: shop_db
    query: SELECT * FROM visits WHERE day = :partition
    order_by: [id]
columns: {price: {type: number}, action: {type: string, role: label}}
label: {column: action, positive: buy}
gate: {metric: roc_auc, floor: 0.6}
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "cases" / "shop").mkdir(parents=True)
    (tmp_path / "cases" / "shop" / "use_case.yaml").write_text(USE_CASE, encoding="utf-8")
    with sqlite3.connect(tmp_path / "shop.db") as database:
        database.execute("CREATE TABLE visits (id INTEGER, day TEXT, price REAL, action TEXT)")
        database.execute("INSERT INTO visits VALUES (1, '2026-01-01', 2.5, 'buy'), (2, '2026-01-02', 3.5, 'view')")
    database.close()
    return Project(folder=ROOT, home=tmp_path / "home", use_cases=tmp_path / "cases", profile_name="local")


def connection(tmp_path: Path) -> str:
    return json.dumps({"conn_type": "sqlite", "host": str(tmp_path / "shop.db"), "password": SECRET, "extra": {"note": SECRET}})


def assert_nowhere(folder: Path, output: str) -> None:
    """The secret is not in the output, nor in the name or bytes of a file."""
    assert SECRET not in output
    for path in folder.rglob("*"):
        assert SECRET not in path.name
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), f"{path} holds the secret"


def test_by_hand(project: Project, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from pipelines_lib.cli import main; main()", "run", "shop", "data", "--stage", "ingest"]
    places = {"SLUICE_PROJECT": str(ROOT), "SLUICE_HOME": str(project.home), "SLUICE_USE_CASES": str(project.use_cases)}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SLUICE_CONN")} | places

    def run(**more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, "--partition", "2026-01-01"], env=environment | more, cwd=ROOT, capture_output=True, text=True, check=False
        )

    without = run()
    assert without.returncode == ExitCode.BAD_INPUT
    assert "export SLUICE_CONN_SHOP_DB" in without.stdout
    done = run(SLUICE_CONN_SHOP_DB=connection(tmp_path))
    assert done.returncode == 0, done.stdout
    assert_nowhere(tmp_path, done.stdout + done.stderr)
    raw = Tables(project.home / "store" / "shop").read("raw", ["2026-01-01"])
    assert raw.select(["id", "day", "price", "action"]).to_pylist() == [{"id": "1", "day": "2026-01-01", "price": "2.5", "action": "buy"}]


@pytest.mark.parametrize("host", ["shop.db", "none.db"])
def test_as_airflow_starts_it(project: Project, tmp_path: Path, host: str) -> None:
    store = str(project.home / "store")
    spec = JobSpec(stage="ingest", pipeline=Pipeline.DATA, use_case="shop", partition_key="2026-01-02", run_id="r", store=store)
    lines: list[str] = []

    code = Job(spec, project, secrets={"SLUICE_CONN_SHOP_DB": connection(tmp_path).replace("shop.db", host)}).run(lines.append)

    assert code == (ExitCode.DONE if host == "shop.db" else ExitCode.BAD_INPUT), lines
    assert_nowhere(tmp_path, "\n".join(lines))
    assert "SLUICE_CONN_SHOP_DB" not in os.environ
