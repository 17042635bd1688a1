import datetime as dt

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.data.typed import ARROW_TYPES, _by_the_rules, cast, typed


def one(text, to, markers=()):
    values, failed = cast(pa.array([text], pa.string()), to, markers)
    return "failed" if failed[0].as_py() else values[0].as_py()


@pytest.mark.parametrize(
    ("to", "text", "value"),
    [
        ("integer", " 42 ", 42),
        ("integer", "+7", 7),
        ("integer", "3.0", 3),
        ("integer", "-900000000000000001", -900000000000000001),
        ("integer", "3.5", "failed"),
        ("integer", "0x10", "failed"),
        ("integer", "1e3", "failed"),
        ("integer", "99999999999999999999", "failed"),
        ("number", "1.5e-3", 0.0015),
        ("number", "+.5", 0.5),
        ("number", "5.", 5.0),
        ("number", "1,5", "failed"),
        ("number", "inf", "failed"),
        ("number", "1e999", "failed"),
        ("number", "0e99999", 0.0),
        ("number", "1e-99999", 0.0),
        ("number", "１", "failed"),
        ("number", "NA", None),
        ("number", "", None),
        ("number", "  ", None),
        ("boolean", "Yes", True),
        ("boolean", "0", False),
        ("boolean", "否", False),
        ("boolean", "2", "failed"),
        ("timestamp", "2026-01-02T03:04:05.678901", dt.datetime(2026, 1, 2, 3, 4, 5, 678901)),
        ("timestamp", "2026/01/02 03:04", dt.datetime(2026, 1, 2, 3, 4)),
        ("timestamp", "2026-01-02T01:00:00+08:00", dt.datetime(2026, 1, 1, 17)),
        ("timestamp", "2026-02-30", "failed"),
        ("timestamp", "0001-01-01T00:00:00+14:00", "failed"),
        ("timestamp", "9999-12-31T23:59:59-14:00", "failed"),
        ("timestamp", "NULL", None),
        ("string", " NA ", "NA"),
        ("string", "", None),
        ("text", "two words", "two words"),
    ],
)
def test_a_value_of_each_type(to, text, value):
    assert one(text, to) == value


def test_words_of_to_missing_are_missing():
    assert one("****", "number") == "failed"
    assert one("****", "number", ["****"]) is None


@given(st.integers(-(10**18) + 1, 10**18 - 1))
def test_every_integer_comes_back(value):
    assert one(str(value), "integer") == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_comes_back(value):
    assert one(repr(value), "number") == value


@given(st.text("0123456789+-.:/eETZxXnaN一１ \t\n", max_size=12))
def test_no_text_raises(text):
    for to in ("integer", "number", "boolean", "timestamp", "string"):
        one(text, to)


# Texts near the borders of what Arrow and the rules take: pieces of numbers and times, whole ones, anything.
PIECES = st.lists(st.sampled_from(["0", "1", "9", "00", "-", "+", ".", "e", "E", ".0", " ", "x", "0x", "１"]), max_size=8).map("".join)
DAYS = st.sampled_from(
    ["2026-01-02", "0000-01-01", "0001-01-01", "9999-12-31", "2026-02-30", "2024/02/29", "20260102", "2026-W01-1", "-001-01-01"]
)
CLOCKS = st.sampled_from(
    ["", "T", " 03", "T03:04", " 03:04:05", "T24:00", "T23:59:60", "T03:04:05.6", "T03:04:05.678901", "T03:04:05.6789012", "T0304"]
)
ZONES = st.sampled_from(["", "", "Z", "+08:00", "-23:59", "+14", "-0030", "+24:00", "+08:00:30", "z"])
WHOLE = st.one_of(st.integers(-(10**19), 10**19).map(str), st.floats().map(repr), st.datetimes().map(str), st.booleans().map(str))
TEXTS = st.one_of(st.none(), PIECES, st.tuples(DAYS, CLOCKS, ZONES).map("".join), WHOLE, st.text(max_size=6))


@given(st.lists(TEXTS, max_size=12), st.lists(TEXTS, max_size=2), st.sampled_from(list(ARROW_TYPES)))
def test_what_arrow_reads_is_what_the_rules_say(texts, before, to):
    if to in ("string", "text"):
        return
    column = pa.array([*before, *texts], pa.string()).slice(len(before))

    values, failed = cast(column, to, ["****"])

    by_the_rules = _by_the_rules(pa.array(texts, pa.string()), to, ["****"])
    assert (values.type, values.to_pylist(), failed.to_pylist()) == (ARROW_TYPES[to], *(part.to_pylist() for part in by_the_rules))


@given(st.lists(st.none() | st.text("a é\u3000\t\u00a0中", max_size=4), max_size=8))
def test_blanks_around_a_text_are_dropped(texts):
    values, failed = cast(pa.array(texts, pa.string()), "text")

    assert values.to_pylist() == [None if text is None else text.strip() or None for text in texts]
    assert not any(failed.to_pylist())


@pytest.mark.parametrize(
    ("to", "good", "bad"), [("integer", "7", "1-1"), ("number", "7", "1.2.3"), ("timestamp", "2026-01-02", "2026-13-02")]
)
def test_one_bad_text_among_many_fails_alone(to, good, bad):
    texts = [good] * 10_000
    texts[6_000] = bad

    values, failed = cast(pa.array(texts), to)

    assert (values.null_count, failed.true_count, failed[6_000].as_py()) == (1, 1, True)


def test_a_row_gets_every_reason(make_use_case):
    raw = pa.table(
        {
            "row_id": ["r1", "r2"],
            "id": [None, "e2"],
            "who": ["u", "u"],
            "when": ["yesterday", "2026-01-01"],
            "price": ["cheap", "1.5"],
            "count": ["1", None],
            "colour": ["red", "red"],
            "action": ["steal", "buy"],
        }
    )

    result = typed(raw, make_use_case())

    assert result.reasons == {
        "r1": {
            "missing: id",
            "type: when is not an ISO 8601 time",
            "type: price is not a finite number",
            "label: action is none of the values of label.map",
        }
    }
    assert result.rows.column_names == ["row_id", "id", "who", "when", "price", "count", "colour", "action"]
    assert [str(t) for t in result.rows.schema.types] == [
        "string",
        "string",
        "string",
        "timestamp[us]",
        "double",
        "int64",
        "string",
        "string",
    ]


def test_a_number_may_be_a_class(make_use_case):
    columns = {"x": {"type": "number"}, "good": {"type": "integer", "role": "label"}}
    use_case = make_use_case(columns=columns, label={"column": "good", "map": {"1": "yes", "2": "no"}, "positive": "yes"}, split={})
    raw = pa.table({"row_id": ["a", "b", "c"], "x": ["1", "1", "1"], "good": ["1", "2.0", "3"]})

    assert list(typed(raw, use_case).reasons) == ["c"]
