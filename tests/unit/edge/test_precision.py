"""Smaller graphs: which rows fix the scales of int8_static."""

import numpy as np
import pyarrow as pa

from pipelines_lib.contracts import DatasetRef
from pipelines_lib.data.sides import TEST, TRAIN
from pipelines_lib.data.snapshot import Snapshot
from pipelines_lib.edge.precision import CALIBRATION_ROWS, calibration
from pipelines_lib.features.transform import FeatureTransform


def test_scales_are_fixed_by_training_rows_from_all_over_and_by_no_row_that_parity_is_measured_on():
    n_rows = 5 * CALIBRATION_ROWS
    places = np.arange(n_rows)
    rows = pa.table({"place": places.astype(float), "split": np.where(places % 2 == 0, TRAIN, TEST)})
    ref = DatasetRef(use_case="shop", table="labelled", version=0, partitions=("all",), n_rows=n_rows, config_hash="", content_hash="")
    transform = FeatureTransform.fit({"place": places.astype(float).tolist()}, {"place": "number"})
    [scale] = transform.numeric
    chosen = np.rint(calibration(Snapshot(ref, rows), transform)["numeric"][:, 0] * scale.deviation + scale.mean)
    assert CALIBRATION_ROWS <= len(chosen) < 2 * CALIBRATION_ROWS
    assert not np.any(chosen % 2)
    assert np.histogram(chosen, bins=4, range=(0, n_rows))[0].min() > len(chosen) / 5
