"""What a data file says about its columns. The types are those that the data stages would read, since the same casts try them."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines_lib.data.records import Batch
from pipelines_lib.data.sources import csvfile
from pipelines_lib.data.sources.files import read_file
from pipelines_lib.data.typed import cast
from pipelines_lib.errors import DataError
from pipelines_lib.scaffold.names import column_names
from pipelines_lib.use_case import ColumnType, Csv, Source

TOLERATED = 0.01
"""Share of a column's values that may be none of its type; their rows are going to be quarantined."""

LARGEST = 1e145
"""Beyond any data; its square, summed over all rows, is still a number. Less than its reciprocal is zero."""

_MARKER = re.compile(r"\?+|\*{2,}|#{2,}|\.{1,3}|-{1,3}|#?N/?A|n/a|NaN|nan|NULL|null|#NULL!|None")
_MARKER_OF_TEXT = re.compile(r"\?+|\*{2,}|#{2,}|\.{2,3}|-{2,3}|#?N/?A|n/a|NaN|nan|NULL|null|#NULL!")
_READ_AS_MISSING = frozenset({"NA", "N/A", "n/a", "NaN", "nan", "NULL", "Null", "null", "None"})
"""Words that the casts take for missing by themselves, in every type but strings."""
_CODE = re.compile(r"[+-]?(0\d+|\d{16,})", re.ASCII)
_BOOLEANS = frozenset({"true", "false", "t", "f", "yes", "no", "y", "n", "是", "否"})
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|\w+")
_SPACED = re.compile(r"\S\s+\S|[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """One column of the file."""

    name: str
    """Its name in the use case."""
    source: str
    """Its name in the file; c0, c1, … without a header."""
    type: ColumnType
    texts: pa.Array
    """The values as they stand in the file, blanks around them dropped; null where the row lacks one or has a marker."""
    markers: tuple[str, ...]
    """Words that stand for a missing value."""
    n_unfit: int
    """Values that are none of the type."""

    @property
    def n_rows(self) -> int:
        """Rows of the file."""
        return len(self.texts)

    @cached_property
    def counts(self) -> dict[str, int]:
        """Each distinct text and how often it stands there, the most frequent first."""
        found = {item["values"]: item["counts"] for item in pc.value_counts(self.texts.drop_null()).to_pylist()}
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    @property
    def n_distinct(self) -> int:
        """Distinct texts."""
        return len(self.counts)

    @property
    def n_missing(self) -> int:
        """Rows without a value."""
        return int(self.texts.null_count)

    @cached_property
    def values(self) -> pa.Array:
        """The values in the column's type; null where they are none."""
        return cast(self.texts, self.type)[0]

    @cached_property
    def numbers(self) -> NDArray[np.float64]:
        """float64 [n] within ±LARGEST, NaN where a row has none; for numbers and booleans."""
        # Not safe: a whole number beyond 2⁵³ is rounded, which is near enough for looking at it.
        numbers: NDArray[np.float64] = np.asarray(pc.fill_null(self.values.cast(pa.float64(), safe=False), np.nan))
        return np.where(np.abs(numbers) < 1 / LARGEST, 0.0, numbers.clip(-LARGEST, LARGEST))

    @property
    def is_number(self) -> bool:
        """Whether its values can be ordered and subtracted."""
        return self.type in ("integer", "number")

    @cached_property
    def words_to_missing(self) -> list[str]:
        """The markers that a `to_missing` step must name."""
        return [word for word in self.markers if self.type in ("string", "text") or word not in _READ_AS_MISSING]


@dataclass(frozen=True)
class Survey:
    """A data file, looked at."""

    csv: Csv | None
    """How it is written down; None where it is no CSV file."""
    columns: list[Facts]
    n_rows: int
    n_unreadable: int


def survey(path: Path, wanted: str) -> Survey:
    """Look at `path`; a header is recognised by the column named `wanted` too. Raises `DataError` where it holds no rows."""
    if not path.is_file():
        raise DataError(f"there is no file {path}; give the path of a data file (CSV, JSON lines, Parquet) to --data")
    csv, file = _read(path, wanted)
    if file.rows.num_rows == 0:
        raise DataError(f"{path}: holds no rows beside its header, so nothing can be inferred from it; give a file with data")
    names = column_names(file.rows.column_names)
    columns = [facts(names[source], source, file.rows[source].combine_chunks()) for source in file.rows.column_names]
    return Survey(csv, columns, file.rows.num_rows, len(file.unreadable))


def _read(path: Path, wanted: str) -> tuple[Csv | None, csvfile.CsvFile | Batch]:
    source = Source(path=str(path))
    if source.file_format != "csv":
        return None, read_file(path, source)
    csv = csvfile.detect(path)
    file = csvfile.read(path, csv)
    if csv.header and _names_are_data(file):
        csv = csv.model_copy(update={"header": False})
        return csv, csvfile.read(path, csv)
    if not csv.header and not re.fullmatch(r"-?\d+", wanted):
        with_header = csvfile.read(path, csv.model_copy(update={"header": True}))
        if wanted in with_header.rows.column_names:
            return with_header.csv, with_header
    return csv, file


def facts(name: str, source: str, texts: pa.Array) -> Facts:
    """What the values of one column say."""
    texts = pc.utf8_trim_whitespace(texts)
    texts = pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
    found = pc.value_counts(texts.drop_null())
    distinct, counts = found.field("values"), np.asarray(found.field("counts"))
    marks = pa.array([_MARKER.fullmatch(text) is not None for text in distinct.to_pylist()], pa.bool_())
    real = np.asarray(pc.invert(marks).cast(pa.uint8())).astype(bool)
    type_, n_unfit = _type(distinct.filter(pc.invert(marks)), counts[real])
    pattern = _MARKER_OF_TEXT if type_ in ("string", "text") else _MARKER
    markers = sorted(text for text in distinct.filter(marks).to_pylist() if pattern.fullmatch(text))
    missing = pc.is_in(texts, value_set=pa.array(markers, pa.string()))
    texts = pc.if_else(missing, pa.scalar(None, pa.string()), texts)
    return Facts(name=name, source=source, type=type_, texts=texts, markers=tuple(markers), n_unfit=n_unfit)


def as_text(column: Facts) -> Facts:
    """The same column read as categories, exactly as they stand in the file."""
    return Facts(name=column.name, source=column.source, type="string", texts=column.texts, markers=column.markers, n_unfit=0)


def _names_are_data(file: csvfile.CsvFile) -> bool:
    """Whether the header is a row like the others: its cells stand again, below it, in their own columns.

    A header that is repeated whole (files written one after the other) is one all the same.
    """
    rows = file.rows
    again = [pc.fill_null(pc.equal(rows[name], name), False).combine_chunks() for name in rows.column_names]
    whole = again[0]
    for found in again[1:]:
        whole = pc.and_(whole, found)
    n_again: int = sum(bool(pc.any(pc.and_not(found, whole)).as_py()) for found in again)
    return bool(n_again >= max(1, rows.num_columns / 3))


def _type(distinct: pa.Array, counts: NDArray[np.int64]) -> tuple[ColumnType, int]:
    """(type, rows whose value is none of it)."""
    texts = distinct.to_pylist()
    if not texts:
        return "string", 0
    if {text.lower() for text in texts} <= _BOOLEANS:
        return "boolean", 0
    if any(_CODE.fullmatch(text) for text in texts):
        # A leading zero, or more digits than a number keeps, is a code: as a number it would not be the same any more.
        return ("text" if _is_language(texts, counts) else "string"), 0
    candidates: tuple[ColumnType, ...] = ("integer", "number", "timestamp")
    unfit = {type_: int(counts[_failed(distinct, type_)].sum()) for type_ in candidates}
    if any("." in text for text in texts) or unfit["integer"] > unfit["number"]:
        # 2.0 and 1e+05 can be read as integers or not at all; whoever wrote them meant numbers.
        candidates = ("number", "timestamp")
    for type_ in candidates:
        if unfit[type_] <= TOLERATED * counts.sum():
            return type_, unfit[type_]
    return ("text" if _is_language(texts, counts) else "string"), 0


def _failed(distinct: pa.Array, type_: ColumnType) -> NDArray[Any]:
    _, failed = cast(distinct, type_)
    return np.asarray(failed.cast(pa.uint8())).astype(bool)


def _is_language(texts: list[str], counts: NDArray[np.int64]) -> bool:
    """Many different values, most of them of several words (or Chinese or Japanese characters) with more letters than digits."""
    sample = [text for text in texts[:2000] if 2 * sum(map(str.isalpha, text)) > len(text)]
    if len(sample) < 0.5 * min(len(texts), 2000):
        return False
    spaced = sum(_SPACED.search(text) is not None for text in sample) / len(sample)
    n_words = sum(map(_n_words, sample)) / len(sample)
    varied = len(texts) > max(30, 0.2 * int(counts.sum()))
    return bool(spaced > 0.5 and ((varied and n_words >= 3) or (n_words >= 12 and len(texts) > 30)))


def _n_words(text: str) -> int:
    return len(_WORD.findall(text))
