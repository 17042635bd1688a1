"""Windows of sensors as channels: one scale for all steps, and a step that is missing says so."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipelines_lib.features.transform import FeatureTransform

TYPES = {"heat_0": "number", "heat_1": "integer", "on_0": "boolean", "on_1": "boolean", "age": "number"}
WINDOWS = {"heat": ["heat_0", "heat_1"], "on": ["on_0", "on_1"]}
COLUMNS = {
    "heat_0": [1.0, None, 3.0],
    "heat_1": [5.0, 7.0, None],
    "on_0": [True, None, False],
    "on_1": [True, True, True],
    "age": [1.0, 2.0, 3.0],
}


def test_the_steps_of_a_sensor_share_one_scale_and_say_what_is_missing():
    transform = FeatureTransform.fit(COLUMNS, TYPES, (), WINDOWS)
    found = transform.apply(COLUMNS)
    assert [scale.name for scale in transform.numeric] == ["age"]
    known = np.array([1.0, 3.0, 5.0, 7.0])
    heat, on, has_heat, has_on = np.moveaxis(found["series"], 2, 0)
    expected = (np.array([[1, 5], [4, 7], [3, 4]]) - known.mean()) / known.std()
    np.testing.assert_allclose(heat, np.where([[1, 1], [0, 1], [1, 0]], expected, 0), rtol=1e-6)
    assert has_heat.tolist() == [[1, 1], [0, 1], [1, 0]]
    assert has_on.tolist() == [[1, 1], [0, 1], [1, 1]]
    assert on[0, 0] == on[0, 1] > 0 > on[2, 0]


def test_the_json_is_the_same_transform():
    transform = FeatureTransform.fit(COLUMNS, TYPES, (), WINDOWS)
    again = FeatureTransform.from_json(transform.to_json())
    assert again == transform
    assert again.to_json() == transform.to_json()


def test_a_format_without_series_is_read_still():
    plain = FeatureTransform.fit(COLUMNS, TYPES)
    import json

    document = json.loads(plain.to_json())
    assert document.pop("series") == []
    assert FeatureTransform.from_json(json.dumps(document | {"format": 2})) == plain


@given(arrays(np.float64, (6, 3), elements=st.floats(allow_nan=True, allow_infinity=True)))
def test_any_window_is_finite_and_marked(values):
    columns = {f"x_{step}": values[:, step] for step in range(3)}
    transform = FeatureTransform.fit(columns, dict.fromkeys(columns, "number"), (), {"x": list(columns)})
    found = transform.apply(columns)["series"]
    assert np.isfinite(found).all()
    assert np.abs(found).max() <= 10
    assert (found[:, :, 1] == np.isfinite(values)).all()
    assert (found[:, :, 0][~np.isfinite(values)] == 0).all()
