"""Reading a value as the type its column declares. What can't be read so is missing: None, or NaN for numbers.

Whoever must refuse such values (the quality gate, the server) does so before; here every value means something.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

Column = Sequence[Any] | NDArray[Any]

_TRUE = frozenset({"true", "1", "1.0"})
_FALSE = frozenset({"false", "0", "0.0"})
# Far outside any data, and its square, summed over a billion rows, is still a float64.
_LARGEST = 1e145


class Distinct(Sequence[Any]):
    """A column of many rows and fewer values, each of which stands once: whatever depends on a value alone is done once for it.

    To everyone who does not ask, it is the sequence of the rows' values.
    """

    def __init__(self, values: Sequence[Any], places: NDArray[Any]) -> None:
        self.values = values
        """Each occurs in a row."""
        self.places = places
        """Where in `values` the value of a row stands, whole numbers [n]."""

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, row: int) -> Any: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[Any]: ...
    def __getitem__(self, row: int | slice) -> Any:
        return [self.values[place] for place in self.places[row]] if isinstance(row, slice) else self.values[self.places[row]]

    def __iter__(self) -> Iterator[Any]:
        values = list(self.values)
        return (values[place] for place in self.places.tolist())

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Rows of each value."""
        return np.bincount(self.places, minlength=len(self.values)).astype(np.int64)


def each(column: Column, work: Callable[[Column], Any]) -> Any:
    """`work`, which depends on single values alone, done to a column; to one of distinct values, once for each."""
    if not isinstance(column, Distinct):
        return work(column)
    done = work(column.values)
    return done.take(column.places, axis=0) if isinstance(done, np.ndarray) else Distinct(done, column.places)


def as_numbers(column: Column) -> NDArray[np.float64]:
    """The column as float64 [n], NaN where a value is missing, not a number, or not finite."""
    if isinstance(column, Distinct):
        return as_numbers(column.values).take(column.places)
    if isinstance(column, np.ndarray) and column.dtype.kind in "fiub":
        numbers = column.astype(np.float64)
    else:
        numbers = np.fromiter((_number(value) for value in _plain(column)), np.float64, len(column))
    return _within_reach(numbers)


def as_booleans(column: Column) -> NDArray[np.float64]:
    """The column as float64 [n]: 1, 0, or NaN where a value is neither true nor false."""
    if isinstance(column, Distinct):
        return as_booleans(column.values).take(column.places)
    if isinstance(column, np.ndarray) and column.dtype.kind in "fiub":
        numbers = column.astype(np.float64)
        return np.where((numbers == 0) | (numbers == 1), numbers, np.nan)
    return np.fromiter((_boolean(value) for value in _plain(column)), np.float64, len(column))


def as_matrix(columns: Sequence[Column], booleans: Sequence[bool]) -> NDArray[np.float64]:
    """What `as_booleans` or `as_numbers` make of each of `columns`, float64 [n, d], in one go: quicker where the rows are few."""
    read = [(_boolean if is_boolean else _number, column) for is_boolean, column in zip(booleans, columns, strict=True)]
    values = np.array([as_number(value) for as_number, column in read for value in column], np.float64)
    return _within_reach(values.reshape(len(columns), -1).T)


def as_strings(column: Column) -> list[str | None]:
    """The column as text without blanks around it, as in the `clean` layer; None where a value is missing, blank, or neither
    text nor a number."""
    return [value.strip() or None if type(value) is str else _string(value) for value in _plain(column)]


def distinct_texts(column: Column) -> Iterator[str]:
    """The texts of the column, as `as_strings` has them, one after the other; each once where that is known."""
    for value in column.values if isinstance(column, Distinct) else _plain(column):
        if text := value.strip() if type(value) is str else _string(value):
            yield text


def counted_texts(column: Column) -> Counter[str]:
    """How often each text of the column occurs, as `as_strings` has them."""
    if not isinstance(column, Distinct):
        return Counter(distinct_texts(column))
    found: Counter[str] = Counter()
    for text, count in zip(as_strings(column.values), column.counts.tolist(), strict=True):
        if text is not None:
            found[text] += count
    return found


def _within_reach(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    numbers[~np.isfinite(numbers)] = np.nan
    found: NDArray[np.float64] = np.minimum(np.maximum(numbers, -_LARGEST), _LARGEST)
    return found


def _plain(column: Column) -> Sequence[Any]:
    return column.tolist() if isinstance(column, np.ndarray) else column


def _number(value: Any) -> float:
    if type(value) is float:
        return value
    if isinstance(value, np.generic):
        value = value.item()
    # "1_000" is a number to Python and to nobody else.
    if not isinstance(value, (int, float, str)) or (isinstance(value, str) and "_" in value):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def _boolean(value: Any) -> float:
    text = _string(value)
    text = text.strip().lower() if text is not None else ""
    return 1.0 if text in _TRUE else 0.0 if text in _FALSE else math.nan


def _string(value: Any) -> str | None:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        return str(value).strip() or None
    if isinstance(value, float) and math.isnan(value):
        return None
    try:
        return str(value) if isinstance(value, (int, float)) else None
    except ValueError:  # an integer of more digits than Python prints
        return None
