"""What MLflow shows of a version, and what it loads: against a real database, without a pickle anywhere."""

import pickle
from pathlib import Path

import pandas as pd
import pytest
from mlflow.artifacts import download_artifacts
from mlflow.models import Model

from pipelines_lib.errors import DataError
from pipelines_lib.registry import tracking
from pipelines_lib.registry.logged_model import log_model
from pipelines_lib.registry.models import ModelRegistry
from pipelines_lib.registry.package import Package


@pytest.fixture
def package(tmp_path, make_package):
    return Package.open(tmp_path / make_package(tmp_path / "shop"))


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def client(uri):
    return tracking.connect(uri)


@pytest.fixture
def run(client, tmp_path):
    experiment = tracking.experiment(client, tmp_path.name, (tmp_path / "artefacts").as_uri())
    return tracking.run_of(client, experiment, "run", {}, {})


@pytest.mark.filterwarnings("ignore")  # MLflow's own, while it imports itself and of whole numbers that may be missing
def test_mlflow_has_signature_and_example_and_loads_the_package_itself(client, run, package, monkeypatch):
    from mlflow.pyfunc import load_model

    logged = log_model(client, run, package, "shop", "shop/packages/tiny")
    assert log_model(client, run, package, "shop", "shop/packages/tiny").model_id == logged.model_id
    registry = ModelRegistry(client, "shop")
    registry.register("shop/packages/tiny", logged.artifact_location, run.info.run_id, "run", model_id=logged.model_id)
    version = client.get_model_version("shop", "1")
    folder = download_artifacts(version.source)
    assert {"MLmodel", "package.json", "input_example.json"} >= {path.name for path in Path(folder).iterdir()} - {"registered_model_meta"}
    described = Model.load(folder)
    assert {column.name: (str(column.type), column.required) for column in described.signature.inputs} == {
        "amount": ("DataType.double", False), "age": ("DataType.long", False), "member": ("DataType.boolean", False), "country": ("DataType.string", False),
    }  # fmt: skip
    assert described.signature.outputs.input_names() == ["prediction", "score"]
    example = described.load_input_example(folder)
    assert list(example.columns) == ["amount", "age", "member", "country"]

    def no_pickle(*_, **__):
        raise AssertionError("a pickle was read")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, no_pickle)
    loaded = load_model(folder)
    answers = loaded.predict(example)
    scores = package.predict({name: values[:5] for name, values in package.holdout().columns.items()})
    assert answers["score"].tolist() == pytest.approx(scores[:, 1].tolist())
    assert set(answers["prediction"]) <= {"no", "yes"}
    with_gaps = pd.DataFrame({"amount": [None, 1.0], "country": [None, "de"]})
    assert loaded.predict(with_gaps)["score"].notna().all()

    (package.folder / "model.onnx").write_bytes(b"")
    with pytest.raises(DataError, match="was changed"):
        load_model(folder)


def cut_off(*_):
    raise OSError("cut off")


def test_one_that_was_not_finished_is_finished(client, run, package, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(client, "log_model_artifacts", cut_off)
        with pytest.raises(OSError, match="cut off"):
            log_model(client, run, package, "shop", "p")
    assert str(log_model(client, run, package, "shop", "p").status) == "READY"
    assert len(client.search_logged_models([run.info.experiment_id])) == 1
