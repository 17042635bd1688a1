"""The cleaning step `fill_forward`: the last known value of the same entity, within the partition."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines_lib.data.whole_partition import PLACE, Bucket, Replaced, Stream, places_of
from pipelines_lib.use_case import FillForward

Places = NDArray[np.int64]


def plan_fill_forward(stream: Stream, setting: FillForward, bucket: Bucket) -> Replaced:
    """Which missing values of the bucket's entities get which value. Rows of entities that lack nothing are not even sorted."""
    columns = list(dict.fromkeys(setting.columns))
    entities, parts = [], []
    for rows in (bucket.rows(rows.filter(_has_a_place(rows, setting)), [setting.by]) for rows in stream()):
        entities.append(rows[setting.by].combine_chunks().dictionary_encode())
        parts.append(rows.select(list(dict.fromkeys([*columns, *([setting.order] if setting.order else []), PLACE]))))
    if not parts:
        return Replaced({})
    table, codes = pa.concat_tables(parts), _codes(entities)
    del parts, entities
    lacking = np.zeros(int(codes.max(initial=-1)) + 1, np.bool_)
    for name in columns:
        lacking[codes[_missing(table, name)]] = True
    concerned = lacking[codes]
    table, codes = table.filter(pa.array(concerned)), codes[concerned]
    order = _order(table, codes, setting.order)
    starts = _starts(codes[order])
    return Replaced({name: _filled(table, name, order, starts) for name in columns})


def _has_a_place(rows: pa.Table, setting: FillForward) -> pa.ChunkedArray:
    """Whether it is known whose row it is, and when it was."""
    known = pc.is_valid(rows[setting.by])
    return known if setting.order is None else pc.and_(known, pc.is_valid(rows[setting.order]))


def _codes(entities: list[pa.DictionaryArray]) -> NDArray[np.int64]:
    """The same number for the same entity, in whichever batch."""
    unified = pa.chunked_array(entities).unify_dictionaries()
    return np.concatenate([np.asarray(chunk.indices, np.int64) for chunk in unified.chunks])


def _order(table: pa.Table, codes: NDArray[np.int64], order: str | None) -> Places:
    """Rows entity by entity, each in time; the table is in row order, and both sorts keep it among equals."""
    if order is None:
        return np.argsort(codes, kind="stable")
    times = table[order]
    if pa.types.is_temporal(times.type):
        times = times.cast(pa.int64())
    return np.lexsort((times.to_numpy(), codes))


def _starts(codes: NDArray[np.int64]) -> Places:
    """For each of the sorted rows the first row of its entity."""
    here = np.arange(len(codes))
    new = np.concatenate((np.ones(min(1, len(codes)), np.bool_), codes[1:] != codes[:-1]))
    return np.maximum.accumulate(np.where(new, here, 0))


def _filled(table: pa.Table, name: str, order: Places, starts: Places) -> tuple[Places, pa.Array]:
    missing = _missing(table, name)[order]
    last = np.maximum.accumulate(np.where(missing, -1, np.arange(len(order))))
    found = missing & (last >= starts)
    targets, sources = order[found], order[last[found]]
    by_place = np.argsort(targets)  # the table is in row order, so a row's number in it sorts as its place does
    values = table[name].take(pa.array(sources[by_place]))
    return places_of(table)[targets[by_place]], values.combine_chunks()


def _missing(table: pa.Table, name: str) -> NDArray[np.bool_]:
    missing: NDArray[np.bool_] = pc.is_null(table[name]).to_numpy()
    return missing
