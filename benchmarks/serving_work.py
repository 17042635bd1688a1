"""What `bench_serving.py` measures against: a model of 30 columns, MLflow's way to serve it, and the least that can serve it.

python benchmarks/serving_work.py package FOLDER     # a use case's folder with a package in it, and the same model for MLflow
uvicorn serving_work:bare                            # ONNX Runtime in an ASGI app without anything else
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from made_model import manifest
from torch import nn

from pipelines_lib.contracts import ModelRef
from pipelines_lib.features.transform import FeatureTransform
from pipelines_lib.monitoring.sketch import profile_columns
from pipelines_lib.registry.package import Holdout, Package
from pipelines_lib.serving.pointer import Deployment, write_pointer
from pipelines_lib.training.export import to_onnx
from pipelines_lib.training.models.shape import Shape
from pipelines_lib.training.models.tabular import TabularModel
from pipelines_lib.use_case import Training

N_NUMBERS, N_WORDS, VERSIONS = 24, 6, 2
NUMBERS = [f"number_{place:02d}" for place in range(N_NUMBERS)]
WORDS = [f"word_{place}" for place in range(N_WORDS)]
TYPES: dict[str, Any] = {**dict.fromkeys(NUMBERS, "number"), **dict.fromkeys(WORDS, "string")}
NAME = "bench"


def rows(n: int, seed: int = 0) -> dict[str, list[Any]]:
    """Columns of `n` rows; every twentieth value of each is missing."""
    random = np.random.default_rng(seed)
    columns: dict[str, list[Any]] = {name: np.round(random.normal(size=n), 4).tolist() for name in NUMBERS}
    columns |= {name: random.choice([f"value {i}" for i in range(20)], size=n).tolist() for name in WORDS}
    for values in columns.values():
        values[7::20] = [None] * len(values[7::20])
    return columns


def package(folder: Path) -> None:
    """Packages of VERSIONS versions below `folder`/bench, the pointer to the first, and `folder`/mlflow, the first for MLflow."""
    training = rows(2_000)
    transform = FeatureTransform.fit(training, TYPES)
    root, packages = folder / NAME, []
    for version in range(1, VERSIONS + 1):
        torch.manual_seed(version)
        shape = Shape.of(transform, 2)
        settings = Training.model_validate({"model": {"hidden": [256, 128, 64], "embedding": 16}}).model
        graph = to_onnx(Answers(TabularModel(shape, settings)), transform.apply(rows(8)))
        packages.append(_package(root, version, graph, transform, training))
    point(folder, 1)
    _for_mlflow(folder, packages[0])


class Answers(nn.Module):
    """A model's logits as probabilities."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, numeric: torch.Tensor, categorical: torch.Tensor) -> torch.Tensor:
        """Probabilities [n, 2]."""
        return torch.softmax(self.inner(numeric=numeric, categorical=categorical), dim=1)


def _package(root: Path, version: int, graph: bytes, transform: FeatureTransform, training: dict[str, list[Any]]) -> Path:
    files = {
        "model.onnx": graph,
        "transform.json": transform.to_json().encode(),
        "profile.json": profile_columns(training, TYPES).to_json().encode(),
        "holdout.json": Holdout(row_ids=(), columns={}, scores=()).model_dump_json().encode(),
        "card.md": b"# Card\n",
    }
    folder = Package.write(root / "packages", f"v{version}", manifest(NAME, TYPES), files)
    assert isinstance(folder, Path)
    return folder


def point(folder: Path, version: int) -> None:
    """Let the service answer with `version`."""
    [found] = (folder / NAME / "packages").glob(f"v{version}-*")
    model = ModelRef(name=NAME, version=version, package=str(found.relative_to(folder)), run_id="run")
    write_pointer(folder / NAME, Deployment(model=model, state="serving", title="Bench"))


def _for_mlflow(folder: Path, package: Path) -> None:
    import mlflow  # noqa: PLC0415 - slow to import, and the bare server does without
    import pandas as pd  # noqa: PLC0415
    from mlflow.models import infer_signature  # noqa: PLC0415

    frame = pd.DataFrame(rows(100, seed=1))
    answer = pd.DataFrame({"prediction": ["no"] * len(frame), "score": [0.5] * len(frame)})
    mlflow.pyfunc.save_model(
        folder / "mlflow",
        python_model=str(Path(__file__).with_name("serving_mlflow.py")),
        artifacts={"package": str(package)},
        signature=infer_signature(frame, answer),
        pip_requirements=[],
    )


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI app: a DataFrame body, as it is, to arrays; the graph; its scores as JSON. Nothing is checked, cleaned, counted or logged."""
    if scope["type"] != "http":
        return
    chunks = []
    while True:
        message = await receive()
        chunks.append(message.get("body", b""))
        if not message.get("more_body"):
            break
    model = _opened()
    frame = json.loads(b"".join(chunks))["dataframe_split"]
    columns = dict(zip(frame["columns"], zip(*frame["data"], strict=True), strict=True))
    body = json.dumps({"predictions": model.predict({name: list(values) for name, values in columns.items()}).tolist()}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})


_model: list[Package] = []


def _opened() -> Package:
    if not _model:
        [found] = (Path(os.environ["BENCH_FOLDER"]) / NAME / "packages").glob("v1-*")
        _model.append(Package.open(found))
    return _model[0]


if __name__ == "__main__":
    package(Path(sys.argv[2]))
