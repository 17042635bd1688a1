"""The Parquet files that a version of a table names: opened, read, and told of where one is damaged."""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines_lib.data.table_store import footer_of, parquet, reached
from pipelines_lib.errors import DataError
from pipelines_lib.store import StorePath

_WRITERS: dict[str, str] = (
    {"raw": "ingest", "ground_truth": "ingest", "quarantine": "validate", "quality": "validate"}
    | dict.fromkeys(("clean", "labelled"), "prepare")
    | {"scored": "score"}
)
"""Layer to the stage that writes a partition of it."""


class File(NamedTuple):
    """A file that a version of a table names."""

    partition_key: str
    path: str


class DamagedFile(DataError):
    """A data file that a version of a table names was damaged or lost."""


def picked(schema: pa.Schema, columns: Sequence[str]) -> pa.Schema:
    """The fields of `columns`, then `row_id` and `partition_key`. Raises `KeyError` with the first that the table lacks."""
    return pa.schema([schema.field(name) for name in dict.fromkeys([*columns, "row_id", "partition_key"])])


def read_file(folder: StorePath, file: File, wanted: pa.Schema) -> pa.Table:
    """All rows of a file of the table at `folder`."""
    with told(folder, file):
        content = parquet(folder / file.path, encoded=[field.name for field in wanted if pa.types.is_dictionary(field.type)])
        rows = content.read(columns=in_file(content, wanted))
    return as_wanted(rows, file, wanted)


def opened_file(folder: StorePath, file: File, footer: pq.FileMetaData | None = None) -> pq.ParquetFile:
    """The file of the table at `folder`; `footer` where it is known already."""
    return parquet(folder / file.path, footer)


@contextmanager
def told(folder: StorePath, file: File) -> Iterator[None]:
    """Say of a file that was damaged or lost how it is mended. What the system itself refuses may pass, and is left as it is."""
    try:
        with reached(folder / file.path):
            yield
    except (OSError, pa.ArrowInvalid) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
            raise
        writer = _WRITERS.get(folder.name)
        remedy = f"run {writer} for that partition again, which writes it anew" if writer else "restore it from a copy"
        raise DamagedFile(
            f"{folder / file.path}, a file of partition {file.partition_key} of the table {folder.name!r}, is damaged or gone ({str(error).strip()}); {remedy}"
        ) from error


def groups_of(path: StorePath) -> Iterator[tuple[str, int]]:
    """(first `row_id`, rows) of each row group, read from the file's footer: rows ascend, so the smallest is the first."""
    footer = footer_of(path)
    column = footer.schema.names.index("row_id")
    for group in range(footer.num_row_groups):
        described = footer.row_group(group)
        yield described.column(column).statistics.min, described.num_rows


def in_file(content: pq.ParquetFile, wanted: pa.Schema) -> list[str]:
    """Those of the wanted columns that the file has."""
    there = set(content.schema_arrow.names)
    return [name for name in wanted.names if name in there]


def as_wanted(rows: pa.Table, file: File, wanted: pa.Schema) -> pa.Table:
    """`rows` with every wanted column: a file is silent about its partition, and about columns that came after it."""
    n = rows.num_rows
    arrays = []
    for field in wanted:
        if field.name == "partition_key":
            arrays.append(pa.chunked_array([pa.repeat(pa.scalar(file.partition_key, field.type), n)]))
        elif field.name in rows.column_names:
            arrays.append(rows[field.name].cast(field.type))
        else:
            arrays.append(pa.chunked_array([pa.nulls(n, field.type)]))
    return pa.Table.from_arrays(arrays, schema=wanted)
