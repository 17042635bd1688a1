"""A tiny real package for tests: one numeric feature, a logistic curve of it, no training."""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipelines_lib.contracts import DatasetRef
from pipelines_lib.features.transform import FeatureTransform
from pipelines_lib.registry.package import Feature, Manifest, Package

SNAPSHOT = DatasetRef(
    use_case="demo", table="labelled", version=3, partitions=("2026-01-01",), n_rows=4, config_hash="c" * 16, content_hash="d" * 16
)


def manifest(**changes: object) -> Manifest:
    return Manifest(
        use_case="demo",
        task="binary",
        classes=("no", "yes"),
        positive="yes",
        features=(Feature(name="x", type="number"),),
        metrics={"roc_auc": 0.75},
        snapshot=SNAPSHOT,
        mlflow_run_id="0" * 32,
    ).model_copy(update=changes)


def graph(slope: float = 1.0) -> bytes:
    """ONNX: softmax over [0, slope · x]."""
    weight = numpy_helper.from_array(np.array([[0.0, slope]], np.float32), "w")
    nodes = [helper.make_node("MatMul", ["numeric", "w"], ["logits"]), helper.make_node("Softmax", ["logits"], ["scores"])]
    inputs = [helper.make_tensor_value_info("numeric", TensorProto.FLOAT, ["n", 1])]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2])]
    model = helper.make_model(helper.make_graph(nodes, "tiny", inputs, outputs, [weight]), opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    onnx.checker.check_model(model)
    return model.SerializeToString()


def files(slope: float = 1.0) -> dict[str, bytes]:
    transform = FeatureTransform.fit({"x": [0.0, 1.0, 2.0]}, {"x": "number"})
    holdout = {"row_ids": ["a"], "columns": {"x": [1.0]}, "scores": [[0.5, 0.5]]}
    return {
        "model.onnx": graph(slope),
        "transform.json": transform.to_json().encode(),
        "profile.json": b"{}\n",
        "holdout.json": json.dumps(holdout).encode(),
        "card.md": b"# demo\n",
    }


def write(packages: Path, name: str = "run", slope: float = 1.0) -> Path:
    return Package.write(packages, name, manifest(), files(slope))
