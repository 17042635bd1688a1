"""The dialects a request may be written in.

Two of them carry the same rows: the Open Inference Protocol v2 (one tensor a column) and MLflow's `/invocations`.
"""

from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from pipelines_lib.serving.rows import (
    RequestError,
    Rows,
    Shape,
    as_id,
    as_list,
    as_name,
    check_rows,
    kind_of,
    read_options,
    refuse,
    rows_of,
    short,
)
from pipelines_lib.use_case import ColumnType

INTEGERS = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
DATATYPES: dict[ColumnType, tuple[str, ...]] = {
    "integer": ("INT64", *INTEGERS, "FP64", "FP32", "FP16"),
    "number": ("FP64", "FP32", "FP16", *INTEGERS),
    "boolean": ("BOOL",),
    "string": ("BYTES",),
    "text": ("BYTES",),
    "timestamp": ("BYTES",),
}
"""Datatypes of the v2 protocol a column may come as, the natural one first."""
_FRAMES = ("dataframe_split", "dataframe_records", "inputs")


def read_body(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`. Raises `RequestError`."""
    try:
        document = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise RequestError(
            f"not JSON ({error})",
            where="body",
            rule="a request is one JSON object in UTF-8",
            remedy="Check quotes, commas and the encoding",
        ) from error
    if not isinstance(document, dict):
        refuse(f"found {kind_of(document)}", "body", "a request is one JSON object", "Wrap it in { }")
    return document


def read_v2(document: Mapping[str, Any], shape: Shape) -> Rows:
    """Rows of an inference request of the Open Inference Protocol v2. Raises `RequestError`."""
    tensors = document.get("inputs")
    if not isinstance(tensors, list) or not tensors:
        remedy = 'Send {"inputs": [{"name": …, "shape": [n], "datatype": …, "data": […]}, …]}'
        refuse(f"found {kind_of(tensors)}", "inputs", "a list with one tensor a column", remedy)
    columns: dict[str, list[Any]] = {}
    for place, tensor in enumerate(tensors):
        if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
            refuse(
                "a tensor without a name",
                f"inputs[{place}]",
                "each is an object with name, shape, datatype and data",
                "Name the column it holds",
            )
        name = tensor["name"]
        if name in columns:
            refuse(f"column {name!r} comes twice", f"inputs[{place}]", "one tensor a column", "Remove one")
        columns[name] = _tensor(tensor, shape.known.get(name), place)
    outputs = document.get("outputs", [])
    if not isinstance(outputs, list) or not all(isinstance(output, dict) and isinstance(output.get("name"), str) for output in outputs):
        refuse(f"found {kind_of(outputs)}", "outputs", 'a list of {"name": …}', "Leave it out to get every output")
    options = read_options(
        document.get("parameters"),
        "parameters",
        shape,
        request_id=as_id(document.get("id"), "id"),
        outputs=tuple(output["name"] for output in outputs),
    )
    return rows_of(columns, shape, options)


def read_invocation(document: Mapping[str, Any], shape: Shape) -> Rows:
    """Rows of a request to MLflow's `/invocations`. Raises `RequestError`."""
    given = [name for name in _FRAMES if name in document]
    if len(given) != 1:
        refuse(
            f"found {given or 'none of them'}",
            "body",
            f"exactly one of {', '.join(_FRAMES)}",
            'Send {"dataframe_records": [{column: value}]}',
        )
    [name] = given
    frame = document[name]
    if name == "dataframe_split":
        columns = _split(frame)
    elif isinstance(frame, dict) and name == "inputs":
        columns = {as_name(column, name): as_list(values, f"{name}.{short(column)}") for column, values in frame.items()}
    else:
        columns = _records(frame, name, shape.known)
    params = document.get("params")
    request_id = as_id(params.get("id"), "params.id") if isinstance(params, dict) else None
    return rows_of(columns, shape, read_options(params, "params", shape, request_id=request_id))


# --- the dialects' containers -----------------------------------------------------------------------------------


def _tensor(tensor: Mapping[str, Any], kind: ColumnType | None, place: int) -> list[Any]:
    data, shape, datatype = tensor.get("data"), tensor.get("shape"), tensor.get("datatype")
    # Most tensors are as they should be; what is wrong with the others, or nested in them, takes a longer look.
    fits = kind is None or datatype in DATATYPES[kind]
    if fits and isinstance(data, list) and shape == [len(data)] and type(shape[0]) is int and list not in map(type, data):
        return data
    where = f"inputs[{place}] ({short(tensor['name'])})"
    data = as_list(data, f"{where}.data")
    if (
        not isinstance(shape, list)
        or not all(type(size) is int and size >= 0 for size in shape)
        or len(shape) not in (1, 2)
        or shape[1:] not in ([], [1])
    ):
        refuse(f"shape is {short(shape)}", where, "the shape of a column is [n] or [n, 1]", "Send one tensor a column")
    if kind is not None and datatype not in DATATYPES[kind]:
        natural = DATATYPES[kind][0]
        refuse(
            f"datatype is {short(datatype)}",
            where,
            f"this column is of type {kind}, so its datatype is one of {', '.join(DATATYPES[kind])}",
            f"Send it as {natural}",
        )
    # The protocol allows the data of a [n, 1] tensor flat or nested.
    flat = [value[0] if isinstance(value, list) and len(value) == 1 else value for value in data]
    if len(flat) != shape[0]:
        refuse(f"{len(flat)} values for shape {shape}", where, "a tensor holds as many values as its shape says", "Correct shape or data")
    return flat


def _split(frame: Any) -> dict[str, list[Any]]:
    where = "dataframe_split"
    if not isinstance(frame, dict):
        refuse(f"found {kind_of(frame)}", where, "an object with columns and data", 'Send {"columns": […], "data": [[…], …]}')
    names = as_list(frame.get("columns"), f"{where}.columns")
    for name in names if set(map(type, names)) != {str} else ():
        as_name(name, f"{where}.columns")
    if len(set(names)) != len(names):
        refuse("a column is named twice", f"{where}.columns", "names are unique", "Remove one")
    lines = as_list(frame.get("data"), f"{where}.data")
    check_rows(len(lines), f"{where}.data")
    for place, line in enumerate(lines):
        if not isinstance(line, list) or len(line) != len(names):
            refuse(
                f"found {kind_of(line)}",
                f"{where}.data[{place}]",
                f"a row has one value for each of the {len(names)} columns",
                "Complete the row, with null where a value is missing",
            )
    return dict(zip(names, map(list, zip(*lines, strict=True)), strict=True)) if lines else {name: [] for name in names}


def _records(frame: Any, where: str, known: Mapping[str, ColumnType]) -> dict[str, list[Any]]:
    records = as_list(frame, where)
    check_rows(len(records), where)
    for place, record in enumerate(records):
        if not isinstance(record, dict):
            refuse(
                f"found {kind_of(record)}", f"{where}[{place}]", "a record is an object of column and value", "Send [{column: value, …}, …]"
            )
    names = dict.fromkeys(name for record in records for name in record)
    for place, record in enumerate(records):
        # A name that one record has and another lacks is a mistake more often than a missing value: those are written as null.
        if len(record) != len(names) and (absent := [name for name in names if name not in record and name in known]):
            refuse(f"lacks {absent}", f"{where}[{place}]", "every record has the same columns", "Write null where a value is missing")
    return {name: [record.get(name) for record in records] for name in names}
