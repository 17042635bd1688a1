"""A snapshot: chosen once, hashed by content, read the same by everyone."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.data.snapshot import _hash_of, choose, load
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import DataError

ROWS = {"row_id": ["a", "b"], "x": [1.5, None], "n": [1, None], "flag": [True, None], "town": ["西安", None]}


def test_the_hash_does_not_see_chunks():
    rows = pa.table(ROWS)
    assert _hash_of(pa.concat_tables([rows.slice(0, 1), rows.slice(1)])) == _hash_of(rows)


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
    assert _hash_of(pa.table(ROWS | change)) != _hash_of(pa.table(ROWS))


def test_the_hash_sees_where_a_text_ends():
    assert _hash_of(pa.table({"a": ["xy", "z"]})) != _hash_of(pa.table({"a": ["x", "yz"]}))


def test_a_snapshot_whose_rows_were_changed_is_refused(make_use_case, tmp_path, monkeypatch):
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

    changed = tables.read("labelled").set_column(2, "price", pa.array([0.5] * 12))
    monkeypatch.setattr(Tables, "read", lambda *_, **given: changed.select([*given["columns"], "row_id", "partition_key"]))
    with pytest.raises(DataError, match=r"version 0 of table labelled gives other values.*then the stage snapshot"):
        load(use_case, tables, ref)


@given(
    st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=3), max_size=12), st.integers(0, 12), st.integers(0, 12)
)
def test_the_hash_of_texts_is_that_of_their_bytes_however_they_lie(texts, cut, first):
    column = pa.chunked_array([pa.array(part, pa.string()) for part in (texts[:cut], texts[cut:])]).slice(first)
    values = [text.encode() for text in texts[first:] if text is not None]
    digest = hashlib.sha256(b"x\x1fstring\x1e" + bytes(text is not None for text in texts[first:]))
    digest.update(np.array([len(value) for value in values], np.int64).tobytes() + b"".join(values))

    assert _hash_of(pa.table({"x": column})) == digest.hexdigest()
