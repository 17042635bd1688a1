"""A graph in a smaller number format, and how far its answers are from the original's."""

import io
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.transformers.float16 import convert_float_to_float16

from pipelines_lib.data.sides import TRAIN
from pipelines_lib.data.snapshot import Snapshot
from pipelines_lib.decision import Decision
from pipelines_lib.features.arrow import feature_columns
from pipelines_lib.features.transform import Arrays, FeatureTransform
from pipelines_lib.graph import open_graph

Precision = Literal["fp32", "fp16", "int8", "int8_static"]
SINGLE_ROWS = 300
"""Rows asked one by one for the latency."""
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
    with TemporaryDirectory() as folder:
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


def compared(model: bytes, arrays: Mapping[str, NDArray[Any]], expected: NDArray[np.float32], decision: Decision) -> dict[str, float]:
    """`parity` of `model` with the scores `expected` [n, C] of the rows in `arrays`, and its size and latency on this CPU, one thread."""
    run = open_graph(model, "the model in this precision", "release it in another").run
    scores = run(["scores"], dict(arrays))[0]
    rows = [{name: array[row : row + 1] for name, array in arrays.items()} for row in range(len(expected))]
    single = [_seconds(partial(run, ["scores"], rows[turn % len(rows)])) for turn in range(SINGLE_ROWS)]
    return {
        "rows": len(expected),
        "bytes": len(model),
        **parity(scores, expected, decision),
        "milliseconds_median": 1000 * float(np.median(single)),
        "milliseconds_p99": 1000 * float(np.quantile(single, 0.99)),
        "milliseconds_all_rows": 1000 * _seconds(lambda: run(["scores"], dict(arrays))),
    }


def parity(scores: NDArray[np.float32], expected: NDArray[np.float32], decision: Decision) -> dict[str, float]:
    """How far `scores` [n, C] are from `expected`, as a share of the score where it is larger than 1, and the share of rows for which something
    else is predicted."""
    differences = np.abs(scores - expected) / np.maximum(1.0, np.abs(expected))
    changed = [now != before for now, before in zip(decision.of(scores)[0], decision.of(expected)[0], strict=True)]
    return {
        "largest_difference": float(differences.max()),
        "mean_difference": float(differences.mean()),
        "decisions_changed": float(np.mean(changed)),
    }


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
