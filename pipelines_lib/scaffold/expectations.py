"""Expectations that the file itself meets, with room for what it has not shown yet."""

import math
from typing import Any

import numpy as np

from pipelines_lib.scaffold.survey import LARGEST, Facts
from pipelines_lib.use_case import Role

Expectation = tuple[str, dict[str, Any], str]
"""Great Expectations' name, its arguments, and a comment."""

_MAX_SET = 30
"""Values up to which a category's values are listed."""


def expectations(columns: list[Facts], roles: dict[str, Role], rows_a_partition: float) -> list[Expectation]:
    """What a partition of about so many rows should look like."""
    found: list[Expectation] = [_row_count(rows_a_partition)]
    for column in columns:
        role = roles[column.name]
        if role in ("feature", "label"):
            found += _of_values(column, is_label=role == "label")
        if role != "other" and (missing := _missing(column, rows_a_partition)):
            found.append(missing)
    return found


def rounded_out(low: float, high: float, whole: bool) -> tuple[float, float]:
    """The bounds moved outwards to two significant digits of their distance, `whole` or where they can be."""
    step = 10.0 ** (math.floor(math.log10(high - low)) - 1) if high > low else 1.0
    step = max(step, 1.0) if whole else step
    # Division by the reciprocal keeps decimals short: 3 / 10, and not 3 * 0.1.
    scale = round(1 / step) if step < 1 else 1
    bounds = (math.floor(low / step), math.ceil(high / step))
    low, high = (bound / scale if step < 1 else bound * step for bound in bounds)
    return tuple(int(bound) if bound == int(bound) else bound for bound in (low, high))  # type: ignore[return-value]


def _row_count(rows_a_partition: float) -> Expectation:
    bounds = {"min_value": max(1, int(0.5 * rows_a_partition)), "max_value": math.ceil(2 * rows_a_partition) + 1}
    return "expect_table_row_count_to_be_between", bounds, f"a partition of the file has about {rows_a_partition:.0f}"


def _of_values(column: Facts, is_label: bool) -> list[Expectation]:
    if column.type == "string":
        if column.n_distinct > (1000 if is_label else _MAX_SET):
            return []
        # A missing label's marker is emptied in `clean`, after this gate, so it must pass here.
        values = sorted([*column.counts, *column.markers])
        return [("expect_column_values_to_be_in_set", {"column": column.name, "value_set": values}, "")]
    if column.type == "text":
        longest = max(map(len, column.counts))
        return [("expect_column_value_lengths_to_be_between", {"column": column.name, "min_value": 1, "max_value": 2 * longest}, "")]
    return [_range(column)] if column.is_number and float(np.nanmax(np.abs(column.numbers))) < LARGEST else []


def _range(column: Facts) -> Expectation:
    numbers = column.numbers[np.isfinite(column.numbers)]
    low, high = float(numbers.min()), float(numbers.max())
    if column.n_distinct == 2 and column.type == "integer":
        return "expect_column_values_to_be_in_set", {"column": column.name, "value_set": [int(low), int(high)]}, ""
    room = 0.5 * (high - low)
    widest = (low - room, high + room) if low < 0 else (max(0.0, low - room), high + room)
    bounds = rounded_out(*widest, whole=column.type == "integer")
    seen = f"seen: {low:.10g} to {high:.10g}"
    return "expect_column_values_to_be_between", {"column": column.name, "min_value": bounds[0], "max_value": bounds[1]}, seen


def _missing(column: Facts, rows_a_partition: float) -> Expectation | None:
    """For a column that lacks some values: that it does not come to lack most of them, chance (four deviations) allowed for."""
    if column.n_missing == 0:
        return None
    share = 1 - column.n_missing / column.n_rows
    mostly = math.floor(100 * (share - 4 * math.sqrt(share * (1 - share) / max(1.0, rows_a_partition)))) / 100
    if mostly < 0.1:
        return None
    return "expect_column_values_to_not_be_null", {"column": column.name, "mostly": mostly}, f"{1 - share:.1%} are missing in the file"
