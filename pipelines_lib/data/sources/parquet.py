"""Parquet files: rows by row group, every value as the canonical text of the raw layer.

A column of structs gives columns with dots in their names, as an object in JSON does.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from pipelines_lib.data.records import Batch, Records
from pipelines_lib.data.sources.names import unique_names
from pipelines_lib.data.sources.stream import File
from pipelines_lib.data.sources.values import texts
from pipelines_lib.errors import DataError

_BATCH_ROWS = 200_000


def records(file: File, part: str = "") -> Records:
    """The rows of `file`. Raises `DataError` where it is no Parquet file."""
    if (packing := file.compression()) is not None:
        raise DataError(f"{file.name}: a Parquet file packed with {packing}; Parquet packs itself, so write it unpacked")
    try:
        with parquet.ParquetFile(file.path) as opened:
            schema = opened.schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file.name}: is no Parquet file ({error}); have it written again, or set source.format to what it is") from error
    names = unique_names(_flat(schema.empty_table()).column_names)
    return Records(part, names, _batches(file, names), {})


def _batches(file: File, names: list[str]) -> Iterator[Batch]:
    first = 1
    try:
        with parquet.ParquetFile(file.path) as opened:
            for batch in opened.iter_batches(_BATCH_ROWS):
                rows = _flat(pa.Table.from_batches([batch]))
                columns = [text_of(column.combine_chunks(), name) for name, column in zip(names, rows.columns, strict=True)]
                yield Batch(pa.table(columns, names=names), pa.array(np.arange(first, first + rows.num_rows)))
                first += rows.num_rows
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file.name}: can't be read behind row {first - 1} ({error}); have it written again, whole") from error


def text_of(values: pa.Array, name: str) -> pa.StringArray:
    """The values as text; what is empty is null.

    Numbers have the shortest digits that read back the same; times are ISO 8601, in UTC where they had a zone, with a fraction
    where there is one; durations are seconds; bytes are base64; lists and maps are JSON.
    """
    kind = values.type
    if pa.types.is_dictionary(kind):
        return text_of(values.cast(kind.value_type), name)
    written = next((write(values) for is_kind, write in _WRITERS if is_kind(kind)), None)
    return texts(values.to_pylist(), name) if written is None else pc.if_else(pc.equal(written, ""), pa.scalar(None, pa.string()), written)


_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def _moments(values: pa.Array) -> pa.StringArray:
    if values.type.unit == "ns":
        short = values.cast(pa.timestamp("us"), safe=False)
        return pc.if_else(pc.equal(short.cast(values.type), values), _moments(short), _written(values))
    return _written(values)


def _written(values: pa.Array) -> pa.StringArray:
    return _without_zeros(pc.replace_substring(values.cast(pa.string()), " ", "T"))


def _without_zeros(written: pa.StringArray) -> pa.StringArray:
    """Without a fraction that is none."""
    return pc.replace_substring_regex(written, r"\.0+$", "")


def _seconds(values: pa.Array) -> pa.StringArray:
    # Beyond 2**53 units, which are 104 days of nanoseconds, a float is the nearest one.
    units = values.cast(pa.int64()).cast(pa.float64(), safe=False)
    return pc.divide(units, float(_PER_SECOND[values.type.unit])).cast(pa.string())


def _flat(rows: pa.Table) -> pa.Table:
    while any(pa.types.is_struct(field.type) for field in rows.schema):
        rows = rows.flatten()
    return rows


def _plain(values: pa.Array) -> pa.StringArray:
    return values.cast(pa.string())


_WRITERS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.Array], pa.StringArray]], ...] = (
    (pa.types.is_string, _plain),
    (pa.types.is_integer, _plain),
    (pa.types.is_float16, lambda values: values.cast(pa.float32()).cast(pa.string())),
    (pa.types.is_floating, _plain),
    (pa.types.is_boolean, _plain),
    (pa.types.is_decimal, _plain),
    (pa.types.is_timestamp, lambda values: _moments(values.cast(pa.timestamp(values.type.unit)))),
    (pa.types.is_date, lambda values: values.cast(pa.date32()).cast(pa.string())),
    (pa.types.is_time, lambda values: _without_zeros(values.cast(pa.string()))),
    (pa.types.is_duration, _seconds),
    (pa.types.is_large_string, _plain),
    (pa.types.is_string_view, _plain),
    (pa.types.is_null, _plain),
)
"""What Arrow writes a column at a time; all else is written value by value."""
