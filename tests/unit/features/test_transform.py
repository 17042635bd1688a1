"""The feature transform: fitted on training rows, total on any row, the same everywhere."""

import json
import math
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines_lib.errors import DataError
from pipelines_lib.features.text import _TOKEN, tokens
from pipelines_lib.features.transform import MAX_SCALED, MAX_TOKENS, FeatureTransform

TYPES = {"age": "integer", "price": "number", "member": "boolean", "city": "string", "note": "text"}
ROWS = {
    "age": [20, 30, 40, None],
    "price": [1.0, 2.0, float("nan"), 3.0],
    "member": [True, False, None, True],
    "city": ["Bonn", "Köln", "Bonn", None],
    "note": ["Hello, hello world", "你好 world", None, ""],
}
FITTED = FeatureTransform.fit(ROWS, TYPES)

anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=10**400, max_value=10**401),
    st.floats(),
    st.text(st.characters(exclude_categories=())),
    st.sampled_from(["nan", "inf", "-Infinity", "1e999", "1_0", "true", " 7 ", b"x", [1], {}, 1j, np.float32(2), np.int64(-3), np.nan]),
)
rows_of_anything = st.integers(0, 5).flatmap(
    lambda n: st.fixed_dictionaries({name: st.lists(anything, min_size=n, max_size=n) for name in TYPES})
)


@settings(deadline=None)
@given(rows_of_anything)
def test_any_value_becomes_arrays_of_constant_shape_dtype_and_range(rows):
    n = len(rows["age"])
    arrays = FITTED.apply(rows)
    assert {name: (a.shape, a.dtype.name) for name, a in arrays.items()} == {
        "numeric": ((n, 3), "float32"),
        "categorical": ((n, 1), "int64"),
        "text": ((n, FITTED.text[0].length), "int64"),
    }
    assert np.isfinite(arrays["numeric"]).all()
    assert (np.abs(arrays["numeric"]) <= MAX_SCALED).all()
    assert ((arrays["categorical"] >= 0) & (arrays["categorical"] < FITTED.categorical[0].size)).all()
    assert ((arrays["text"] >= 0) & (arrays["text"] < FITTED.buckets)).all()


@settings(deadline=None)
@given(rows_of_anything)
def test_fitting_on_anything_gives_a_transform_that_survives_json(rows):
    fitted = FeatureTransform.fit(rows, TYPES)
    again = FeatureTransform.from_json(fitted.to_json())
    assert again == fitted
    assert again.to_json() == fitted.to_json()
    for name, array in fitted.apply(rows).items():
        assert np.isfinite(array).all()
        np.testing.assert_array_equal(array, again.apply(rows)[name])


@settings(deadline=None)
@given(rows_of_anything)
def test_a_row_is_transformed_alike_alone_and_among_others(rows):
    together = FITTED.apply(rows)
    for i in range(len(rows["age"])):
        alone = FITTED.apply({name: [values[i]] for name, values in rows.items()})
        for name, array in alone.items():
            np.testing.assert_array_equal(array[0], together[name][i])


def test_numbers_are_filled_with_the_median_and_standardised():
    arrays = FITTED.apply(ROWS)
    numeric = arrays["numeric"].astype(np.float64)
    np.testing.assert_allclose(numeric.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(numeric.std(axis=0), 1, atol=1e-6)
    assert numeric[3, 0] == numeric[1, 0]  # the missing age is the median, 30


def test_numpy_arrays_and_lists_give_the_same():
    columns = {
        "age": np.array([20.0, 30, 40, np.nan]),
        "price": np.array([1, 2, np.nan, 3], np.float32),
        "member": np.array([1, 0, np.nan, 1]),
        "city": np.array(ROWS["city"], dtype=object),
        "note": np.array(ROWS["note"], dtype=object),
    }
    for name, array in FITTED.apply(columns).items():
        np.testing.assert_array_equal(array, FITTED.apply(ROWS)[name])


def test_numbers_are_read_from_text_and_the_unreadable_is_missing():
    scale = FITTED.numeric[0]
    np.testing.assert_array_equal(scale.apply(["20", " 4e1 ", "x", "1_0", "inf", 10**400]), scale.apply([20, 40, None, None, None, None]))


def test_a_boolean_that_is_neither_true_nor_false_is_missing():
    scale = FITTED.numeric[2]
    np.testing.assert_array_equal(scale.apply([2, "yes", "TRUE", 0.0, "false"]), scale.apply([None, None, True, False, False]))
    np.testing.assert_array_equal(scale.apply(np.array([2, 0, 1])), scale.apply([None, False, True]))


def test_unknown_rare_and_missing_categories_share_place_zero():
    assert FITTED.categorical[0].words == ("Bonn",)  # Köln was seen once
    assert FITTED.apply(ROWS)["categorical"][:, 0].tolist() == [1, 0, 1, 0]


def test_a_constant_column_is_zero_whatever_its_value():
    fitted = FeatureTransform.fit({"x": [0.1 + 0.2] * 7}, {"x": "number"})
    np.testing.assert_allclose(fitted.apply({"x": [0.3, 0.1 + 0.2]})["numeric"], 0, atol=1e-12)


def test_tokens_are_lower_case_words_and_single_chinese_characters():
    assert tokens("Where's MY ＯＲＤＥＲ 退款99元?", 99) == ["where", "s", "my", "order", "退", "款", "99", "元"]
    assert len(tokens("a " * 1000, MAX_TOKENS)) == MAX_TOKENS


def slow_tokens(text, limit):
    """As the definition says, one match after the other."""
    found = _TOKEN.finditer(unicodedata.normalize("NFKC", text).lower())
    return [match.group() for match in found][:limit]


@given(
    st.one_of(st.text(st.characters(exclude_categories=())), st.text(st.characters(max_codepoint=127))),
    st.integers(1, 8),
    st.sampled_from([1, 400]),
)
def test_tokens_are_the_same_whichever_way_is_fast(text, limit, times):
    assert tokens(text * times, limit) == slow_tokens(text * times, limit)


def test_a_word_has_other_ids_in_another_column():
    fitted = FeatureTransform.fit({"a": ["word"], "b": ["word"]}, {"a": "text", "b": "text"})
    [[first, second]] = fitted.apply({"a": ["word"], "b": ["word"]})["text"]
    assert first != second


def test_only_the_inputs_there_are_come_out():
    assert list(FeatureTransform.fit({"x": [1.0]}, {"x": "number"}).apply({"x": [1.0]})) == ["numeric"]
    assert list(FeatureTransform.fit({"x": ["a"]}, {"x": "string"}).apply({"x": ["a"]})) == ["categorical"]


def test_another_process_makes_the_same_transform_and_arrays():
    code = (
        "import json, sys; from pipelines_lib.features.transform import FeatureTransform as T; d = json.load(sys.stdin);"
        "t = T.fit(d['rows'], d['types']); a = t.apply(d['rows']);"
        "print(json.dumps([t.to_json(), {k: v.tolist() for k, v in a.items()}, 'pandas' in sys.modules, 'torch' in sys.modules]))"
    )
    rows = {name: [None if isinstance(v, float) and math.isnan(v) else v for v in values] for name, values in ROWS.items()}
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps({"rows": rows, "types": TYPES}),
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        )
        transform, arrays, *heavy = json.loads(done.stdout)
        assert transform == FITTED.to_json()
        assert arrays == {name: array.tolist() for name, array in FITTED.apply(ROWS).items()}
        assert heavy == [False, False]


def test_an_absent_column_and_unequal_lengths_are_refused():
    with pytest.raises(DataError, match="'city' is absent"):
        FITTED.apply({name: values for name, values in ROWS.items() if name != "city"})
    with pytest.raises(DataError, match="differ in length"):
        FITTED.apply(ROWS | {"city": ["Bonn"]})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "columns": {}}', "\x00"])
def test_what_is_no_transform_is_refused(text):
    with pytest.raises(DataError):
        FeatureTransform.from_json(text)


@settings(deadline=None)
@given(st.lists(st.none() | st.floats(), min_size=1, max_size=60), st.integers(1, 12))
def test_the_pieces_of_a_number_rise_and_span_what_the_training_rows_had(values, pieces):
    fitted = FeatureTransform.fit({"x": values}, {"x": "number"}, pieces=pieces)
    [scale] = fitted.numeric
    assert FeatureTransform.from_json(fitted.to_json()) == fitted
    known = np.unique(scale.apply([value for value in values if value is not None and math.isfinite(value)]))
    assert len(scale.edges) == 0 or 3 <= len(scale.edges) <= pieces + 1
    assert np.all(np.diff(np.float32(scale.edges)) > 0)
    if scale.edges:
        assert (scale.edges[0], scale.edges[-1]) == (known[0], known[-1])
    elif pieces > 1 and len(known) > 2:
        # Quantiles that fall on two values, or one, leave nothing to bend at.
        counts = np.unique(scale.apply([value for value in values if value is not None and math.isfinite(value)]), return_counts=True)[1]
        assert pieces < len(known) or counts.max() > 1


def test_pieces_hold_as_many_rows_each():
    values = np.random.default_rng(0).exponential(size=1000)
    [scale] = FeatureTransform.fit({"x": values}, {"x": "number"}, pieces=4).numeric
    counts, _ = np.histogram(scale.apply(values), np.float32(scale.edges))
    assert len(scale.edges) == 5
    assert np.all(np.abs(counts - 250) <= 1)


def test_two_values_have_no_pieces_since_a_number_says_as_much():
    fitted = FeatureTransform.fit({"x": [0, 1] * 9, "y": [True, False] * 9}, {"x": "number", "y": "boolean"}, pieces=8)
    assert [scale.edges for scale in fitted.numeric] == [(), ()]


def test_grams_of_a_text_are_told_apart_from_its_words():
    columns, types = {"note": ["lost card", "a lost parcel"]}, {"note": "text"}
    words, grams = (FeatureTransform.fit(columns, types, grams=wanted) for wanted in (False, True))
    assert (words.text[0].length, grams.text[0].length) == (3, 15)
    assert FeatureTransform.from_json(grams.to_json()) == grams
    alike = grams.apply({"note": ["cards"]})["text"], grams.apply({"note": ["card"]})["text"]
    assert len({*alike[0][0]} & {*alike[1][0]} - {0}) == 3  # <ca, car, ard


def test_a_transform_of_the_third_format_is_read():
    text = (
        '{"format": 3, "columns": {"x": "number", "note": "text"}, "rows": [], "fitted": [],'
        ' "numeric": [{"name": "x", "type": "number", "median": 2.0, "mean": 2.0, "deviation": 1.0}],'
        ' "categorical": [], "text": [{"name": "note", "length": 2}], "buckets": 64, "series": []}'
    )
    arrays = FeatureTransform.from_json(text).apply({"x": [3.0], "note": ["one two three"]})
    assert arrays["numeric"].tolist() == [[1.0]]
    assert arrays["text"].shape == (1, 2)


@given(st.lists(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4)), min_size=65, max_size=80))
def test_few_rows_at_once_and_many_column_by_column_are_the_same(values):
    columns = {"amount": values, "age": values[::-1], "member": values}
    types = {"amount": "number", "age": "integer", "member": "boolean"}
    transform = FeatureTransform.fit(columns, types)
    many = transform.apply(columns)["numeric"]
    few = [
        transform.apply({name: column[row : row + 5] for name, column in columns.items()})["numeric"] for row in range(0, len(values), 5)
    ]
    assert np.concatenate(few).tobytes() == many.tobytes()
