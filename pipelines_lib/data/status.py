"""A pipeline's line of the health page: how the newest partition fared."""

from pydantic import JsonValue

from pipelines_lib.store import StorePath, update_json


def show(root: StorePath, pipeline: str, status: dict[str, JsonValue]) -> bool:
    """Write `<root>/status/<pipeline>.json`, unless it already shows a later partition (this run is a backfill). Returns whether it did."""

    def newest(shown: JsonValue) -> JsonValue:
        return None if isinstance(shown, dict) and str(shown["partition_key"]) > str(status["partition_key"]) else status

    # Partitions are backfilled side by side: an older one could read first and write last.
    return update_json(root / "status" / f"{pipeline}.json", newest)
