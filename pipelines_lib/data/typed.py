"""Strings of the raw layer as values of the declared types; a value that is none of its type gives its row a reason.

Leading and trailing blanks are dropped, and what is left empty is missing. In every column but strings and text the
usual ways of writing "missing" count as missing too, as do the words that a `to_missing` step names.

Most texts of a column of numbers or times are digits and little else. Those Arrow parses as they stand, many times
faster than the rules here are checked; whatever holds another character, or is refused by Arrow, is read by the rules.
Over those characters Arrow accepts nothing that the rules refuse and means the same by it, so the verdict is one.
"""

import datetime as dt
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines_lib.data.cleaning import column_after
from pipelines_lib.data.raw import raw_name
from pipelines_lib.data.texts import bytes_of
from pipelines_lib.errors import DataError
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
_NUMBER = r"^[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?$"
_TRUE, _FALSE = ("true", "t", "yes", "y", "1", "是"), ("false", "f", "no", "n", "0", "否")
_IS_NOT = {"integer": "an integer", "number": "a finite number", "boolean": "true or false", "timestamp": "an ISO 8601 time"}


@dataclass(frozen=True)
class Typed:
    """Rows under the use case's column names and types, and why some of them are no rows of the use case."""

    rows: pa.Table
    """`row_id` and every column that is written, in the order declared; a value that is none of its type is null."""
    reasons: dict[str, set[str]]
    """`row_id` to the reasons the row must not pass."""


def typed(raw: pa.Table, use_case: UseCase) -> Typed:
    """Cast rows of the raw layer. Never raises over a value; raises `ConfigError` where a cleaning step's constant is none of the label's column."""
    columns: dict[str, pa.Array] = {"row_id": raw["row_id"].combine_chunks()}
    reasons: dict[str, set[str]] = {}

    def note(reason: str, failed: pa.Array) -> None:
        if failed.true_count:
            for name in columns["row_id"].filter(failed).to_pylist():
                reasons.setdefault(name, set()).add(reason)

    names = raw_names(raw.column_names, use_case)
    for name, column in use_case.written.items():
        values, failed = _cast_column(raw, names[name], use_case, name)
        columns[name] = values
        if column.type in _IS_NOT:
            note(f"type: {name} is not {_IS_NOT[column.type]}", failed)
        if not column.nullable:
            note(f"missing: {name}", pc.and_not(pc.is_null(values), failed))
    if (label := use_case.label).column is not None and label.map is not None:
        # The label is made of the clean value: a spelling that is normalised, or a marker for "missing", is no reason to reject a row.
        clean = column_after(columns[label.column], label.column, use_case.clean)
        note(f"label: {label.column} is none of the values of label.map", none_of(clean, label.map))
    return Typed(pa.table(columns), reasons)


def typed_columns(raw: pa.Table, use_case: UseCase, columns: Iterable[str]) -> pa.Table:
    """`row_id` and some of the columns of `typed(raw, use_case).rows`; `raw` needs no more than what these are made of."""
    columns = list(columns)
    names = raw_names(raw.column_names, use_case, columns)
    made = {name: _cast_column(raw, names[name], use_case, name)[0] for name in columns if name != "row_id"}
    return pa.table({"row_id": raw["row_id"].combine_chunks(), **made})


def typed_nothing(use_case: UseCase, columns: Iterable[str] | None = None) -> pa.Table:
    """No rows, under `row_id` and these columns; all that are written, when None."""
    types = {name: ARROW_TYPES[column.type] for name, column in use_case.written.items()}
    names = types if columns is None else [name for name in columns if name != "row_id"]
    return pa.schema([("row_id", pa.string()), *((name, types[name]) for name in names)]).empty_table()


def raw_names(there: Iterable[str], use_case: UseCase, columns: Iterable[str] | None = None) -> dict[str, str]:
    """What each of `columns` (of all that are written, when None) is called among the names of the raw layer.

    The layer keeps the spelling that a column first came with, and no two of its names differ in case alone. Raises `DataError`
    where one is not there.
    """
    found = {name.casefold(): name for name in there}
    written = use_case.written
    wanted = {name: raw_name(written[name].source or name) for name in (written if columns is None else columns) if name != "row_id"}
    if absent := [name for name, source in wanted.items() if source.casefold() not in found]:
        raise DataError(
            f"the raw layer has no column {wanted[absent[0]]!r}, of which columns.{absent[0]} of {use_case.name} is made: no partition was ingested "
            "since it was declared. Run ingest again for this one, or correct the column"
        )
    return {name: found[source.casefold()] for name, source in wanted.items()}


def _cast_column(raw: pa.Table, source: str, use_case: UseCase, name: str) -> tuple[pa.Array, pa.Array]:
    return cast(raw[source].combine_chunks(), use_case.columns[name].type, use_case.markers(name))


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
    if to in ("string", "text"):
        return _without_blanks(texts), _no(len(texts))
    if to == "boolean":
        # Few spellings, many rows.
        distinct = pc.dictionary_encode(texts)
        values, failed = _by_the_rules(distinct.dictionary, to, markers)
        return values.take(distinct.indices), pc.fill_null(failed.take(distinct.indices), False)
    values, left = _as_they_stand(texts, to)
    if not left.any():
        return values, _no(len(texts))
    some, some_failed = _by_the_rules(texts.filter(pa.array(left)), to, markers)
    failed = np.zeros(len(texts), np.bool_)
    failed[left] = some_failed.to_numpy(zero_copy_only=False)
    return pc.replace_with_mask(values, pa.array(left), some), pa.array(failed)


# --- as Arrow reads them ------------------------------------------------------------------------------------------


def _table(letters: bytes) -> NDArray[np.bool_]:
    return np.isin(np.arange(256), list(letters))


_LETTERS: dict[ColumnType, NDArray[np.bool_]] = {
    "integer": _table(b"-0123456789"),
    "number": _table(b"+-.0123456789eE"),
    "timestamp": _table(b"+-.:0123456789 TZ"),
}
"""Type to the bytes [256] of which a text may be made to be parsed by Arrow."""
_LENGTHS: dict[ColumnType, tuple[int, int]] = {"integer": (1, 18), "number": (1, 1000), "timestamp": (10, 32)}
"""Type to the least and the most bytes of such a text."""
_TIMES = dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59, 999999)
"""Earliest and latest time of Python's, which reads the texts that Arrow does not."""
_PIECE = 4096
"""Texts that are parsed together where some were refused: a refusal costs as much as fifty values that are read."""


def _as_they_stand(texts: pa.Array, to: ColumnType) -> tuple[pa.Array, NDArray[np.bool_]]:
    """(values, left): what Arrow reads, and which texts it is not to be asked about or could not read; their values are null."""
    valid = texts.is_valid().to_numpy(zero_copy_only=False)
    if to in _SIMPLER:
        texts = _SIMPLER[to](texts)
    asked = valid & _made_of(texts, _LETTERS[to], *_LENGTHS[to])
    plain = texts if asked.all() else _only_at(asked, texts)
    try:
        values = _PARSERS[to](plain)
    except pa.ArrowInvalid:
        # One text was refused, and Arrow does not say which: only its neighbours share its fate.
        values = pa.concat_arrays([_parsed_piece(plain.slice(start, _PIECE), to) for start in range(0, len(plain), _PIECE)])
    if to == "number":
        values = _only(pc.is_finite(values), values)
    elif to == "timestamp":
        first, last = (pa.scalar(moment, values.type) for moment in _TIMES)
        values = _only(pc.and_(pc.greater_equal(values, first), pc.less_equal(values, last)), values)
    return values, valid & values.is_null().to_numpy(zero_copy_only=False)


def _parsed_piece(texts: pa.Array, to: ColumnType) -> pa.Array:
    try:
        return _PARSERS[to](texts)
    except pa.ArrowInvalid:
        return pa.nulls(len(texts), ARROW_TYPES[to])


def _parsed_times(texts: pa.Array) -> pa.Array:
    """Times that all carry a zone where the first does, and none of which does otherwise. Raises `ArrowInvalid`."""
    first = pc.first(texts).as_py() or ""
    if not set(first[10:]) & set("Z+-"):
        return texts.cast(pa.timestamp("us"))
    return texts.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).cast(pa.timestamp("us"))


_PARSERS: dict[ColumnType, Callable[[pa.Array], pa.Array]] = {
    "integer": lambda texts: texts.cast(pa.int64()),
    "number": lambda texts: texts.cast(pa.float64()),
    "timestamp": _parsed_times,
}


def _without_zero_fraction(texts: pa.Array) -> pa.Array:
    """3 for 3.0: whole numbers are written so where some of a column were missing."""
    if not _holds(texts, "."):
        return texts
    data = texts.cast(pa.binary())
    return pc.if_else(pc.ends_with(texts, ".0"), pc.binary_slice(data, 0, -2), data).cast(texts.type)


def _with_hyphens(texts: pa.Array) -> pa.Array:
    return pc.replace_substring(texts, "/", "-") if _holds(texts, "/") else texts


_SIMPLER: dict[ColumnType, Callable[[pa.Array], pa.Array]] = {"integer": _without_zero_fraction, "timestamp": _with_hyphens}
"""Type to what makes the other usual way to write its values one that Arrow reads."""


def _holds(texts: pa.Array, letter: str) -> bool:
    starts, data = bytes_of(texts)
    return bool((data[starts[0] : starts[-1]] == ord(letter)).any())


def _made_of(texts: pa.Array, letters: NDArray[np.bool_], shortest: int, longest: int) -> NDArray[np.bool_]:
    """Which texts [n] are made of `letters` alone, `shortest` to `longest` of them."""
    starts, data = bytes_of(texts)
    lengths = np.diff(starts)
    fits: NDArray[np.bool_] = (lengths >= shortest) & (lengths <= longest)
    strange = ~letters[data[starts[0] : starts[-1]]]
    if strange.any():
        before = np.concatenate((np.zeros(1, np.int32), np.cumsum(strange, dtype=np.int32)))[starts - starts[0]]
        fits &= np.diff(before) == 0
    return fits


def _only_at(places: NDArray[np.bool_], texts: pa.Array) -> pa.Array:
    """`texts`, null everywhere but at `places`. Their bytes are shared, not copied."""
    starts, _ = bytes_of(texts)
    return pa.Array.from_buffers(texts.type, len(texts), [pa.array(places).buffers()[1], pa.py_buffer(starts), texts.buffers()[2]])


# --- by the rules -------------------------------------------------------------------------------------------------


def _by_the_rules(texts: pa.Array, to: ColumnType, markers: Iterable[str]) -> tuple[pa.Array, pa.Array]:
    """What `cast` promises, by the rules alone."""
    texts = _without_blanks(texts)
    values = _CASTS[to](texts)
    means_missing = pc.is_in(texts, value_set=pa.array([*_MISSING, *markers], texts.type))
    return values, pc.and_not(pc.is_null(values), pc.or_(pc.is_null(texts), means_missing))


def _without_blanks(texts: pa.Array) -> pa.Array:
    """Texts without blanks around them; null where nothing is left."""
    starts, data = bytes_of(texts)
    if (
        texts.null_count == 0
        and len(texts)
        and (starts[1:] > starts[:-1]).all()
        and not (_EDGES[data[starts[:-1]]] | _EDGES[data[starts[1:] - 1]]).any()
    ):
        return texts
    texts = pc.utf8_trim_whitespace(texts)
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, texts.type), texts)


_EDGES = ~_table(bytes(range(0x21, 0x7F)))
"""Bytes [256] that a text may not begin or end with to be left as it is: blanks, and what may be part of one."""


def _no(n: int) -> pa.Array:
    return pa.array(np.zeros(n, np.bool_))


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


def none_of(values: pa.Array, mapping: Collection[str]) -> pa.Array:
    """Whether each value is there, and `label.map` does not list it."""
    known = pc.is_in(class_text(values), value_set=pa.array(list(mapping), pa.string()))
    return pc.and_not(pc.is_valid(values), known)
