"""Evidently's verdict on each column of a day; runs in an environment of its own. `bench_drift.py` starts it.

python drift_evidently.py reference.parquet day.parquet verdicts.json [psi]
"""

import json
import re
import sys
import time
from pathlib import Path

import pandas as pd
from evidently import Dataset, Report
from evidently.presets import DataDriftPreset


def main(reference: str, day: str, out: str, method: str | None = None) -> None:
    """Read both, compare, write the seconds and the columns that have drifted."""
    started = time.perf_counter()
    then, now = (Dataset.from_pandas(pd.read_parquet(path)) for path in (reference, day))
    report = Report([DataDriftPreset(method=method)]).run(now, then)
    found = {}
    for metric in report.dict()["metrics"]:
        if match := re.match(r"ValueDrift\(column=(\w+),.*threshold=([\d.]+)", metric["metric_name"]):
            # A p-value speaks for drift where it is small, a distance where it is large.
            is_p = "p_value" in metric["metric_name"]
            found[match[1]] = bool((metric["value"] < float(match[2])) == is_p)
    seconds = time.perf_counter() - started
    Path(out).write_text(json.dumps({"seconds": seconds, "drifted": found}), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
