import os
import time
from collections import Counter

import pyarrow as pa
import pytest

from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import DataError
from pipelines_lib.monitoring.health import health
from pipelines_lib.retention import vacuum
from pipelines_lib.serving.health import HealthLog
from pipelines_lib.serving.metrics import Metrics
from pipelines_lib.store import write_json

DAY = "2026-01-05"


def served(root, day, *requests, lost=0):
    """What one server tells of a day on which it answered `requests` of (status, seconds)."""
    metrics = Metrics()
    told = HealthLog(root, lambda: metrics.counts() + Counter(rows_lost=lost), lambda: day)
    for status, seconds in requests:
        metrics.observe("infer", status, seconds)
    told.write()


def test_servers_of_a_day_add_up(tmp_path, shop):
    served(tmp_path, DAY, *[(200, 0.0008)] * 90, (422, 0.0008), (401, 0.0), (499, 0.01))
    served(tmp_path, DAY, *[(200, 0.02)] * 6, (503, 4.0), lost=3)
    served(tmp_path, "2026-01-06", (500, 1.0))
    found = health(Tables(tmp_path), shop, DAY, 96)
    assert (found.n_requests, found.n_errors, found.n_rejected, found.rows_lost) == (100, 1, 1, 3)
    assert (found.p50_seconds, found.p95_seconds, found.p99_seconds) == (0.001, 0.025, 0.025)
    assert found.mean_seconds == pytest.approx((91 * 0.0008 + 0.01 + 6 * 0.02 + 4) / 100)


def test_a_server_counts_each_request_once_and_under_its_day(tmp_path, shop):
    metrics, days = Metrics(), [DAY]
    told = HealthLog(tmp_path, metrics.counts, lambda: days[-1])
    told.write()
    metrics.observe("infer", 200, 0.001)
    told.write()
    metrics.observe("infer", 200, 0.001)
    days.append("2026-01-06")
    told.write()  # what was counted since the last look came in before midnight, as far as anybody knows
    told.write()
    metrics.observe("infer", 500, 0.001)
    told.close()
    tables = Tables(tmp_path)
    assert [(found.n_requests, found.n_errors) for found in (health(tables, shop, day, 0) for day in days)] == [(2, 0), (1, 1)]


def test_nothing_is_told_before_a_model_says_how_days_are_named(tmp_path, shop):
    metrics = Metrics()
    told = HealthLog(tmp_path, metrics.counts, lambda: None)
    metrics.observe("infer", 503, 0.001)
    told.write()
    assert not (tmp_path / "health").exists()
    assert health(Tables(tmp_path), shop, DAY, 0).n_requests is None


def test_a_store_that_fails_is_tried_again(tmp_path, shop, caplog):
    metrics = Metrics()
    told = HealthLog(tmp_path, metrics.counts, lambda: DAY)
    metrics.observe("infer", 200, 0.001)
    (tmp_path / "health").write_text("in the way")
    told.write()
    assert "could not be written" in caplog.text
    (tmp_path / "health").unlink()
    told.write()
    assert health(Tables(tmp_path), shop, DAY, 0).n_requests == 1


def test_volume_and_freshness(tmp_path, shop):
    tables = Tables(tmp_path)
    for day, n in (("2026-01-01", 10), ("2026-01-02", 500), ("2026-01-03", 0), ("2026-01-04", 700)):
        tables.write("profiles", day, pa.table({"row_id": ["profile"], "n_rows": [n]}))
        tables.write("clean", day, pa.table({"row_id": ["a"]}))
    found = health(tables, shop, DAY, 40)
    assert (found.n_rows, found.usual_rows) == (40, 500.0), "a day without answers says nothing of the usual"
    assert (found.clean_behind, found.labelled_behind) == (1, None)
    assert health(tables, shop, "2026-01-01", 10).usual_rows is None
    assert found.row()["row_id"].to_pylist() == ["health"]


def test_a_damaged_file_is_named(tmp_path, shop):
    write_json(tmp_path / "health" / DAY / "server.json", ["no counts"])
    with pytest.raises(DataError, match=r"server\.json does not hold what a server counted"):
        health(Tables(tmp_path), shop, DAY, 0)


def test_what_servers_counted_stays_in_the_table_once_their_old_files_are_removed(tmp_path, shop):
    tables = Tables(tmp_path)
    for day in (DAY, "2026-01-06", "2026-01-07"):
        served(tmp_path, day, (200, 0.0008), (503, 0.01), lost=2)
    before = health(tables, shop, DAY, 40)
    for day in (DAY, "2026-01-06"):
        tables.write("health", day, health(tables, shop, day, 40).row())
    for day in (DAY, "2026-01-07"):
        [path] = (tmp_path / "health" / day).iterdir()
        os.utime(path, (time.time() - 31 * 86400,) * 2)

    [removed] = [part for part in vacuum(tmp_path, 30) if part.layer == "counts"]
    assert removed.n_files == 1
    # The second is young, and the third was not measured.
    assert [len(list((tmp_path / "health" / day).iterdir())) for day in (DAY, "2026-01-06", "2026-01-07")] == [0, 1, 1]
    assert health(tables, shop, DAY, 40) == before
