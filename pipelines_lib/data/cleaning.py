"""Cleaning: the row steps of a use case, in the order written, each saying how much it changed.

A partition comes in batches and may be larger than the memory. Most steps look at one row at a time. `deduplicate` and
`fill_forward` look at the whole partition: they are planned first, on the few columns that decide, and leave behind which
rows go and which values are replaced, by the row's place in the partition. So a batch comes out the same however the
partition is cut. (The fitted steps of the list are the feature transform's: `features.fitted`.)
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines_lib.data.fill_forward import plan_fill_forward
from pipelines_lib.data.hashing import hash_rows
from pipelines_lib.data.whole_partition import PLACE, Bucket, Dropped, Plan, Stream, places_of
from pipelines_lib.errors import ConfigError
from pipelines_lib.spelling import normal
from pipelines_lib.use_case import CleaningStep

Read = Callable[[Sequence[str]], Iterator[pa.Table]]
"""Gives the accepted rows of the whole partition, in row order, with at least these columns."""


@dataclass(frozen=True)
class Change:
    """What one step did."""

    step: str
    rows_dropped: int
    values_changed: int


class HasSteps(Protocol):
    """A use case, or whatever else says how rows are cleaned."""

    @property
    def clean(self) -> Sequence[CleaningStep]: ...  # noqa: D102


class Cleaner:
    """Cleans one partition, batch by batch, in row order. Can be pickled between two calls."""

    def __init__(self, use_case: HasSteps, only: Collection[int] | None = None) -> None:
        """With `only`, the steps at these places of the list alone."""
        self._steps = [(index, step) for index, step in enumerate(use_case.clean) if not step.fitted and (only is None or index in only)]
        self._plans: dict[int, Plan] = {}
        self._changes = {index: Change(f"{index}: {step.kind}", 0, 0) for index, step in self._steps}
        self._offset = 0

    def plan(self, read: Read, places: range | None = None, n_buckets: int = 1) -> None:
        """Look at the partition as a whole where a step must. `read` is called up to twice for each such step, else never.

        With `places`, the rows at those alone can be cleaned. With `n_buckets` a step looks at that share of the rows at a time, and
        reads as often, so that a shard needs no more memory the more shards there are. What a step that another such step follows
        does to the partition is held until all are planned. Raises `ConfigError` where a constant is no value of its column.
        """
        self._plans = {}
        whole = [(position, index, step) for position, (index, step) in enumerate(self._steps) if step.kind in _WHOLE]
        for number, (position, index, step) in enumerate(whole, start=1):
            stream, parts = self._stream_before(position, read), []
            for bucket in range(n_buckets):
                plan = _WHOLE[step.kind](stream, getattr(step, step.kind), Bucket(bucket, n_buckets))
                parts.append(plan if places is None or number < len(whole) else plan.within(places))
            self._plans[index] = parts[0] if n_buckets == 1 else parts[0].with_others(parts[1:])
        if places is not None:
            self._plans = {index: plan.within(places) for index, plan in self._plans.items()}

    def apply(self, batch: pa.Table, offset: int | None = None) -> tuple[pa.Table, list[Change]]:
        """(rows of `batch` after every step, what each step changed). `offset` is the number of accepted rows before the
        batch; those of the batches given so far, when absent. Raises `ConfigError` where a constant is no value of its column.
        """
        offset = self._offset if offset is None else offset
        self._offset = offset + batch.num_rows
        rows = batch.append_column(PLACE, pa.array(np.arange(offset, self._offset)))
        changes = []
        for index, step in self._steps:
            before = rows.num_rows
            rows, changed = self._done(rows, index, step.kind, getattr(step, step.kind))
            changes.append(Change(self._changes[index].step, before - rows.num_rows, changed))
        for (index, _), change in zip(self._steps, changes, strict=True):
            self._add(index, change)
        return rows.drop_columns([PLACE]), changes

    def take_in(self, changes: Sequence[Change]) -> None:
        """What the cleaner of another shard reports."""
        for (index, _), change in zip(self._steps, changes, strict=True):
            self._add(index, change)

    def report(self) -> list[Change]:
        """What each step changed in all the batches so far."""
        return [self._changes[index] for index, _ in self._steps]

    def _add(self, index: int, change: Change) -> None:
        sum_ = self._changes[index]
        self._changes[index] = Change(sum_.step, sum_.rows_dropped + change.rows_dropped, sum_.values_changed + change.values_changed)

    def _done(self, rows: pa.Table, index: int, kind: str, setting: Any) -> tuple[pa.Table, int]:
        if kind in _WHOLE:
            assert index in self._plans, "plan() comes before apply()"
            return self._plans[index].applied(rows)
        return _row_step(rows, index, kind, setting)

    def _stream_before(self, position: int, read: Read) -> Stream:
        """The rows as the step at `position` finds them, with the columns that it names and `PLACE`."""
        wanted = list(dict.fromkeys(self._steps[position][1].columns()))
        needed, earlier = set(wanted), []
        for index, step in reversed(self._steps[:position]):
            setting: Any = getattr(step, step.kind)
            if step.kind in ("drop", "drop_missing"):
                needed.update(setting)
            elif step.kind not in _WHOLE:
                setting = {} if step.kind == "drop_columns" else {name: value for name, value in setting.items() if name in needed}
            if setting:
                earlier.append((index, step.kind, setting))

        def stream() -> Iterator[pa.Table]:
            offset = 0
            for batch in read(sorted(needed)):
                rows = batch.select(sorted(needed)).append_column(PLACE, pa.array(np.arange(offset, offset + batch.num_rows)))
                offset += batch.num_rows
                for index, kind, setting in reversed(earlier):
                    rows, _ = self._done(rows, index, kind, setting)
                yield rows.select([*wanted, PLACE])

        return stream


def passes(use_case: HasSteps) -> list[list[int]]:
    """Places of the row steps in the list, cut before each step that looks at the whole partition: the first part has none of these,
    every other one, which comes first."""
    cut: list[list[int]] = [[]]
    for index, step in enumerate(use_case.clean):
        if step.kind in _WHOLE:
            cut.append([])
        if not step.fitted:
            cut[-1].append(index)
    return cut


def compared(step: CleaningStep) -> list[str]:
    """The columns by which a step that looks at the whole partition finds the rows that concern one another: they agree in all."""
    return [step.fill_forward.by] if step.fill_forward is not None else list(step.deduplicate or ())


@dataclass(frozen=True)
class _Steps:
    clean: Sequence[CleaningStep] = field(default_factory=tuple)


def clean(rows: pa.Table, steps: Sequence[CleaningStep]) -> tuple[pa.Table, list[Change]]:
    """A whole partition at once. Raises `ConfigError` where a constant is no value of its column."""
    cleaner = Cleaner(_Steps(steps))
    cleaner.plan(lambda columns: iter([rows.select(columns)]))
    return cleaner.apply(rows)


def column_after(values: pa.Array, name: str, steps: Sequence[CleaningStep]) -> pa.Array:
    """The values of column `name` as the steps that look at nothing else leave them; null where one of them drops the row.

    Raises `ConfigError` where a constant is no value of the column.
    """
    column, gone = pa.table({name: values}), np.zeros(len(values), np.bool_)
    for index, step in enumerate(steps):
        if step.kind in ("to_missing", "normalise", "fill", "clip") and name in step.columns():
            column, _ = _row_step(column, index, step.kind, {name: getattr(step, step.kind)[name]})
        elif step.drop is not None and name in step.drop:
            unwanted, _ = _row_step(column, index, "to_missing", {name: step.drop[name]})
            gone |= pc.and_not(pc.is_null(unwanted[name]), pc.is_null(column[name])).to_numpy()
    return pc.if_else(pa.array(gone), pa.scalar(None, values.type), column[name].combine_chunks())


# --- steps that look at the whole partition -----------------------------------------------------------------------


def _plan_deduplicate(stream: Stream, columns: list[str], bucket: Bucket) -> Dropped:
    """All but the first of the bucket's rows that agree; a row that lacks one of the columns can't be said to agree with any.

    Few rows have a hash in common that are not equal, and few are equal: only rows whose hash occurs twice are compared.
    """
    hashes: list[NDArray[np.uint64]] = []
    places: list[NDArray[np.uint32]] = []
    for rows in _comparable(stream, columns, bucket):
        hashes.append(hash_rows([rows[name].combine_chunks() for name in columns]))
        places.append(places_of(rows).astype(np.uint32))
    twice = _repeated(hashes)
    if not twice.size:
        return Dropped(np.empty(0, np.int64))
    suspects = np.concatenate([place[_among(hash_, twice)] for hash_, place in zip(hashes, places, strict=True)]).astype(np.int64)
    del hashes, places
    compared = pa.concat_tables(rows.filter(pa.array(_among(places_of(rows), suspects))) for rows in _comparable(stream, columns, bucket))
    first = compared.group_by(columns, use_threads=False).aggregate([(PLACE, "min")])[f"{PLACE}_min"]
    return Dropped(np.setdiff1d(suspects, first.to_numpy(), assume_unique=True))


def _comparable(stream: Stream, columns: list[str], bucket: Bucket) -> Iterator[pa.Table]:
    return (bucket.rows(rows.filter(_all_valid(rows, columns)), columns) for rows in stream())


def _repeated(hashes: list[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    """The hashes that occur more than once."""
    ordered = np.sort(np.concatenate([np.empty(0, np.uint64), *hashes]))
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])


def _among(values: NDArray[Any], ordered: NDArray[Any]) -> NDArray[np.bool_]:
    """Which `values` are among the `ordered` ones, of which there are some."""
    found = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return np.asarray(ordered[found] == values, np.bool_)


_WHOLE: dict[str, Callable[[Stream, Any, Bucket], Plan]] = {"deduplicate": _plan_deduplicate, "fill_forward": plan_fill_forward}


WHOLE_KINDS = frozenset(_WHOLE)


# --- steps that look at one row -----------------------------------------------------------------------------------


def _drop_missing(rows: pa.Table, columns: list[str]) -> tuple[pa.Table, int]:
    return rows.filter(_all_valid(rows, columns)), 0


def _drop(rows: pa.Table, unwanted: dict[str, list[Any]]) -> tuple[pa.Table, int]:
    for name, values in unwanted.items():
        known = pa.array([pa.scalar(value).cast(rows[name].type).as_py() for value in values], rows[name].type)
        rows = rows.filter(pc.invert(pc.is_in(rows[name], value_set=known)))
    return rows, 0


def _drop_columns(rows: pa.Table, columns: list[str]) -> tuple[pa.Table, int]:
    return rows.drop_columns(columns), 0


def _fill(rows: pa.Table, constants: dict[str, Any]) -> tuple[pa.Table, int]:
    def fill(column: pa.ChunkedArray, constant: Any) -> pa.ChunkedArray:
        return pc.fill_null(column, pa.scalar(constant).cast(column.type))

    return _each(rows, constants, fill)


def _clip(rows: pa.Table, bounds: dict[str, Any]) -> tuple[pa.Table, int]:
    def clip(column: pa.ChunkedArray, bound: tuple[float, float]) -> pa.ChunkedArray:
        low, high = bound
        if pa.types.is_integer(column.type):
            low, high = math.ceil(low), math.floor(high)
        limits = [pa.scalar(limit).cast(column.type) for limit in (low, high)]
        return pc.min_element_wise(pc.max_element_wise(column, limits[0], skip_nulls=False), limits[1], skip_nulls=False)

    return _each(rows, bounds, clip)


def _to_missing(rows: pa.Table, markers: dict[str, list[Any]]) -> tuple[pa.Table, int]:
    def empty(column: pa.ChunkedArray, values: list[Any]) -> pa.ChunkedArray:
        known = pa.array([value for value in (_as(value, column.type) for value in values) if value is not None], column.type)
        return pc.if_else(pc.is_in(column, value_set=known), pa.scalar(None, column.type), column)

    return _each(rows, markers, empty)


_BLANK = "\t\n\v\f\r\x1c\x1d\x1e\x1f "
"""Python's blanks among the ASCII characters."""


def _normalise(rows: pa.Table, wanted: dict[str, list[str]]) -> tuple[pa.Table, int]:
    def normalise(column: pa.ChunkedArray, what: list[str]) -> pa.ChunkedArray:
        distinct = column.combine_chunks().dictionary_encode()
        return pa.chunked_array([_made_alike(distinct.dictionary, what).take(distinct.indices)])

    return _each(rows, wanted, normalise)


def _made_alike(texts: pa.Array, what: list[str]) -> pa.Array:
    """Arrow does what is ASCII, for which NFKC changes nothing; Python does the others."""
    made = pc.ascii_lower(texts) if "lower" in what else texts
    made = pc.replace_substring_regex(made, r"[\t-\r\x1c-\x20]+", " ") if "blanks" in what else made
    made = pc.ascii_trim(made, characters=_BLANK)
    other = pc.invert(pc.string_is_ascii(texts))
    if other.true_count:
        made = pc.replace_with_mask(made, other, pa.array([normal(text, what) for text in texts.filter(other).to_pylist()], texts.type))
    return pc.if_else(pc.equal(made, ""), pa.scalar(None, texts.type), made)


_STEPS: dict[str, Callable[[pa.Table, Any], tuple[pa.Table, int]]] = {
    "to_missing": _to_missing,
    "normalise": _normalise,
    "fill": _fill,
    "clip": _clip,
    "drop": _drop,
    "drop_missing": _drop_missing,
    "drop_columns": _drop_columns,
}


def _row_step(rows: pa.Table, index: int, kind: str, setting: Any) -> tuple[pa.Table, int]:
    try:
        return _STEPS[kind](rows, setting)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise ConfigError(f"clean.{index}: {kind}: {error}; write a value of the column's type") from error


def _each(rows: pa.Table, arguments: dict[str, Any], change: Callable[[pa.ChunkedArray, Any], pa.ChunkedArray]) -> tuple[pa.Table, int]:
    """`change` each column named in `arguments`; also how many values differ afterwards."""
    n_changed = 0
    for name, argument in arguments.items():
        index = rows.column_names.index(name)
        before = rows.column(index)
        after = change(before, argument)
        n_changed += _n_different(before, after)
        rows = rows.set_column(index, name, after)
    return rows, n_changed


def _n_different(before: pa.ChunkedArray, after: pa.ChunkedArray) -> int:
    moved = pc.sum(pc.not_equal(before, after)).as_py() or 0
    appeared = pc.sum(pc.xor(pc.is_null(before), pc.is_null(after))).as_py() or 0
    return int(moved + appeared)


def _all_valid(rows: pa.Table, columns: list[str]) -> pa.ChunkedArray | pa.Array:
    valid = pa.chunked_array([pa.array(np.ones(rows.num_rows, np.bool_))])
    for name in columns:
        valid = pc.and_(valid, pc.is_valid(rows[name]))
    return valid


def _as(value: Any, to: pa.DataType) -> Any:
    """`value` as the column's type; None where it is a word, which the cast of the raw text has dealt with."""
    try:
        return pa.scalar(value).cast(to).as_py()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
