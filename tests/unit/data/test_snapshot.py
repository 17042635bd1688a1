"""A snapshot: chosen once, hashed by content, read the same by everyone."""

import datetime as dt
import hashlib
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.contracts import DatasetRef
from pipelines_lib.data import snapshot
from pipelines_lib.data.snapshot import Snapshot, _content_hash, _hash_of, choose, load, opened
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import DataError

REF = DatasetRef(use_case="shop", table="labelled", version=0, partitions=("p",), n_rows=2, config_hash="c", content_hash="d")


def hash_of(rows):
    return _hash_of(Snapshot(REF, rows))


ROWS = {"row_id": ["a", "b"], "x": [1.5, None], "n": [1, None], "flag": [True, None], "town": ["西安", None]}


def test_the_hash_does_not_see_chunks():
    rows = pa.table(ROWS)
    assert hash_of(pa.concat_tables([rows.slice(0, 1), rows.slice(1)])) == hash_of(rows)


@pytest.mark.parametrize(
    "change",
    [
        {"x": [1.5, 0.0]},
        {"x": [None, 1.5]},
        {"n": [2, None]},
        {"flag": [False, None]},
        {"town": ["西", None]},
        {"town": ["西安", ""]},
        {"row_id": ["b", "a"]},
    ],
)
def test_the_hash_sees_every_value(change):
    assert hash_of(pa.table(ROWS | change)) != hash_of(pa.table(ROWS))


def test_the_hash_sees_where_a_text_ends():
    assert hash_of(pa.table({"a": ["xy", "z"]})) != hash_of(pa.table({"a": ["x", "yz"]}))


def test_a_snapshot_whose_rows_were_changed_is_refused(make_use_case, tmp_path):
    use_case = make_use_case()
    rows = pa.table(
        {
            "row_id": [f"{i:03d}" for i in range(12)],
            "who": [f"u{i}" for i in range(12)],
            "price": [float(i) for i in range(12)],
            "count": list(range(12)),
            "colour": ["red"] * 12,
            "label": ["yes", "no"] * 6,
            "split": ["train"] * 4 + ["validation"] * 4 + ["test"] * 4,
        }
    )
    tables = Tables(tmp_path)
    tables.write("labelled", "2026-01-01", rows)
    ref = choose(use_case, tables, "2026-01-01", 14).ref
    assert load(use_case, tables, ref).sizes() == {"train": 4, "validation": 4, "test": 4}

    [path] = tables.path("labelled").glob("partition_key=2026-01-01/*.parquet")
    pq.write_table(pq.read_table(path, partitioning=None).set_column(2, "price", pa.array([0.5] * 12)), path)
    with pytest.raises(DataError, match=r"version 0 of table labelled gives other values.*then the stage snapshot"):
        load(use_case, tables, ref)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e200])
def test_a_label_that_no_model_can_compute_with_is_refused_and_its_row_named(make_use_case, tmp_path, value):
    columns = make_use_case().model_dump()["columns"] | {"bought": {"type": "number", "role": "label"}}
    use_case = make_use_case(task="regression", label={"column": "bought"}, columns=columns, gate={"metric": "rmse", "floor": 10})
    rows = {
        "row_id": list("abcdef"),
        "who": ["u"] * 6,
        "price": [0.5] * 6,
        "count": [1] * 6,
        "colour": ["red"] * 6,
        "label": [1.0, -1e30, 2.0, value, 3.0, 4.0],
        "split": ["train", "validation", "test"] * 2,
    }
    tables = Tables(tmp_path)
    tables.write("labelled", "2026-01-01", pa.table(rows))
    with pytest.raises(DataError, match=r"1 labels are no finite numbers, or beyond 1e\+30, .*\(rows d\)"):
        choose(use_case, tables, "2026-01-01", 14)


@given(
    st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=3), max_size=12), st.integers(0, 12), st.integers(0, 12)
)
def test_the_hash_of_texts_is_that_of_their_bytes_however_they_lie(texts, cut, first):
    column = pa.chunked_array([pa.array(part, pa.string()) for part in (texts[:cut], texts[cut:])]).slice(first)
    values = [text.encode() for text in texts[first:] if text is not None]
    digest = hashlib.sha256(b"x\x1fstring\x1e" + bytes(text is not None for text in texts[first:]))
    digest.update(np.array([len(value) for value in values], np.int64).tobytes() + b"".join(values))

    assert hash_of(pa.table({"x": column})) == digest.hexdigest()


@pytest.fixture
def days(make_use_case, tmp_path):
    """Four days in a table, split by time, and the use case: (use case, tables)."""
    use_case = make_use_case(
        columns=make_use_case().model_dump()["columns"] | {"new": {"type": "boolean"}},
        split={"by": "time", "validation": 0.25, "test": 0.25},
    )
    tables = Tables(tmp_path)
    for day in range(1, 5):
        rows = {
            "row_id": [f"{day}:{i:03d}" for i in range(6)],
            "who": [f"u{i}" for i in range(6)],
            "when": pa.array([dt.datetime(2026, 1, day, i) for i in range(6)], pa.timestamp("us")),
            "price": [None if i == 2 else day + i / 7 for i in range(6)],
            "count": [None if i == 3 else i * day for i in range(6)],
            "colour": [None, "", "西安", "red", "a", "red"],
            "new": [True, None, False, True, True, False],
            "label": ["yes", "no"] * 3,
            "split": ["train"] * 6,
        }
        tables.write("labelled", f"2026-01-0{day}", pa.table(rows))
    return use_case, tables


@pytest.mark.parametrize("few", [0, 1 << 22])
def test_the_hash_of_a_snapshot_is_what_it_has_always_been_however_it_is_read(days, few, monkeypatch):
    monkeypatch.setattr(snapshot, "_FEW", few)
    chosen = choose(*days, "2026-01-04", 14)
    assert isinstance(chosen.source, pa.Table) == (few > 0)
    as_then = replace(chosen, ref=chosen.ref.model_copy(update={"config_hash": "c"}))
    assert _content_hash(as_then) == "5a6093522742d13a5f535f5852fa7d4c889bdcba6741f028d18063296b23fbf8"
    assert load(*days, chosen.ref).ref == chosen.ref


def test_rows_in_files_are_those_in_memory(days, monkeypatch):
    ref = choose(*days, "2026-01-04", 14).ref
    kept, there = load(*days, ref), opened(*days, ref)
    assert isinstance(kept.source, pa.Table)
    assert not isinstance(there.source, pa.Table)
    assert there.sizes() == kept.sizes() == {"train": 12, "validation": 6, "test": 6}
    assert there.classes() == ["no", "yes"]
    for sides in ((), ("train",), ("validation", "test")):
        assert there.side(*sides).equals(kept.side(*sides))
        assert there.column("price", *sides).equals(kept.column("price", *sides))
        # The side is worked out from the partition, which nobody asked for.
        assert there.select(["split", "count"], *sides).equals(kept.select(["split", "count"], *sides))
    reads = []
    batches = list(there.told(lambda: reads.append(1)).batches(["row_id", "split"]))
    assert [batch["split"].to_pylist() for batch in batches] == [[side] * 6 for side in ("train", "train", "validation", "test")]
    assert len(reads) >= 4


@pytest.mark.parametrize("few", [0, 1 << 22])
def test_rows_that_were_damaged_or_lost_are_refused(days, few, monkeypatch):
    monkeypatch.setattr(snapshot, "_FEW", few)
    ref = choose(*days, "2026-01-04", 14).ref
    [path] = days[1].path("labelled").glob("partition_key=2026-01-02/*.parquet")
    data = path.read_bytes()
    path.write_bytes(data[:200] + bytes(50) + data[250:])
    with pytest.raises(DataError, match=r"(?s)can't be read any more.*Restore them from a backup"):
        load(*days, ref)
    path.unlink()
    with pytest.raises(DataError, match=r"(?s)can't be read any more.*Restore them from a backup"):
        load(*days, ref)


def test_a_setting_that_came_later_and_is_not_set_leaves_the_tables_there_are_as_they_are(days):
    assert days[0].data_hash() == "f14d4910bf1a6bfb"
