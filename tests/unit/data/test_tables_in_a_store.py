"""Tables in a bucket, over HTTP, beside the same in a folder."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines_lib.connections import Connection
from pipelines_lib.data.partition_writer import STAGING
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import ConfigError, Unavailable
from pipelines_lib.store import at, beside

ROOT = Path(__file__).parents[3]


def rows(key, n=1000):
    return pa.table({"row_id": [f"{key}/{number:06d}" for number in range(n)], "x": list(range(n))})


def names(place):
    found = place.glob("tables/**/*.parquet")
    return {path.relative_to(place).as_posix() for path in found}


def fill(tables):
    tables.write("raw", "d1", rows("d1"))
    tables.write("raw", "d2", rows("d2"))
    tables.write("raw", "d2", rows("d2", 500))
    with tables.shard_writer("clean", "d1") as shard:
        shard.add(rows("d1"))
    tables.commit("clean", "d1", shard.staged, shard.columns)


def test_a_bucket_holds_the_files_that_a_folder_holds(bucket, tmp_path):
    there, here = Tables(bucket), Tables(tmp_path)
    fill(there)
    fill(here)
    assert names(bucket) == names(tmp_path)
    for layer in ("raw", "clean"):
        assert there.read(layer).equals(here.read(layer))
        assert there.contents(layer) == here.contents(layer)
        assert there.shards(layer, "d1", 3) == here.shards(layer, "d1", 3)
        assert pa.concat_tables(there.scan(layer, "d1")).equals(pa.concat_tables(here.scan(layer, "d1")))
    assert there.version("raw") == here.version("raw") == 2
    assert there.read("raw", version=1).equals(here.read("raw", version=1))
    assert list((bucket / "tables" / "clean" / STAGING).glob("*")) == []


def test_what_is_there_is_not_sent_again(place):
    tables = Tables(place)
    assert [tables.write("raw", "d1", rows("d1")) for _ in range(2)] == [0, 0]
    [name] = names(place)
    before = (place / name).stat().st_mtime
    tables.write("raw", "d1", rows("d1"))
    assert (place / name).stat().st_mtime == before


def test_eight_writers_of_eight_partitions_all_land(place):
    tables = Tables(place)
    with ThreadPoolExecutor(8) as threads:
        versions = list(threads.map(lambda number: tables.write("raw", f"p{number}", rows(f"p{number}", 200)), range(8)))
    assert sorted(versions) == list(range(8))
    assert tables.read("raw").num_rows == 1600


def test_answers_are_appended(place):
    tables = Tables(place)
    for name in ("a", "b"):
        tables.append("predictions", rows(name).append_column("partition_key", pa.array(["d1"] * 1000)))
    assert tables.read("predictions", ["d1"]).num_rows == 2000


def test_old_versions_are_removed_but_those_that_a_model_needs(place):
    tables = Tables(place)
    for name in ("a", "b", "c"):
        tables.write("labelled", "d1", rows(name))
    removed = tables.vacuum("labelled", hours=0, keep_versions=[1])
    assert len(removed) == 1
    assert not (place / "tables" / "labelled" / removed[0].replace("%3D", "=")).exists()
    for version in (1, 2):
        assert tables.read("labelled", version=version).num_rows == 1000


KILLED = """
import os, signal, sys
import pyarrow as pa
from pipelines_lib.connections import connection
from pipelines_lib.data import tables
from pipelines_lib.store import at

placed = tables.place

def place(*given):
    placed(*given)
    os.kill(os.getpid(), signal.SIGKILL)

tables.place = place
rows = pa.table({"row_id": [f"d1/{n:06d}" for n in range(10)], "x": [1] * 10})
tables.Tables(at(sys.argv[1], connection("bucket"))).write("raw", "d1", rows)
"""


def test_a_commit_that_was_killed_leaves_the_table_as_it_was(bucket):
    tables = Tables(bucket)
    tables.write("raw", "d1", rows("d1"))
    command = [sys.executable, "-c", KILLED, str(bucket)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert tables.version("raw") == 0
    assert tables.read("raw").num_rows == 1000
    assert len(names(bucket)) == 2  # one that no version names, until `vacuum`
    assert tables.write("raw", "d1", rows("d1", 10)) == 1


def test_a_store_that_can_not_be_reached_is_told(bucket):
    with pytest.raises(ConfigError, match=r"s3://nobody-has-this/shop/.*\(connection 'bucket'\): there is no such bucket"):
        Tables(beside(bucket, "s3://nobody-has-this/shop")).read("raw")
    given = bucket.access.given
    nobody = Connection(name="bucket", type="aws", login="k", password="s", extra={**given.extra, "endpoint_url": "http://127.0.0.1:9"})
    with pytest.raises(Unavailable, match=r"s3://sluice/.*\(connection 'bucket'\): the store does not answer"):
        Tables(at(str(bucket), nobody)).read("raw")
