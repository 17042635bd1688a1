"""Readings of sensors made into rows: one a machine and step of time, one column a sensor.

The readings of a partition are held as numbers (some 80 bytes each at the most) and sorted once by their times, so how they are cut
into batches makes no difference, and the order in which they come none but between different values of one time: there `last` is the
later record, and a sum or a mean may differ in its last digit. Where a reading comes twice with the same time and value, it is one.
"""

import datetime as dt
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines_lib.data.privacy import names_for_people
from pipelines_lib.data.records import Batch, Records, Unreadable
from pipelines_lib.data.sources.context import SourceContext
from pipelines_lib.data.typed import cast
from pipelines_lib.errors import DataError
from pipelines_lib.use_case import Sensors
from pipelines_lib.use_case.base import duration_text

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_BATCH = 500_000
_EPOCH = dt.datetime(1970, 1, 1)
_MOST_CELLS = 500_000_000
"""Cells of the grid (4 GB) beyond which a step must have been set too short."""


def open_sensors(sensors: Sensors, source: Iterator[Records], context: SourceContext) -> Iterator[Records]:
    """The source's readings as rows, numbered in the order of entity and time; then, by themselves, the records that are no readings.

    Raises `DataError` where a column is missing.
    """
    readings = _Readings(sensors)
    rejected: dict[str, list[Unreadable]] = {}
    facts: dict[str, object] = {}
    for records in source:
        _check_columns(sensors, records.names, context)
        for batch in records.batches:
            rejected.setdefault(records.part, []).extend(readings.add(batch))
        facts |= records.facts
    names = sensors.made
    grid = _grid(readings, context)
    told = {"n_readings": readings.n, "n_readings_of_other_sensors": readings.n_other}
    yield Records("", names, _batches(grid, readings, context), {**facts, **told})  # type: ignore[dict-item]
    for part, records_of_part in rejected.items():
        if records_of_part:
            # A part of their own: their numbers are those of the source, and the rows' are not.
            empty = Batch(pa.table({name: pa.array([], pa.string()) for name in names}), pa.array([], pa.int64()), tuple(records_of_part))
            yield Records(f"readings-{part}" if part else "readings", names, iter([empty]), {})


@dataclass
class _Readings:
    """All readings of a partition, as numbers."""

    sensors: Sensors
    entities: dict[str, int] = field(default_factory=dict)
    words: dict[str, int] = field(default_factory=dict)
    """Texts of the readings that are kept as they are, `last`: their codes stand in place of a value."""
    entity: list[Integers] = field(default_factory=list)
    sensor: list[Integers] = field(default_factory=list)
    time: list[Integers] = field(default_factory=list)
    value: list[Floats] = field(default_factory=list)
    n: int = 0
    n_other: int = 0

    def add(self, batch: Batch) -> list[Unreadable]:
        """Keep the batch's readings. Returns the records that are none."""
        rows = batch.rows
        entity = pc.utf8_trim_whitespace(_column(rows, self.sensors.entity))
        no_entity = _true(pc.fill_null(pc.equal(entity, ""), True))
        time, _ = cast(_column(rows, self.sensors.time), "timestamp")
        wrong = {f"no {self.sensors.entity}": no_entity, f"{self.sensors.time} is not an ISO 8601 time": _true(time.is_null())}
        found = self._long(rows) if self.sensors.layout == "long" else self._wide(rows)
        for name, (_, _, failed) in found.items():
            column = self.sensors.value if self.sensors.layout == "long" else name
            reason = f"{column} is not a finite number"
            wrong[reason] = wrong.get(reason, np.zeros(len(failed), np.bool_)) | failed
        bad = np.logical_or.reduce(list(wrong.values()))
        codes = _codes(entity, self.entities)
        moments = np.asarray(pc.fill_null(time.cast(pa.int64()), 0))
        for place, name in enumerate(self.sensors.columns):
            if name in found:
                values, there, _ = found[name]
                self._keep(there & ~bad, codes, place, moments, values)
        return [*batch.unreadable, *_rejected(batch, bad, wrong)]

    def _long(self, rows: pa.Table) -> dict[str, tuple[Floats, Mask, Mask]]:
        assert self.sensors.name is not None
        assert self.sensors.value is not None
        names = pc.utf8_trim_whitespace(_column(rows, self.sensors.name))
        texts = _column(rows, self.sensors.value)
        found, mine = {}, np.zeros(len(names), np.bool_)
        for name in self.sensors.columns:
            this = _true(pc.fill_null(pc.equal(names, name), False))
            if this.any():
                mine |= this
                found[name] = self._values(name, pc.if_else(pa.array(this), texts, pa.scalar(None, pa.string())))
        self.n_other += int((~mine).sum())
        return found

    def _wide(self, rows: pa.Table) -> dict[str, tuple[Floats, Mask, Mask]]:
        return {name: self._values(name, _column(rows, name)) for name in self.sensors.columns}

    def _values(self, name: str, texts: pa.Array) -> tuple[Floats, Mask, Mask]:
        """(values, which are there, which are no numbers) of a sensor's texts."""
        if self.sensors.columns[name] in ("last", "count"):
            trimmed = pc.utf8_trim_whitespace(texts)
            there = _true(pc.fill_null(pc.not_equal(trimmed, ""), False))
            return _codes(trimmed, self.words).astype(np.float64), there, np.zeros(len(texts), np.bool_)
        values, failed = cast(texts, "number")
        return np.asarray(pc.fill_null(values, 0.0)), _true(values.is_valid()), _true(failed)

    def _keep(self, which: Mask, codes: Integers, place: int, moments: Integers, values: Floats) -> None:
        self.entity.append(codes[which])
        self.sensor.append(np.full(int(which.sum()), place, np.int64))
        self.time.append(moments[which])
        self.value.append(values[which])
        self.n += len(self.value[-1])


@dataclass(frozen=True)
class _Grid:
    """Rows in the order of entity and step."""

    entity: Integers
    """[n] Rank of the entity among all, by name."""
    step: Integers
    """[n] Steps since the partition's start."""
    cells: Floats
    """[n, sensors] NaN where there is none."""


def _grid(readings: _Readings, context: SourceContext) -> _Grid:
    sensors = readings.sensors
    every = _microseconds(sensors.every)
    rank = np.argsort(np.argsort(np.array(list(readings.entities), object), kind="stable"))
    entity = rank[_joined(readings.entity)] if readings.n else np.zeros(0, np.int64)
    sensor, time, value = _joined(readings.sensor), _joined(readings.time), np.concatenate([np.zeros(0), *readings.value])
    step = (time - _microseconds(context.start - _EPOCH)) // every
    low = int(step.min()) if len(step) else 0
    span = int(step.max()) - low + 1 if len(step) else 1
    if len(readings.entities) * span * len(sensors.columns) >= np.iinfo(np.int64).max:
        raise DataError(
            f"sensors: readings lie {span} steps of {duration_text(sensors.every)} apart; correct their times, or set a longer `every`"
        )
    key = (entity * span + (step - low)) * len(sensors.columns) + sensor
    order = np.lexsort((time, key))
    order = order[~_again(key[order], time[order], value[order])]
    cells_at, cells = _aggregated(key[order], value[order], list(sensors.columns.values()))
    rows, place = np.unique(cells_at // len(sensors.columns), return_inverse=True)
    matrix = np.full((len(rows), len(sensors.columns)), np.nan)
    matrix[place, cells_at % len(sensors.columns)] = cells
    return _filled(_Grid(rows // span, rows % span + low, matrix), sensors, context)


def _again(key: Integers, time: Integers, value: Floats) -> Mask:
    """Which readings, ordered by key and time, were there already with the same key, time and value."""
    tied = np.zeros(len(key), np.bool_)
    pair = (key[1:] == key[:-1]) & (time[1:] == time[:-1])
    tied[1:] |= pair
    tied[:-1] |= pair
    again = np.zeros(len(key), np.bool_)
    some = np.flatnonzero(tied)
    some = some[np.lexsort((value[some], time[some], key[some]))]
    before, after = some[:-1], some[1:]
    again[after] = (key[after] == key[before]) & (time[after] == time[before]) & (value[after] == value[before])
    return again


def _aggregated(key: Integers, value: Floats, how: list[str]) -> tuple[Integers, Floats]:
    """(key, aggregate) of each run of equal keys; a key's rest by the number of sensors says which, and so how."""
    first = np.flatnonzero(np.diff(key, prepend=-1))
    if not len(first):
        return key[:0], value[:0]
    behind = np.append(first[1:], len(key))
    ways: dict[str, Callable[[], Floats]] = {
        "count": lambda: (behind - first).astype(np.float64),
        "sum": lambda: np.add.reduceat(value, first),
        "mean": lambda: np.add.reduceat(value, first) / (behind - first),
        "min": lambda: np.minimum.reduceat(value, first),
        "max": lambda: np.maximum.reduceat(value, first),
        "last": lambda: value[behind - 1],
    }
    kinds = np.array(how)[key[first] % len(how)]
    result = np.empty(len(first))
    for kind in set(how):
        result[kinds == kind] = ways[kind]()[kinds == kind]
    return key[first], result


# --- steps without a reading -------------------------------------------------------------------------------------------


def _filled(grid: _Grid, sensors: Sensors, context: SourceContext) -> _Grid:
    counts = np.array([kind == "count" for kind in sensors.columns.values()])
    if sensors.fill is not None:
        forward, limit = sensors.fill.method == "forward", sensors.fill.limit
        n_steps = (context.end - context.start) // sensors.every
        grid, read = _with_gaps(grid, limit, n_steps - 1 if forward else None)
        for place in np.flatnonzero(~counts):
            column = grid.cells[:, place]
            grid.cells[:, place] = _forward(grid, column, limit) if forward else _interpolated(grid, column, limit)
        keep = read | ~np.isnan(grid.cells[:, ~counts]).all(axis=1)
        grid = _Grid(grid.entity[keep], grid.step[keep], grid.cells[keep])
    grid.cells[:, counts] = np.nan_to_num(grid.cells[:, counts])
    return grid


def _with_gaps(grid: _Grid, limit: int, last_step: int | None) -> tuple[_Grid, Mask]:
    """(the grid with up to `limit` empty steps after each one, which of its steps have readings).

    Behind an entity's last step there are some only up to `last_step` of the partition: whether a later reading comes must not decide
    whether a row is there.
    """
    n = len(grid.step)
    following = np.append(grid.step[1:], 0)
    ends = np.append(grid.entity[1:] != grid.entity[:-1], True)[:n]
    room = np.where(ends, -1 if last_step is None else last_step - grid.step, following[:n] - grid.step - 1)
    added = np.clip(room, 0, limit)
    if (n + int(added.sum())) * grid.cells.shape[1] > _MOST_CELLS:
        raise DataError("sensors: filling the gaps would make more rows than fit into memory; lower fill.limit, or set a longer `every`")
    size = added + 1
    first = np.cumsum(size) - size
    offset = np.arange(int(size.sum())) - np.repeat(first, size)
    cells = np.full((int(size.sum()), grid.cells.shape[1]), np.nan)
    cells[first] = grid.cells
    return _Grid(np.repeat(grid.entity, size), np.repeat(grid.step, size) + offset, cells), offset == 0


def _neighbours(grid: _Grid, column: Floats) -> tuple[Integers, Mask]:
    """(row of the last reading at or before each row, whether it is the same entity's)."""
    at = np.maximum.accumulate(np.where(np.isnan(column), -1, np.arange(len(column))))
    return at, (at >= 0) & (grid.entity[at] == grid.entity)


def _forward(grid: _Grid, column: Floats, limit: int) -> Floats:
    if not len(column):
        return column
    at, own = _neighbours(grid, column)
    return np.where(own & (grid.step - grid.step[at] <= limit), column[at], np.nan)


def _interpolated(grid: _Grid, column: Floats, limit: int) -> Floats:
    if not len(column):
        return column
    before, own = _neighbours(grid, column)
    turned = _Grid(grid.entity[::-1], grid.step[::-1], grid.cells[::-1])
    from_behind, own_behind = _neighbours(turned, column[::-1])
    after = len(column) - 1 - from_behind[::-1]
    after = np.where(own_behind[::-1], after, 0)
    gone, whole = grid.step - grid.step[before], np.maximum(grid.step[after] - grid.step[before], 1)
    line = column[before] + (column[after] - column[before]) * (gone / whole)
    fits = np.isnan(column) & own & own_behind[::-1] & (gone <= limit)
    return np.where(fits, line, column)


# --- windows -----------------------------------------------------------------------------------------------------------


def _numbered(grid: _Grid, window: int) -> Integers:
    """A number of each row, ascending, that is less by as many as a row of the same entity is steps earlier."""
    # Between one entity's numbers and the next one's there is room for a window: nobody's past is another's.
    low = int(grid.step.min(initial=0))
    room = int(grid.step.max(initial=0)) - low + 1 + window
    return np.asarray(grid.entity * room + (grid.step - low), np.int64)


def _before(number: Integers, here: slice, steps: int) -> tuple[Integers, Mask]:
    """(row of the same entity `steps` earlier, whether there is one) of each row in `here`."""
    wanted = number[here] - steps
    at = np.minimum(np.searchsorted(number, wanted), max(0, len(number) - 1))
    return at, number[at] == wanted


# --- texts -------------------------------------------------------------------------------------------------------------


def _batches(grid: _Grid, readings: _Readings, context: SourceContext) -> Iterator[Batch]:
    """At least one, so that a partition without readings has its columns too."""
    sensors = readings.sensors
    entities, words = pa.array(sorted(readings.entities), pa.string()), pa.array(list(readings.words), pa.string())
    shift = 1 if sensors.stamp == "end" else 0
    start, every = _microseconds(context.start - _EPOCH) // 1_000_000, _microseconds(sensors.every) // 1_000_000
    number = _numbered(grid, sensors.window or 0)
    for first in range(0, max(1, len(grid.step)), _BATCH):
        here = slice(first, first + _BATCH)
        seconds = pa.array(start + (grid.step[here] + shift) * every).cast(pa.timestamp("s"))
        columns = {
            sensors.entity: entities.take(pa.array(grid.entity[here])),
            sensors.time: pc.replace_substring(seconds.cast(pa.string()), " ", "T"),
        }
        for place, (name, how) in enumerate(sensors.columns.items()):
            cells = pa.array(grid.cells[here, place], from_pandas=True)
            columns[name] = words.take(cells.cast(pa.int64())) if how == "last" else _number_texts(cells, how)
        columns |= _windows(grid, number, here, sensors)
        n = len(columns[sensors.entity])
        yield Batch(pa.table(columns), pa.array(np.arange(first + 1, first + n + 1)))


def _windows(grid: _Grid, number: Integers, here: slice, sensors: Sensors) -> dict[str, pa.Array]:
    """The columns of the sensors' windows, as texts."""
    texts: dict[str, pa.Array] = {}
    places = {name: place for place, name in enumerate(sensors.columns)}
    for step in range(sensors.window or 0):
        at, there = _before(number, here, (sensors.window or 0) - 1 - step)
        for name, window in sensors.windows.items():
            cells = pa.array(np.where(there, grid.cells[at, places[name]], np.nan), from_pandas=True)
            texts[window[step]] = _number_texts(cells, sensors.columns[name])
    return {name: texts[name] for window in sensors.windows.values() for name in window}


def _number_texts(cells: pa.Array, how: str) -> pa.Array:
    return (cells.cast(pa.int64()) if how == "count" else cells).cast(pa.string())


def _rejected(batch: Batch, bad: Mask, wrong: dict[str, Mask]) -> Iterator[Unreadable]:
    """The records that are no readings, each with all that is wrong with it."""
    places = np.flatnonzero(bad)
    if not len(places):
        return
    rows = batch.rows.take(pa.array(places)).to_pylist()
    for place, number, row in zip(places, batch.numbers.take(pa.array(places)).to_pylist(), rows, strict=True):
        why = "; ".join(reason for reason, mask in wrong.items() if mask[place])
        yield Unreadable(number, json.dumps(row, ensure_ascii=False), why)


def _check_columns(sensors: Sensors, found: list[str], context: SourceContext) -> None:
    needed = [sensors.entity, sensors.time, *([sensors.name, sensors.value] if sensors.layout == "long" else sensors.columns)]
    if missing := [name for name in needed if name is not None and name not in found]:
        raise DataError(
            f"sensors: the source has no column {missing[0]!r}; it has: {names_for_people(found, context.use_case)}. Correct source.sensors"
        )


def _codes(texts: pa.Array, known: dict[str, int]) -> Integers:
    """Code of each text; a new one gets the next. A null gets 0, which says nothing."""
    distinct = pc.dictionary_encode(texts)
    codes = np.array([known.setdefault(text, len(known)) for text in distinct.dictionary.to_pylist()] or [0], np.int64)
    return codes[np.asarray(pc.fill_null(distinct.indices, 0))] if len(texts) else codes[:0]


def _joined(parts: list[Integers]) -> Integers:
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _column(rows: pa.Table, name: str) -> pa.Array:
    return rows[name].combine_chunks()


def _true(values: pa.Array) -> Mask:
    return np.asarray(values.to_numpy(zero_copy_only=False), np.bool_)


def _microseconds(span: dt.timedelta) -> int:
    return span // dt.timedelta(microseconds=1)
