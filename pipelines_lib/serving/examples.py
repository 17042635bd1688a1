"""Requests that the served model answers. Their row is nobody's: it follows from the model's signature and its feature transform."""

from typing import Any

from pipelines_lib.serving.requests import DATATYPES
from pipelines_lib.serving.slot import Served
from pipelines_lib.use_case import ColumnType

_VALUES: dict[ColumnType, Any] = {
    "integer": 1,
    "number": 1.5,
    "boolean": True,
    "string": "a",
    "text": "some words",
    "timestamp": "2026-01-31",
}


def example_row(served: Served) -> dict[str, Any]:
    """A row of the model: the median of each number, the first category of each, as the training rows had them; of columns about a person any value."""
    transform = served.package.transform
    typical: dict[str, Any] = {scale.name: scale.median for scale in transform.numeric if scale.type == "number"}
    typical |= {scale.name: round(scale.median) for scale in transform.numeric if scale.type == "integer"}
    typical |= {part.name: part.words[0] for part in transform.categorical if part.words}
    return {
        name: typical[name] if name in typical and name not in served.shape.private else _VALUES[kind]
        for name, kind in served.shape.features.items()
    }


def examples(name: str, served: Served) -> dict[str, dict[str, Any]]:
    """Path to an example of a request, for those that take one."""
    row, shape = example_row(served), served.shape
    tensors = [
        {"name": column, "shape": [1], "datatype": DATATYPES[kind][0], "data": [row[column]]} for column, kind in shape.features.items()
    ]
    found: dict[str, dict[str, Any]] = {
        f"/v2/models/{name}/infer": {"inputs": tensors, "parameters": {"log": False}},
        "/invocations": {"dataframe_records": [row], "params": {"log": False}},
    }
    recommends, catalogue = served.package.manifest.recommends, served.package.catalogue
    if recommends is not None and catalogue is not None:
        columns = {column: value for column, value in row.items() if column not in recommends.columns}
        found["/recommend"] = {"user": None, "k": 3, "columns": columns, "params": {"log": False}}
    return found
