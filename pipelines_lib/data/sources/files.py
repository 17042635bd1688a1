"""Files as a source: which of them hold the partition's records."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from pipelines_lib.data.records import Batch, Records
from pipelines_lib.data.sources import csvfile
from pipelines_lib.data.sources.context import SourceContext
from pipelines_lib.data.sources.replay import replay_index, replayed
from pipelines_lib.errors import DataError
from pipelines_lib.use_case import Source


def source_path(source: Source, context: SourceContext) -> Path:
    """The file that holds the partition's records."""
    return context.project.folder / context.fill(source.path)


def open_files(source: Source, context: SourceContext) -> Iterator[Records]:
    """The partition's records, file by file. Raises `DataError` where one is missing or unreadable."""
    path = source_path(source, context)
    if not path.is_file():
        raise DataError(f"partition {context.partition_key} of {context.use_case.name}: there is no file {path}; {_remedy(source)}")
    if source.replay is None:
        yield _records(path, source)
    else:
        yield replayed(lambda: _records(path, source), source.replay, replay_index(context, source.replay))


def _records(path: Path, source: Source) -> Records:
    file = csvfile.read(path, source.csv)
    batch = Batch(file.rows, pa.array(file.numbers, pa.int64()), tuple(file.unreadable))
    facts = {"encoding": file.csv.encoding, "delimiter": file.csv.delimiter}
    return Records("", file.rows.column_names, iter([batch]), {**facts})


def _remedy(source: Source) -> str:
    if source.land:
        return "its hooks.py should land it"
    if source.replay is not None:
        return "put it there, or correct source.path"
    return "wait for it and clear the task, or correct source.path"
