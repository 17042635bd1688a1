"""A training on several machines: the same DAG file has one task where the launcher is of this machine, and a task a machine on a cluster."""

import json
from pathlib import Path

import pytest

from .conftest import ROOT, USE_CASE, write_use_case

SERIALISE = """
import json, os
os.environ["SLUICE_PROFILE"] = {profile!r}
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization
bag = DagBag({dags!r})
assert not bag.import_errors, bag.import_errors
dag = bag.dags["many__training"]
kept = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))
print(json.dumps({{
    "next": {{task.task_id: sorted(task.downstream_task_ids) for task in kept.tasks}},
    "mapped": [task.task_id for task in kept.tasks if task.is_mapped],
    "setup": [task.task_id for task in kept.tasks if task.is_setup],
    "teardown": [[task.task_id, str(getattr(task.trigger_rule, 'value', task.trigger_rule))] for task in kept.tasks if task.is_teardown],
    "ranks": [
        [one.node, list(one.nodes), one.workers, one.retries, one.pool, one.execution_timeout.total_seconds()]
        for one in (dag.get_task("train").unmap({{"node": node}}) for node in (range(3) if dag.get_task("train").is_mapped else ()))
    ],
}}))
"""

MANY = USE_CASE + "training: {{workers: 2, nodes: 2..3}}\n"


def parsed(tmp_path: Path, in_airflow, profile: str, text: str = MANY) -> dict:
    write_use_case(tmp_path / "cases", "many", text)
    return json.loads(in_airflow(SERIALISE.format(profile=profile, dags=str(ROOT / "dags")), tmp_path / "cases"))


def test_on_a_cluster_each_machine_is_a_task_between_set_up_and_tear_down(tmp_path: Path, in_airflow) -> None:
    found = parsed(tmp_path, in_airflow, "cluster")
    assert found["mapped"] == ["train"]
    assert found["setup"] == ["train_setup"]
    assert found["teardown"] == [["train_teardown", "all_done_setup_success"]]
    assert {task: found["next"][task] for task in ("snapshot", "train_setup", "train", "train_teardown")} == {
        "snapshot": ["train_setup"],
        "train_setup": ["train", "train_teardown"],
        "train": ["evaluate", "train_teardown"],
        "train_teardown": [],
    }
    assert found["ranks"] == [[node, [2, 3], 2, 5, "default_pool", 43_200.0] for node in range(3)]


@pytest.mark.parametrize(("profile", "text"), [("local", MANY), ("cluster", USE_CASE)])
def test_one_machine_is_one_task(tmp_path: Path, in_airflow, profile: str, text: str) -> None:
    found = parsed(tmp_path, in_airflow, profile, text)
    assert found["next"]["snapshot"] == ["train"]
    assert found["next"]["train"] == ["evaluate"]
    assert not found["mapped"] + found["setup"] + found["teardown"]
