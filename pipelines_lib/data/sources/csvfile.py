"""CSV files as they come: encoding, delimiter, header and line endings are found out, and no record is lost in silence.

`detect` says how a file is written down; `read` gives its records, all columns as strings. What a use case declares wins
over what is detected. The delimiter is found by clevercsv (G. van den Burg et al., "Wrangling messy CSV files by
detecting row and type patterns", 2019), an encoding other than UTF-8 by charset-normalizer.
"""

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
from pyarrow import csv as arrow_csv

from pipelines_lib.data.records import Unreadable
from pipelines_lib.errors import DataError
from pipelines_lib.use_case import Csv

_SAMPLE_BYTES = 1 << 18
_SAMPLE_CHARACTERS = 20_000
_SAMPLE_RECORDS = 200
_LINE_END = re.compile(r"\r\n|\n|\r")
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)


@dataclass(frozen=True)
class CsvFile:
    """The content of a file. A record's number counts from 1, the header's included and blank lines not."""

    rows: pa.Table
    """One column of strings a source column; an empty cell is null."""
    numbers: list[int]
    """Record number of each row, increasing."""
    unreadable: list[Unreadable]
    csv: Csv
    """How the file turned out to be written down."""


def detect(path: Path, declared: Csv | None = None) -> Csv:
    """How `path` is written down, header included. Raises `DataError` where it can't be told."""
    declared = declared or Csv()
    encoding, text = _decode(path, declared.encoding)
    delimiter = declared.delimiter or _delimiter(text)
    return Csv(delimiter=delimiter, encoding=encoding, header=declared.header and _names_things(next(_records(text, delimiter), [])))


def read(path: Path, declared: Csv | None = None) -> CsvFile:
    """Every record of `path`. Raises `DataError` where it is no CSV file, saying what was tried."""
    declared = declared or Csv()
    encoding, text = _decode(path, declared.encoding)
    delimiter = declared.delimiter or _delimiter(text)
    names = _column_names(list(islice(_records(text, delimiter), _SAMPLE_RECORDS)), declared.header)
    rows, numbers, unreadable = _parse(text, delimiter, names)
    if declared.header:
        rows, numbers, unreadable = _without_header(rows, numbers, unreadable)
    if unreadable and not numbers:
        raise DataError(
            f"{path}: none of its {len(unreadable)} records has the {len(names)} cells that its "
            f"{'header' if declared.header else 'other records'} has (read as {encoding}, cells split at {delimiter!r}); "
            "remove lines above the header, or set source.csv.delimiter"
        )
    return CsvFile(rows, numbers, unreadable, Csv(delimiter=delimiter, encoding=encoding, header=declared.header))


# --- bytes to text ------------------------------------------------------------------------------------------------


def _decode(path: Path, declared: str | None) -> tuple[str, str]:
    """(encoding, text without a byte order mark)."""
    data = path.read_bytes()
    empty = DataError(f"{path}: the file is empty; a CSV file holds at least a header. Write it again at its source")
    if not data.strip():
        raise empty
    encoding = declared or _encoding(data, path)
    try:
        text = data.decode(encoding)
    except LookupError as error:
        raise DataError(
            f"{path}: source.csv.encoding {encoding!r} is no encoding that Python knows; write one such as utf-8, gb18030, cp1252"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {error.start} is not {encoding}, which {'is declared' if declared else 'was detected'}; set source.csv.encoding to what the file is in"
        ) from error
    if "\0" in text:
        raise DataError(
            f"{path}: holds NUL characters when read as {encoding}, so it is no text file, or UTF-16 without a mark; set source.csv.encoding"
        )
    text = text.removeprefix("\ufeff")
    if not text.strip():
        raise empty
    return encoding, text


def _encoding(data: bytes, path: Path) -> str:
    for mark, name in (
        (codecs.BOM_UTF32_LE, "utf-32"),
        (codecs.BOM_UTF32_BE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if data.startswith(mark):
            return name
    try:
        data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        guess = _guessed_encoding(data[:_SAMPLE_BYTES]) or _guessed_encoding(data)
        if guess is None:
            raise DataError(
                f"{path}: not UTF-8 (byte {error.start}), and charset-normalizer recognises no encoding either; set source.csv.encoding to what the file is in"
            ) from error
        return guess
    return "utf-8-sig" if data.startswith(codecs.BOM_UTF8) else "utf-8"


def _guessed_encoding(data: bytes) -> str | None:
    from charset_normalizer import from_bytes  # noqa: PLC0415 - only a file that is not UTF-8 needs it

    matches = list(from_bytes(data))
    if not matches:
        return None
    best = [m.encoding for m in matches if (m.chaos, m.coherence) == (matches[0].chaos, matches[0].coherence)]
    # Equal evidence, told apart by the alphabet: Western Windows is the likelier of the code pages that agree.
    return "cp1252" if "cp1252" in best else best[0]


# --- text to records ----------------------------------------------------------------------------------------------


def _delimiter(text: str) -> str:
    from clevercsv.detect import Detector  # noqa: PLC0415 - a declared delimiter does without

    dialect = Detector().detect(text[:_SAMPLE_CHARACTERS], delimiters=[",", ";", "\t", "|", " ", ":", "^"])
    # A file of one column has no delimiter to find.
    return dialect.delimiter if dialect is not None and dialect.delimiter else ","


def _records(text: str, delimiter: str) -> Iterator[list[str]]:
    """Cells of each record of the text's beginning, blank lines left out."""
    with _long_cells():
        yield from (cells for cells in csv.reader(io.StringIO(text[: 1 << 20], newline=""), delimiter=delimiter) if cells)


def _names_things(first: list[str]) -> bool:
    """Whether a first record reads like a header: no cell is a number, none stands twice."""
    cells = [cell.strip() for cell in first if cell.strip()]
    return bool(cells) and len(set(cells)) == len(cells) and not any(_NUMBER.fullmatch(cell) for cell in cells)


def _column_names(sample: list[list[str]], header: bool) -> list[str]:
    """A name a column: the header's, made unique (Delta tells no case apart); c0, c1, … where it says nothing."""
    widths = Counter(len(cells) for cells in (sample[1:] if header else sample))
    usual = widths.most_common(1)[0][0] if widths else 0
    if not header:
        return [f"c{index}" for index in range(usual)]
    given = [cell.strip() for cell in sample[0]]
    if usual == len(given) + 1:
        # R writes the row's name first and gives that column no name in the header.
        given = ["row_number", *given]
    names: list[str] = []
    taken: set[str] = set()
    for index, cell in enumerate(given):
        name, copy = cell or f"c{index}", 2
        while name.casefold() in taken:
            name, copy = f"{cell or f'c{index}'}_{copy}", copy + 1
        taken.add(name.casefold())
        names.append(name)
    return names


def _parse(text: str, delimiter: str, names: list[str]) -> tuple[pa.Table, list[int], list[Unreadable]]:
    """Rows, their numbers and the unreadable records, the header still among them."""
    rows, unreadable = _parse_fast(text, delimiter, names)
    n_lines = sum(1 for line in _LINE_END.split(text) if line)
    if rows.num_rows + len(unreadable) != n_lines:
        # A quoted cell holds line ends: meant, or the work of a stray quote that has swallowed the records after it.
        return _parse_with_care(text, delimiter, names)
    skipped = {record.number for record in unreadable}
    return rows, [number for number in range(1, n_lines + 1) if number not in skipped], unreadable


def _parse_fast(text: str, delimiter: str, names: list[str]) -> tuple[pa.Table, list[Unreadable]]:
    unreadable: list[Unreadable] = []

    def keep(row: arrow_csv.InvalidRow) -> str:
        unreadable.append(Unreadable(row.number, row.text))
        return "skip"

    data = text.encode("utf-8")
    rows = arrow_csv.read_csv(
        pa.BufferReader(data),
        # One block and one thread: a record may be as long as it likes, and records keep their numbers.
        read_options=arrow_csv.ReadOptions(use_threads=False, column_names=names, block_size=min(len(data) + 1, 2**31 - 1)),
        parse_options=arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=keep),
        convert_options=arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""], quoted_strings_can_be_null=True
        ),
    )
    return rows.combine_chunks(), unreadable


def _parse_with_care(text: str, delimiter: str, names: list[str]) -> tuple[pa.Table, list[int], list[Unreadable]]:
    """Record by record: one that spans lines must be quoted by the rules, or its first line alone is unreadable."""
    lines = list(io.StringIO(text, newline=""))
    rows: list[list[str]] = []
    numbers: list[int] = []
    unreadable: list[Unreadable] = []
    at = number = 0
    with _long_cells():
        while at < len(lines):
            if not lines[at].strip("\r\n"):
                at += 1
                continue
            number += 1
            cells, n_lines = _record_at(lines, at, delimiter)
            if len(cells) == len(names):
                rows.append(cells)
                numbers.append(number)
            else:
                n_lines = 1
                unreadable.append(Unreadable(number, lines[at].rstrip("\r\n")))
            at += n_lines
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    arrays = [pa.array([cell or None for cell in column], pa.string()) for column in columns]
    return pa.Table.from_arrays(arrays, names=names), numbers, unreadable


def _record_at(lines: list[str], at: int, delimiter: str) -> tuple[list[str], int]:
    """(cells, lines used) of the record that starts at line `at`; no cells where its quotes break the rules."""
    reader = csv.reader((lines[index] for index in range(at, len(lines))), delimiter=delimiter, strict=True)
    try:
        cells = next(reader)
    except csv.Error:
        # Within one line the lenient reading is the one that pyarrow takes too: "9"z is 9z.
        cells = next(csv.reader([lines[at]], delimiter=delimiter))
        return (cells, 1) if "\n" not in cells[-1] and "\r" not in cells[-1] else ([], 1)
    return cells, reader.line_num


def _without_header(rows: pa.Table, numbers: list[int], unreadable: list[Unreadable]) -> tuple[pa.Table, list[int], list[Unreadable]]:
    """Drop record 1; it is among the unreadable where it is a cell short."""
    if numbers and numbers[0] == 1:
        return rows.slice(1), numbers[1:], unreadable
    return rows, numbers, unreadable[1:]


class _long_cells:  # noqa: N801 - reads like the context manager it is
    """Let `csv` take cells of any length; its limit is the process's, so it is put back."""

    def __enter__(self) -> None:
        self._before = csv.field_size_limit(2**31 - 1)

    def __exit__(self, *_: object) -> None:
        csv.field_size_limit(self._before)
