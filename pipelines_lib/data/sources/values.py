"""Python values of a database's driver as the canonical text of the raw layer."""

import base64
import datetime as dt
import decimal
import ipaddress
import json
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from pipelines_lib.errors import DataError


def texts(values: Sequence[object], column: str) -> pa.StringArray:
    """The values as text; None stays null. Raises `DataError` over a type that has no text of its own.

    Times are ISO 8601, in UTC and without a zone where they had one; numbers have the shortest digits that read back the same;
    decimals keep all theirs; bytes are base64; lists and objects are JSON.
    """
    kinds = set(map(type, values)) - {type(None)}
    if kinds <= {str}:
        return pa.array(values, pa.string())
    if kinds == {float}:
        return pa.array(values, pa.float64()).cast(pa.string())
    written = {kind: _writer(kind, column) for kind in kinds}
    if len(kinds) == 1:
        [write] = written.values()
        return pa.array([None if value is None else write(value) for value in values], pa.string())
    return pa.array([None if value is None else written[type(value)](value) for value in values], pa.string())


def _writer(kind: type, column: str) -> Callable[[Any], str]:
    for known, write in _WRITERS.items():
        if issubclass(kind, known):
            return write
    raise DataError(
        f"column {column!r} holds values of type {kind.__name__}, which have no one text; convert them in the query (CAST … AS text)"
    )


def _float(value: float) -> str:
    return str(pa.scalar(value, pa.float64()).cast(pa.string()).as_py())


def _moment(value: dt.datetime) -> str:
    utc = value if value.tzinfo is None else value.astimezone(dt.UTC).replace(tzinfo=None)
    return utc.isoformat()


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_in_json)


def _in_json(value: object) -> object:
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    return _writer(type(value), "a list or object")(value)


# A subclass before its base: bool is an int, datetime is a date.
_WRITERS: dict[type, Callable[[Any], str]] = {
    str: str,
    bool: lambda value: "true" if value else "false",
    int: int.__repr__,
    float: _float,
    decimal.Decimal: lambda value: format(value, "f"),
    dt.datetime: _moment,
    dt.date: dt.date.isoformat,
    dt.time: dt.time.isoformat,
    dt.timedelta: lambda value: _float(value.total_seconds()),
    bytes: lambda value: base64.b64encode(value).decode(),
    memoryview: lambda value: base64.b64encode(value).decode(),
    uuid.UUID: str,
    ipaddress.IPv4Address: str,
    ipaddress.IPv6Address: str,
    ipaddress.IPv4Network: str,
    ipaddress.IPv6Network: str,
    list: _json,
    tuple: _json,
    dict: _json,
}
