"""Files as a source: which of them hold the partition's records."""

import datetime as dt
import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO
from urllib.parse import quote

import pyarrow as pa

from pipelines_lib.data.records import Batch, Records
from pipelines_lib.data.sources import csvfile, jsonlines, logs, parquet
from pipelines_lib.data.sources.context import SourceContext
from pipelines_lib.data.sources.replay import replay_index, replayed
from pipelines_lib.data.sources.storage import Found, has_wildcard, storage_of
from pipelines_lib.data.sources.stream import File
from pipelines_lib.errors import DataError
from pipelines_lib.use_case import Source

_LONG_NAME = 48
"""Characters from which on a file's name enters the rows' names shortened, with a hash."""


def source_path(source: Source, context: SourceContext) -> Path:
    """The file of this machine that holds the partition's records."""
    return context.project.folder / context.fill(source.path)


def open_files(source: Source, context: SourceContext) -> Iterator[Records]:
    """The partition's records, file by file, in the order of their parts. Raises `DataError` where there are none, or one can't be read."""
    storage = storage_of(source.path, source.connection)
    several = has_wildcard(source.path)
    pattern = context.fill(source.path) if source.path.startswith("s3://") else str(source_path(source, context))
    found = storage.find(pattern)
    if not found:
        what = "no file matches" if several else "there is no file"
        raise DataError(f"partition {context.partition_key} of {context.use_case.name}: {what} {pattern}; {_remedy(source)}")
    parts = {part_of(each) if several else "": each for each in found}
    for part in sorted(parts, key=lambda part: f"{part}:"):  # the order of the rows' names
        with storage.local(parts[part]) as path, TemporaryFile() as kept:
            file = File(parts[part].name, path)
            if source.file_format == "json_lines" and not any(block.strip() for block in file.blocks(1 << 16)):
                continue  # it needs no header, so a day on which nothing came is a file without a line
            if source.replay is None:
                yield _records(file, source, kept, context.start, part)
            else:
                reading = partial(_records, file, source, kept, context.start)
                yield replayed(reading, source.replay, replay_index(context, source.replay))


def read_file(path: Path, source: Source, around: dt.datetime = dt.datetime(2000, 1, 1)) -> Batch:
    """Every record of one file of this machine, in memory, for whoever looks at it. Raises `DataError` where it can't be read."""
    with TemporaryFile() as kept:
        batches = list(_records(File(str(path), path), source, kept, around).batches)
    rows = pa.concat_tables(batch.rows for batch in batches).combine_chunks()
    numbers = pa.chunked_array([batch.numbers for batch in batches], pa.int64()).combine_chunks()
    return Batch(rows, numbers, tuple(record for batch in batches for record in batch.unreadable))


def part_of(file: Found) -> str:
    """Names a file among several: it stays when other files come, and sorts as their names do but for very long ones."""
    name = quote(file.below, safe="")
    return name if len(name) <= _LONG_NAME else f"{name[: _LONG_NAME - 12]}~{hashlib.sha256(name.encode()).hexdigest()[:11]}"


def _records(file: File, source: Source, kept: IO[bytes], around: dt.datetime, part: str = "") -> Records:
    match source.file_format:
        case "csv":
            records = csvfile.records(file, source.csv, part)
        case "json_lines":
            records = jsonlines.records(file, kept, part)
        case "parquet":
            records = parquet.records(file, part)
        case "log":
            assert source.log is not None
            records = logs.records(file, source.log, around, part)
    packing = file.compression()
    records.facts |= {"format": source.file_format} | ({"compression": packing} if packing else {})
    return records


def _remedy(source: Source) -> str:
    if source.land:
        return "its hooks.py should land it"
    if source.replay is not None:
        return "put it there, or correct source.path"
    return "wait for it and clear the task, or correct source.path"
