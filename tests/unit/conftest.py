"""A model package small enough to write by hand, for whoever must serve, deploy or compare with one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines_lib.store import write_json

USE_CASE = """\
name: shop
title: Shop
owner: test@example.com
task: binary
start: 2026-01-01
source: {path: "{home}/{partition}.csv"}
columns: {amount: {type: number}, outcome: {type: string, role: label}}
label: {column: outcome, positive: "1"}
gate: {metric: roc_auc, floor: 0.6}
"""

TYPES = {"amount": "number", "age": "integer", "member": "boolean", "country": "string"}


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    """A folder of use cases with one in it, `shop`, which says what every use case must say and nothing else."""
    folder = tmp_path / "cases"
    (folder / "shop").mkdir(parents=True)
    (folder / "shop" / "use_case.yaml").write_text(USE_CASE, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def make_package() -> Callable[..., str]:
    """Returns `make(root, bias=0.0, rows=None, steps=(), catalogue=None, **manifest)`: writes a binary model below `root` and returns its path below the store.

    Its probability of "yes" is sigmoid(bias + the standardised numbers' sum + 0.1 × the category's index).
    """
    return _make_package


def _make_package(
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


@pytest.fixture
def shop(make_use_case):
    """The use case of the tiny package: its features, a key, and a governor that is easily convinced."""
    return make_use_case(
        columns={
            **{name: {"type": kind} for name, kind in TYPES.items()},
            "customer": {"type": "integer", "role": "key"},
            "action": {"type": "string", "role": "label"},
        },
        split={"by": "row"},
        monitoring={"min_rows": 50, "need": 2, "of": 3, "cooldown": 1, "loss": None},
    )


@pytest.fixture
def answer(sandbox) -> Callable[..., None]:
    """Returns `answer(day, shift=0.0, version=1, n=200, wrong=0)`: what the service would have logged on a day, and the truth, which
    differs from every `wrong`th answer."""

    def log(day: str, shift: float = 0.0, version: int = 1, n: int = 200, wrong: int = 0) -> None:
        import pyarrow as pa

        from pipelines_lib.data.tables import Tables
        from pipelines_lib.registry.package import Package
        from pipelines_lib.serving.pointer import deployed_version, package_folder

        rows = training_rows(n, seed=int(day[-2:]), shift=shift)
        root = sandbox.project.home / "store" / "shop"
        model = deployed_version(root, version)
        scores = Package.open(package_folder(root, model)).predict(rows)[:, 1].tolist() if model else [0.4] * n
        ids = list(range(n))
        tables = Tables(root)
        answers = {
            "row_id": [f"q{day}:{row:06d}" for row in ids],
            "partition_key": [day] * n,
            **rows,
            "customer": ids,
            "prediction": ["yes" if score > 0.5 else "no" for score in scores],
            "score": scores,
            "model_version": [version] * n,
        }
        tables.append("predictions", pa.table(answers))
        truth = ["yes" if (score > 0.5) != (wrong > 0 and row % wrong == 0) else "no" for row, score in enumerate(scores)]
        tables.write("labelled", day, pa.table({"row_id": [f"{i:06d}" for i in ids], "customer": ids, "label": truth}))

    return log


@pytest.fixture
def monitor(sandbox, shop) -> Callable[..., dict]:
    """Returns `monitor(day, **params)`: runs the monitoring stages of a day and returns their results by name."""

    def run(day: str, **params) -> dict:
        from pipelines_lib.jobs import decide, measure, profile, report

        results = {}
        for name, module in {"profile": profile, "measure": measure, "decide": decide, "report": report}.items():
            stage = sandbox.stage(name, shop, day)
            stage = replace(stage, spec=stage.spec.model_copy(update={"params": params}))
            results[name] = module.main(stage)
            write_json(stage.folder / "result.json", results[name])
        return results

    return run


@pytest.fixture
def deploy(make_package) -> Callable[..., str]:
    """Returns `deploy(root, version, bias=0.0, state="serving")`: makes a package and points to it."""

    def point(root: Path, version: int, bias: float = 0.0, state: str = "serving", package: str | None = None, **more) -> str:
        from pipelines_lib.contracts import ModelRef
        from pipelines_lib.serving.pointer import Deployment, write_pointer

        package = package or make_package(root, bias)
        model = ModelRef(name=root.name, version=version, package=package, run_id="run")
        write_pointer(root, Deployment(**{"model": model, "state": state, "keys": {"customer": "integer"}, "title": "Tiny", **more}))
        return package

    return point
