"""A tuning: one task mapped over its trials, so many at a time, and one that picks the best of those that did not fail."""

import json
from pathlib import Path

from .conftest import ROOT, USE_CASE, write_use_case

SERIALISE = f"""
import json, sys
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization
bag = DagBag({str(ROOT / "dags")!r})
assert not bag.import_errors, bag.import_errors
dag = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(bag.dags["sought__training"]))))
mapped = bag.dags["sought__training"].get_task("tune_trials")
one, picks = mapped.unmap({{"shard": 2}}), bag.dags["sought__training"].get_task("tune")
print(json.dumps({{
    "next": {{task.task_id: sorted(task.downstream_task_ids) for task in dag.tasks}},
    "mapped": [task.task_id for task in dag.tasks if task.is_mapped],
    "one": [one.stage, one.shard, one.shards, one.workers, one.retries, one.pool, one.max_active_tis_per_dagrun],
    "picks": [picks.stage, picks.shard, picks.shards, picks.workers, picks.trigger_rule.value],
    "plain": sorted(bag.dags["plain__training"].task_ids),
    "heavy": sorted({{"optuna", "torch"}} & set(sys.modules)),
}}))
"""

TUNED = USE_CASE + "tuning: {{trials: 3, parallel: 2, space: {{learning_rate: [0.1, 0.2]}}}}\ntraining: {{workers: 4}}\n"


def test_the_trials_are_mapped_and_the_best_is_trained(tmp_path: Path, in_airflow) -> None:
    write_use_case(tmp_path / "cases", "sought", TUNED)
    write_use_case(tmp_path / "cases", "plain")
    found = json.loads(in_airflow(SERIALISE, tmp_path / "cases"))

    assert found["mapped"] == ["tune_trials"]
    assert [found["next"][task] for task in ("snapshot", "tune_trials", "tune")] == [["tune_trials"], ["tune"], ["train"]]
    assert found["one"] == ["tune", 2, 3, 4, 5, "sluice_training", 2]
    assert found["picks"] == ["tune", None, 3, 1, "all_done_min_one_success"]
    assert found["heavy"] == []
    assert "tune" not in found["plain"]
