"""Records of a CSV file's text, block by block.

Arrow splits a block into records, no Python a row. What it makes of a block is believed where no record can be
lost by it: where all its quotes are by the rules (or it has none), or where it has as many records as lines. Any other block is
read record by record: one that spans lines must be quoted by the rules, or its first line alone is unreadable. Where both ways
may be taken they give the same rows.
"""

import csv
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv as arrow_csv

from pipelines_lib.data.records import Batch, Unreadable
from pipelines_lib.data.sources.stream import check_length

LONGEST_RECORD = 1 << 23
"""Bytes within which a quoted cell that holds line ends must close; one that doesn't is a stray quote."""

_CARE_BYTES = 1 << 22
"""How much is read record by record before the quick way is tried again."""
_THREAD_BYTES = 1 << 22
_BATCH_ROWS = 500_000
_NOT_BLANK = re.compile(rb"[^\r\n]")
_BOM = b"\xef\xbb\xbf"
_NO_QUOTES = np.empty(0, np.int64)


@dataclass(frozen=True)
class _Parsed:
    rows: pa.Table
    unreadable: list[Unreadable]
    """Numbered from 1."""
    used: int
    """Bytes that these records take; what stands behind them is still to be read."""

    @property
    def n_records(self) -> int:
        return int(self.rows.num_rows) + len(self.unreadable)


def csv_batches(
    file: str, blocks: Iterator[bytes], delimiter: str, names: list[str], *, first_number: int = 1, longest: int = LONGEST_RECORD
) -> Iterator[Batch]:
    """Every record of a file's UTF-8 text, numbered from `first_number`; blank lines are none. Raises `DataError` over one that never ends."""
    rest, n_before = b"", first_number - 1
    for block, is_last in _with_last(blocks):
        data = rest + block
        while data:
            parsed = _parse(data, delimiter, names, is_last=is_last, longest=longest)
            yield from _batches(parsed, n_before)
            n_before += parsed.n_records
            data = data[parsed.used :]
            if not parsed.used:
                break
        rest = data
        check_length(file, len(rest), n_before + 1)


@contextmanager
def long_cells() -> Iterator[None]:
    """Let `csv` take cells of any length; its limit is the process's, so it is put back."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _with_last(blocks: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    held = next(blocks, b"")
    for block in blocks:
        yield held, False
        held = block
    yield held, True


def _batches(parsed: _Parsed, n_before: int) -> Iterator[Batch]:
    bad = [record.number for record in parsed.unreadable]
    numbers = np.delete(np.arange(1, parsed.n_records + 1, dtype=np.int64), np.array(bad, np.int64) - 1) + n_before
    unreadable = tuple(Unreadable(record.number + n_before, record.text) for record in parsed.unreadable)
    for start in range(0, max(1, len(numbers)), _BATCH_ROWS):
        rows = slice(start, start + _BATCH_ROWS)
        yield Batch(parsed.rows.slice(start, _BATCH_ROWS), pa.array(numbers[rows]), unreadable if start == 0 else ())


def _parse(data: bytes, delimiter: str, names: list[str], *, is_last: bool, longest: int) -> _Parsed:
    """Some records of the beginning of `data`; none, with none of it used, where a record may go on behind its end."""
    quotes = np.flatnonzero(np.frombuffer(data, np.uint8) == ord('"')) if b'"' in data else _NO_QUOTES
    if regular := _by_the_rules(data, quotes, delimiter):
        used = len(data) if is_last and len(quotes) % 2 == 0 else _last_line_end(data, quotes)
    else:
        used = _end_of_closed_lines(data, delimiter, is_last=is_last)
    if used:
        parsed = _parse_fast(data[:used], delimiter, names)
        if _spans_no_lines(parsed.unreadable) if regular else parsed.n_records == _n_lines(data[:used]):
            return parsed
    elif not is_last and (len(data) <= longest or not _last_line_end(data)):
        return _Parsed(_table([], names), [], 0)
    return _parse_with_care(data, delimiter, names, is_last=is_last, longest=longest)


def _parse_fast(data: bytes, delimiter: str, names: list[str]) -> _Parsed:
    # Arrow drops a mark at the beginning of a block, which is the file's beginning no more. It reads no blank lines.
    text = b"\n" + data if data.startswith(_BOM) else data
    if _NOT_BLANK.search(text) is None:
        return _Parsed(_table([], names), [], len(data))
    # Without quotes a record ends where a line does, so the block can be cut for several threads, as long as none is unreadable.
    if b'"' not in text and (rows := _in_threads(text, delimiter, names)) is not None:
        return _Parsed(rows, [], len(data))
    unreadable: list[Unreadable] = []

    def keep(row: arrow_csv.InvalidRow) -> str:
        unreadable.append(Unreadable(row.number, row.text.rstrip("\r\n")))
        return "skip"

    # One block and one thread: a record may be as long as it likes, and records keep their numbers.
    reading = arrow_csv.ReadOptions(use_threads=False, column_names=names, block_size=len(text) + 1)
    splitting = arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=keep)
    return _Parsed(arrow_csv.read_csv(pa.BufferReader(text), reading, splitting, _as_texts(names)), unreadable, len(data))


def _in_threads(text: bytes, delimiter: str, names: list[str]) -> pa.Table | None:
    """The rows, where every record is one and no line is longer than what one thread takes."""
    reading = arrow_csv.ReadOptions(column_names=names, block_size=_THREAD_BYTES)
    splitting = arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=False)
    try:
        return arrow_csv.read_csv(pa.BufferReader(text), reading, splitting, _as_texts(names))
    except pa.ArrowInvalid:
        return None


def _as_texts(names: list[str]) -> arrow_csv.ConvertOptions:
    return arrow_csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""], quoted_strings_can_be_null=True
    )


# --- whether the quick way may be believed --------------------------------------------------------------------------


def _by_the_rules(data: bytes, quotes: NDArray[np.int64], delimiter: str) -> bool:
    """Whether each quote opens a cell at its beginning, closes one at its end, or is one of a pair within one."""
    if not len(quotes):
        return True
    text = np.frombuffer(data, np.uint8)
    border = np.zeros(256, np.bool_)
    border[list(b'\r\n"' + delimiter.encode())] = True
    opening, closing = quotes[0::2], quotes[1::2]
    if closing.size and closing[-1] == len(data) - 1:
        closing = closing[:-1]
    if opening[0] == 0:
        opening = opening[1:]
    return bool(border[text[opening - 1]].all() and border[text[closing + 1]].all())


def _last_line_end(data: bytes, quotes: NDArray[np.int64] = _NO_QUOTES, limit: int | None = None) -> int:
    """Where the last line ends (before `limit`) that ends outside quotes; 0 where none does."""
    limit = len(data) if limit is None else limit
    while True:
        line_feed = data.rfind(b"\n", 0, limit)
        end = max(line_feed, data.rfind(b"\r", line_feed + 1, limit))
        n_quotes = int(np.searchsorted(quotes, end))
        if end < 0 or n_quotes % 2 == 0:
            return end + 1
        limit = int(quotes[n_quotes - 1])


def _end_of_closed_lines(data: bytes, delimiter: str, *, is_last: bool) -> int:
    """Where the last line ends that stands by itself: its own quotes leave no cell open."""
    end = len(data) if is_last else _last_line_end(data)
    while end:
        text_end = end
        while text_end and data[text_end - 1] in b"\r\n":
            text_end -= 1
        begin = _last_line_end(data, limit=text_end)
        if begin == text_end or _on_one_line(data[begin:text_end].decode() + "\n", delimiter):
            break
        end = begin
    return end


def _spans_no_lines(unreadable: list[Unreadable]) -> bool:
    return not any("\n" in record.text or "\r" in record.text for record in unreadable)


def _n_lines(data: bytes) -> int:
    """Lines that are not blank."""
    text = np.frombuffer(data, np.uint8)
    is_end = (text == ord("\n")) | (text == ord("\r"))
    return int(np.count_nonzero(is_end[:-1] & ~is_end[1:])) + (not is_end[0])


# --- record by record -----------------------------------------------------------------------------------------------


def _parse_with_care(data: bytes, delimiter: str, names: list[str], *, is_last: bool, longest: int) -> _Parsed:
    whole = data[: _CARE_BYTES + longest]
    is_last = is_last and len(whole) == len(data)
    if not is_last:
        whole = whole[: _last_line_end(whole)] or data[: _last_line_end(data)] or data
    lines = list(io.StringIO(whole.decode("utf-8"), newline=""))
    rows: list[list[str]] = []
    unreadable: list[Unreadable] = []
    at = 0
    ahead = len(whole)
    with long_cells():
        while at < len(lines) and len(whole) - ahead < _CARE_BYTES:
            if not lines[at].strip("\r\n"):
                ahead -= len(lines[at])
                at += 1
                continue
            record = _record_at(lines, at, delimiter)
            if record is None and not is_last and ahead <= longest:
                break
            cells, n_lines = record or (_on_one_line(lines[at], delimiter), 1)
            if len(cells) == len(names):
                rows.append(cells)
            else:
                n_lines = 1
                unreadable.append(Unreadable(len(rows) + len(unreadable) + 1, lines[at].rstrip("\r\n")))
            ahead -= sum(len(line.encode()) for line in lines[at : at + n_lines])
            at += n_lines
    return _Parsed(_table(rows, names), unreadable, len(whole) - ahead)


def _record_at(lines: list[str], at: int, delimiter: str) -> tuple[list[str], int] | None:
    """(cells, lines used) of the record that starts at line `at`; None where it is still open behind the last line."""
    reader = csv.reader((lines[index] for index in range(at, len(lines))), delimiter=delimiter, strict=True)
    try:
        cells = next(reader)
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            return None
        return _on_one_line(lines[at], delimiter), 1
    return cells, reader.line_num


def _on_one_line(line: str, delimiter: str) -> list[str]:
    """Within one line the lenient reading is the one that Arrow takes too: "9"z is 9z. No cells where it goes on behind."""
    cells = next(csv.reader([line], delimiter=delimiter))
    return [] if "\n" in cells[-1] or "\r" in cells[-1] else cells


def _table(rows: list[list[str]], names: list[str]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    return pa.Table.from_arrays([pa.array([cell or None for cell in column], pa.string()) for column in columns], names=names)
