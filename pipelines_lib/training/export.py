"""The trained model as one ONNX file, proven to answer like the model in PyTorch."""

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

TOLERANCE = 1e-5
"""Largest difference between PyTorch and ONNX: of a probability, or relative to a value's size."""


def to_onnx(model: nn.Module, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """`model` (inputs by name → scores [n, C]) as an ONNX file with a free number of rows.

    `arrays` are a few real rows, at least two; the graph must answer them like the model, or this raises `RuntimeError`.
    """
    model = model.eval().cpu()
    inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
    rows = torch.export.Dim("n")
    with _quiet():
        program = torch.onnx.export(
            model,
            kwargs=inputs,
            dynamo=True,
            verbose=False,
            input_names=list(inputs),
            output_names=["scores"],
            dynamic_shapes={name: {0: rows} for name in inputs},
            external_data=False,
        )
    assert program is not None
    data = _plain(program.model_proto).SerializeToString(deterministic=True)
    with torch.no_grad():
        _prove_equal(data, arrays, model(**inputs).numpy())
    return bytes(data)


def _plain(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Without notes on where in the source a node came from: they would carry this machine's paths into the package."""
    parts = [graph.graph, *graph.graph.node, *graph.graph.value_info, *graph.graph.input, *graph.graph.output, *graph.graph.initializer]
    for part in [graph, *parts]:
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    return graph


def _prove_equal(data: bytes, arrays: Mapping[str, NDArray[Any]], expected: NDArray[np.float32]) -> None:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    for n in (len(expected), 1):
        found = session.run(["scores"], {name: array[:n] for name, array in arrays.items()})[0]
        difference = float(np.max(np.abs(found - expected[:n]) / np.maximum(1.0, np.abs(expected[:n]))))
        if not difference <= TOLERANCE:
            raise RuntimeError(f"the exported graph differs from the model by {difference:.2e} (at most {TOLERANCE:.0e}); do not deploy it")


@contextlib.contextmanager
def _quiet() -> Any:
    """The exporter prints its progress and warns of packages that it could have used; a failure it raises."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
