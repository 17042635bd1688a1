"""The data pipeline's line of the health page: how the newest partition fared."""

import fcntl
from pathlib import Path

from pydantic import JsonValue

from pipelines_lib.store import read_json, write_json


def show(root: Path, status: dict[str, JsonValue]) -> bool:
    """Write `<root>/status/data.json`, unless it already shows a later partition (this run is a backfill). Returns whether it did."""
    path = root / "status" / "data.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Partitions are backfilled side by side: without the lock an older one could read first and write last.
    with (path.parent / ".data.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shown = read_json(path) if path.exists() else None
        if isinstance(shown, dict) and str(shown["partition_key"]) > str(status["partition_key"]):
            return False
        write_json(path, status)
    return True
