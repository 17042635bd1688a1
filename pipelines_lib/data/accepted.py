"""The rows of a partition that validation let through, with their types."""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipelines_lib.data.quality.partition import UNREADABLE
from pipelines_lib.data.tables import Shard, Tables
from pipelines_lib.data.typed import raw_names, typed_columns, typed_nothing
from pipelines_lib.use_case import UseCase


class Accepted:
    """The typed rows that validation let through, batch by batch and in order, as often as they are asked for. Can be pickled."""

    def __init__(self, use_case: UseCase, tables: Tables, partition_key: str, *, raw_version: int, quarantine_version: int) -> None:
        self._use_case, self._tables, self._key = use_case, tables, partition_key
        self.raw_version = raw_version
        self._names = raw_names(tables.schema("raw", raw_version).names, use_case)
        self._quarantine_version = quarantine_version
        rejected = tables.read("quarantine", [self._key], version=quarantine_version, columns=["row_id"])
        self._rejected = rejected["row_id"].combine_chunks()

    def batches(self, columns: Sequence[str] | None = None, shard: Shard | None = None) -> Iterator[pa.Table]:
        """`row_id` and these columns (all, when None); a first batch without rows shows the columns even where there are none."""
        columns = list(self._use_case.written) if columns is None else columns
        yield typed_nothing(self._use_case, columns)
        wanted = [self._names[name] for name in columns if name != "row_id"]
        for raw in self._tables.scan("raw", self._key, version=self.raw_version, columns=wanted, shard=shard):
            yield typed_columns(self._passed(raw), self._use_case, columns)

    def places(self, shard: Shard) -> tuple[int, int]:
        """How many accepted rows come before the shard's, and how many before those behind it."""
        rows = self._tables.read("quarantine", [self._key], version=self._quarantine_version, columns=["row_id", "reasons"])
        rejected = rows["row_id"].filter(pc.invert(pc.starts_with(pc.list_element(rows["reasons"], 0), UNREADABLE)))
        return shard.n_before - _n_before(rejected, shard.first), shard.n_before + shard.n_rows - _n_before(rejected, shard.end)

    def _passed(self, raw: pa.Table) -> pa.Table:
        if len(self._rejected) == 0:
            return raw
        return raw.filter(pc.invert(pc.is_in(raw["row_id"], value_set=self._rejected)))


def _n_before(ordered: pa.ChunkedArray, row_id: str | None) -> int:
    """How many of the names come before this one; all, where it is None."""
    return len(ordered) if row_id is None else pc.sum(pc.less(ordered, row_id)).as_py() or 0
