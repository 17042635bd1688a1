"""The model of `bench_serving.py` as MLflow serves it: from a DataFrame, through the same transform and graph."""

from pathlib import Path

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext

from pipelines_lib.registry.package import Package, predicted


class Bench(PythonModel):
    """The package of a version."""

    def load_context(self, context: PythonModelContext) -> None:
        """Open it."""
        self.package = Package.open(Path(context.artifacts["package"]))

    def predict(self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, object] | None = None) -> pd.DataFrame:  # noqa: ARG002
        """Prediction and score a row."""
        columns = {name: [None if pd.isna(value) else value for value in model_input[name].tolist()] for name in model_input}
        predictions, score = predicted(self.package.manifest, self.package.predict(columns))
        return pd.DataFrame({"prediction": predictions, "score": score})


mlflow.models.set_model(Bench())
