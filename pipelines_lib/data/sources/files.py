"""Files as a source: which of them hold the partition's records."""

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import quote

from pipelines_lib.data.records import Records
from pipelines_lib.data.sources import csvfile
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
        with storage.local(parts[part]) as path:
            file = File(parts[part].name, path)
            if source.replay is None:
                yield _records(file, source, part)
            else:
                yield replayed(partial(_records, file, source), source.replay, replay_index(context, source.replay))


def part_of(file: Found) -> str:
    """Names a file among several: it stays when other files come, and sorts as their names do but for very long ones."""
    name = quote(file.below, safe="")
    return name if len(name) <= _LONG_NAME else f"{name[: _LONG_NAME - 12]}~{hashlib.sha256(name.encode()).hexdigest()[:11]}"


def _records(file: File, source: Source, part: str = "") -> Records:
    return csvfile.records(file, source.csv, part)


def _remedy(source: Source) -> str:
    if source.land:
        return "its hooks.py should land it"
    if source.replay is not None:
        return "put it there, or correct source.path"
    return "wait for it and clear the task, or correct source.path"
