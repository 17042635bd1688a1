"""A model's ONNX graph, opened to answer: in a service and on a device alike, so this module imports nothing that a device lacks."""

from typing import Any

import onnxruntime

from pipelines_lib.errors import DataError


def open_graph(model: bytes, where: str, remedy: str) -> Any:
    """The graph in ONNX Runtime. Raises `DataError`, which names `where` and `remedy`, where it can't be loaded."""
    options = onnxruntime.SessionOptions()
    # One thread: rows are small, servers run many requests at once, and the same sum comes out everywhere.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own errors share no base class but Exception
        raise DataError(f"{where}: onnxruntime can't load it ({error}); {remedy}") from error
