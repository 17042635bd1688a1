from dataclasses import replace

import pyarrow as pa
import pytest

from pipelines_lib.config import Prices
from pipelines_lib.contracts import LEDGER
from pipelines_lib.cost.usage import Usage
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import ConfigError, DataError, Held
from pipelines_lib.jobs import decide, ingest, prepare, snapshot, validate
from pipelines_lib.monitoring.history import labelled_windows
from pipelines_lib.serving.pointer import read_pointer
from pipelines_lib.store import read_json, update_json, write_json
from tests.tiny import log_answers


@pytest.fixture
def root(sandbox, deploy):
    root = sandbox.project.home / "store" / "shop"
    deploy(root, 1)
    return root


def day(number):
    return f"2026-01-{number:02d}"


@pytest.fixture
def trigger(root):
    """Returns `trigger(day)`: enters what the task retrain does."""

    def enter(key):
        decided = read_json(root / "decisions" / f"{key}.json")
        entry = {"partition_key": key, "run_id": decided["trigger_run_id"], "model_version": decided["model_version"], "at": 0.0}
        update_json(root / LEDGER, lambda known: {"fired": [*(known or {"fired": []})["fired"], entry]})

    return enter


@pytest.fixture
def fired(answer, monitor, trigger):
    """Two drifted days, whose retraining was fired."""
    for number in (6, 7):
        answer(day(number), shift=2)
        monitor(day(number))
    trigger(day(7))


def test_quiet_then_drifted_then_retrain(answer, monitor, root, trigger):
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
    trigger(day(7))
    before = (root / "decisions" / "2026-01-07.json").stat().st_mtime_ns
    assert monitor(day(7), trainings_in_flight=1)["decide"] == fired
    assert (root / "decisions" / "2026-01-07.json").stat().st_mtime_ns == before

    # The next day is within the cool-down, and so is an earlier one that is looked at late.
    answer(day(8), shift=2)
    assert "a retraining was fired for 2026-01-07" in monitor(day(8))["decide"].outputs["reason"]


def test_a_decision_that_fired_stands_after_its_model_became_the_champion(answer, monitor, deploy, root, trigger):
    for number in (6, 7):
        answer(day(number), shift=2)
        fired = monitor(day(number))["decide"]
    trigger(day(7))
    deploy(root, 2, bias=1)
    assert monitor(day(7))["decide"] == fired
    assert fired.outputs["action"] == "retrain"


def test_a_decision_that_nothing_was_fired_for_costs_no_cooldown_and_is_made_anew(answer, monitor, root, trigger):
    for number in (6, 7, 8):
        answer(day(number), shift=2)
        result = monitor(day(number))["decide"]
    assert result.outputs["action"] == "retrain", "nothing came of the decision for 2026-01-07"
    trigger(day(8))
    assert "a retraining was fired for 2026-01-08" in monitor(day(7))["decide"].outputs["reason"]


def test_drift_of_rows_that_an_earlier_champion_answered_fires_nothing(answer, monitor, deploy, root):
    """Somebody trained by hand after the drift, before the monitoring of its last partition."""
    answer(day(6), shift=2)
    monitor(day(6))
    answer(day(7), shift=2)
    deploy(root, 2, bias=1)
    held = monitor(day(7))["decide"]
    assert held.outputs["reason"] == "2026-01-07 was answered by version 1, and version 2 serves now"
    assert held.figures["model_version"] == 2
    # A backfill of the past fires nothing either.
    answer(day(5), shift=2)
    assert "answered by version 1" in monitor(day(5))["decide"].outputs["reason"]
    # Whoever goes back to version 1 has its drift again.
    deploy(root, 1)
    assert monitor(day(7))["decide"].outputs["action"] == "retrain"


def test_of_the_partition_in_which_the_champion_changed_most_rows_decide(answer, monitor, deploy, root):
    deploy(root, 2, bias=1)
    for number, first, second in ((6, 80, 300), (7, 80, 300), (8, 300, 80)):
        answer(day(number), shift=2, version=1, n=first)
        answer(day(number), shift=2, version=2, n=second)
        result = monitor(day(number))["decide"]
        if number == 7:
            assert result.outputs["action"] == "retrain"
    assert "answered by version 1" in result.outputs["reason"]


def test_a_candidate_under_verification_is_not_the_champion(answer, monitor, deploy, root):
    served = read_pointer(root)
    for number in (6, 7):
        answer(day(number), shift=2)
        if number == 7:
            deploy(root, 2, bias=1, state="candidate", previous=served)
        result = monitor(day(number))["decide"]
    assert (result.outputs["action"], result.figures["model_version"]) == ("retrain", 1)


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


@pytest.mark.usefixtures("fired")
def test_a_partition_that_fired_fires_nothing_more_though_its_decision_was_lost(monitor, root):
    (root / "decisions" / "2026-01-07.json").unlink()
    assert monitor(day(7))["decide"].outputs["reason"].startswith("a retraining was fired for 2026-01-07, 0 partition(s) away")


def test_a_damaged_ledger_is_no_empty_one(answer, monitor, root):
    answer(day(6))
    (root / LEDGER).write_text('{"fired": 3}')
    with pytest.raises(DataError, match="no ledger of retrainings"):
        monitor(day(6))


class TestWherePerformanceCounts:
    @pytest.fixture
    def shop(self, shop):
        return shop.model_copy(update={"monitoring": shop.monitoring.model_copy(update={"loss": 0.05})})

    def test_drift_without_a_loss_of_performance_is_told_and_trains_nothing(self, answer, monitor, root):
        for number in (6, 7):
            answer(day(number), shift=0.8)
            decided = monitor(day(number))["decide"]
        assert decided.outputs["action"] == "alert"
        assert decided.outputs["reason"].startswith("drift without a loss of performance in 2026-01-07: 2 of 4 input columns have drifted")

    def test_a_loss_without_drift_of_the_inputs_is_retrained_for(self, answer, monitor, root):
        for number in (6, 7):
            answer(day(number), wrong=3)
            decided = monitor(day(number))["decide"]
        assert (decided.outputs["action"], decided.figures["objections"]) == ("retrain", [])
        assert decided.figures["expected_gain"] > 0.1

    def test_a_loss_that_late_labels_tell_of_is_retrained_for_once(self, answer, monitor, root, trigger):
        tables, truth = Tables(root), {}
        for number in range(1, 7):
            answer(day(number), wrong=3 if number < 3 else 0)
            truth[day(number)] = tables.read("labelled", [day(number)]).drop_columns(["partition_key"])
            tables.write("labelled", day(number), truth[day(number)].slice(0, 0))
            decided = monitor(day(number))["decide"]
        assert decided.outputs["action"] == "hold"
        for key in (day(1), day(2)):
            tables.write("labelled", key, truth[key])
        decided = monitor(day(6))["decide"]
        assert decided.outputs["action"] == "retrain"
        assert "2 of the 2 newest partitions with labels have lost roc_auc (2026-01-01 " in decided.outputs["reason"]
        trigger(day(6))
        answer(day(12))
        tables.write("labelled", day(12), truth[day(1)].slice(0, 0))
        assert "2 of which a retraining was fired for already" in monitor(day(12))["decide"].outputs["reason"]

    def test_labels_of_an_earlier_champions_answers_end_the_search(self, answer, monitor, deploy, root, shop):
        deploy(root, 2, bias=1)
        for number, version in ((4, 1), (5, 2), (6, 1), (7, 1), (8, 1), (9, 1)):
            answer(day(number), version=version)
            monitor(day(number))

        def found(number, version):
            return [window.partition_key for window in labelled_windows(Tables(root), shop, day(number), version)]

        assert found(9, 1) == [day(9), day(8), day(7)]
        assert found(7, 1) == [day(7), day(6)]
        assert (found(5, 2), found(9, 2)) == ([day(5)], [])

    def test_drift_of_data_that_the_gate_held_trains_nothing(self, answer, monitor, root):
        for number in (6, 7):
            answer(day(number), shift=2, wrong=3)
            monitor(day(number))
        found = {"row_id": "partition", "kind": "partition", "success": False, "observed": "30% of the rows break a rule"}
        Tables(root).write("quality", day(7), pa.Table.from_pylist([found]))
        decided = monitor(day(7))["decide"]
        assert decided.outputs["action"] == "alert"
        assert "bad data rather than drift in 2026-01-07: its data was held (30% of the rows break a rule)" in decided.outputs["reason"]


def test_a_partition_whose_gate_failed_fires_nothing_and_is_in_no_training(answer, monitor, sandbox, shop, root):
    """The source broke on the day whose drift would have fired; every stage is the real one."""
    for number, amount in ((6, "1"), (7, "one")):
        key = day(number)
        log_answers(root, key, shift=2)
        rows = "".join(f"{amount},{i % 60},yes,de,{i},{'buy' if i % 2 else 'view'}\n" for i in range(200))
        sandbox.source(key, "amount,age,member,country,customer,action\n" + rows)
        sandbox.run(ingest.main, "ingest", shop, key)
        if number == 6:
            sandbox.run(validate.main, "validate", shop, key)
            sandbox.run(prepare.main, "prepare", shop, key)
        else:
            with pytest.raises(Held):
                sandbox.run(validate.main, "validate", shop, key)
        decided = monitor(key)["decide"]
    assert decided.outputs["action"] == "alert"
    assert decided.outputs["reason"].startswith("bad data rather than drift in 2026-01-07: its data was held")
    assert sandbox.run(snapshot.main, "snapshot", shop, day(7)).outputs["snapshot"]["partitions"] == ["2026-01-06"]


@pytest.mark.usefixtures("fired")
def test_retrainings_cost_no_more_than_they_may(root, shop, sandbox):
    """One retraining costs 3600 CPU seconds at 2 an hour."""
    limited = shop.model_copy(update={"monitoring": shop.monitoring.model_copy(update={"max_cost": 3.0})})
    used = Usage(launch="a", attempt=1, rank=0, started=0.0, seconds=3600.0, cpu_seconds=3600.0, memory_gib_seconds=0.0, outcome="done")
    write_json(root / "runs" / "training" / "drift__shop__v1__2026-01-07" / "train" / "usage" / "1-0.json", used)
    stage = sandbox.stage("decide", limited, day(9))
    with pytest.raises(ConfigError, match="names no cloud whose prices count"):
        decide.main(replace(stage, profile=stage.profile.model_copy(update={"cloud": None})))
    prices = {"here": Prices(currency="EUR", cpu_hour=2, memory_gib_hour=0, gpu_hour={"default": 0})}
    priced = replace(stage, profile=stage.profile.model_copy(update={"cloud": "here", "prices": prices}))
    assert "cost" in decide.main(priced).figures["objections"]
    dearer = shop.model_copy(update={"monitoring": shop.monitoring.model_copy(update={"max_cost": 4.0})})
    assert "cost" not in decide.main(replace(priced, use_case=dearer)).figures["objections"]
