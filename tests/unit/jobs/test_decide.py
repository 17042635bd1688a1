import pytest

from pipelines_lib.store import read_json


@pytest.fixture
def root(sandbox, deploy):
    root = sandbox.project.home / "store" / "shop"
    deploy(root, 1)
    return root


def day(number):
    return f"2026-01-{number:02d}"


def test_quiet_then_drifted_then_retrain(answer, monitor, root):
    answer(day(5))
    assert monitor(day(5))["decide"].outputs["action"] == "hold"
    answer(day(6), shift=2)
    held = monitor(day(6))["decide"]
    assert held.outputs["reason"] == "1 of the last 3 partitions have drifted (2026-01-06); 2 are needed (monitoring.need)"
    answer(day(7), shift=2)
    fired = monitor(day(7))["decide"]
    assert fired.outputs["action"] == "retrain"
    assert fired.outputs["trigger_run_id"] == "drift__shop__v1__2026-01-07"
    record = read_json(root / "decisions" / "2026-01-07.json")
    assert (record["action"], record["model_version"]) == ("retrain", 1)

    # Again, with the training it fired under way: the same decision, the same run id, the same bytes.
    before = (root / "decisions" / "2026-01-07.json").stat().st_mtime_ns
    assert monitor(day(7), trainings_in_flight=1)["decide"] == fired
    assert (root / "decisions" / "2026-01-07.json").stat().st_mtime_ns == before

    # The next day is within the cool-down, and so is an earlier one that is looked at late.
    answer(day(8), shift=2)
    assert "a retraining was fired for 2026-01-07" in monitor(day(8))["decide"].outputs["reason"]


def test_a_decision_is_made_anew_when_its_figures_change(answer, monitor, root):
    answer(day(6), shift=2)
    monitor(day(6))
    answer(day(7), n=20)
    assert "20 predictions in 2026-01-07" in monitor(day(7))["decide"].outputs["reason"]
    answer(day(7), shift=2)
    assert monitor(day(7))["decide"].outputs["action"] == "retrain"


def test_a_training_under_way_holds(answer, monitor, root):
    for number in (6, 7):
        answer(day(number), shift=2)
        result = monitor(day(number), trainings_in_flight=2)["decide"]
    assert result.outputs["reason"] == "2 training(s) of this use case are under way; their champion comes first"


def test_drift_from_an_earlier_champion_does_not_count(answer, monitor, deploy, root):
    answer(day(6), shift=2, version=1)
    monitor(day(6))
    deploy(root, 2, bias=1)
    answer(day(7), shift=2, version=2)
    assert monitor(day(7))["decide"].outputs["reason"].startswith("1 of the last 3")


def test_nothing_is_served(monitor):
    assert monitor(day(5))["decide"].outputs["reason"].startswith("no model serves")
