"""What parsing 100 use cases (300 DAGs) in one process costs beyond importing `airflow.sdk` there.

Baseline, in the same process: the import of `airflow.sdk`. Median of five fresh processes.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from record import record

ROOT = Path(__file__).parents[1]
N_USE_CASES = 100
N_RUNS = 5

MEASURE = """
import json, sys, time
started = time.perf_counter()
import airflow.sdk
imported = time.perf_counter()
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
parsed = time.perf_counter()
print(json.dumps({"sdk": imported - started, "beyond": parsed - imported, "dags": len(bag.dags), "errors": bag.import_errors}))
"""


def main() -> None:
    """Generate, parse, record."""
    template = (ROOT / "include" / "use_cases" / "recommendation" / "use_case.yaml").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        for number in range(N_USE_CASES):
            case = Path(folder) / "cases" / f"made_{number:03d}"
            case.mkdir(parents=True)
            (case / "hooks.py").touch()
            (case / "use_case.yaml").write_text(template.replace("name: recommendation", f"name: {case.name}"), encoding="utf-8")
        runs = [_measure(Path(folder)) for _ in range(N_RUNS)]
    sdk, beyond = median(run["sdk"] for run in runs), median(run["beyond"] for run in runs)
    record(
        "parse",
        {
            "seconds_beyond_sdk_import": round(beyond, 2),
            "seconds_sdk_import": round(sdk, 2),
            "n_use_cases": N_USE_CASES,
            "n_dags": runs[0]["dags"],
        },
        {"parse_vs_sdk_import": round(median(run["beyond"] / run["sdk"] for run in runs), 2)},
    )


def _measure(folder: Path) -> dict:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")} | {
        "AIRFLOW_HOME": str(folder / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
        "SLUICE_USE_CASES": str(folder / "cases"),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-c", MEASURE, str(ROOT / "dags")]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    run = json.loads(output.strip().splitlines()[-1])
    if run["errors"] or run["dags"] != 3 * N_USE_CASES:
        raise SystemExit(f"expected {3 * N_USE_CASES} DAGs, found {run['dags']}; import errors: {run['errors']}")
    return run


if __name__ == "__main__":
    main()
