"""A graph in a smaller number format."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import onnx
import pyarrow as pa
import pyarrow.compute as pc
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.transformers.float16 import convert_float_to_float16

from pipelines_lib.data.sides import TRAIN
from pipelines_lib.data.snapshot import Snapshot
from pipelines_lib.features.arrow import feature_columns
from pipelines_lib.features.transform import Arrays, FeatureTransform

Precision = Literal["fp32", "fp16", "int8", "int8_static"]
CALIBRATION_ROWS = 512
_STATIC = ["Conv", "Gather", "Gemm", "MatMul"]
"""What is quantised with fixed scales. With the additions and products between them scores move five times as far, for a tenth of the bytes."""


def in_precision(model: bytes, precision: Precision, calibration: Arrays | None = None) -> bytes:
    """The graph with weights of that format; inputs and scores stay float32.

    int8 is dynamic: what flows between the layers is scaled anew for each call. int8_static scales it as the rows of `calibration` ask for, once,
    which saves that work and does not follow a row that is unlike them.
    """
    if precision == "fp32":
        return model
    if precision == "fp16":
        out = io.BytesIO()
        onnx.save(convert_float_to_float16(onnx.load_from_string(model), keep_io_types=True), out)
        return out.getvalue()
    with TemporaryDirectory() as folder, _quiet():
        source, target = Path(folder) / "source.onnx", Path(folder) / "target.onnx"
        source.write_bytes(model)
        if precision == "int8":
            quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=True)
        else:
            assert calibration is not None, "int8_static is made with calibration rows"
            quantize_static(
                source,
                target,
                _Batches(calibration),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=_STATIC,
                per_channel=True,
                activation_type=QuantType.QUInt8,  # with signed ones the lookup of a token's weights is twenty times slower
                weight_type=QuantType.QInt8,
            )
        return target.read_bytes()


@contextmanager
def _quiet() -> Iterator[None]:
    """ONNX Runtime advises, for each graph, preparations that change nothing in ours. What goes wrong it raises."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    """Arrays, some rows at a time: what the layers make of them is kept until the scales are known."""

    def __init__(self, arrays: Arrays) -> None:
        self._batches: Iterator[Arrays] = (
            {name: array[start : start + 64] for name, array in arrays.items()} for start in range(0, len(next(iter(arrays.values()))), 64)
        )

    def get_next(self) -> Arrays | None:
        """The next ones; None after the last."""
        return next(self._batches, None)


def calibration(snapshot: Snapshot, transform: FeatureTransform) -> Arrays:
    """The graph's inputs for CALIBRATION_ROWS or some more training rows, from all over them. Parity is measured on others: the hold-out's."""
    every = max(1, snapshot.sizes()[TRAIN] // CALIBRATION_ROWS)
    kept: list[pa.Table] = []
    n_before = 0
    for batch in snapshot.batches([*transform.columns, "split"]):
        rows = batch.filter(pc.equal(batch["split"], TRAIN))
        kept.append(rows.take(list(range(-n_before % every, rows.num_rows, every))))
        n_before += rows.num_rows
    return transform.apply(feature_columns(pa.concat_tables(kept), transform.columns))
