import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable
from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.data import partition_writer
from pipelines_lib.data import tables as tables_module
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import DataError
from pipelines_lib.store import write_text


def rows(n, start=0):
    return pa.table({"row_id": [f"{i:03d}" for i in range(start, start + n)], "x": [float(i) for i in range(start, start + n)]})


def test_a_write_replaces_its_partition_and_no_other(tmp_path):
    tables = Tables(tmp_path)
    tables.write("clean", "2026-01-01", rows(3))
    tables.write("clean", "2026-01-02", rows(2))
    tables.write("clean", "2026-01-01", rows(1, 7))

    assert tables.read("clean")["row_id"].to_pylist() == ["007", "000", "001"]
    assert tables.partitions("clean") == ["2026-01-01", "2026-01-02"]
    assert tables.read("clean", ["2026-01-02"], columns=["x"]).column_names == ["x", "row_id", "partition_key"]
    assert tables.read("clean", []).num_rows == 0


@given(st.integers(0, 30), st.integers(1, 8))
def test_shards_are_the_partition_in_order(n_rows, of):
    with tempfile.TemporaryDirectory() as folder, mock.patch.multiple(partition_writer, GROUP_ROWS=4, FILE_ROWS=8):
        tables = Tables(Path(folder))
        tables.write("raw", "2026-01-01", rows(n_rows))
        shards = tables.shards("raw", "2026-01-01", of)
        parts = [list(tables.scan("raw", "2026-01-01", columns=["row_id"], shard=shard)) for shard in shards]

    found = [[name for part in shard for name in part["row_id"].to_pylist()] for shard in parts]
    assert [name for names in found for name in names] == [f"{number:03d}" for number in range(n_rows)]
    assert [shard.n_rows for shard in shards] == [len(names) for names in found]
    assert [shard.n_before for shard in shards] == [sum(map(len, found[:number])) for number in range(of)]
    # Every record belongs to one of them, those that are no rows and lie before or behind all others among them.
    for name in ["", "0005", *(f"{number:03d}" for number in range(n_rows)), "999"]:
        assert sum(shard.holds(name) for shard in shards) == 1
    assert all(shard.holds(name) for shard, names in zip(shards, found, strict=True) for name in names)


@pytest.mark.parametrize("x", [1.5, None, float("nan")])
def test_writing_what_is_there_makes_no_version(tmp_path, x):
    tables = Tables(tmp_path)
    same = pa.table({"row_id": ["a", "b"], "x": pa.array([x, 2.0], pa.float64())})

    assert tables.write("clean", "2026-01-01", same) == tables.write("clean", "2026-01-01", same.take([1, 0]))
    assert tables.write("clean", "2026-01-01", same.slice(0, 1)) == 1


def test_a_version_reads_the_same_for_ever(tmp_path):
    tables = Tables(tmp_path)
    version = tables.write("raw", "2026-01-01", rows(2))
    tables.write("raw", "2026-01-01", rows(5))

    assert tables.read("raw", version=version).num_rows == 2


def test_a_new_column_is_null_where_it_was_not_and_old_partitions_stay(tmp_path):
    tables = Tables(tmp_path)
    tables.write("raw", "2026-01-01", rows(1))
    wider = rows(1).append_column("Temperature [K]", pa.array(["290"]))
    tables.write("raw", "2026-01-02", wider)

    assert tables.read("raw")["Temperature [K]"].to_pylist() == [None, "290"]
    assert tables.write("raw", "2026-01-01", rows(1)) == tables.version("raw")


def test_runs_side_by_side_all_land(tmp_path):
    keys = [f"2026-01-{day:02d}" for day in range(1, 9)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: Tables(tmp_path).write("raw", key, rows(5)), keys))

    assert Tables(tmp_path).partitions("raw") == keys
    assert Tables(tmp_path).read("raw").num_rows == 40


def test_a_table_that_is_not_there_says_what_to_do(tmp_path):
    assert Tables(tmp_path).partitions("clean") == []
    with pytest.raises(DataError, match="run the stage that writes it first"):
        Tables(tmp_path).read("clean")


def test_a_key_that_is_no_name_is_refused(tmp_path):
    with pytest.raises(DataError, match="partition key"):
        Tables(tmp_path).write("raw", "x' OR 1=1", rows(1))


def test_a_column_that_changed_its_type_is_refused_and_not_truncated(tmp_path):
    Tables(tmp_path).write("clean", "2026-01-01", pa.table({"row_id": ["a"], "x": [1]}))

    with pytest.raises(DataError, match=r"column 'x' is int64 there and double in these rows.*backfill"):
        Tables(tmp_path).write("clean", "2026-01-02", pa.table({"row_id": ["a"], "x": [1.5]}))


def test_appending_another_type_is_refused_too(tmp_path):
    tables = Tables(tmp_path)
    one = pa.table({"row_id": ["a"], "partition_key": ["2026-01-01"], "x": [1], "reasons": [["late"]]})
    tables.append("predictions", one)
    tables.append("predictions", one.drop_columns(["reasons"]).append_column("y", pa.array(["new"])))

    with pytest.raises(DataError, match="column 'x' is int64 there and double in these rows"):
        tables.append("predictions", one.set_column(2, "x", pa.array([1.5])))
    assert tables.read("predictions")["x"].to_pylist() == [1, 1]


def test_a_source_column_that_changes_its_case_stays_one_column(tmp_path):
    tables = Tables(tmp_path)
    tables.write("raw", "2026-01-01", pa.table({"row_id": ["a"], "Note": ["x"]}))
    version = tables.write("raw", "2026-01-02", pa.table({"row_id": ["a"], "NOTE": ["y"]}))

    assert tables.read("raw")["Note"].to_pylist() == ["x", "y"]
    assert tables.write("raw", "2026-01-02", pa.table({"row_id": ["a"], "note": ["y"]})) == version


def test_a_source_column_is_spelt_as_the_first_rows_spell_it(tmp_path):
    tables = Tables(tmp_path)
    with tables.writer("raw", "2026-01-01") as writer:
        writer.add(pa.table({"row_id": ["a"], "Note": ["x"]}))
        writer.add(pa.table({"row_id": ["b"], "note": ["y"]}))

    assert tables.read("raw")["Note"].to_pylist() == ["x", "y"]


@pytest.mark.parametrize("names", [["note", "NOTE"], ["note", "note"]])
def test_two_source_columns_of_one_name_are_refused(tmp_path, names):
    rows = pa.Table.from_arrays([pa.array(["a"]), pa.array(["x"]), pa.array(["y"])], ["row_id", *names])

    with pytest.raises(DataError, match=rf"columns '{names[0]}' and '{names[1]}' .* rename one of them at the source"):
        Tables(tmp_path).write("raw", "2026-01-01", rows)


def test_a_column_of_ours_that_changes_its_case_is_refused(tmp_path):
    tables = Tables(tmp_path)
    tables.write("clean", "2026-01-01", pa.table({"row_id": ["a"], "price": [1.0]}))

    with pytest.raises(DataError, match=r"column 'Price' stands there as 'price'.*go back to that spelling"):
        tables.write("clean", "2026-01-02", pa.table({"row_id": ["a"], "Price": [1.0]}))


def files_of(tmp_path, layer="clean"):
    """Path below the table to bytes, of every data file."""
    root = tmp_path / "tables" / layer
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.parquet") if "_staging" not in path.parts}


@given(cuts=st.lists(st.integers(0, 40), max_size=6))
def test_how_rows_are_cut_into_batches_does_not_show(cuts):
    whole = rows(40).append_column("note", pa.array([None if i % 7 == 0 else f"n{i % 3}" for i in range(40)], pa.string()))
    edges = [0, *sorted(cuts), 40]
    with tempfile.TemporaryDirectory() as once, tempfile.TemporaryDirectory() as cut:
        Tables(Path(once)).write("clean", "2026-01-01", whole)
        with mock.patch("pipelines_lib.data.partition_writer.GROUP_ROWS", 8), Tables(Path(cut)).writer("clean", "2026-01-01") as writer:
            for first, last in pairwise(edges):
                writer.add(whole.slice(first, last - first))
        with mock.patch("pipelines_lib.data.partition_writer.GROUP_ROWS", 8):
            Tables(Path(once)).write("clean", "2026-01-01", whole)
        assert Tables(Path(cut)).read("clean").equals(Tables(Path(once)).read("clean"))
        assert files_of(Path(cut)).keys() <= files_of(Path(once)).keys()


def test_a_scan_gives_the_rows_in_order_and_in_bounded_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(partition_writer, "GROUP_ROWS", 10)
    monkeypatch.setattr(partition_writer, "FILE_ROWS", 20)
    tables = Tables(tmp_path)
    tables.write("clean", "2026-01-01", rows(45))

    pieces = list(tables.scan("clean", "2026-01-01", columns=["x"]))
    assert [piece.num_rows for piece in pieces] == [10, 10, 10, 10, 5]
    assert pa.concat_tables(pieces).equals(tables.read("clean", columns=["x"]))
    assert len(files_of(tmp_path)) == 3


def test_a_column_that_turns_up_late_is_null_before(tmp_path):
    tables = Tables(tmp_path)
    with tables.writer("raw", "2026-01-01") as writer:
        writer.add(rows(2))
        writer.add(rows(2, 2).append_column("late", pa.array(["a", "b"])))

    assert tables.read("raw")["late"].to_pylist() == [None, None, "a", "b"]


def test_a_writer_that_fails_leaves_the_old_rows_and_no_files(tmp_path):
    tables = Tables(tmp_path)
    tables.write("clean", "2026-01-01", rows(3))
    before = files_of(tmp_path)

    def fails():
        with tables.writer("clean", "2026-01-01") as writer:
            writer.add(rows(2))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert tables.read("clean").num_rows == 3
    assert files_of(tmp_path) == before
    assert list((tmp_path / "tables" / "clean" / "_staging").iterdir()) == []


def test_the_same_rows_are_the_same_bytes_whatever_came_before(tmp_path):
    one, other = Tables(tmp_path / "one"), Tables(tmp_path / "other")
    keys = [f"2026-01-{day:02d}" for day in range(1, 6)]
    for key in keys:
        one.write("clean", key, rows(5, int(key[-2:])))
    for key in reversed(keys):
        other.write("clean", key, rows(9))
        other.write("clean", key, rows(5, int(key[-2:])))

    assert files_of(tmp_path / "one").items() <= files_of(tmp_path / "other").items()
    assert one.read("clean").equals(other.read("clean"))


@pytest.mark.parametrize("there", [False, True])
def test_two_runs_of_one_partition_leave_the_rows_of_one(tmp_path, there):
    tables = Tables(tmp_path)
    tables.write("clean", "2026-01-01", rows(1))
    if there:
        tables.write("clean", "2026-01-02", rows(1))
    for _ in range(5):
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda n: Tables(tmp_path).write("clean", "2026-01-02", rows(10 + n, 100 * n)), range(1, 5)))
        found = tables.read("clean", ["2026-01-02"])["row_id"].to_pylist()
        assert found in [rows(10 + n, 100 * n)["row_id"].to_pylist() for n in range(1, 5)]


def test_a_process_killed_at_any_point_of_a_write_leaves_the_old_partition_or_the_new(tmp_path):
    """Children of a process of its own: delta-rs refuses to work in a fork of a process that it has worked in."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", Path(__file__).with_name("killed_writes.py"), tmp_path],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    tries = [json.loads(line) for line in run.stdout.splitlines()]
    # At each of its file operations; how many of the timed kills met it, too, is a matter of the machine's speed.
    assert len([each for each in tries if each["killed"] and each["new"] < 1000]) >= 6
    before = 5
    for each in tries:
        assert each["other"] == 7
        assert each["found"] in ((before, each["new"]) if each["killed"] else (each["new"],)), each
        before = each["found"]
    assert {each["found"] == each["new"] for each in tries} == {True, False}


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_who_may_read_a_table_follows_from_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        Tables(tmp_path).write("raw", "2026-01-01", pa.table({"row_id": ["a"]}))
        write_text(tmp_path / "note.txt", "x")
    finally:
        os.umask(before)

    files = [*tmp_path.rglob("*.parquet"), tmp_path / "note.txt"]
    assert len(files) == 2
    assert {path.stat().st_mode & 0o777 for path in files} == {mode}


DAMAGES = {
    "a byte": lambda path: path.write_bytes(bytes([*(data := path.read_bytes())[:200], data[200] ^ 1, *data[201:]])),
    "its end": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "all": lambda path: path.write_bytes(b""),
    "the file": Path.unlink,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_told_with_its_remedy_and_mended_by_the_same_rows(tmp_path, damage):
    tables, written = Tables(tmp_path), rows(n=500)
    tables.write("raw", "2026-01-01", written)
    version, before = tables.version("raw"), tables.read("raw")
    [path] = tables.path("raw").rglob("partition_key=*/*.parquet")
    DAMAGES[damage](path)

    for look in (lambda: tables.read("raw"), lambda: list(tables.scan("raw", "2026-01-01"))):
        with pytest.raises(DataError, match=r"partition 2026-01-01 of the table 'raw', is damaged or gone (.|\n)*; run ingest for that"):
            look()

    assert tables.write("raw", "2026-01-01", written) == version
    assert tables.read("raw").equals(before)


def test_a_damaged_log_is_told_with_its_remedy(tmp_path):
    tables = Tables(tmp_path)
    tables.write("raw", "2026-01-01", rows(n=5))
    for path in (tables.path("raw") / "_delta_log").glob("*.json"):
        path.write_text('{"add": ')

    with pytest.raises(DataError, match=r"_delta_log: a file of the table's log is damaged .*; restore it from a copy, or remove"):
        tables.read("raw")


def test_a_write_that_the_disk_has_no_room_for_leaves_nothing(tmp_path):
    """In a process of its own: a limit that was lowered can't be raised again by everyone."""
    tables = Tables(tmp_path)
    tables.write("raw", "2026-01-01", rows(n=5))
    before = tables.read("raw")
    code = (
        "import resource, signal, sys; from pathlib import Path; import pyarrow as pa; from pipelines_lib.data.tables import Tables;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900));"
        "rows = pa.table({'row_id': [f'{i:09d}' for i in range(5000)], 'x': [str(i) for i in range(5000)]});"
        "Tables(Path(sys.argv[1])).write('raw', '2026-01-01', rows)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )

    assert "File too large" in done.stderr
    assert list((tables.path("raw") / "_staging").iterdir()) == []
    assert tables.read("raw").equals(before)


def test_a_table_that_was_taken_away_between_two_appends_begins_anew(tmp_path):
    tables, rows = Tables(tmp_path), pa.table({"row_id": ["r"], "partition_key": ["2026-01-01"]})
    for _ in range(3):
        tables.append("predictions", rows)
    assert tables.read("predictions").num_rows == 3
    shutil.rmtree(tables.path("predictions"))
    tables.append("predictions", rows)
    assert Tables(tmp_path).read("predictions").num_rows == 1


def test_an_open_table_shows_what_others_have_written_since(tmp_path):
    ours, others = Tables(tmp_path), Tables(tmp_path)
    ours.write("clean", "2026-01-01", rows(3))
    assert others.read("clean").num_rows == 3
    ours.write("clean", "2026-01-02", rows(2).append_column("y", pa.array([1, 2])))
    assert others.read("clean")["y"].to_pylist() == [None, None, None, 1, 2]
    assert pickle.loads(pickle.dumps(others)).version("clean") == others.version("clean") == 1
    shutil.rmtree(ours.path("clean"))
    assert others.partitions("clean") == []
    for key in ("2026-02-01", "2026-02-02"):
        ours.write("clean", key, rows(1))
    assert others.partitions("clean") == ["2026-02-01", "2026-02-02"]


def test_an_open_table_is_not_read_again_from_its_beginning(tmp_path, monkeypatch):
    tables = Tables(tmp_path)
    tables.write("clean", "2026-01-01", rows(1))
    opened = []
    monkeypatch.setattr(tables_module, "DeltaTable", lambda *given, **options: opened.append(given) or DeltaTable(*given, **options))
    for day in range(2, 5):
        tables.write("clean", f"2026-01-{day:02d}", rows(day))
        assert tables.read("clean", [f"2026-01-{day:02d}"]).num_rows == day
    assert len(opened) == 1


def test_the_small_files_of_a_partition_are_put_together_while_others_append(place):
    tables = Tables(place)
    for i in range(6):
        for key in ("2026-01-01", "2026-01-02"):
            rows = pa.table({"row_id": [f"r{i}"], "partition_key": [key], "x": [i]})
            # A version with another feature has another column.
            tables.append(
                "predictions", rows if i < 3 else rows.append_column("y", pa.array(["new"])), batch=("server", 2 * i + int(key[-1]))
            )
    before = tables.read("predictions")
    other = Tables(place)
    other.append("predictions", pa.table({"row_id": ["late"], "partition_key": ["2026-01-02"], "x": [9]}))
    assert tables.compact("predictions", "2026-01-01") == 5
    # One that was opened before goes on, and what it repeats lands once.
    other.append("predictions", pa.table({"row_id": ["r9"], "partition_key": ["2026-01-02"], "x": [9]}))
    other.append("predictions", pa.table({"row_id": ["r5"], "partition_key": ["2026-01-02"], "x": [5]}), batch=("server", 12))
    after, version = tables.read("predictions"), tables.version("predictions")
    assert after.filter(pc.is_in(after["row_id"], pa.array(["late", "r9"])).combine_chunks()).num_rows == 2
    assert after.filter(pc.invert(pc.is_in(after["row_id"], pa.array(["late", "r9"]))).combine_chunks()).equals(before)
    assert tables.compact("predictions", "2026-01-01") == 0
    assert tables.version("predictions") == version
    assert Tables(place / "elsewhere").compact("predictions", "2026-01-01") == 0


def test_the_log_of_a_table_that_is_added_to_is_kept_for_a_day(tmp_path):
    tables = Tables(tmp_path)
    log = tables.path("predictions") / "_delta_log"
    for day in (1, 2):
        for number in range(10):
            tables.append("predictions", pa.table({"row_id": [f"r{number}"], "partition_key": [f"2026-01-{day:02d}"], "x": [number]}))
        tables.compact("predictions", f"2026-01-{day:02d}")
        if day == 1:
            assert len(list(tables.path("predictions").glob("partition_key=2026-01-01/*.parquet"))) == 11, "whoever reads them goes on"
            for path in tables.path("predictions").rglob("*"):
                os.utime(path, (time.time() - 25 * 3600,) * 2)
            text = (log / f"{tables.version('predictions'):020d}.json").read_text()
    assert r"\"minValues\":{}" in text, "no commit goes through those of all files"
    assert not (log / f"{0:020d}.json").exists()
    assert Tables(tmp_path).read("predictions")["x"].to_pylist() == [*range(10)] * 2
