"""Arrow's columns as the feature transform and the data profile take them, without a Python object for each row.

Apart from the transform, which an edge device runs with numpy alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines_lib.errors import DataError
from pipelines_lib.features.values import Column, Distinct
from pipelines_lib.use_case import ColumnType

_PIECE = 1 << 14
_MUCH = 1 << 30
"""Bytes of a column of texts from which the distinct ones may pass the 2 GiB that 32-bit offsets reach."""


def feature_columns(rows: pa.Table, types: Mapping[str, ColumnType]) -> dict[str, Column]:
    """The columns named in `types`. Raises `DataError` where `rows` lacks one."""
    check_there(rows.column_names, types)
    return {name: feature_column(rows[name], type_) for name, type_ in types.items()}


class Features(Mapping[str, Column]):
    """The same of rows that stay where they are: each column is read when it is asked for, and not kept."""

    def __init__(self, read: Callable[[str], pa.ChunkedArray], names: Sequence[str], types: Mapping[str, ColumnType]) -> None:
        check_there(names, types)
        self._read, self._types = read, types

    def __getitem__(self, name: str) -> Column:
        return feature_column(self._read(name), self._types[name])

    def __contains__(self, name: object) -> bool:
        return name in self._types

    def __iter__(self) -> Iterator[str]:
        return iter(self._types)

    def __len__(self) -> int:
        return len(self._types)


def check_there(names: Sequence[str], types: Mapping[str, ColumnType]) -> None:
    """Raises `DataError` where a feature is not among the columns `names` of labelled rows."""
    if absent := [name for name in types if name not in names]:
        raise DataError(
            f"the labelled rows have no column {', '.join(absent)}; run the data pipeline again for the partitions of the window"
        )


def feature_column(column: pa.ChunkedArray, type_: ColumnType) -> Column:
    """float64 [n] with NaN for numbers; each value once, with None for a missing one, for the rest.

    A column that holds something else than its type says (a model may be older than the type) comes as what it holds.
    """
    is_number = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    if is_number and type_ in ("integer", "number"):
        numbers: Column = pc.cast(column, pa.float64(), safe=False).to_numpy()
        return numbers
    if is_number or pa.types.is_string(column.type) or pa.types.is_boolean(column.type) or pa.types.is_dictionary(column.type):
        return _distinct(column)
    values: Column = column.to_pylist()
    return values


def _distinct(column: pa.ChunkedArray) -> Distinct:
    if pa.types.is_string(column.type) and column.nbytes > _MUCH:
        column = column.cast(pa.large_string())
    is_encoded = pa.types.is_dictionary(column.type)
    encoded = (column if is_encoded else column.dictionary_encode()).unify_dictionaries()
    values = encoded.chunk(0).dictionary if encoded.num_chunks else pa.nulls(0)
    if encoded.null_count:
        values = pa.concat_arrays([values, pa.nulls(1, values.type)])
    places = np.concatenate([np.empty(0, np.int32), *(chunk.indices.fill_null(len(values) - 1).to_numpy() for chunk in encoded.chunks)])
    found = Distinct(_Values(values), places)
    if is_encoded and not (there := found.counts > 0).all():
        # Of rows that were picked from others the dictionary holds more than they do.
        return Distinct(_Values(values.filter(pa.array(there))), (np.cumsum(there) - 1)[places])
    return found


class _Values(Sequence[Any]):
    """An Arrow array as Python values, a piece at a time where they are gone through."""

    def __init__(self, array: pa.Array) -> None:
        self._array = array

    def __len__(self) -> int:
        return len(self._array)

    @overload
    def __getitem__(self, place: int) -> Any: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Any]: ...
    def __getitem__(self, place: int | slice) -> Any:
        return self._array[place].to_pylist() if isinstance(place, slice) else self._array[int(place)].as_py()

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self._array), _PIECE):
            yield from self._array.slice(start, _PIECE).to_pylist()
