"""What cleaning does to a value is done to a served one as well."""

import math

import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipelines_lib.data.cleaning import clean
from pipelines_lib.data.typed import ARROW_TYPES
from pipelines_lib.features.transform import FeatureTransform
from pipelines_lib.use_case import CleaningStep
from pipelines_lib.use_case.cleaning import undone

TYPES = {"age": "integer", "price": "number", "member": "boolean", "city": "string", "note": "text"}
NUMBERS = st.sampled_from([-3, 0, 1, 2, 7])
WORDS = st.sampled_from(["bonn", "Bonn", "ＢＯＮＮ", "none", "a  b", "x"])
VALUES = {
    "age": st.none() | NUMBERS,
    "price": st.none() | NUMBERS.map(float) | st.floats(-9, 9, allow_nan=False),
    "member": st.none() | st.booleans(),
    "city": st.none() | WORDS,
    "note": st.none() | WORDS,
}


def bounds(low, high):
    return (min(low, high), max(low, high))


def step(**setting):
    return CleaningStep.model_validate(setting)


STEPS = st.one_of(
    st.builds(
        lambda name, values: step(to_missing={name: values}), st.sampled_from(["age", "price"]), st.lists(NUMBERS, min_size=1, max_size=2)
    ),
    st.builds(lambda name, value: step(fill={name: value}), st.sampled_from(["age", "price"]), NUMBERS),
    st.builds(
        lambda name, low, high: step(clip={name: bounds(low, high)}),
        st.sampled_from(["age", "price"]),
        NUMBERS,
        NUMBERS.map(lambda n: n + 0.5),
    ),
    st.builds(lambda value: step(fill={"member": value}), st.sampled_from([0, 1, "true"])),
    st.builds(
        lambda name, values: step(to_missing={name: values}), st.sampled_from(["city", "note"]), st.lists(WORDS, min_size=1, max_size=2)
    ),
    st.builds(lambda name, value: step(fill={name: value}), st.sampled_from(["city", "note"]), WORDS | st.sampled_from([1, 2.0])),
    st.builds(
        lambda name, wanted: step(normalise={name: sorted(wanted)}),
        st.sampled_from(["city", "note"]),
        st.sets(st.sampled_from(["nfkc", "lower", "blanks"]), min_size=1),
    ),
    st.just(step(drop_missing=["row_id"])),
)


@given(st.lists(STEPS, max_size=5), st.lists(st.fixed_dictionaries(VALUES), min_size=1, max_size=8))
def test_a_served_row_becomes_what_the_clean_layer_would_hold(steps, rows):
    columns = {name: [row[name] for row in rows] for name in TYPES}
    table = pa.table(
        {
            "row_id": pa.array([str(i) for i in range(len(rows))]),
            **{name: pa.array(columns[name], ARROW_TYPES[kind]) for name, kind in TYPES.items()},
        }
    )
    expected = clean(table, steps)[0]
    transform = FeatureTransform.fit(columns, TYPES, steps)

    served = transform.cleaned(columns)

    for name in TYPES:
        if served[name] is not columns[name]:
            assert pa.array(served[name], ARROW_TYPES[TYPES[name]]).equals(expected[name].combine_chunks()), name
        else:
            assert expected[name].to_pylist() == columns[name]
    assert FeatureTransform.from_json(transform.to_json()) == transform


@given(st.lists(STEPS, max_size=5), st.lists(st.fixed_dictionaries(VALUES), min_size=1, max_size=8))
def test_where_the_rules_hold_a_cleaned_row_is_left_alone(steps, rows):
    for name, kind in TYPES.items():
        assume(not undone(steps, name, kind == "integer"))
    columns = {name: [row[name] for row in rows] for name in TYPES}
    transform = FeatureTransform.fit(columns, TYPES, steps)

    once = transform.cleaned(columns)

    assert transform.cleaned(once) == once
    for name, array in transform.apply(once).items():
        assert array.tolist() == transform.apply(columns)[name].tolist()


@pytest.mark.parametrize(("name", "given_", "kept"), [("city", [" Bonn ", "", " "], ["Bonn", None, None]), ("note", ["\ta b\n"], ["a b"])])
def test_blanks_around_a_served_text_are_dropped(name, given_, kept):
    transform = FeatureTransform.fit({name: ["Bonn", "Bonn", "a b"]}, {name: TYPES[name]})

    [(_, array)] = transform.apply({name: given_}).items()
    [(_, expected)] = transform.apply({name: kept}).items()
    assert array.tolist() == expected.tolist()


def test_a_marker_that_is_no_number_takes_no_part():
    transform = FeatureTransform.fit({"age": [1.0, math.nan]}, {"age": "integer"}, [step(to_missing={"age": ["****", 0]})])

    assert transform.rows[0].values == (0.0,)
    assert transform.cleaned({"age": [0, 5]}) == {"age": [None, 5.0]}
