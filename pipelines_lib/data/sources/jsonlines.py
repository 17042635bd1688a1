"""JSON lines: an object a line.

An object in an object gives columns with dots in their names, a list is JSON text, and a key that a line lacks is null there.
Numbers stay as they are written, whatever their size. A line that is no object is unreadable; it is numbered as an editor does.
"""

import json
from collections.abc import Iterator
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import ipc

from pipelines_lib.data.records import Batch, Records, Unreadable
from pipelines_lib.data.sources.jsontext import AS_WRITTEN, cell
from pipelines_lib.data.sources.names import unique_names
from pipelines_lib.data.sources.stream import File
from pipelines_lib.data.sources.text import text_file, whole_lines
from pipelines_lib.errors import DataError

Row = dict[str, Any]

_MARK = "\x1e between two lines \x1e"
_BETWEEN = f",{json.dumps(_MARK)},"

_quick = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)
_exact = json.JSONDecoder(**AS_WRITTEN)


def records(file: File, kept: IO[bytes], part: str = "") -> Records:
    """The records of `file`. Raises `DataError` where it holds no objects.

    Which columns it has shows at its last line, so it is read once, and what was read is `kept` (an empty file) until it is
    asked for.
    """
    text = text_file(file, None, None)
    kept.seek(0)
    kept.truncate()
    keys: dict[str, None] = {}
    unreadable: list[tuple[Unreadable, ...]] = []
    n_lines = n_rows = 0
    for block in whole_lines(text):
        lines = block.decode().split("\n")
        rows, numbers, bad = _parse(lines, n_lines)
        n_lines += len(lines) - (not lines[-1])
        n_rows += len(rows)
        if bad and not n_rows:
            raise DataError(
                f"{file.name}: none of its first {len(bad)} lines is a JSON object ({bad[0].why}); write one a line, or set source.format to what the file is"
            )
        here = _keys(rows)
        keys |= here
        columns = [_column(rows, key) for key in here]
        _keep(kept, pa.table([pa.array(numbers, pa.int64()), *columns], names=["", *(f".{key}" for key in here)]))
        unreadable.append(bad)
    names = dict(zip(keys, unique_names(list(keys)), strict=True))
    return Records(part, list(names.values()), _batches(kept, names, unreadable), {"encoding": text.encoding})


def _parse(lines: list[str], n_before: int) -> tuple[list[Row], list[int], tuple[Unreadable, ...]]:
    """Rows, the numbers of their lines, and what is none."""
    filled = [number for number, line in enumerate(lines, n_before + 1) if line.strip()]
    if len(filled) + (not lines[-1].strip()) == len(lines) and (rows := _plain_rows(lines[: len(filled)])) is not None:
        return rows, filled, ()
    rows, numbers, unreadable = [], [], []
    for number in filled:
        line = lines[number - n_before - 1]
        try:
            rows.append(_storable(_flat(_object(line)), line))
            numbers.append(number)
        except (ValueError, RecursionError) as error:
            unreadable.append(Unreadable(number, line.rstrip("\r"), f"no JSON object: {error}"))
    return rows, numbers, tuple(unreadable)


def _plain_rows(lines: list[str]) -> list[Row] | None:
    """All lines at once, where each is an object without a list or an object in it. The mark proves that lines end where objects do."""
    together = _BETWEEN.join(lines)
    if "[" in together or together.count("{") != len(lines) or _may_hold_half_a_pair(together):
        return None
    try:
        found = _quick.decode(f"[{together}]")
    except ValueError:
        return None
    rows, marks = found[0::2], found[1::2]
    alike = len(found) == 2 * len(lines) - 1 and all(mark == _MARK for mark in marks)
    return rows if alike and all(type(row) is dict for row in rows) else None


def _object(line: str) -> Row:
    try:
        found = _exact.decode(line)
    except json.JSONDecodeError as error:
        # Without the place, which would make a reason of its own of each line.
        raise ValueError(error.msg) from error
    if not isinstance(found, dict):
        raise ValueError("another kind of value")
    return found


def _may_hold_half_a_pair(text: str) -> bool:
    return "\\ud" in text or "\\uD" in text


def _storable(row: Row, line: str) -> Row:
    """JSON can spell half of a surrogate pair, which is no text and no table can store."""
    if _may_hold_half_a_pair(line):
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("half of a surrogate pair") from error
    return row


def _flat(found: Row, prefix: str = "") -> Row:
    if not prefix and not any(isinstance(value, dict) for value in found.values()):
        return found
    row: Row = {}
    for key, value in found.items():
        cells = _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
        if row.keys() & cells.keys():
            raise ValueError("a field stands there twice, by its name and as an object in an object")
        row |= cells
    return row


def _keys(rows: list[Row]) -> dict[str, None]:
    """Every key, in the order of their first appearance."""
    keys: dict[str, None] = {}
    last = None
    for row in rows:
        if row.keys() != last:
            last = row.keys()
            keys |= dict.fromkeys(last)
    return keys


def _column(rows: list[Row], name: str) -> pa.StringArray:
    values = [row.get(name) for row in rows]
    try:
        texts = pa.array(values, pa.string())
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        texts = pa.array([cell(value) for value in values], pa.string())
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


# --- kept until it is asked for ---------------------------------------------------------------------------------------


def _keep(kept: IO[bytes], table: pa.Table) -> None:
    with ipc.new_stream(kept, table.schema) as stream:
        stream.write_table(table)


def _batches(kept: IO[bytes], names: dict[str, str], unreadable: list[tuple[Unreadable, ...]]) -> Iterator[Batch]:
    kept.seek(0)
    for bad in unreadable:
        with ipc.open_stream(kept) as stream:
            table = stream.read_all()
        nothing = pa.nulls(len(table), pa.string())
        there = {name[1:]: table[name] for name in table.column_names[1:]}
        rows = pa.table({given: there.get(key, nothing) for key, given in names.items()})
        yield Batch(rows, table.column(0).combine_chunks(), bad)
