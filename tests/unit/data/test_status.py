from concurrent.futures import ThreadPoolExecutor

from pipelines_lib.data.status import show
from pipelines_lib.store import read_json


def status(key, verdict="pass"):
    return {"partition_key": key, "verdict": verdict}


def test_a_backfill_does_not_hide_the_newest_partition(tmp_path):
    assert show(tmp_path, "data", status("2026-01-02"))
    assert not show(tmp_path, "data", status("2026-01-01"))
    assert read_json(tmp_path / "status" / "data.json") == status("2026-01-02")

    assert show(tmp_path, "data", status("2026-01-02", "hold"))
    assert read_json(tmp_path / "status" / "data.json") == status("2026-01-02", "hold")


def test_runs_side_by_side_end_at_the_newest(tmp_path):
    keys = [f"2026-01-{day:02d}" for day in range(1, 29)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: show(tmp_path, "data", status(key)), [*keys[::2], *reversed(keys)]))

    assert read_json(tmp_path / "status" / "data.json") == status("2026-01-28")
