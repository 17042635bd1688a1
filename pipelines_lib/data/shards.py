"""A partition in shards: what is done with one, what it leaves, and what the shards come to when they are put together.

A shard's rows are files that no version of the table names yet; one commit makes those of all shards the partition. A process of
the launcher and a task of Spark do the same with a shard: these functions.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipelines_lib.data.accepted import Accepted
from pipelines_lib.data.cleaning import Change, Cleaner
from pipelines_lib.data.partition_writer import PartitionWriter, StagedFile
from pipelines_lib.data.quality.partition import Judged
from pipelines_lib.data.table_store import parquet
from pipelines_lib.data.tables import Shard, Tables
from pipelines_lib.store import StorePath, beside
from pipelines_lib.use_case import UseCase


@dataclass(frozen=True)
class Left:
    """What one shard left."""

    staged: list[StagedFile]
    columns: list[tuple[str, str]]
    """Name and Arrow type of each column of its rows, where it saw any."""
    found: dict[str, Any]
    """What it counted; JSON."""
    tables: list[pa.Table] = field(default_factory=list)
    """What it counted and is too large for JSON."""

    @classmethod
    def of(cls, rows: PartitionWriter, found: dict[str, Any], tables: Sequence[pa.Table] = ()) -> "Left":
        """What a writer staged, and what was found on the way."""
        return cls(rows.staged, [(column.name, str(column.type)) for column in rows.columns], found, list(tables))

    def document(self) -> dict[str, Any]:
        """All but the tables, as JSON."""
        return {"staged": [file.document() for file in self.staged], "columns": self.columns, "found": self.found}

    @classmethod
    def read(cls, document: Mapping[str, Any], tables: bytes, store: StorePath) -> "Left":
        """From `document()` and `tables_as_bytes`; `store` is any place of the store that the files lie in."""
        staged = [StagedFile(beside(store, file["path"]), file["n_rows"], file["sha256"]) for file in document["staged"]]
        return cls(staged, [(name, kind) for name, kind in document["columns"]], document["found"], _tables_of(tables))

    def tables_as_bytes(self) -> bytes:
        """The tables in Arrow's format, one behind the other."""
        sink = pa.BufferOutputStream()
        for table in self.tables:
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
        written: bytes = sink.getvalue().to_pybytes()
        return written


def judge_shard(
    use_case: UseCase, tables: Tables, shard: Shard, *, partition_key: str, raw_version: int, unreadable: Mapping[str, tuple[str, str]]
) -> Left:
    """Judge what can be judged of a shard's rows by themselves, and stage the rejected ones. Raises as `Judged` does."""
    judged = Judged(use_case)
    mine = {row: record for row, record in unreadable.items() if shard.holds(row)}
    with tables.shard_writer("quarantine", partition_key) as quarantine:
        judged.rows(tables.scan("raw", partition_key, version=raw_version, shard=shard), mine, quarantine.add)
    return Left.of(quarantine, judged.state(), [] if judged.groups is None else judged.groups.tables)


def clean_shard(use_case: UseCase, tables: Tables, shard: Shard, *, partition_key: str, accepted: Accepted, n_shards: int) -> Left:
    """Clean a shard and stage its rows. What a step needs of the whole partition it looks at here, a share of the rows at a time."""
    cleaner = Cleaner(use_case)
    first, end = accepted.places(shard)
    cleaner.plan(accepted.batches, range(first, end), n_shards)
    with tables.shard_writer("clean", partition_key) as clean:
        for batch in accepted.batches(shard=shard):
            rows, _ = cleaner.apply(batch, first)
            first += batch.num_rows
            clean.add(rows)
    return Left.of(clean, {"n_rows": clean.n_rows, "changes": [[c.step, c.rows_dropped, c.values_changed] for c in cleaner.report()]})


def changes_of(use_case: UseCase, shards: Sequence[Left]) -> list[Change]:
    """What each step changed in all the shards that `clean_shard` left."""
    cleaner = Cleaner(use_case)
    for left in shards:
        cleaner.take_in([Change(*change) for change in left.found["changes"]])
    return cleaner.report()


def columns_of(shards: Sequence[Left]) -> pa.Schema:
    """Every column of the shards' rows."""
    return pa.unify_schemas([pa.schema([(name, pa.type_for_alias(kind)) for name, kind in left.columns]) for left in shards])


def staged_rows(shards: Sequence[Left]) -> Iterator[pa.Table]:
    """The rows of the shards, in order, a row group at a time."""
    for left in shards:
        for file in left.staged:
            content = parquet(file.path)
            for group in range(content.num_row_groups):
                yield content.read_row_group(group)


def _tables_of(written: bytes) -> list[pa.Table]:
    source, tables = pa.BufferReader(written), []
    while source.tell() < source.size():
        tables.append(pa.ipc.open_stream(source).read_all())
    return tables
