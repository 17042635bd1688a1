"""Bringing rows back from quarantine by hand: the real command, real processes."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from .conftest import Shell

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


def write(shell: Shell, low: float, max_quarantined: float) -> None:
    """The use case's settings, with the rule that a price is at least `low`."""
    between = {"expect_column_values_to_be_between": {"column": "price", "min_value": low}}
    folder = shell.use_cases / "shop"
    folder.mkdir(exist_ok=True)
    quality = {"expectations": [between], "max_quarantined": max_quarantined}
    (folder / "use_case.yaml").write_text(yaml.safe_dump({**SETTINGS, "quality": quality}, sort_keys=False), encoding="utf-8")


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    with shell.warm():
        yield shell


@pytest.mark.timeout(300)
def test_rows_come_back_once_the_rule_is_corrected(shell: Shell) -> None:
    write(shell, low=30, max_quarantined=0.1)
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

    write(shell, low=0, max_quarantined=0.1)
    assert "29 of 31 rows would come back; 2 stay" in shell("quarantine", "release", "shop", "--dry-run")
    assert json.loads(shell("quarantine", "list", "shop", "--json"))[0]["n_rows"] == 31
    released = shell("quarantine", "release", "shop")
    assert "2026-01-01: 29 of 31 rows came back; 2 stay" in released
    assert "1 can't be read as rows" in released
    assert json.loads(shell("quarantine", "list", "shop", "--json"))[0]["n_rows"] == 2
    assert "29 of 31" not in shell("quarantine", "release", "shop")

    write(shell, low=0, max_quarantined=0.01)
    assert "would be held" in shell("quarantine", "release", "shop", "--dry-run")
    assert "The partition is held" in shell("quarantine", "release", "shop", "--partition", KEY, code=3)
    assert "would be held" in shell("quarantine", "release", "shop", code=3)

    write(shell, low=0, max_quarantined=0.1)
    assert "prepare done" in shell("quarantine", "release", "shop"), "no row comes back, but the partition is held no longer"
    assert "was never judged" in shell("quarantine", "list", "shop", "--partition", DATA, code=2)
