"""The manifest of a made model, for benchmarks that ask for no more of it."""

from collections.abc import Mapping

from pipelines_lib.contracts import DatasetRef
from pipelines_lib.registry.package import Feature, Manifest
from pipelines_lib.use_case import ColumnType


def manifest(use_case: str, types: Mapping[str, ColumnType]) -> Manifest:
    """Of a model that tells yes from no by features of these types."""
    snapshot = DatasetRef(
        use_case=use_case, table="labelled", version=0, partitions=("2025-12-31",), n_rows=2_000, config_hash="c", content_hash="d"
    )
    return Manifest(
        use_case=use_case,
        task="binary",
        classes=("no", "yes"),
        positive="yes",
        features=tuple(Feature(name=name, type=kind) for name, kind in types.items()),
        metrics={"roc_auc": 0.5},
        snapshot=snapshot,
        mlflow_run_id="run",
    )
