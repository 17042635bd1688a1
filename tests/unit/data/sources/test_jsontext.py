import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.data.sources.jsontext import AS_WRITTEN, Digits, cell, written

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=12,
)


def read(text: str):
    return json.loads(text, **AS_WRITTEN)


@given(VALUES)
def test_what_was_read_is_written_as_it_stood(value):
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    assert written(read(text)) == text


@pytest.mark.parametrize("number", ["-0", "1.50", "1E400", "-0.0", "NaN", "9" * 5000])
def test_numbers_stay_as_they_are_written(number):
    assert cell(read(number)) == number
    assert cell(read(f'[{number},{{"a":{number}}}]')) == f'[{number},{{"a":{number}}}]'


@pytest.mark.parametrize(
    ("value", "text"), [(None, None), ("", ""), ('"', '"'), (True, "true"), (Digits("1"), "1"), ({}, "{}"), ([], "[]")]
)
def test_a_cell(value, text):
    assert cell(value) == text


def test_what_json_can_read_can_be_written():
    for opening, closing in (("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")):
        text = opening * 400 + "1" + closing * 400
        assert written(read(text)) == text
