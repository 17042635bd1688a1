"""A version as MLflow knows models: with the signature of what it takes and answers, and some rows to try it with.

What MLflow keeps is a pointer to the package and no copy of it, and nothing of it is pickled: who loads it (`mlflow.pyfunc.load_model`) gets the package from the
store, every byte verified.
"""

import json
import platform
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Run
from mlflow.models import Model, ModelSignature
from mlflow.types.schema import ColSpec, DataType, Schema

from pipelines_lib.config import Project
from pipelines_lib.registry.package import Package, predicted
from pipelines_lib.registry.tracking import retried
from pipelines_lib.store import opened
from pipelines_lib.use_case import ColumnType

_PACKAGE = "sluice.package"
_POINTER, _EXAMPLE = "package.json", "input_example.json"
_EXAMPLE_ROWS = 5
_TYPES: dict[ColumnType, DataType] = {"number": DataType.double, "integer": DataType.long, "boolean": DataType.boolean}
"""MLflow's types; all others are strings."""


def log_model(client: MlflowClient, run: Run, package: Package, name: str, where: str) -> LoggedModel:
    """The logged model of the package at `where` (below the store) in the run that trained it; the one there is, where it was logged before."""
    experiment = run.info.experiment_id
    found = retried(
        lambda: client.search_logged_models([experiment], f"tags.`{_PACKAGE}` = '{where}' AND source_run_id = '{run.info.run_id}'")
    )
    logged = found[0] if found else retried(lambda: client.create_logged_model(experiment, name, run.info.run_id, tags={_PACKAGE: where}))
    if str(logged.status) != "READY":  # one that was not finished is finished
        with TemporaryDirectory() as folder:
            _write(Path(folder), package, Model(artifact_path=logged.artifact_location, run_id=run.info.run_id, model_id=logged.model_id))
            retried(lambda: client.log_model_artifacts(logged.model_id, folder))
        logged = retried(lambda: client.finalize_logged_model(logged.model_id, "READY"))
    return logged


def _write(folder: Path, package: Package, model: Model) -> None:
    """MLflow's files, into `folder`. Not by `mlflow.pyfunc`, which takes seconds to import."""
    (folder / _POINTER).write_text(json.dumps({"package": str(package.folder.resolve())}), encoding="utf-8")
    holdout, names = package.holdout(), [feature.name for feature in package.manifest.features]
    rows = list(zip(*(holdout.columns[name][:_EXAMPLE_ROWS] for name in names), strict=True))
    (folder / _EXAMPLE).write_text(json.dumps({"columns": names, "data": rows}, ensure_ascii=False), encoding="utf-8")
    model.signature = signature_of(package)
    model.saved_input_example_info = {"artifact_path": _EXAMPLE, "type": "dataframe", "pandas_orient": "split"}
    model.add_flavor("python_function", loader_module=__name__, data=_POINTER, python_version=platform.python_version())
    model.save(folder / "MLmodel")


def signature_of(package: Package) -> ModelSignature:
    """The features as columns, each of which may be missing → `prediction`, `score`."""
    takes = [ColSpec(_TYPES.get(feature.type, DataType.string), feature.name, required=False) for feature in package.manifest.features]
    said = DataType.string if package.manifest.classes else DataType.double
    return ModelSignature(Schema(takes), Schema([ColSpec(said, "prediction"), ColSpec(DataType.double, "score")]))


class Answering:
    """What MLflow asks of a loaded model."""

    def __init__(self, package: Package) -> None:
        self._package = package

    def predict(self, rows: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:  # noqa: ARG002 - MLflow's signature
        """`prediction` and `score` of each row, as the service answers them."""
        columns = {feature.name: _values(rows, feature.name) for feature in self._package.manifest.features}
        predictions, scores = predicted(self._package.manifest, self._package.predict(columns))
        return pd.DataFrame({"prediction": predictions, "score": scores})


def _values(rows: pd.DataFrame, name: str) -> list[Any]:
    """Python values, None where one is missing; a column that is not there is missing in every row."""
    if name not in rows:
        return [None] * len(rows)
    return [None if missing else value for value, missing in zip(rows[name].tolist(), rows[name].isna(), strict=True)]


def _load_pyfunc(path: str) -> Answering:
    """Called by MLflow with the path of the pointer. Raises `DataError` where the package is not what its manifest says."""
    address = json.loads(Path(path).read_text(encoding="utf-8"))["package"]
    return Answering(Package.open(opened(address, Project.from_environment())))
