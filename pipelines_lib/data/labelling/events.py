"""Labels from what happened next: does an event of the same entity follow within a time?"""

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import JsonValue

from pipelines_lib.data.typed import class_text
from pipelines_lib.use_case import UseCase


@dataclass(frozen=True)
class Events:
    """Every event between two moments. Few of the rows are events, so this is small."""

    entities: pa.Array
    """Those that have an event, each once."""
    times: NDArray[np.int64]
    """The moments of the events (microseconds), each once, ascending."""
    places: NDArray[np.int64]
    """Entity's place × (number of times + 1) + moment's place, of each event, each once, ascending."""
    first: int
    """What happened from this moment on is known (microseconds)."""
    end: int
    """What happened before this moment is known."""


def columns(use_case: UseCase) -> list[str]:
    """The columns that events are read from: entity, time, event."""
    assert use_case.label.event_within is not None
    assert use_case.entity is not None
    return [use_case.entity, use_case.columns_with("time")[0], use_case.label.event_within.column]


def events(batches: Iterable[pa.Table], use_case: UseCase, first: str, last: str) -> Events:
    """The events in `batches`: the rows of the partitions `first` to `last`, all of them, in any order."""
    entity, time, column = columns(use_case)
    assert use_case.label.event_within is not None
    values = pa.array([_text(value) for value in use_case.label.event_within.values], pa.string())
    found = []
    for rows in batches:
        happened = pc.is_in(class_text(rows[column].combine_chunks()), value_set=values)
        known = pc.and_(pc.is_valid(rows[entity]), pc.is_valid(rows[time]))
        found.append(rows.select([entity, time]).filter(pc.and_(pc.fill_null(happened, False), known)))
    empty = pa.table({entity: pa.array([], pa.string()), time: pa.array([], pa.timestamp("us"))})
    happened = pa.concat_tables(found) if found else empty
    entities = pc.unique(happened[entity])
    moments = _microseconds(happened[time])
    times = np.unique(moments)
    owners = pc.index_in(happened[entity], value_set=entities).to_numpy().astype(np.int64)
    start, end = use_case.partition_time(first), use_case.partition_time(last) + use_case.partition_step
    return Events(
        entities=entities,
        times=times,
        places=np.unique(owners * (len(times) + 1) + np.searchsorted(times, moments)),
        first=_microseconds(pa.array([start], pa.timestamp("us")))[0],
        end=_microseconds(pa.array([end], pa.timestamp("us")))[0],
    )


def follows(rows: pa.Table, use_case: UseCase, known: Events) -> pa.Array:
    """The class of each row; null where it has no entity or no time, or its window (t, t + within] is not wholly known."""
    entity, time, _ = columns(use_case)
    event = use_case.label.event_within
    assert event is not None
    within = event.within // _MICROSECOND
    moments = _microseconds(rows[time])
    owners = pc.index_in(rows[entity], value_set=known.entities)
    has_events = pc.is_valid(owners).to_numpy()
    # The first event of the entity that is strictly later: the own event of a row does not count.
    stride = len(known.times) + 1
    sought = pc.fill_null(owners, 0).to_numpy().astype(np.int64) * stride + np.searchsorted(known.times, moments, side="right")
    place = np.searchsorted(known.places, sought)
    is_there = has_events & (place < len(known.places))
    next_place = known.places[np.where(is_there, place, 0)] if len(known.places) else np.zeros_like(sought)
    is_there &= next_place // stride == sought // stride
    next_time = known.times[np.where(is_there, next_place % stride, 0)] if len(known.times) else np.zeros_like(sought)
    yes = is_there & (next_time - moments <= within)
    covered = (moments >= known.first) & (moments + within < known.end)
    given = covered & pc.and_(pc.is_valid(rows[entity]), pc.is_valid(rows[time])).to_numpy()
    return pc.if_else(pa.array(given), pc.if_else(pa.array(yes), event.follows, event.otherwise), pa.scalar(None, pa.string()))


_MICROSECOND = dt.timedelta(microseconds=1)


def _microseconds(times: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    """Since 1970; 0 where missing."""
    moments: NDArray[np.int64] = pc.fill_null(times.cast(pa.timestamp("us")).cast(pa.int64()), 0).to_numpy()
    return moments


def _text(value: JsonValue) -> str | None:
    """A value of the settings as `class_text` writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(class_text(pa.array([value]))[0])
    return None if value is None else str(value)
