"""The rows of a partition with the columns of the joined sources: rows pass in batches, what is joined to them is held in memory.

Many rows to one record: the rows stay as many as they were and in their order. Keys are compared as text without blanks around it.
"""

import difflib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines_lib.data.records import Batch, Records, Unreadable
from pipelines_lib.data.sources import SourceContext, open_source
from pipelines_lib.data.typed import cast
from pipelines_lib.errors import DataError
from pipelines_lib.use_case import Join, UseCase

Numbers = NDArray[np.int64]

NONE = -1
"""Position of the record that a row has not."""


def open_rows(context: SourceContext) -> Iterator[Records]:
    """The partition's records at the use case's source, joined ones' columns behind their own.

    Raises `DataError` where a joined source lacks a column, holds a record that can't be read, or has two records for one key.
    """
    lookups = [Lookup.read(join, context) for join in context.use_case.joins]
    for records in open_source(context.use_case.source, context):
        yield _joined(records, lookups, context) if lookups else records


@dataclass
class Lookup:
    """A joined source's records."""

    join: Join
    rows: pa.Table
    """The added columns, under their new names; ordered by key and time where there is a time."""
    keys: pa.StringArray
    """Distinct keys; a key's position is its code."""
    first: Numbers
    """Code to the position of the key's first record, and behind the last code the number of records."""
    times: Numbers | None
    """Microseconds from which a record holds."""
    row_time: str
    n_unmatched: int = 0

    @classmethod
    def read(cls, join: Join, context: SourceContext) -> "Lookup":
        """All records of the source that rows of the partition may need."""
        where = f"joins.{join.name}: {join.source.described()}"
        table, numbers = _read_all(join, context, where)
        key = _key(table, join.on.values())
        known = pc.is_valid(key)
        table, numbers, distinct = table.filter(known), numbers.filter(known), pc.dictionary_encode(key.filter(known))
        codes = distinct.indices.to_numpy().astype(np.int64)
        times = None if join.asof is None else _times(table, numbers, join.asof.time, where)
        order = np.lexsort((codes,) if times is None else (times, codes))
        codes, times = codes[order], None if times is None else times[order]
        _check_unique(codes, times, numbers.to_numpy()[order], join, where)
        rows = table.select(list(join.columns)).rename_columns(list(join.columns.values())).take(pa.array(order)).combine_chunks()
        first = np.searchsorted(codes, np.arange(len(distinct.dictionary) + 1))
        return cls(join, rows, distinct.dictionary, first, times, row_time(join, context.use_case))

    def find(self, rows: pa.Table) -> Numbers:
        """Position of each row's record [n], `NONE` where it has none."""
        codes = pc.fill_null(pc.index_in(_key(rows, self.join.on), value_set=self.keys), NONE).to_numpy().astype(np.int64)
        if self.join.asof is None or self.times is None:
            return np.where(codes == NONE, NONE, self.first[codes])
        moments, _ = cast(_column(rows, self.row_time), "timestamp")
        found = self._last_before(codes, np.asarray(pc.fill_null(moments.cast(pa.int64()), np.iinfo(np.int64).min)))
        age = np.asarray(pc.fill_null(moments.cast(pa.int64()), 0)) - self.times[found] if len(self.times) else np.zeros(len(found))
        return np.where((found != NONE) & (age <= self.join.asof.within.total_seconds() * 1e6), found, NONE)

    def _last_before(self, codes: Numbers, moments: Numbers) -> Numbers:
        """Position of the last record of each code that is no later than its moment: a binary search in all rows at once."""
        assert self.times is not None
        low, high = self.first[codes], self.first[codes + 1]
        low[codes == NONE] = high[codes == NONE] = 0
        begin = low.copy()
        while (open_ := low < high).any():
            middle = (low + high) // 2
            later = open_ & (self.times[np.minimum(middle, len(self.times) - 1)] > moments)
            high = np.where(later, middle, high)
            low = np.where(open_ & ~later, middle + 1, low)
        return np.where(low > begin, low - 1, NONE)


def _joined(records: Records, lookups: list[Lookup], context: SourceContext) -> Records:
    names = list(records.names)
    for lookup in lookups:
        _check_rows(names, lookup, context)
        names += lookup.rows.column_names
    facts = records.facts

    def batches() -> Iterator[Batch]:
        for batch in records.batches:
            yield _with(batch, lookups)
        for lookup in lookups:
            facts[f"joined_{lookup.join.name}"] = {"n_records": lookup.rows.num_rows, "n_rows_without": lookup.n_unmatched}

    return Records(records.part, names, batches(), facts)


def _with(batch: Batch, lookups: list[Lookup]) -> Batch:
    rows, numbers = batch.rows, batch.numbers
    unreadable = list(batch.unreadable)
    for lookup in lookups:
        at = lookup.find(rows)
        missing = at == NONE
        lookup.n_unmatched += int(missing.sum())
        for name, values in zip(lookup.rows.column_names, lookup.rows.take(pa.array(at, mask=missing)).columns, strict=True):
            rows = rows.append_column(name, values)
        if lookup.join.required and missing.any():
            unreadable += _rejected(rows.filter(pa.array(missing)), numbers.filter(pa.array(missing)), lookup.join)
            rows, numbers = rows.filter(pa.array(~missing)), numbers.filter(pa.array(~missing))
    return Batch(rows, numbers, tuple(sorted(unreadable, key=lambda record: record.number)))


def _rejected(rows: pa.Table, numbers: pa.Int64Array, join: Join) -> Iterator[Unreadable]:
    why = f"join: {join.name} has no record for it"
    for number, row in zip(numbers.to_pylist(), rows.to_pylist(), strict=True):
        yield Unreadable(number, json.dumps(row, ensure_ascii=False), why)


def _read_all(join: Join, context: SourceContext, where: str) -> tuple[pa.Table, pa.Int64Array]:
    """(the columns that the join needs, record numbers), of every partition in reach."""
    needed = list(dict.fromkeys([*join.on.values(), *join.columns, *([join.asof.time] if join.asof else [])]))
    tables, numbers = [], []
    for one in _in_reach(join, context):
        for records in open_source(join.source, one):
            _check_has(needed, records.names, where, context)
            for batch in records.batches:
                if batch.unreadable:
                    record = batch.unreadable[0]
                    raise DataError(
                        f"{where}: record {record.number} can't be read ({record.why}); mend it, since rows would lose what it says"
                    )
                tables.append(batch.rows.select(needed))
                numbers.append(batch.numbers)
    if not tables:
        return pa.table({name: pa.array([], pa.string()) for name in needed}), pa.array([], pa.int64())
    return pa.concat_tables(tables).combine_chunks(), pa.concat_arrays(numbers)


def _in_reach(join: Join, context: SourceContext) -> Iterator[SourceContext]:
    """The partitions whose records a row may need, the oldest first."""
    use_case = context.use_case
    back = 0
    if join.asof is not None and join.source.by_partition():
        back = math.ceil(join.asof.within / use_case.partition_step)
    for step in range(back, -1, -1):
        key = use_case.shift(context.partition_key, -step)
        if use_case.partition_time(key).date() >= use_case.start:
            yield SourceContext(context.project, use_case, key)


def _key(table: pa.Table, columns: Iterable[str]) -> pa.StringArray:
    """One text a row: equal texts mean equal keys. Null where any part is missing."""
    parts = []
    for name in columns:
        text = pc.utf8_trim_whitespace(_column(table, name))
        parts.append(pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text))
    if len(parts) == 1:
        return parts[0]
    # With its length before it no part can be taken for two.
    measured = [pc.binary_join_element_wise(pc.binary_length(part).cast(pa.string()), part, ":") for part in parts]
    return pc.binary_join_element_wise(*measured, "")


def _column(table: pa.Table, name: str) -> pa.Array:
    column: Any = table[name].combine_chunks()
    return column


def _times(table: pa.Table, numbers: pa.Int64Array, name: str, where: str) -> Numbers:
    values, _ = cast(_column(table, name), "timestamp")
    if values.null_count:
        bad = numbers.filter(values.is_null()).slice(0, 3).to_pylist()
        raise DataError(
            f"{where}: column {name!r} holds no ISO 8601 time in record {', '.join(map(str, bad))}; mend it, or name another in asof.time"
        )
    times: Numbers = values.cast(pa.int64()).to_numpy()
    return times


def row_time(join: Join, use_case: UseCase) -> str:
    """The rows' column that is compared with the joined times, by its name in the source; none without `asof`."""
    if join.asof is None or join.asof.row is not None:
        return "" if join.asof is None else join.asof.row or ""
    [name] = use_case.columns_with("time")
    return use_case.columns[name].source or name


def _check_unique(codes: Numbers, times: Numbers | None, numbers: Numbers, join: Join, where: str) -> None:
    again = codes[1:] == codes[:-1]
    if times is not None:
        again &= times[1:] == times[:-1]
    if not again.any():
        return
    some = ", ".join(str(number) for number in sorted(numbers[1:][again][:3].tolist()))
    what = f"{', '.join(join.on.values())}{f' and {join.asof.time}' if join.asof else ''}"
    remedy = "Remove all but one, or add the column that tells them apart to `on`"
    if join.asof is None:
        remedy += ", or set `asof` where they are of different times"
    raise DataError(
        f"{where}: {int(again.sum())} records repeat the {what} of another, for instance record {some}, so a row would have two. {remedy}"
    )


def _check_has(needed: list[str], found: list[str], where: str, context: SourceContext) -> None:
    for name in needed:
        if name not in found:
            # Where the header is missing, a row about a person stands in its place.
            near = [] if context.use_case.private() else difflib.get_close_matches(name, found, n=1)
            raise DataError(
                f"{where}: has no column {name!r}; {f'did you mean {near[0]!r}? ' if near else ''}Correct the join, or the source"
            )


def _check_rows(names: list[str], lookup: Lookup, context: SourceContext) -> None:
    """The rows have the key (and time), and no column of an added one's name."""
    where = f"joins.{lookup.join.name}: the rows"
    _check_has([*lookup.join.on, *([lookup.row_time] if lookup.row_time else [])], names, where, context)
    taken = {name.casefold() for name in names}
    for name in lookup.rows.column_names:
        if name.casefold() in taken:
            raise DataError(
                f"{where} have a column {name!r} already; give the joined one another name: `columns: {{{name}: {lookup.join.name}_{name}}}`"
            )
