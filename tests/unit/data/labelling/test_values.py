import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines_lib.data.labelling.values import labels_of


def test_values_become_classes_and_one_that_is_missing_has_none(make_use_case):
    assert labels_of(pa.array(["buy", None, "view"]), make_use_case()).to_pylist() == ["yes", None, "no"]


def test_without_a_map_the_value_is_the_class(make_use_case):
    columns = {"x": {"type": "number"}, "quality": {"type": "integer", "role": "label"}}
    gate = {"metric": "accuracy", "floor": 0.1}
    use_case = make_use_case(task="multiclass", columns=columns, label={"column": "quality"}, split={}, gate=gate)

    assert labels_of(pa.array([5, 6, None]), use_case).to_pylist() == ["5", "6", None]


def regression(make_use_case):
    columns = {"x": {"type": "number"}, "power": {"type": "integer", "role": "label"}}
    return make_use_case(task="regression", columns=columns, label={"column": "power"}, split={}, gate={"metric": "rmse", "floor": 10})


def test_a_regression_keeps_the_number(make_use_case):
    labels = labels_of(pa.array([5, None, 7]), regression(make_use_case))

    assert (labels.to_pylist(), labels.type) == ([5.0, None, 7.0], pa.float64())


def test_a_whole_number_beyond_what_a_float_keeps_is_rounded(make_use_case):
    assert labels_of(pa.array([2**53 + 1]), regression(make_use_case)).to_pylist() == [2.0**53]


@pytest.fixture
def rich(make_use_case):
    columns = {"x": {"type": "number"}, "income": {"type": "number", "role": "label"}}
    label = {"column": "income", "threshold": {"at": 50_000, "above": "rich", "below": "poor"}, "positive": "rich"}
    return make_use_case(columns=columns, label=label, split={})


def test_a_threshold_belongs_to_those_above(rich):
    assert labels_of(pa.array([49_999.99, 50_000.0, None, 1e9]), rich).to_pylist() == ["poor", "rich", None, "rich"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.none(), st.floats(allow_nan=False))), st.integers(0, 20))
def test_a_label_does_not_depend_on_how_rows_are_cut(rich, values, cut):
    whole = labels_of(pa.array(values, pa.float64()), rich)
    parts = [labels_of(pa.array(part, pa.float64()), rich) for part in (values[:cut], values[cut:])]

    assert whole.to_pylist() == [label for part in parts for label in part.to_pylist()]
