"""What the tables say of a partition, as the governor sees it."""

import pyarrow as pa
import pytest

from pipelines_lib.monitoring.drift import compare
from pipelines_lib.monitoring.history import PERFORMANCE, drift_rows, measured_window, performance_row
from pipelines_lib.monitoring.sketch import profile_columns

DAY = "2026-01-05"


@pytest.fixture
def loss(make_use_case):
    """Returns `loss(source, **more)`: of a partition whose ROC AUC is 0.72 (0.70 to 0.74), where the hold-out's was 0.8."""
    profile = profile_columns({"x": [1.0, 2.0] * 200}, {"x": "number"})
    drift = drift_rows(compare(profile, profile, 0.2), model_version=1)

    def of(source, metric="roc_auc", **more):
        row = performance_row(source, metric=metric, value=0.72, low=0.70, high=0.74, reference=0.8, n_rows=400, model_version=1, **more)
        return measured_window(make_use_case(), DAY, drift, pa.Table.from_pylist([row], schema=PERFORMANCE), None).loss

    return of


def test_a_loss_is_no_surer_than_the_figure_it_is_held_against(loss):
    of_partition = loss("realised")
    assert (of_partition.share, of_partition.low, of_partition.high) == pytest.approx((0.1, 0.075, 0.125))
    of_both = loss("realised", reference_error=0.04)
    assert of_both.share == of_partition.share
    assert (of_both.low, of_both.high) == pytest.approx((-0.0312, 0.2312), abs=1e-4), "√(0.025² + (2.576 · 0.05)²) on either side"
    assert loss("estimated", reference_error=0.04) == loss("estimated"), "which was calibrated on the hold-out's rows"


def test_a_calibration_error_is_no_loss(loss):
    assert loss("realised", metric="calibration_error") is None


@pytest.mark.parametrize(
    ("missing_then", "n_now", "broken"), [(0, 1, False), (0, 3, True), (80, 3, False), (80, 9, True), (240, 400, False)]
)
def test_a_column_without_any_value_is_bad_data_where_chance_does_not_explain_it(missing_then, n_now, broken, make_use_case):
    """Of 400 rows so many had none when the model was trained."""
    then = profile_columns({"x": [None] * missing_then + [1.0, 2.0] * (200 - missing_then // 2)}, {"x": "number"})
    now = profile_columns({"x": [None] * n_now}, {"x": "number"})
    found = measured_window(make_use_case(), DAY, drift_rows(compare(then, now, 0.2), model_version=1), None, None)
    assert found.bad_data == ("no row has a value of x" if broken else "")


def test_rows_of_before_the_error_was_kept_are_read(loss, make_use_case):
    row = performance_row("realised", metric="roc_auc", value=0.72, low=0.70, high=0.74, reference=0.8, n_rows=400, model_version=1)
    table = pa.Table.from_pylist([row], schema=PERFORMANCE).drop_columns(["reference_error"])
    profile = profile_columns({"x": [1.0, 2.0] * 200}, {"x": "number"})
    drift = drift_rows(compare(profile, profile, 0.2), model_version=1)
    assert measured_window(make_use_case(), DAY, drift, table, None).loss == loss("realised")
