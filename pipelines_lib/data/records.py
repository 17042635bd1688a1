"""What every source gives: a stream of batches of rows whose values are text, with the number of each record."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
from pydantic import JsonValue


@dataclass(frozen=True)
class Unreadable:
    """A record that can't be read as a row."""

    number: int
    """Its number among the records of its file; a CSV file's count from 1, the header's included and blank lines not."""
    text: str
    """The record as it stood there."""
    why: str = "not the header's number of cells"


@dataclass(frozen=True)
class Batch:
    """Some consecutive records."""

    rows: pa.Table
    """One column of strings a source column, under the source's own names; an empty cell is null."""
    numbers: pa.Int64Array
    """Record number of each row, increasing over all batches of one `Records`."""
    unreadable: tuple[Unreadable, ...] = ()


@dataclass
class Records:
    """One file, one query, one API."""

    part: str
    """Names it among several of one partition, and enters `row_id`; empty for the only one."""
    names: list[str]
    """Column names, known before the first batch."""
    batches: Iterator[Batch]
    facts: dict[str, JsonValue]
    """How it turned out to be written down (encoding, delimiter, …); complete once the batches are consumed."""
