"""The stage gate: a verdict with its reasons, and what the page shows of it."""

import pytest

from pipelines_lib.errors import Held
from pipelines_lib.store import read_json


@pytest.fixture
def evaluated(trained):
    trained.run("evaluate")
    return trained


def status(house):
    return read_json(house.root / "status" / "training.json")


def test_a_good_model_passes(evaluated):
    result = evaluated.run("gate")
    assert result.reason == "all 4 gates pass"
    assert [gate["verdict"] for gate in result.figures["gates"]] == ["pass"] * 4
    assert status(evaluated) == {
        "partition_key": "2026-01-04",
        "run_id": "run",
        "verdict": "pass",
        "reason": "every gate passes",
        "why": "",
        "metric": "roc_auc",
        "challenger": result.figures["challenger"],
        "champion": None,
    }


def test_why_the_training_ran_is_kept(evaluated):
    evaluated.run("gate", reason="the new source is live")
    assert status(evaluated)["why"] == "the new source is live"


def test_a_model_below_the_floor_is_held_with_the_figures(evaluated, make_credit):
    strict = make_credit(gate={"metric": "roc_auc", "floor": 0.999})
    with pytest.raises(Held, match=r"floor: roc_auc 0\.\d{4}, and it must be at least 0\.999") as held:
        evaluated.run("gate", use_case=strict)
    assert {gate["gate"]: gate["verdict"] for gate in held.value.figures["gates"]}["floor"] == "hold"
    assert status(evaluated)["verdict"] == "hold"
    assert status(evaluated)["reason"] == held.value.reason


def test_an_old_partition_is_held_unless_forced(evaluated):
    evaluated.promote()
    evaluated.run("snapshot", "train", "evaluate", key="2026-01-03", run_id="backfill")
    with pytest.raises(Held, match="can't replace a champion that saw 2026-01-04"):
        evaluated.run("gate", key="2026-01-03", run_id="backfill")
    result = evaluated.run("gate", key="2026-01-03", run_id="backfill", force=True)
    assert "which is set" in result.figures["gates"][-1]["reason"]
