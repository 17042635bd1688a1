"""Arrow's columns mean to the transform and to the profile what the same values in a list mean."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.errors import DataError
from pipelines_lib.features import arrow
from pipelines_lib.features.arrow import Features, feature_columns
from pipelines_lib.features.transform import FeatureTransform
from pipelines_lib.features.values import Distinct, counted_texts, distinct_texts
from pipelines_lib.monitoring.sketch import profile_columns
from pipelines_lib.use_case import CleaningStep

TYPES = {"age": "integer", "price": "number", "member": "boolean", "city": "string", "note": "text"}
KINDS = {"age": pa.int64(), "price": pa.float64(), "member": pa.bool_(), "city": pa.string(), "note": pa.string()}
STEPS = [
    {"to_missing": {"city": ["?", "x"], "age": [0], "note": ["n/a"]}},
    {"normalise": {"city": ["nfkc", "lower", "blanks"], "note": ["nfkc"]}},
    {"fill": {"note": "nothing said", "member": True}},
    {"clip": {"age": [-5, 90]}},
    {"outliers": {"columns": ["age"], "method": "iqr", "action": "to_missing"}},
    {"outliers": {"columns": ["price"], "method": "zscore", "times": 1, "action": "flag"}},
    {"impute": {"price": "median", "city": "mode", "member": "mode", "age": "mean"}},
    {"outliers": {"columns": ["price"], "method": "bounds", "high": 3, "action": "clip"}},
]

texts = st.one_of(
    st.none(),
    st.sampled_from(["", " ", "x", " x", "X ", "?", "n/a", "Ａ", "ａ b", "a  b", "\u3000", "\u200b", "西安", "1", "nan", "true"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
)
values = {
    "age": st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3),
    "price": st.none() | st.floats() | st.sampled_from([0.0, -0.0, float("nan"), float("inf"), 1.5]),
    "member": st.none() | st.booleans(),
    "city": texts,
    "note": texts,
}
rows = st.integers(0, 12).flatmap(
    lambda n: st.fixed_dictionaries({name: st.lists(value, min_size=n, max_size=n) for name, value in values.items()})
)


def table(rows, cut=0):
    """The rows in Arrow, in two chunks."""
    whole = pa.table({name: pa.array(rows[name], KINDS[name]) for name in rows})
    return pa.concat_tables([whole.slice(0, cut), whole.slice(cut)])


@given(rows, rows, st.integers(0, 12), st.booleans())
def test_a_transform_fitted_and_applied_by_arrow_is_the_one_of_lists(train, other, cut, clean):
    steps = [CleaningStep.model_validate(step) for step in STEPS] if clean else []
    asked = {"pieces": 4, "grams": True} if clean else {}
    fitted = FeatureTransform.fit(train, TYPES, steps, **asked)

    by_arrow = FeatureTransform.fit(feature_columns(table(train, cut), TYPES), TYPES, steps, **asked)
    assert by_arrow.to_json() == fitted.to_json()
    one_at_a_time = Features(table(train, cut).column, list(TYPES), TYPES)
    assert FeatureTransform.fit(one_at_a_time, TYPES, steps, **asked).to_json() == fitted.to_json()
    for some in (train, other):
        expected, found = fitted.apply(some), fitted.apply(feature_columns(table(some, cut), TYPES))
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)


@given(rows, st.integers(0, 12))
def test_a_profile_of_arrow_is_the_one_of_lists(rows, cut):
    assert profile_columns(feature_columns(table(rows, cut), TYPES), TYPES).to_json() == profile_columns(rows, TYPES).to_json()


@given(rows, st.permutations(list(TYPES.values())))
def test_a_column_of_another_type_than_the_model_knows_is_read_as_a_list_is(rows, kinds):
    types = dict(zip(TYPES, kinds, strict=True))
    fitted = FeatureTransform.fit({name: table(rows)[name].to_pylist() for name in types}, types)
    found = fitted.apply(feature_columns(table(rows), types))
    for name, array in fitted.apply(rows).items():
        np.testing.assert_array_equal(found[name], array)


@given(st.lists(texts, max_size=30), st.integers(0, 30))
def test_distinct_values_are_the_sequence_of_the_rows(column, cut):
    found = feature_columns(pa.table({"city": pa.chunked_array([column[:cut], column[cut:]], pa.string())}), {"city": "string"})["city"]
    assert isinstance(found, Distinct)
    assert (list(found), len(found), found[2:5]) == (column, len(column), column[2:5])
    assert [found[row] for row in range(len(found))] == column
    assert sorted(found.values, key=str) == sorted(set(column), key=str)
    assert counted_texts(found) == counted_texts(column)
    assert set(distinct_texts(found)) == set(distinct_texts(column))


@given(st.lists(texts, max_size=30), st.integers(0, 30), st.sets(st.integers(0, 29)))
def test_a_column_that_came_encoded_is_the_same_whatever_its_dictionaries(column, cut, picked):
    wanted = [row for row in sorted(picked) if row < len(column)]
    encoded = pa.chunked_array([pa.array(part, pa.string()).dictionary_encode() for part in (column[:cut], column[cut:])]).take(
        pa.array(wanted, pa.int64())
    )
    found = feature_columns(pa.table({"city": encoded}), {"city": "string"})["city"]
    assert list(found) == [column[row] for row in wanted]
    assert sorted(found.values, key=str) == sorted(set(found), key=str)


def test_columns_come_as_the_transform_takes_them():
    rows = pa.table({"x": [1.5, None], "n": [1, None], "flag": [True, None], "town": ["西安", None]})
    found = feature_columns(rows, {"x": "number", "n": "integer", "flag": "boolean", "town": "string"})
    np.testing.assert_array_equal(found["x"], [1.5, np.nan])
    np.testing.assert_array_equal(found["n"], [1.0, np.nan])
    assert (list(found["flag"]), list(found["town"])) == ([True, None], ["西安", None])
    # A model may be older than a column's type.
    assert list(feature_columns(rows, {"town": "number"})["town"]) == ["西安", None]
    with pytest.raises(DataError, match="no column gone"):
        feature_columns(rows, {"gone": "number"})


def test_a_column_beyond_the_reach_of_short_offsets_is_the_same(monkeypatch):
    rows = pa.table({"note": ["a b", None, "c", "a b"]})
    before = list(feature_columns(rows, {"note": "text"})["note"])
    monkeypatch.setattr(arrow, "_MUCH", 0)
    assert list(feature_columns(rows, {"note": "text"})["note"]) == before == ["a b", None, "c", "a b"]
