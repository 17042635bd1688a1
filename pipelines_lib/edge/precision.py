"""A graph in a smaller number format, and how far its answers are from the original's."""

import io
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.float16 import convert_float_to_float16

from pipelines_lib.decision import Decision
from pipelines_lib.graph import open_graph

Precision = Literal["fp32", "fp16", "int8"]
SINGLE_ROWS = 300
"""Rows asked one by one for the latency."""


def in_precision(model: bytes, precision: Precision) -> bytes:
    """The graph with weights of that format; inputs and scores stay float32. int8 is dynamic: activations are scaled row by row, so no
    calibration rows are needed."""
    if precision == "fp32":
        return model
    if precision == "fp16":
        out = io.BytesIO()
        onnx.save(convert_float_to_float16(onnx.load_from_string(model), keep_io_types=True), out)
        return out.getvalue()
    with TemporaryDirectory() as folder:
        source, target = Path(folder) / "source.onnx", Path(folder) / "target.onnx"
        source.write_bytes(model)
        quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=True)
        return target.read_bytes()


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
