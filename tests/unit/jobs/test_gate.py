"""The stage gate: a verdict with its reasons, and what the page shows of it."""

import pyarrow.compute as pc
import pytest

from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import Held
from pipelines_lib.registry import tracking
from pipelines_lib.store import read_json


@pytest.fixture
def evaluated(trained):
    trained.run("evaluate")
    return trained


def status(house):
    return read_json(house.root / "status" / "training.json")


def test_a_good_model_passes(evaluated):
    result = evaluated.run("gate")
    assert result.reason == "all 5 gates pass"
    assert [gate["verdict"] for gate in result.figures["gates"]] == ["pass"] * 5
    assert status(evaluated) == {
        "partition_key": "2026-01-04",
        "run_id": "run",
        "verdict": "pass",
        "reason": "every gate passes",
        "why": "",
        "metric": "roc_auc",
        "challenger": result.figures["challenger"],
        "champion": None,
        "report": "credit/runs/training/run/gate/report.html",
    }
    page = (evaluated.root / "runs" / "training" / "run" / "gate" / "report.html").read_text()
    assert "All 5 gates pass" in page
    assert page.count("<svg") == 6


def test_why_the_training_ran_is_kept(evaluated):
    evaluated.run("gate", reason="the new source is live")
    assert status(evaluated)["why"] == "the new source is live"


def test_a_model_below_the_floor_is_held_with_the_figures(evaluated, make_credit):
    strict = make_credit(gate={"metric": "roc_auc", "floor": 0.999})
    with pytest.raises(Held, match=r"floor: roc_auc 0\.\d{4}, and it must be at least 0\.999") as held:
        evaluated.run("gate", use_case=strict)
    assert {gate["gate"]: gate["verdict"] for gate in held.value.figures["gates"]}["floor"] == "hold"
    run_id = evaluated.stage("gate").result_of("evaluate").outputs["mlflow_run_id"]
    tags = tracking.connect(evaluated.stage("gate").profile.tracking_uri).get_run(run_id).data.tags
    assert (tags["sluice.gate"], tags["sluice.gate.rows"].split(":")[0]) == ("hold", "pass")
    assert status(evaluated)["verdict"] == "hold"
    assert status(evaluated)["reason"] == held.value.reason
    assert held.value.links == {"Evaluation": "credit/runs/training/run/gate/report.html"}
    assert "1 of 5 gates hold" in (evaluated.home / "store" / held.value.links["Evaluation"]).read_text()


def test_an_old_partition_is_held_unless_forced(evaluated):
    evaluated.promote()
    evaluated.run("snapshot", "train", "evaluate", key="2026-01-03", run_id="backfill")
    with pytest.raises(Held, match="can't replace a champion that saw 2026-01-04"):
        evaluated.run("gate", key="2026-01-03", run_id="backfill")
    result = evaluated.run("gate", key="2026-01-03", run_id="backfill", force=True)
    assert "which is set" in next(gate for gate in result.figures["gates"] if gate["gate"] == "old partition")["reason"]


def test_a_use_case_that_asks_for_every_gate_gets_a_row_for_each(trained, make_credit):
    gate = {
        "metric": "roc_auc",
        "floor": 0.6,
        "resamples": 100,
        "slices": [{"column": "town", "floor": 0.5}, {"column": "income", "bins": 2, "floor": 0.4}],
        "calibration": 0.3,
        "robustness": {"loss": 0.3},
        "fairness": [{"column": "member", "impact": 0.1, "opportunity": 0.9, "min_rows": 20}],
        "milliseconds": 1000,
        "max_bytes": 10_000_000,
    }
    strict = make_credit(gate=gate)
    trained.run("snapshot", "train", "evaluate", use_case=strict, run_id="strict")
    result = trained.run("gate", use_case=strict, run_id="strict")
    rows = {gate["gate"]: gate for gate in result.figures["gates"]}
    asked = ["slices", "calibration", "robustness", "disparate impact", "equal opportunity", "latency", "size"]
    assert list(rows)[5:] == asked
    assert all(row["figure"] is not None and row["bound"] is not None for name, row in rows.items() if name in asked)
    page = (trained.root / "runs" / "training" / "strict" / "gate" / "report.html").read_text(encoding="utf-8")
    assert 'aria-label="roc_auc of parts of the hold-out"' in page


def test_a_hold_out_that_was_learned_from_is_held(trained):
    tables = Tables(trained.root)
    day = tables.read("labelled", ["2026-01-01"]).drop(["partition_key"])
    test = pc.equal(day["split"], "test")
    moved = pc.if_else(test, "train", day["split"])  # the other days still judge by these entities
    tables.write("labelled", "2026-01-01", day.set_column(day.column_names.index("split"), "split", moved))
    trained.run("snapshot", "train", "evaluate", run_id="mixed")
    with pytest.raises(Held, match=r"unseen rows: \d+ of \d+ rows of the hold-out belong to who was learned from; prepare the window"):
        trained.run("gate", run_id="mixed")
