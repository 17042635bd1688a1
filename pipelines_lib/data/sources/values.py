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
import pyarrow.compute as pc

from pipelines_lib.errors import DataError


def texts(values: Sequence[object], column: str) -> pa.StringArray:
    """The values as text; None stays null. Raises `DataError` over a type that has no text of its own.

    Times are ISO 8601, in UTC and without a zone where they had one; numbers have the shortest digits that read back the same;
    decimals keep all theirs; bytes are base64; lists and objects are JSON.
    """
    kinds = set(map(type, values)) - {type(None)}
    if len(kinds) <= 1 and (quick := _QUICK.get(next(iter(kinds), str))) is not None:
        try:
            return quick(values)
        except (OverflowError, pa.ArrowInvalid):
            pass  # an integer of more than 64 bits: one by one
    written = {kind: _writer(kind, column) for kind in kinds}
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


def _moments(values: Sequence[object]) -> pa.StringArray:
    """As `_moment` writes them: a fraction only where there is one."""
    moments = pa.array(values, pa.timestamp("us", "UTC")).cast(pa.timestamp("us"))
    whole = moments.cast(pa.timestamp("s"), safe=False)
    written = pc.if_else(pc.equal(whole.cast(moments.type), moments), whole.cast(pa.string()), moments.cast(pa.string()))
    return pc.replace_substring(written, " ", "T")


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_in_json)


def _in_json(value: object) -> object:
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    return _writer(type(value), "a list or object")(value)


_QUICK: dict[type, Callable[[Sequence[object]], pa.StringArray]] = {
    str: lambda values: pa.array(values, pa.string()),
    bool: lambda values: pa.array(values, pa.bool_()).cast(pa.string()),
    int: lambda values: pa.array(values, pa.int64()).cast(pa.string()),
    float: lambda values: pa.array(values, pa.float64()).cast(pa.string()),
    dt.date: lambda values: pa.array(values, pa.date32()).cast(pa.string()),
    dt.datetime: _moments,
}
"""What Arrow writes as `_WRITERS` do, a column at a time."""

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
