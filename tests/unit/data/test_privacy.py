"""What is done to columns about a person: nothing telling is left, and what is left is a value of the column's type."""

import datetime as dt

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipelines_lib.data.privacy import names_for_people, not_written, protect, protect_batch, shape
from pipelines_lib.data.pseudonyms import Pseudonyms
from pipelines_lib.data.records import Batch, Unreadable
from pipelines_lib.data.typed import cast
from pipelines_lib.use_case import UseCase

NAMES = Pseudonyms.under("k" * 64, "shop")
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
COLUMNS = {
    "who": {"type": "string", "role": "entity", "privacy": "identifier"},
    "mail": {"type": "string", "role": "other", "privacy": "identifier", "protect": "drop"},
    "age": {"type": "integer", "source": "Age (years)", "privacy": "quasi_identifier", "protect": {"bins": [0, 18, 40, 65]}},
    "income": {"type": "number", "privacy": "sensitive", "protect": {"bins": [-1.5, 0, 1e5]}},
    "zip": {"type": "string", "privacy": "quasi_identifier", "protect": {"keep": 2}},
    "seen": {"type": "timestamp", "role": "time", "privacy": "quasi_identifier", "protect": {"round": "month"}},
    "price": {"type": "number"},
    "action": {"type": "string", "role": "label", "privacy": "sensitive"},
}
SOURCES = ["who", "mail", "Age (years)", "income", "zip", "seen", "price", "action", "phone"]


@pytest.fixture
def use_case(make_use_case) -> UseCase:
    return make_use_case(columns=COLUMNS, clean=[{"to_missing": {"age": [999], "zip": ["****"], "who": ["unknown"]}}])


def table(**columns: list[str | None]) -> pa.Table:
    n = len(next(iter(columns.values())))
    return pa.table({name: pa.array(columns.get(name, [None] * n), pa.string()) for name in SOURCES})


def found(use_case: UseCase, column: str, *texts: str | None) -> list[str | None]:
    return protect(table(**{column: list(texts)}), use_case, NAMES)[column].to_pylist()


def test_an_identifier_is_one_person_however_it_is_padded(use_case):
    first, second, third, other, marker, empty, missing = found(use_case, "who", "A1", " A1", "A1\t", "a1", "unknown", "  ", None)

    assert first == second == third != other
    assert (marker, empty, missing) == ("unknown", None, None)


def test_a_number_becomes_the_bound_of_its_bin_and_stays_a_number(use_case):
    assert found(use_case, "Age (years)", "0", "17", " 18", "39", "64.0", "65", "120") == ["0", "0", "18", "18", "40", "65", "65"]
    assert found(use_case, "income", "-1.5", "-0.1", "1e5", "99999.9") == ["-1.5", "-1.5", "100000.0", "0.0"]


def test_what_is_no_value_stays_none_and_tells_nothing(use_case):
    assert found(use_case, "Age (years)", "Smith", "-5", "1990-05-01", "NA", "999", "999.0") == [
        "xxxxx",
        "<0",
        "9999-99-99",
        "NA",
        "999",
        "999.0",
    ]
    assert found(use_case, "seen", "Mr 7", "2026-02-30", "n/a") == ["xx 9", "9999-99-99", "n/a"]


def test_what_slipped_into_any_typed_column_tells_nothing(use_case):
    assert found(use_case, "price", "1.50", " 2", "zoe@a.de", "N/A", None) == ["1.50", " 2", "xxx@x.xx", "N/A", None]


def test_a_mask_hides_how_long_the_rest_is(use_case):
    assert found(use_case, "zip", "10115", "10", "1", " 94107-1234 ", "上海市黄浦区", "****") == ["10*", "10", "1", "94*", "上海*", "****"]


@pytest.mark.parametrize(
    ("unit", "text"),
    [("hour", "2026-05-17T13:00:00"), ("day", "2026-05-17"), ("month", "2026-05-01"), ("year", "2026-01-01")],
)
def test_a_time_becomes_the_start_of_its_unit(make_use_case, unit, text):
    seen = {**COLUMNS["seen"], "protect": {"round": unit}}

    assert found(make_use_case(columns={**COLUMNS, "seen": seen}), "seen", "2026/05/17 15:59:59+02:00") == [text]


def test_columns_that_are_dropped_or_not_declared_are_not_there(use_case):
    kept = protect(table(phone=["555"], mail=["a@b"]), use_case, NAMES)

    assert kept.column_names == ["who", "Age (years)", "income", "zip", "seen", "price", "action"]
    assert not_written(SOURCES, use_case) == ["mail", "phone"]


def test_where_nobody_is_concerned_everything_stays_as_it_came(make_use_case):
    rows = table(phone=[" 555 "])
    batch = Batch(rows, pa.array([2]), (Unreadable(3, "Mr 7"),))

    assert protect_batch(batch, make_use_case(), None) is batch
    assert not_written(SOURCES, make_use_case()) == []
    assert names_for_people(["a", "b"], make_use_case()) == "a, b"


def test_of_a_broken_record_its_shape_stays(use_case):
    batch = protect_batch(Batch(table(who=["A1"]), pa.array([2]), (Unreadable(3, 'Zoë;"12, Élm";a@b.de', "why"),)), use_case, NAMES)

    assert batch.unreadable == (Unreadable(3, 'xxx;"99, xxx";x@x.xx', "why"),)


def test_a_header_that_is_a_row_of_data_is_not_told(use_case):
    assert names_for_people(["who", "A1", "44"], use_case).startswith("who, 2 that are not declared")


@given(st.text())
def test_a_shape_keeps_no_letter_and_no_digit(text):
    drawn = shape(text)

    assert len(drawn) == len(text)
    assert all(c in "x9" or (c.isascii() and not c.isalnum()) for c in drawn)
    assert shape(drawn) == drawn


NUMBERS = st.integers(-100, 200).map(str) | st.floats(allow_nan=False).map(repr)
TIMES = st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2300, 1, 1)).map(dt.datetime.isoformat)
ROWS = st.lists(
    st.fixed_dictionaries({name: st.none() | TEXT | NUMBERS | TIMES | st.sampled_from(["999", "NA", "<0", "****"]) for name in SOURCES}),
    max_size=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # a use case is frozen
@given(rows=ROWS, data=st.data())
def test_batches_and_passes_change_nothing(use_case, rows, data):
    whole = pa.Table.from_pylist(rows, pa.schema([(name, pa.string()) for name in SOURCES]))
    cut = data.draw(st.integers(0, len(rows)))
    once = protect(whole, use_case, NAMES)

    assert pa.concat_tables([protect(part, use_case, NAMES) for part in (whole[:cut], whole[cut:])]).equals(once)
    assert protect(once, use_case, NAMES).equals(once)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS)
@example(rows=[dict.fromkeys(SOURCES) | {"Age (years)": "9007199254740994"}])  # more than a float holds
def test_a_value_stays_one_and_what_is_none_stays_none(make_use_case, rows):
    use_case = make_use_case(columns=COLUMNS)
    whole = pa.Table.from_pylist(rows, pa.schema([(name, pa.string()) for name in SOURCES]))
    after = protect(whole, use_case, NAMES)
    for source, type_, lowest in (("Age (years)", "integer", 0), ("income", "number", -1.5), ("seen", "timestamp", dt.datetime(1, 1, 1))):
        (old, failed), (new, fails) = cast(whole[source].combine_chunks(), type_), cast(after[source].combine_chunks(), type_)
        inside = [value is not None and value >= lowest for value in old.to_pylist()]
        assert [value is not None for value in new.to_pylist()] == inside
        assert fails.to_pylist() == [
            wrong or (value is not None and not within)
            for wrong, value, within in zip(failed.to_pylist(), old.to_pylist(), inside, strict=True)
        ]
        assert all(a <= b for a, b in zip(new.to_pylist(), old.to_pylist(), strict=True) if a is not None)
