"""Writes a benchmark's figures into `results.json`, beside those of the others."""

import json
import os
import platform
from pathlib import Path
from typing import Any

import psutil

RESULTS = Path(__file__).parent / "results.json"


def record(name: str, figures: dict[str, Any], ratios: dict[str, float]) -> None:
    """Merge one benchmark: `figures` as measured, `ratios` as ours over the baseline's in the same run."""
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    machine = {
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    results[name] = {"figures": figures, "ratios": ratios, "machine": machine}
    RESULTS.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    print(json.dumps({name: results[name]}, indent=2, sort_keys=True))
