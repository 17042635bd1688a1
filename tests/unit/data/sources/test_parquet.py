import datetime as dt
import decimal
import gzip

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet as arrow_parquet

from pipelines_lib.data.sources import parquet
from pipelines_lib.data.sources.stream import File
from pipelines_lib.errors import DataError


def read(folder, table, **how):
    """(names, rows, numbers) of a file with these rows."""
    path = folder / "file.parquet"
    arrow_parquet.write_table(table, path, **how)
    records = parquet.records(File(str(path), path))
    batches = list(records.batches)
    return records.names, [r for b in batches for r in b.rows.to_pylist()], [n for b in batches for n in b.numbers.to_pylist()]


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (-3, pa.int8(), "-3"),
        (2**63, pa.uint64(), "9223372036854775808"),
        (0.1, pa.float32(), "0.1"),
        (0.1 + 0.2, pa.float64(), "0.30000000000000004"),
        (1e300, pa.float64(), "1e+300"),
        (2.0, pa.float64(), "2"),
        (1.5, pa.float16(), "1.5"),
        (True, pa.bool_(), "true"),
        (decimal.Decimal("1.50"), pa.decimal128(10, 2), "1.50"),
        (dt.datetime(2026, 1, 2, 3, 4, 5), pa.timestamp("us"), "2026-01-02T03:04:05"),
        (dt.datetime(2026, 1, 2, 3, 4, 5, 120000), pa.timestamp("ms"), "2026-01-02T03:04:05.120"),
        (1767323045000000001, pa.timestamp("ns"), "2026-01-02T03:04:05.000000001"),
        (1767323045000001000, pa.timestamp("ns"), "2026-01-02T03:04:05.000001"),
        (dt.datetime(2026, 1, 2, 3, tzinfo=dt.timezone(dt.timedelta(hours=2))), pa.timestamp("us", "Europe/Berlin"), "2026-01-02T01:00:00"),
        (dt.date(2026, 1, 2), pa.date32(), "2026-01-02"),
        (dt.time(3, 4, 5), pa.time64("us"), "03:04:05"),
        (dt.timedelta(seconds=90, milliseconds=500), pa.duration("ms"), "90.5"),
        (dt.timedelta(days=105), pa.duration("ns"), "9072000"),
        (b"\xff\x00", pa.binary(), "/wA="),
        ("", pa.string(), None),
        ("é", pa.large_string(), "é"),
        ("a", pa.dictionary(pa.int8(), pa.string()), "a"),
        ([1, None], pa.list_(pa.int64()), "[1,null]"),
        ([("k", 1.5)], pa.map_(pa.string(), pa.float64()), '[["k",1.5]]'),
        (None, pa.null(), None),
    ],
)
def test_every_type_has_one_text(tmp_path, value, kind, text):
    rows = read(tmp_path, pa.table({"x": pa.array([value, None], kind)}))[1]

    assert rows == [{"x": text}, {"x": None}]


def test_structs_are_taken_apart(tmp_path):
    table = pa.table({"a": pa.array([{"b": {"c": 1}, "d": "x"}, None]), "A.b.c": [5, 6]})

    names, rows, _ = read(tmp_path, table)

    assert names == ["a.b.c", "a.d", "A.b.c_2"]
    assert rows == [{"a.b.c": "1", "a.d": "x", "A.b.c_2": "5"}, {"a.b.c": None, "a.d": None, "A.b.c_2": "6"}]


def test_rows_are_numbered_over_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "_BATCH_ROWS", 7)

    _, rows, numbers = read(tmp_path, pa.table({"x": range(50)}), row_group_size=20)

    assert [row["x"] for row in rows] == [str(i) for i in range(50)]
    assert numbers == list(range(1, 51))


def test_what_is_no_parquet_file_is_refused(tmp_path):
    path = tmp_path / "file.parquet"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"is no Parquet file.*source\.format"):
        parquet.records(File(str(path), path))
    path.write_bytes(gzip.compress(b"PAR1"))
    with pytest.raises(DataError, match="packed with gzip; Parquet packs itself"):
        parquet.records(File(str(path), path))


def test_a_broken_page_is_told_with_its_place(tmp_path):
    path = tmp_path / "file.parquet"
    arrow_parquet.write_table(pa.table({"x": [f"{i}" * 9 for i in range(5000)]}), path, compression="gzip", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0xFF
    data[len(data) // 3 + 40] ^= 0xFF
    path.write_bytes(data)

    with pytest.raises(DataError, match="can't be read behind row 0"):
        list(parquet.records(File(str(path), path)).batches)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(values=st.lists(st.floats(), min_size=1))
def test_a_float_reads_back_the_same(values):
    texts = parquet.text_of(pa.array(values, pa.float64()), "x").to_pylist()

    assert [repr(float(text)) for text in texts] == [repr(value) for value in values]
