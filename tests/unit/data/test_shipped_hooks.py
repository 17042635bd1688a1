"""The simulators of the shipped use cases: same seed and day, same bytes; broken and drifting as they say."""

import csv
import importlib.util
from collections import Counter
from pathlib import Path

import pytest

USE_CASES = Path(__file__).resolve().parents[3] / "include" / "use_cases"


def landed(tmp_path, name, day, **params):
    spec = importlib.util.spec_from_file_location(f"hooks_of_{name}", USE_CASES / name / "hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    path = tmp_path / f"{day}.csv"
    hooks.land(day, path, params)
    return path.read_bytes()


def records(data):
    header, *rows = csv.reader(data.decode().splitlines())
    return header, rows


@pytest.mark.parametrize("name", ["recommendation", "diagnosis"])
def test_same_seed_and_day_are_the_same_bytes(tmp_path, name):
    params = {"seed": 7, "drift_from": "2026-01-16"}
    first = landed(tmp_path, name, "2026-01-03", **params)

    assert landed(tmp_path, name, "2026-01-03", **params) == first
    assert landed(tmp_path, name, "2026-01-04", **params) != first
    assert landed(tmp_path, name, "2026-01-03", **{**params, "seed": 8}) != first


@pytest.mark.parametrize("name", ["recommendation", "diagnosis"])
def test_the_drift_starts_on_its_day(tmp_path, name):
    def same(day):
        return landed(tmp_path, name, day, seed=0, drift_from="2026-01-16") == landed(tmp_path, name, day, seed=0, drift_from=None)

    assert [same(day) for day in ("2026-01-15", "2026-01-16", "2026-02-20")] == [True, False, False]


def test_events_are_broken_in_every_way_and_not_too_often(tmp_path):
    header, rows = records(landed(tmp_path, "recommendation", "2026-01-03", rows=1000, broken_share=0.04))
    whole = [dict(zip(header, row, strict=True)) for row in rows if len(row) == len(header)]
    repeated = Counter(row["event_id"] for row in whole)

    assert len(rows) == 1040
    assert {len(row) - len(header) for row in rows} == {0, -2, 1}
    assert sum(float(row["price"]) < 0 for row in whole) == 10
    assert sum(row["action"] == "hover" for row in whole) == 10
    assert sum(n == 2 for n in repeated.values()) == 10
    assert {"浏览", "view", "点击", "click", "购买", "buy"} <= {row["action"] for row in whole}


def test_users_come_back(tmp_path):
    def users(day):
        return {row[1] for row in records(landed(tmp_path, "recommendation", day))[1]}

    assert len(users("2026-01-03") & users("2026-01-10")) > 300


def test_a_round_shows_every_patient_once_and_the_next_the_same_ones(tmp_path):
    def patients(days):
        return [tuple(row[:1] + row[2:]) for day in days for row in records(landed(tmp_path, "diagnosis", f"2026-01-{day:02d}"))[1]]

    first, second = patients(range(1, 15)), patients(range(15, 29))

    assert len(first) == len(set(first)) == 569
    assert set(first) == set(second)
    assert first != second
    assert sum(row[1] == "M" for row in first) == 212
