"""Bringing rows back from quarantine by hand: the real command, real processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
KEY = "2026-01-01"
SETTINGS = {
    "name": "shop",
    "title": "Shop",
    "owner": "tests",
    "task": "binary",
    "start": "2026-01-01",
    "source": {"path": "{home}/in/{partition}.csv"},
    "columns": {
        "who": {"type": "string", "role": "entity", "privacy": "sensitive"},
        "price": {"type": "number"},
        "action": {"type": "string", "role": "label"},
    },
    "label": {"column": "action", "positive": "buy"},
    "gate": {"metric": "roc_auc", "floor": 0.6},
}
ROWS = "who,price,action\n" + "".join(f"u{i},{i + 1},{'buy' if i % 2 else 'view'}\n" for i in range(40)) + "ragged\nmary,-5,buy\n"
DATA = "2026-01-02"


class Shell:
    """The command `sluice` in a project of its own."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.settings = folder / "use_cases" / "shop" / "use_case.yaml"
        self._environment = {
            **os.environ,
            "SLUICE_PROJECT": str(ROOT),
            "SLUICE_HOME": str(self.home),
            "SLUICE_USE_CASES": str(folder / "use_cases"),
            "SLUICE_PROFILE": "local",
        }

    def write(self, low: float, max_quarantined: float) -> None:
        between = {"expect_column_values_to_be_between": {"column": "price", "min_value": low}}
        self.settings.parent.mkdir(parents=True, exist_ok=True)
        quality = {"expectations": [between], "max_quarantined": max_quarantined}
        self.settings.write_text(yaml.safe_dump({**SETTINGS, "quality": quality}, sort_keys=False), encoding="utf-8")

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """What `sluice <arguments>` prints; asserts its exit code."""
        command = [sys.executable, "-c", "from pipelines_lib.cli import main; main()", *arguments]
        done = subprocess.run(command, env=self._environment, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr


@pytest.mark.timeout(300)
def test_rows_come_back_once_the_rule_is_corrected(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    shell.write(low=30, max_quarantined=0.1)
    for key in (KEY, DATA):
        source = shell.home / "in" / f"{key}.csv"
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(ROWS if key == KEY else ROWS.replace("-5", "50"), encoding="utf-8")
    held = shell("run", "shop", "data", "--partition", KEY, code=3)
    assert "31 of 42 rows (73.8%) are quarantined" in held
    assert "expect_column_values_to_be_between(price): 30 rows, such as 2026-01-01:000000002 (1.0)" in held
    assert "mary" not in held

    assert "expect_column_values_to_be_between(price)" in shell("quarantine", "list", "shop")
    [listed] = json.loads(shell("quarantine", "list", "shop", "--json"))
    assert (listed["partition_key"], listed["n_rows"], listed["n_unreadable"]) == (KEY, 31, 1)
    page = shell("quarantine", "show", "shop", "--partition", KEY, "--page", "2", "--size", "30")
    assert '"who": "▒▒▒"' in page
    assert "rows 31 to 31 of 31" in page
    assert json.loads(shell("quarantine", "show", "shop", "--partition", KEY, "--reason", "unreadable", "--json"))["n_rows"] == 1

    shell.write(low=0, max_quarantined=0.1)
    assert "29 of 31 rows would come back; 2 stay" in shell("quarantine", "release", "shop", "--dry-run")
    assert json.loads(shell("quarantine", "list", "shop", "--json"))[0]["n_rows"] == 31
    released = shell("quarantine", "release", "shop")
    assert "2026-01-01: 29 of 31 rows came back; 2 stay" in released
    assert "1 can't be read as rows" in released
    assert json.loads(shell("quarantine", "list", "shop", "--json"))[0]["n_rows"] == 2
    assert "29 of 31" not in shell("quarantine", "release", "shop")

    shell.write(low=0, max_quarantined=0.01)
    assert "would be held" in shell("quarantine", "release", "shop", "--dry-run")
    assert "The partition is held" in shell("quarantine", "release", "shop", "--partition", KEY, code=3)
    assert "would be held" in shell("quarantine", "release", "shop", code=3)

    shell.write(low=0, max_quarantined=0.1)
    assert "prepare done" in shell("quarantine", "release", "shop"), "no row comes back, but the partition is held no longer"
    assert "was never judged" in shell("quarantine", "list", "shop", "--partition", DATA, code=2)
