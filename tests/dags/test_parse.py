"""Parsing is cheap, does no I/O but reading YAML, and one broken use case never hides the others."""

import json
from pathlib import Path

from .conftest import ROOT, USE_CASE, write_use_case

PARSE = f"""
import json, socket, sys
import airflow.sdk
from airflow.dag_processing.dagbag import DagBag
before = set(sys.modules)

def refuse(*_args, **_kwargs):
    raise AssertionError("network at parse time")

socket.socket.connect = refuse
bag = DagBag({str(ROOT / "dags")!r})
print(json.dumps({{"dags": sorted(bag.dags), "errors": bag.import_errors, "new": sorted({{m.split(".")[0] for m in set(sys.modules) - before}})}}))
"""

HEAVY = {
    "boto3",
    "botocore",
    "datasketches",
    "deltalake",
    "great_expectations",
    "kubernetes",
    "mlflow",
    "numpy",
    "onnxruntime",
    "pandas",
    "pyarrow",
    "scipy",
    "sklearn",
    "torch",
}


def test_every_dag_parses_and_loads_no_heavy_module(tmp_path: Path, in_airflow) -> None:
    for name in ("alpha", "beta"):
        write_use_case(tmp_path / "cases", name)
    found = json.loads(in_airflow(PARSE, tmp_path / "cases"))
    assert found["errors"] == {}
    assert found["dags"] == [f"{name}__{pipeline}" for name in ("alpha", "beta") for pipeline in ("data", "monitoring", "training")]
    assert not HEAVY & set(found["new"])


def test_the_use_cases_that_ship_parse(in_airflow) -> None:
    found = json.loads(in_airflow(PARSE, ROOT / "include" / "use_cases"))
    assert found["errors"] == {}
    assert {"recommendation__data", "diagnosis__training", "diagnosis__monitoring"} <= set(found["dags"])


def test_a_broken_use_case_is_its_own_import_error(tmp_path: Path, in_airflow) -> None:
    write_use_case(tmp_path / "cases", "good")
    write_use_case(tmp_path / "cases", "broken", USE_CASE.replace("owner:", "onwer:"))
    write_use_case(tmp_path / "cases", "worse", "name: [worse")
    found = json.loads(in_airflow(PARSE, tmp_path / "cases"))
    assert found["dags"] == ["good__data", "good__monitoring", "good__training"]
    [(file, error)] = found["errors"].items()
    assert file.endswith("broken_use_cases.py")
    assert "broken/use_case.yaml:4: onwer: unknown key" in error
    assert "worse/use_case.yaml" in error
