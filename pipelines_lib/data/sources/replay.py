"""One finished source, played back as partitions: an equal share of its shuffled records falls on each."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines_lib.data.records import Batch, Records
from pipelines_lib.data.sources.context import SourceContext
from pipelines_lib.errors import DataError
from pipelines_lib.use_case import Replay


def replayed(open_records: Callable[[], Records], replay: Replay, index: int) -> Records:
    """The records that fall on partition `index` (from 0), in the source's order.

    Reads the source twice: which records are the partition's follows from how many there are.
    """
    mine = _numbers_of(_all_numbers(open_records()), replay, index)
    records = open_records()
    records.batches = (_only(batch, mine) for batch in records.batches)
    return records


def replay_index(context: SourceContext, replay: Replay) -> int:
    """The partition's place among those of the replay. Raises `DataError` where it lies after the last."""
    use_case = context.use_case
    first = use_case.start.strftime(use_case.key_format)
    index = int((context.start - use_case.partition_time(first)) / use_case.partition_step)
    if index >= replay.partitions:
        last = use_case.shift(first, replay.partitions - 1)
        raise DataError(
            f"partition {context.partition_key} of {use_case.name}: its file is replayed over the partitions {first} to {last} and no further; "
            "run one of these, or raise source.replay.partitions"
        )
    return index


def _all_numbers(records: Records) -> NDArray[np.int64]:
    parts: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    for batch in records.batches:
        parts += [np.asarray(batch.numbers), np.array([record.number for record in batch.unreadable], np.int64)]
    return np.sort(np.concatenate(parts))


def _numbers_of(numbers: NDArray[np.int64], replay: Replay, index: int) -> NDArray[np.int64]:
    if replay.seed is not None:
        numbers = np.random.Generator(np.random.PCG64(replay.seed)).permutation(numbers)
    first, last = (len(numbers) * i // replay.partitions for i in (index, index + 1))
    return np.sort(numbers[first:last])


def _only(batch: Batch, mine: NDArray[np.int64]) -> Batch:
    mask = pa.array(_among(np.asarray(batch.numbers), mine))
    kept = _among(np.array([record.number for record in batch.unreadable], np.int64), mine)
    unreadable = tuple(record for record, is_mine in zip(batch.unreadable, kept, strict=True) if is_mine)
    return Batch(batch.rows.filter(mask), batch.numbers.filter(mask), unreadable)


def _among(numbers: NDArray[np.int64], sorted_numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
    if not len(sorted_numbers):
        return np.zeros(len(numbers), np.bool_)
    at = np.minimum(np.searchsorted(sorted_numbers, numbers), len(sorted_numbers) - 1)
    found: NDArray[np.bool_] = sorted_numbers[at] == numbers
    return found
