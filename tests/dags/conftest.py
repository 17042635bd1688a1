"""A project whose use cases are generated, and a fresh Airflow to parse them in."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

USE_CASE = """\
name: {name}
title: Made {name}
description: A use case that a test made.
owner: data@example.com
task: binary
start: 2026-01-01
source:
  path: "{{home}}/landing/{name}/{{partition}}.csv"
columns:
  amount: {{type: number}}
  kind: {{type: string}}
  outcome: {{type: string, role: label}}
label: {{column: outcome, positive: "1"}}
gate: {{metric: roc_auc, floor: 0.6}}
"""


def write_use_case(folder: Path, name: str, text: str = USE_CASE) -> None:
    """A use case's folder with `text` as its settings."""
    (folder / name).mkdir(parents=True)
    (folder / name / "use_case.yaml").write_text(text.format(name=name), encoding="utf-8")


@pytest.fixture
def in_airflow(tmp_path: Path) -> Callable[[str, Path], str]:
    """Run a script in a fresh process that sees Airflow, the project's DAGs and the given use cases; returns what it printed."""

    def run(script: str, use_cases: Path) -> str:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")} | {
            "AIRFLOW_HOME": str(tmp_path / "airflow"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
            "SLUICE_PROJECT": str(ROOT),
            "SLUICE_HOME": str(tmp_path / "home"),
            "SLUICE_USE_CASES": str(use_cases),
            "SLUICE_PROFILE": "local",
            "PYTHONPATH": str(ROOT),
        }
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.strip().splitlines()[-1]

    return run
