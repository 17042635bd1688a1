"""A stage in shards: one task mapped over them, as the scheduler sees it and as the worker runs it."""

import json
from pathlib import Path

from .conftest import ROOT, USE_CASE, write_use_case

SERIALISE = f"""
import json
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization
bag = DagBag({str(ROOT / "dags")!r})
assert not bag.import_errors, bag.import_errors
dag = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(bag.dags["split__data"]))))
mapped = bag.dags["split__data"].get_task("validate_shards")
one = mapped.unmap({{"shard": 2}})
whole = bag.dags["split__data"].get_task("validate")
print(json.dumps({{
    "mapped": {{task.task_id: task.is_mapped for task in dag.tasks}},
    "retries": dag.get_task("validate_shards").retries,
    "one": [one.task_id, one.use_case_name, one.pipeline, one.stage, one.shard, one.shards, one.retries],
    "whole": [whole.shard, whole.shards, bag.dags["split__data"].get_task("ingest").shards],
}}))
"""


def test_each_shard_is_a_task_with_retries_of_its_own(tmp_path: Path, in_airflow) -> None:
    write_use_case(tmp_path / "cases", "split", USE_CASE + "shards: 3\n")
    found = json.loads(in_airflow(SERIALISE, tmp_path / "cases"))

    assert found["mapped"] == {"ingest": False, "validate_shards": True, "validate": False, "prepare_shards": True, "prepare": False}
    assert found["one"] == ["validate_shards", "split", "data", "validate", 2, 3, 2]
    assert found["retries"] == 2
    assert found["whole"] == [None, 3, 1]
