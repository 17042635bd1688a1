"""CSV files as they come: encoding, delimiter, lines above the header and the header itself are found out, and no record is lost in silence.

`detect` says how a file is written down; `records` streams its records, all columns as strings; `read` is for whoever looks at
a small file whole. What a use case declares wins over what is detected. A delimiter that is not
plain to see is found by clevercsv (G. van den Burg et al., "Wrangling messy CSV files by detecting row and type patterns", 2019),
an encoding other than UTF-8 by charset-normalizer.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa
from pydantic import JsonValue

from pipelines_lib.data.records import Batch, Records, Unreadable
from pipelines_lib.data.sources.csvblocks import csv_batches, long_cells
from pipelines_lib.data.sources.names import unique_names
from pipelines_lib.data.sources.stream import File
from pipelines_lib.data.sources.text import TextFile, text_file
from pipelines_lib.errors import DataError
from pipelines_lib.use_case import Csv

_SAMPLE_CHARACTERS = 20_000
_SAMPLE_RECORDS = 200
_ENOUGH_RECORDS = 5
_USUAL_DELIMITERS = (",", ";", "\t", "|")
_MOST_ABOVE = 50
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\n|\r)")


@dataclass(frozen=True)
class CsvFile:
    """The content of a file, whole."""

    rows: pa.Table
    """One column of strings a source column; an empty cell is null."""
    numbers: list[int]
    """Record number of each row, increasing."""
    unreadable: list[Unreadable]
    csv: Csv
    """How the file turned out to be written down."""


@dataclass(frozen=True)
class _Layout:
    """What must be known before the first record is read."""

    text: TextFile
    csv: Csv
    """Nothing in it is left to detect."""
    names: list[str]
    first: list[str]
    """Cells of the first record below the lines that are skipped."""


def detect(path: Path, declared: Csv | None = None) -> Csv:
    """How `path` is written down, header included. Raises `DataError` where it can't be told."""
    layout = _layout(File(str(path), path), declared or Csv())
    return layout.csv.model_copy(update={"header": layout.csv.header and _names_things(layout.first)})


def read(path: Path, declared: Csv | None = None) -> CsvFile:
    """Every record of `path`, in memory. Raises `DataError` where it is no CSV file, saying what was tried."""
    layout = _layout(File(str(path), path), declared or Csv())
    batches = list(_batches(layout))
    rows = pa.concat_tables(batch.rows for batch in batches).combine_chunks()
    numbers = [number for batch in batches for number in batch.numbers.to_pylist()]
    return CsvFile(rows, numbers, [record for batch in batches for record in batch.unreadable], layout.csv)


def records(file: File, declared: Csv, part: str = "") -> Records:
    """The records of `file`, streamed. Raises `DataError` where it is no CSV file, now or at the batch that shows it."""
    layout = _layout(file, declared)
    facts: dict[str, JsonValue] = {"encoding": layout.csv.encoding, "delimiter": layout.csv.delimiter}
    if layout.csv.skip:
        facts["skipped_lines"] = layout.csv.skip
    return Records(part, layout.names, _batches(layout), facts)


def _layout(file: File, declared: Csv) -> _Layout:
    text = text_file(file, declared.encoding, "source.csv.encoding")
    [sample] = _without_lines(iter([text.sample.encode()]), declared.skip or 0)
    delimiter = declared.delimiter or _delimiter(sample.decode())
    found = list(islice(_sample(sample.decode(), delimiter), _SAMPLE_RECORDS))
    above = _n_above([cells for cells, _ in found]) if declared.header and declared.skip is None else 0
    skip = declared.skip or (found[above - 1][1] if above else 0)
    cells = [cells for cells, _ in found[above:]]
    if not cells:
        raise DataError(f"{file.name}: nothing stands below the {skip} lines that are skipped; lower source.csv.skip")
    csv = Csv(delimiter=delimiter, encoding=text.encoding, header=declared.header, skip=skip)
    return _Layout(text, csv, _column_names(cells, declared.header), cells[0])


# --- bytes to records -----------------------------------------------------------------------------------------------


def _batches(layout: _Layout) -> Iterator[Batch]:
    """The records below the header; those above it count."""
    csv = layout.csv
    assert csv.delimiter is not None
    above: list[bytes] = []
    blocks = _without_lines(layout.text.blocks(), csv.skip or 0, above)
    first_block = next(blocks)
    first_number = 1 + sum(1 for line in above if line.strip(b"\r\n"))
    n_rows, unreadable = 0, 0
    name = layout.text.file.name
    for batch in csv_batches(name, chain([first_block], blocks), csv.delimiter, layout.names, first_number=first_number):
        below = _without_record(batch, first_number) if csv.header else batch
        n_rows, unreadable = n_rows + below.rows.num_rows, unreadable + len(below.unreadable)
        if unreadable and not n_rows:
            raise DataError(
                f"{name}: none of its {unreadable} records has the {len(layout.names)} cells that its "
                f"{'header' if csv.header else 'other records'} has (read as {csv.encoding}, cells split at {csv.delimiter!r}"
                f"{f', {csv.skip} lines skipped' if csv.skip else ''}); "
                "set source.csv.skip to the number of lines above the header, or source.csv.delimiter"
            )
        yield below


def _without_record(batch: Batch, number: int) -> Batch:
    """Without the header, which is among the unreadable where it is a cell short."""
    if len(batch.numbers) and batch.numbers[0].as_py() == number:
        return Batch(batch.rows.slice(1), batch.numbers.slice(1), batch.unreadable)
    if any(record.number == number for record in batch.unreadable):
        return Batch(batch.rows, batch.numbers, tuple(record for record in batch.unreadable if record.number != number))
    return batch


def _without_lines(blocks: Iterator[bytes], n_lines: int, above: list[bytes] | None = None) -> Iterator[bytes]:
    """The text below its first `n_lines` lines, blank ones counted; these go to `above`."""
    head = b""
    ends: list[re.Match[bytes]] = []
    for block in blocks:
        head += block
        ends = list(islice(_LINE.finditer(head), n_lines))
        if len(ends) == n_lines:
            break
    if above is not None:
        above += [line.group() for line in ends]
    yield head[ends[-1].end() :] if ends else head if not n_lines else b""
    yield from blocks


# --- what a sample says ---------------------------------------------------------------------------------------------


def _delimiter(text: str) -> str:
    """The only usual one that splits every record alike, and where there is none or there are several, clevercsv's choice."""
    even = [delimiter for delimiter in _USUAL_DELIMITERS if _splits_alike(text, delimiter)]
    if len(even) == 1:
        return even[0]
    from clevercsv.detect import Detector  # noqa: PLC0415 - most files do without

    dialect = Detector().detect(text[:_SAMPLE_CHARACTERS], delimiters=[*_USUAL_DELIMITERS, " ", ":", "^"])
    # A file of one column has no delimiter to find.
    return dialect.delimiter if dialect is not None and dialect.delimiter else ","


def _splits_alike(text: str, delimiter: str) -> bool:
    widths = [len(cells) for cells, _ in islice(_sample(text, delimiter), _SAMPLE_RECORDS)]
    return len(widths) >= _ENOUGH_RECORDS and len(set(widths)) == 1 and widths[0] > 1


def _sample(text: str, delimiter: str) -> Iterator[tuple[list[str], int]]:
    """(cells, lines up to its end) of each record of the text's beginning, blank lines left out as records."""
    with long_cells():
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        yield from ((cells, reader.line_num) for cells in reader if cells)


def _n_above(sample: list[list[str]]) -> int:
    """How many records stand above the header: titles, notes, lines of dashes.

    The header is the first record that is as wide as most and fills more than one cell. What stands above it is left out only
    where that record reads like a header, or nothing above it fills more than two cells: a header that is a cell or two short
    must not be taken for a title.
    """
    usual = _usual_width(sample)
    if usual < 2 or _row_names_missing(sample, usual):
        return 0
    for at, cells in enumerate(sample[: _MOST_ABOVE + 1]):
        if len(cells) == usual and (n_filled := _n_filled(cells)) and (n_filled > 1 or usual == 2):
            plain = all(4 * _n_filled(line) <= usual for line in sample[:at])
            return at if plain or _names_things(cells) else 0
    return 0


def _usual_width(sample: list[list[str]]) -> int:
    widths = Counter(len(cells) for cells in sample)
    return widths.most_common(1)[0][0] if widths else 0


def _n_filled(cells: list[str]) -> int:
    return sum(1 for cell in cells if cell.strip())


def _row_names_missing(sample: list[list[str]], usual: int) -> bool:
    """Whether the header alone is a cell short: R writes the row's name first and gives that column no name.

    A title is a cell short too, where there are two columns; then a record of words stands above columns of numbers.
    """
    first, below = sample[0], sample[1:]
    if len(first) != usual - 1 or not _names_things(first) or any(len(cells) != usual for cells in below):
        return False
    numbers = [all(_NUMBER.fullmatch(cell) for cell in column) for column in zip(*below[1:], strict=True)]
    return not (_names_things(below[0]) and any(numbers))


def _names_things(first: list[str]) -> bool:
    """Whether a first record reads like a header: no cell is a number, none stands twice."""
    cells = [cell.strip() for cell in first if cell.strip()]
    return bool(cells) and len(set(cells)) == len(cells) and not any(_NUMBER.fullmatch(cell) for cell in cells)


def _column_names(sample: list[list[str]], header: bool) -> list[str]:
    """A name a column: the header's, made unique (Delta tells no case apart); c0, c1, … where it says nothing."""
    usual = _usual_width(sample[1:] if header else sample)
    if not header:
        return [f"c{index}" for index in range(usual)]
    given = [cell.strip() for cell in sample[0]]
    if usual == len(given) + 1:
        ends_with_delimiter = not any(cells[-1].strip() for cells in sample[1:] if len(cells) == usual)
        given = [*given, ""] if ends_with_delimiter else ["row_number", *given]
    return unique_names(given)
