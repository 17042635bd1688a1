from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import DataError


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


def test_a_column_of_ours_that_changes_its_case_is_refused(tmp_path):
    tables = Tables(tmp_path)
    tables.write("clean", "2026-01-01", pa.table({"row_id": ["a"], "price": [1.0]}))

    with pytest.raises(DataError, match=r"column 'Price' stands there as 'price'.*go back to that spelling"):
        tables.write("clean", "2026-01-02", pa.table({"row_id": ["a"], "Price": [1.0]}))
