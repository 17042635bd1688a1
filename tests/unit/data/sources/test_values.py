import datetime as dt
import decimal
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.data.sources import values as module
from pipelines_lib.data.sources.values import texts
from pipelines_lib.errors import DataError

_moments = st.datetimes(dt.datetime(2, 1, 1), dt.datetime(9998, 1, 1)) | st.datetimes(
    dt.datetime(2, 1, 1), dt.datetime(9998, 1, 1), timezones=st.integers(-14, 14).map(lambda h: dt.timezone(dt.timedelta(hours=h)))
)
_columns = st.one_of(
    *(
        st.lists(st.none() | kind, max_size=5)
        for kind in (
            st.text(),
            st.booleans(),
            st.integers(),
            st.floats(),
            st.dates(),
            _moments,
            st.decimals(allow_nan=False, allow_infinity=False),
        )
    ),
    st.lists(st.none() | st.integers() | st.text() | st.booleans() | _moments, max_size=5),
)


@given(_columns)
def test_a_column_at_a_time_is_as_one_value_at_a_time(column):
    written = texts(column, "x").to_pylist()

    one_by_one = [None if value is None else module._writer(type(value), "x")(value) for value in column]
    assert written == one_by_one


@given(st.floats(allow_nan=False))
def test_a_float_reads_back_the_same(value):
    [text] = texts([value], "x").to_pylist()

    assert float(text) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (dt.datetime(2026, 1, 1, 3, tzinfo=dt.timezone(dt.timedelta(hours=8))), "2025-12-31T19:00:00"),
        (dt.datetime(2026, 1, 1, 3, 0, 0, 500), "2026-01-01T03:00:00.000500"),
        (dt.datetime(1, 1, 1), "0001-01-01T00:00:00"),
        (2**70, "1180591620717411303424"),
        (decimal.Decimal("1E+3"), "1000"),
        (decimal.Decimal("0.10"), "0.10"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ([1, {"a": None, "é": [True]}, decimal.Decimal("1.50"), dt.date(2026, 1, 1)], '[1,{"a":null,"é":[true]},"1.50","2026-01-01"]'),
        (memoryview(b"\x00\xff"), "AP8="),
        (dt.timedelta(days=1, milliseconds=5), "86400.005"),
    ],
)
def test_the_canonical_text(value, text):
    assert texts([None, value], "x").to_pylist() == [None, text]


def test_a_type_without_a_text():
    with pytest.raises(DataError, match=r"column 'x' holds values of type object.*CAST"):
        texts([object()], "x")
