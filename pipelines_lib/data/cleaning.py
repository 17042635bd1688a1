"""Cleaning: pure steps from table to table, in the order the use case writes them, each saying how much it changed."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines_lib.errors import ConfigError
from pipelines_lib.use_case import CleaningStep


@dataclass(frozen=True)
class Change:
    """What one step did."""

    step: str
    rows_dropped: int
    values_changed: int


def clean(rows: pa.Table, steps: list[CleaningStep]) -> tuple[pa.Table, list[Change]]:
    """Rows after every step, in their old order. Raises `ConfigError` where a constant is no value of its column."""
    changes = []
    for index, step in enumerate(steps):
        [name] = [name for name in _STEPS if getattr(step, name) is not None]
        before = rows.num_rows
        try:
            rows, changed = _STEPS[name](rows, getattr(step, name))
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise ConfigError(f"clean.{index}: {name}: {error}; write a value of the column's type") from error
        changes.append(Change(f"{index}: {name}", before - rows.num_rows, changed))
    return rows, changes


def _deduplicate(rows: pa.Table, columns: list[str]) -> tuple[pa.Table, int]:
    """The first of the rows that agree; a row that lacks one of the columns can't be said to agree with any."""
    position = pa.array(range(rows.num_rows), pa.int64())
    comparable = _all_valid(rows, columns)
    first = (
        rows.select(columns)
        .append_column("position", position)
        .filter(comparable)
        .group_by(columns, use_threads=False)
        .aggregate([("position", "min")])["position_min"]
    )
    return rows.filter(pc.or_(pc.invert(comparable), pc.is_in(position, value_set=first))), 0


def _drop_missing(rows: pa.Table, columns: list[str]) -> tuple[pa.Table, int]:
    return rows.filter(_all_valid(rows, columns)), 0


def _fill(rows: pa.Table, constants: dict[str, Any]) -> tuple[pa.Table, int]:
    def fill(column: pa.ChunkedArray, constant: Any) -> pa.ChunkedArray:
        return pc.fill_null(column, pa.scalar(constant).cast(column.type))

    return _each(rows, constants, fill)


def _clip(rows: pa.Table, bounds: dict[str, Any]) -> tuple[pa.Table, int]:
    def clip(column: pa.ChunkedArray, bound: tuple[float, float]) -> pa.ChunkedArray:
        low, high = bound
        if pa.types.is_integer(column.type):
            low, high = math.ceil(low), math.floor(high)
        limits = [pa.scalar(limit).cast(column.type) for limit in (low, high)]
        return pc.min_element_wise(pc.max_element_wise(column, limits[0], skip_nulls=False), limits[1], skip_nulls=False)

    return _each(rows, bounds, clip)


def _to_missing(rows: pa.Table, markers: dict[str, list[Any]]) -> tuple[pa.Table, int]:
    def empty(column: pa.ChunkedArray, values: list[Any]) -> pa.ChunkedArray:
        known = pa.array([value for value in (_as(value, column.type) for value in values) if value is not None], column.type)
        return pc.if_else(pc.is_in(column, value_set=known), pa.scalar(None, column.type), column)

    return _each(rows, markers, empty)


_STEPS: dict[str, Callable[[pa.Table, Any], tuple[pa.Table, int]]] = {
    "deduplicate": _deduplicate,
    "fill": _fill,
    "clip": _clip,
    "drop_missing": _drop_missing,
    "to_missing": _to_missing,
}


def _each(rows: pa.Table, arguments: dict[str, Any], change: Callable[[pa.ChunkedArray, Any], pa.ChunkedArray]) -> tuple[pa.Table, int]:
    """`change` each column named in `arguments`; also how many values differ afterwards."""
    n_changed = 0
    for name, argument in arguments.items():
        index = rows.column_names.index(name)
        before = rows.column(index)
        after = change(before, argument)
        n_changed += _n_different(before, after)
        rows = rows.set_column(index, name, after)
    return rows, n_changed


def _n_different(before: pa.ChunkedArray, after: pa.ChunkedArray) -> int:
    moved = pc.sum(pc.not_equal(before, after)).as_py() or 0
    appeared = pc.sum(pc.xor(pc.is_null(before), pc.is_null(after))).as_py() or 0
    return int(moved + appeared)


def _all_valid(rows: pa.Table, columns: list[str]) -> pa.ChunkedArray | pa.Array:
    valid = pa.chunked_array([pa.array([True] * rows.num_rows, pa.bool_())])
    for name in columns:
        valid = pc.and_(valid, pc.is_valid(rows[name]))
    return valid


def _as(value: Any, to: pa.DataType) -> Any:
    """`value` as the column's type; None where it is a word, which the cast of the raw text has dealt with."""
    try:
        return pa.scalar(value).cast(to).as_py()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
