"""Files as a source: which of them hold the partition's records."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from pipelines_lib.data.records import Batch, Records
from pipelines_lib.data.sources import csvfile
from pipelines_lib.data.sources.context import SourceContext
from pipelines_lib.data.sources.replay import replay_index, replayed
from pipelines_lib.data.sources.storage import Found, has_wildcard, storage_of
from pipelines_lib.errors import DataError
from pipelines_lib.use_case import Source


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
    for part, file in sorted((part_of(file) if several else "", file) for file in found):
        with storage.local(file) as path:
            if source.replay is None:
                yield _records(path, source, part)
            else:
                yield replayed(lambda path=path: _records(path, source), source.replay, replay_index(context, source.replay))  # type: ignore[misc]


def part_of(file: Found) -> str:
    """Names a file among several: it stays when other files come."""
    return hashlib.sha256(file.below.encode()).hexdigest()[:10]


def _records(path: Path, source: Source, part: str = "") -> Records:
    file = csvfile.read(path, source.csv)
    batch = Batch(file.rows, pa.array(file.numbers, pa.int64()), tuple(file.unreadable))
    facts = {"encoding": file.csv.encoding, "delimiter": file.csv.delimiter}
    return Records(part, file.rows.column_names, iter([batch]), {**facts})


def _remedy(source: Source) -> str:
    if source.land:
        return "its hooks.py should land it"
    if source.replay is not None:
        return "put it there, or correct source.path"
    return "wait for it and clear the task, or correct source.path"
