"""Log files: a line is a record, and a pattern's named groups are its columns. A line that does not match is unreadable.

The pattern is RE2's, as Arrow runs it over a block of lines at once.
"""

import datetime as dt
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines_lib.data.records import Batch, Records, Unreadable
from pipelines_lib.data.sources.stream import File
from pipelines_lib.data.sources.text import TextFile, lines, text_file, whole_lines
from pipelines_lib.errors import ConfigError, DataError
from pipelines_lib.use_case.source import Log

_NO_MATCH = "does not match the pattern"


def records(file: File, log: Log, around: dt.datetime, part: str = "") -> Records:
    """The records of `file`. A time that says no year is of the year that puts it nearest to `around`.

    Raises `ConfigError` where Arrow can't run the pattern, `DataError` where no line is a record.
    """
    pattern = f"^(?:{log.regex})$"
    try:
        names = [field.name for field in pc.extract_regex(pa.array([], pa.string()), pattern).type]
    except pa.ArrowInvalid as error:
        raise ConfigError(
            f"source.log.pattern: {error}; write it in RE2's syntax, which knows no look-ahead and no back-references"
        ) from error
    text = text_file(file, log.encoding, "source.log.encoding")
    return Records(part, names, _batches(text, log, pattern, around), {"encoding": text.encoding})


def _batches(text: TextFile, log: Log, pattern: str, around: dt.datetime) -> Iterator[Batch]:
    n_before, n_rows = 0, 0
    for block in whole_lines(text):
        batch, n_lines = _parse(lines(block), log, pattern, around, n_before)
        n_before += n_lines
        n_rows += batch.rows.num_rows
        if batch.unreadable and not n_rows:
            raise _no_records(text.file, batch.unreadable, log)
        yield batch


def _no_records(file: File, unreadable: tuple[Unreadable, ...], log: Log) -> DataError:
    """The error where no line is a record. One that only its time keeps from being one says that the pattern is right."""
    shown = next((record for record in unreadable if record.why != _NO_MATCH), unreadable[0])
    remedy = f"correct source.log.pattern ({log.pattern!r:.60})"
    if shown.why != _NO_MATCH:
        remedy = "set source.log.time_format to how it is written"
    return DataError(f"{file.name}: none of its first {len(unreadable)} lines is a record (line {shown.number}: {shown.why}); {remedy}")


def _parse(found: pa.StringArray, log: Log, pattern: str, around: dt.datetime, n_before: int) -> tuple[Batch, int]:
    numbers = pa.array(np.arange(n_before + 1, n_before + 1 + len(found)))
    filled = pc.not_equal(found, "")
    groups = pc.extract_regex(found, pattern)
    matches = pc.is_valid(groups)
    columns = {field.name: groups.field(index) for index, field in enumerate(groups.type)}
    for name, column in columns.items():
        missing = pc.is_in(column, value_set=pa.array(["", *log.nothing], pa.string()))
        columns[name] = pc.if_else(missing, pa.scalar(None, pa.string()), column)
    timed = matches
    if log.time_as is not None:
        written = columns[log.time]
        columns[log.time] = _iso(written, log.time_as, around)
        timed = pc.and_(matches, pc.or_(pc.is_valid(columns[log.time]), pc.is_null(written)))
    rows = pa.table(columns).filter(timed)
    bad = np.flatnonzero(np.asarray(pc.and_(filled, pc.invert(timed))))
    unreadable = tuple(
        Unreadable(
            n_before + 1 + at,
            found[at].as_py(),
            f"{log.time} is not {log.time_as}" if matches[at].as_py() else _NO_MATCH,
        )
        for at in bad.tolist()
    )
    return Batch(rows, numbers.filter(timed), unreadable), len(found)


def _iso(written: pa.StringArray, form: str, around: dt.datetime) -> pa.StringArray:
    """Times as ISO 8601 in UTC, null where they are none; each distinct one is parsed once."""
    distinct = pc.dictionary_encode(written)
    parsed = pa.array([_moment(text, form, around) for text in distinct.dictionary.to_pylist()], pa.string())
    return parsed.take(distinct.indices)


_YEARS = ("%Y", "%y", "%c", "%x", "%G")
"""The letters of `strptime` that say a year."""


def _moment(text: str, form: str, around: dt.datetime) -> str | None:
    if any(sign in form for sign in _YEARS):
        moment = _parsed(text, form)
    else:
        # One of three years, since 29 February is in none of the others.
        moments = [_parsed(f"{year} {text}", f"%Y {form}") for year in (around.year - 1, around.year, around.year + 1)]
        moment = min((each for each in moments if each), key=lambda each: abs(each - around), default=None)
    return None if moment is None else moment.isoformat()


def _parsed(text: str, form: str) -> dt.datetime | None:
    try:
        moment = dt.datetime.strptime(text, form)
        return moment if moment.tzinfo is None else moment.astimezone(dt.UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):  # in UTC it may lie before the first year, or behind the last
        return None
