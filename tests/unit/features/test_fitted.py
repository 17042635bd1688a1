"""Outliers and imputation: figures of the training rows, the same for every row after."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.features.fitted import changes
from pipelines_lib.features.transform import FeatureTransform
from pipelines_lib.use_case import CleaningStep

TYPES = {"price": "number", "city": "string"}
ROWS = {"price": [1.0, 2.0, 3.0, 4.0, None, 1000.0], "city": ["Bonn", "Köln", None, "Köln", "Bonn", "Ulm"]}


def fit(*steps, rows=ROWS, types=TYPES):
    return FeatureTransform.fit(rows, types, [CleaningStep.model_validate(step) for step in steps])


def outliers(method, action, **more):
    return {"outliers": {"columns": ["price"], "method": method, "action": action, **more}}


def test_tukey_s_fences_are_those_of_the_training_rows():
    [part] = fit(outliers("iqr", "clip")).fitted

    first, third = np.quantile([1, 2, 3, 4, 1000], [0.25, 0.75])
    assert (part.low, part.high) == (first - 1.5 * (third - first), third + 1.5 * (third - first)) == (-1.0, 7.0)
    assert part.apply([-50, 0, 1000, None], "number").tolist()[:3] == [-1.0, 0.0, 7.0]
    assert part.n_changed == 1


def test_deviations_from_the_mean():
    [part] = fit(outliers("zscore", "to_missing", times=1)).fitted

    known = np.array([1, 2, 3, 4, 1000.0])
    assert (part.low, part.high) == pytest.approx((known.mean() - known.std(), known.mean() + known.std()))
    assert math.isnan(part.apply([1000], "number")[0])


def test_a_bound_may_be_open():
    [part] = fit(outliers("bounds", "clip", high=3)).fitted

    assert part.apply([-1e9, 4], "number").tolist() == [-1e9, 3.0]


@pytest.mark.parametrize("method", ["iqr", "zscore"])
@pytest.mark.parametrize("values", [[5.0] * 9, [None, None], [0.0]])
def test_without_spread_there_are_no_outliers(method, values):
    [part] = fit(outliers(method, "flag"), rows={"price": values}, types={"price": "number"}).fitted

    assert (part.low, part.high, part.n_changed) == (None, None, 0)
    assert part.apply([1e9], "number").tolist() == [0.0]


def test_a_column_that_is_mostly_one_value_keeps_the_others():
    [part] = fit(outliers("iqr", "clip"), rows={"price": [0.0] * 9 + [7.0]}, types={"price": "number"}).fitted

    assert part.apply([7.0], "number").tolist() == [7.0]


def test_a_flag_is_one_more_input():
    transform = fit(outliers("iqr", "flag"))

    assert transform.columns == TYPES  # what a request must bring stays the same
    assert [scale.name for scale in transform.numeric] == ["price", "price_outlier"]
    calm, wild, missing = transform.apply({"price": [2.0, 900.0, None], "city": ["Bonn"] * 3})["numeric"][:, 1]
    assert wild > calm
    assert missing == calm


def test_an_outlier_that_is_forgotten_is_imputed_by_the_rest():
    transform = fit(outliers("iqr", "to_missing"), {"impute": {"price": "mean"}})

    assert transform.fitted[1].value == 2.5  # without the thousand
    assert transform.fitted[1].n_changed == 2
    same = transform.apply({"price": [None, 1000.0, 2.5], "city": [None] * 3})["numeric"][:, 0]
    assert len(set(same.tolist())) == 1


@pytest.mark.parametrize(("statistic", "value"), [("median", 3.0), ("mean", 202.0), ("mode", 1.0)])
def test_each_statistic(statistic, value):
    assert fit({"impute": {"price": statistic}}).fitted[0].value == value


def test_the_most_frequent_word_stands_in_and_of_several_the_first():
    transform = fit({"impute": {"city": "mode"}})

    assert transform.fitted[0].value == "Bonn"
    missing, bonn = transform.apply({"price": [1.0, 1.0], "city": [None, "Bonn"]})["categorical"][:, 0]
    assert missing == bonn != 0


def test_a_column_without_a_value_stays_missing():
    transform = fit({"impute": {"price": "mean", "city": "mode"}}, rows={"price": [None, None], "city": [None, None]})

    assert [part.value for part in transform.fitted] == [None, None]
    assert transform.apply({"price": [None], "city": [None]})["categorical"].tolist() == [[0]]


def test_a_report_of_figures_and_no_words():
    transform = fit(outliers("iqr", "clip"), {"impute": {"city": "mode"}})

    assert changes(transform.fitted) == [
        {"column": "price", "step": "clip", "low": -1.0, "high": 7.0, "values_changed": 1},
        {"column": "city", "step": "impute", "values_changed": 1},
    ]


STEPS = st.lists(
    st.sampled_from(
        [
            outliers("iqr", "clip"),
            outliers("iqr", "to_missing", times=0.5),
            outliers("zscore", "clip", times=1),
            outliers("bounds", "to_missing", low=-5),
            {"impute": {"price": "median"}},
            {"impute": {"price": "mode", "city": "mode"}},
            outliers("zscore", "flag"),
        ]
    ),
    max_size=4,
    unique_by=lambda step: step.get("outliers", {}).get("action") == "flag" or id(step),
)
PRICES = st.lists(st.none() | st.floats(), min_size=1, max_size=8)


@given(STEPS, PRICES, PRICES)
def test_figures_come_from_the_training_rows_and_survive_json(steps, train, served):
    transform = fit(*steps, rows={"price": train, "city": ["Bonn"] * len(train)})
    again = FeatureTransform.from_json(transform.to_json())
    rows = {"price": served, "city": ["Ulm"] * len(served)}

    together = transform.apply(rows)
    assert again == transform
    for name, array in again.apply(rows).items():
        assert np.isfinite(array).all()
        np.testing.assert_array_equal(array, together[name])
    for place in range(len(served)):
        alone = transform.apply({name: [values[place]] for name, values in rows.items()})
        np.testing.assert_array_equal(alone["numeric"][0], together["numeric"][place])


def test_a_transform_of_the_first_format_is_read():
    text = (
        '{"format": 1, "columns": {"x": "number"}, "numeric": [{"name": "x", "type": "number", "median": 2.0, "mean": 2.0, "deviation": 1.0}],'
        ' "categorical": [], "text": [], "buckets": 2}'
    )

    assert FeatureTransform.from_json(text).apply({"x": [None, 3.0]})["numeric"].tolist() == [[0.0], [1.0]]
