"""A partition's records at their source: a stream of batches whose values are text."""

from collections.abc import Iterator

from pipelines_lib.data.records import Records
from pipelines_lib.data.sources.context import SourceContext
from pipelines_lib.data.sources.files import open_files, source_path
from pipelines_lib.data.sources.landing import Land, land
from pipelines_lib.use_case import Source

__all__ = ["Land", "SourceContext", "land", "open_source", "source_path"]


def open_source(source: Source, context: SourceContext) -> Iterator[Records]:
    """The partition's records, one `Records` a file or query, in a stable order. One must be read before the next is asked for.

    Raises `DataError` where a source is missing or can't be read, before its first batch or while its batches are read, and
    `Unavailable` where it does not answer.
    """
    records = _open(source, context)
    if source.sensors is None:
        return records
    from pipelines_lib.data.sources.sensors import open_sensors  # noqa: PLC0415 - as below

    return open_sensors(source.sensors, records, context)


def _open(source: Source, context: SourceContext) -> Iterator[Records]:
    # What only some sources need is imported for them.
    if source.sql is not None:
        from pipelines_lib.data.sources.sql import open_sql  # noqa: PLC0415

        return open_sql(source.sql, context)
    if source.http is not None:
        from pipelines_lib.data.sources.http import open_http  # noqa: PLC0415

        return open_http(source.http, context)
    return open_files(source, context)
