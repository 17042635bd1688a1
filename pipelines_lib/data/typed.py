"""Strings of the raw layer as values of the declared types; a value that is none of its type gives its row a reason.

Leading and trailing blanks are dropped, and what is left empty is missing. In every column but strings and text the
usual ways of writing "missing" count as missing too, as do the words that a `to_missing` step names.
"""

import datetime as dt
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipelines_lib.data.raw import raw_name
from pipelines_lib.use_case import ColumnType, UseCase

ARROW_TYPES: dict[ColumnType, pa.DataType] = {
    "integer": pa.int64(),
    "number": pa.float64(),
    "string": pa.string(),
    "text": pa.string(),
    "boolean": pa.bool_(),
    "timestamp": pa.timestamp("us"),
}
_MISSING = ("NA", "N/A", "n/a", "NaN", "nan", "NULL", "Null", "null", "None")
_INTEGER = r"^[+-]?\d{1,18}(\.0*)?$"
_NUMBER = r"^[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,4})?$"
_TRUE, _FALSE = ("true", "t", "yes", "y", "1", "是"), ("false", "f", "no", "n", "0", "否")
_IS_NOT = {"integer": "an integer", "number": "a finite number", "boolean": "true or false", "timestamp": "an ISO 8601 time"}


@dataclass(frozen=True)
class Typed:
    """Rows under the use case's column names and types, and why some of them are no rows of the use case."""

    rows: pa.Table
    """`row_id` and every declared column, in the order declared; a value that is none of its type is null."""
    reasons: dict[str, set[str]]
    """`row_id` to the reasons the row must not pass."""


def typed(raw: pa.Table, use_case: UseCase) -> Typed:
    """Cast rows of the raw layer. Never raises over a value."""
    columns: dict[str, pa.Array] = {"row_id": raw["row_id"].combine_chunks()}
    reasons: dict[str, set[str]] = {}

    def note(reason: str, failed: pa.Array) -> None:
        for name in columns["row_id"].filter(failed).to_pylist():
            reasons.setdefault(name, set()).add(reason)

    # The layer keeps the spelling that a column first came with, and no two of its names differ in case alone.
    found = {name.casefold(): name for name in raw.column_names}
    for name, column in use_case.columns.items():
        texts = raw[found[raw_name(column.source or name).casefold()]].combine_chunks()
        values, failed = cast(texts, column.type, _markers(use_case, name))
        columns[name] = values
        if column.type in _IS_NOT:
            note(f"type: {name} is not {_IS_NOT[column.type]}", failed)
        if not column.nullable:
            note(f"missing: {name}", pc.and_not(pc.is_null(values), failed))
    note_label = _unknown_class(columns[use_case.label.column], use_case)
    note(f"label: {use_case.label.column} is none of the values of label.map", note_label)
    return Typed(pa.table(columns), reasons)


def class_text(values: pa.Array) -> pa.Array:
    """Values as the text that `label.map` lists them under: 1 and 1.0 are "1", true is "true"."""
    if pa.types.is_floating(values.type):
        whole = pc.equal(values, pc.round(values))
        return pc.if_else(whole, values.cast(pa.int64(), safe=False).cast(pa.string()), values.cast(pa.string()))
    return values.cast(pa.string())


def cast(texts: pa.Array, to: ColumnType, markers: Iterable[str] = ()) -> tuple[pa.Array, pa.Array]:
    """(values, failed): `failed` is true where a text is neither a value of the type nor missing.

    `markers` are further texts that mean "missing" wherever they are no value of the type.
    """
    texts = pc.utf8_trim_whitespace(texts)
    texts = pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
    if to in ("string", "text"):
        return texts, pa.array([False] * len(texts), pa.bool_())
    values = _CASTS[to](texts)
    means_missing = pc.is_in(texts, value_set=pa.array([*_MISSING, *markers], pa.string()))
    failed = pc.and_not(pc.is_null(values), pc.or_(pc.is_null(texts), means_missing))
    return values, failed


def _integers(texts: pa.Array) -> pa.Array:
    fits = pc.match_substring_regex(texts, _INTEGER)
    return _only(fits, pc.replace_substring_regex(texts, r"^\+|\.0*$", "")).cast(pa.int64())


def _numbers(texts: pa.Array) -> pa.Array:
    fits = pc.match_substring_regex(texts, _NUMBER)
    values = _only(fits, pc.replace_substring_regex(texts, r"^\+", "")).cast(pa.float64())
    return _only(pc.is_finite(values), values)


def _booleans(texts: pa.Array) -> pa.Array:
    lower = pc.utf8_lower(texts)
    true = pc.is_in(lower, value_set=pa.array(_TRUE))
    known = pc.or_(true, pc.is_in(lower, value_set=pa.array(_FALSE)))
    return _only(known, true)


def _timestamps(texts: pa.Array) -> pa.Array:
    distinct = pc.dictionary_encode(texts)
    parsed = pa.array([_time(text) for text in distinct.dictionary.to_pylist()], pa.timestamp("us"))
    return parsed.take(distinct.indices)


def _time(text: str) -> dt.datetime | None:
    """ISO 8601, with - or / between the parts of the date. A time with a zone becomes UTC; one without is UTC already."""
    try:
        moment = dt.datetime.fromisoformat(text.replace("/", "-"))
        return moment if moment.tzinfo is None else moment.astimezone(dt.UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):  # in UTC the first of January of year 1 may lie before it
        return None


_CASTS: dict[ColumnType, Callable[[pa.Array], pa.Array]] = {
    "integer": _integers,
    "number": _numbers,
    "boolean": _booleans,
    "timestamp": _timestamps,
}


def _only(keep: pa.Array, values: pa.Array) -> pa.Array:
    return pc.if_else(pc.fill_null(keep, False), values, pa.scalar(None, values.type))


def _markers(use_case: UseCase, name: str) -> list[str]:
    return [str(value) for step in use_case.clean for value in (step.to_missing or {}).get(name, [])]


def _unknown_class(values: pa.Array, use_case: UseCase) -> pa.Array:
    if use_case.label.map is None:
        return pa.array([False] * len(values), pa.bool_())
    known = pc.is_in(class_text(values), value_set=pa.array(list(use_case.label.map), pa.string()))
    return pc.and_not(pc.is_valid(values), known)
