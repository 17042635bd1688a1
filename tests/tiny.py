"""A model package small enough to write by hand, its deployment, and answers that it has given."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

TYPES = {"amount": "number", "age": "integer", "member": "boolean", "country": "string"}


def make_package(
    root: Path,
    bias: float = 0.0,
    rows: dict[str, list] | None = None,
    wrong_scores: float = 0.0,
    steps: tuple = (),
    *,
    catalogue=None,
    reference: Callable | None = None,
    **manifest_fields,
) -> str:
    """Write a binary model below `root`, a use case's folder in a store. Returns its path below the store.

    Its probability of "yes" is sigmoid(bias + the standardised numbers' sum + 0.1 × the category's index).
    """
    from pipelines_lib.contracts import DatasetRef
    from pipelines_lib.features.transform import FeatureTransform
    from pipelines_lib.monitoring.sketch import profile_columns
    from pipelines_lib.registry.package import Feature, Holdout, Manifest, Package

    rows = rows or training_rows()
    transform = FeatureTransform.fit(rows, TYPES, steps)
    manifest = Manifest(
        use_case=root.name,
        task="binary",
        classes=("no", "yes"),
        positive="yes",
        features=tuple(Feature(name=name, type=kind) for name, kind in TYPES.items()),
        metrics={"roc_auc": 0.9},
        snapshot=DatasetRef(
            use_case=root.name, table="labelled", version=0, partitions=("2026-01-01",), n_rows=400, config_hash="c", content_hash="d"
        ),
        mlflow_run_id="run",
        **manifest_fields,
    )
    graph = _graph(len(transform.numeric), bias)
    first = {name: tuple(values[:20]) for name, values in rows.items()}
    scores = _scores(graph, transform.apply({name: list(values) for name, values in first.items()})) + wrong_scores
    holdout = Holdout(row_ids=tuple(f"r{i}" for i in range(20)), columns=first, scores=tuple(map(tuple, scores.tolist())))
    all_scores = _scores(graph, transform.apply(rows))
    profile = profile_columns(rows, TYPES, scores=all_scores[:, 1], predictions=np.where(all_scores[:, 1] > 0.5, "yes", "no"))
    files = {
        "model.onnx": graph,
        "transform.json": transform.to_json().encode(),
        "profile.json": (profile if reference is None else reference(profile, rows, all_scores[:, 1])).to_json().encode(),
        "holdout.json": holdout.model_dump_json().encode(),
        "card.md": b"# Card\n",
        **(catalogue.files() if catalogue else {}),
    }
    return str(Package.write(root / "packages", f"tiny{bias:g}", manifest, files).relative_to(root.parent))


def training_rows(n: int = 400, seed: int = 0, shift: float = 0.0) -> dict[str, list]:
    """Columns of `n` rows, whose numbers moved by `shift` deviations."""
    rng = np.random.default_rng(seed)
    return {
        "amount": rng.normal(shift, size=n).tolist(),
        "age": (rng.integers(18, 70, size=n) + int(20 * shift)).tolist(),
        "member": (rng.random(n) < 0.5).tolist(),
        "country": rng.choice(["de", "cn", "fr"], size=n).tolist(),
    }


def _graph(width: int, bias: float) -> bytes:
    from onnx import TensorProto, checker, helper

    def constant(name: str, values: list[float], shape: list[int]):
        return helper.make_tensor(name, TensorProto.FLOAT, shape, values)

    nodes = [
        helper.make_node("MatMul", ["numeric", "weights"], ["numbers"]),
        helper.make_node("Cast", ["categorical"], ["places"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["places", "tenth"], ["scaled"]),
        helper.make_node("Add", ["numbers", "scaled"], ["sum"]),
        helper.make_node("Add", ["sum", "bias"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["yes"]),
        helper.make_node("Sub", ["one", "yes"], ["no"]),
        helper.make_node("Concat", ["no", "yes"], ["scores"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info("numeric", TensorProto.FLOAT, ["n", width]),
            helper.make_tensor_value_info("categorical", TensorProto.INT64, ["n", 1]),
        ],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2])],
        [
            constant("weights", [1.0] * width, [width, 1]),
            constant("tenth", [0.1], [1]),
            constant("bias", [bias], [1]),
            constant("one", [1.0], [1]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    checker.check_model(model)
    return model.SerializeToString()


def _scores(graph: bytes, arrays: dict[str, np.ndarray]) -> np.ndarray:
    import onnxruntime

    return onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]).run(["scores"], arrays)[0]


def deploy(root: Path, version: int, bias: float = 0.0, state: str = "serving", package: str | None = None, **more) -> str:
    """Point to a package, made where None is given. Returns its path below the store."""
    from pipelines_lib.contracts import ModelRef
    from pipelines_lib.serving.pointer import Deployment, write_pointer

    package = package or make_package(root, bias)
    model = ModelRef(name=root.name, version=version, package=package, run_id="run")
    write_pointer(root, Deployment(**{"model": model, "state": state, "keys": {"customer": "integer"}, "title": "Tiny", **more}))
    return package


def log_answers(root: Path, day: str, *, shift: float = 0.0, version: int = 1, n: int = 200) -> list[float]:
    """What the service would have logged on a day: `n` answers of a deployed version, whose numbers moved by `shift` deviations. Returns the
    scores of "yes"."""
    import pyarrow as pa

    from pipelines_lib.data.tables import Tables
    from pipelines_lib.registry.package import Package
    from pipelines_lib.serving.pointer import deployed_version, package_folder

    rows = training_rows(n, seed=int(day[-2:]), shift=shift)
    model = deployed_version(root, version)
    scores = Package.open(package_folder(root, model)).predict(rows)[:, 1].tolist() if model else [0.4] * n
    answers = {
        "row_id": [f"q{day}:{row:06d}" for row in range(n)],
        "partition_key": [day] * n,
        **rows,
        "customer": list(range(n)),
        "prediction": ["yes" if score > 0.5 else "no" for score in scores],
        "score": scores,
        "model_version": [version] * n,
    }
    Tables(root).append("predictions", pa.table(answers))
    return scores
