"""The layers of a use case as Delta tables, partitioned by `partition_key`.

A run overwrites its own partition in one commit and touches no other; writing what is already there makes no commit.
Rows come back ordered by partition and `row_id`, whatever the number of files, so the same version reads the same.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from pyarrow import fs

from pipelines_lib.contracts import safe_name
from pipelines_lib.errors import DataError

Layer = Literal["raw", "clean", "labelled", "quarantine", "quality", "predictions", "profiles", "drift"]

_ATTEMPTS = 10


class Tables:
    """The tables of one use case below `root` (the use case's folder in the store)."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, layer: Layer) -> Path:
        """Folder of a layer's table."""
        return self._root / "tables" / layer

    def write(self, layer: Layer, partition_key: str, rows: pa.Table) -> int:
        """Make `rows` the whole content of the partition. Returns the table's version that holds it.

        `rows` carries `row_id` (string, unique in the partition); `partition_key` is added here. Raises `DataError` where
        a column is of another type than in the table, or differs from one there in case alone. The columns of `raw` are the
        source's: there the table's spelling stays.
        """
        rows = _with_partition(rows, partition_key)
        for attempt in range(_ATTEMPTS):
            try:
                table = self._open(layer)
                if table is not None:
                    there = _read(table, self.path(layer), [partition_key])
                    if layer == "raw":
                        rows = _spelled_as(there.schema, rows)
                    if _same(there, rows):
                        return int(table.version())
                    _check_columns(self.path(layer), there.schema, rows.schema)
                write_deltalake(
                    str(self.path(layer)),
                    rows,
                    # Only the first writer makes the table; who comes second at it must not overwrite the whole.
                    mode="error" if table is None else "overwrite",
                    predicate=None if table is None else f"partition_key = '{partition_key}'",
                    partition_by=["partition_key"],
                    schema_mode=None if table is None else "merge",
                )
                return self.version(layer)
            except (CommitFailedError, DeltaError) as error:
                # Two runs made the table at once, or met in a commit: the loser looks again.
                if attempt == _ATTEMPTS - 1 or not _is_conflict(error):
                    raise
        raise AssertionError("unreachable")

    def append(self, layer: Layer, rows: pa.Table) -> None:
        """Add rows (with `partition_key`) in one commit; for what has no natural whole, such as answers of a service.

        Raises `DataError` as `write` does.
        """
        for attempt in range(_ATTEMPTS):
            try:
                table = self._open(layer)
                if table is not None:
                    _check_columns(self.path(layer), pa.schema(table.schema().to_arrow()), rows.schema)
                write_deltalake(
                    str(self.path(layer)) if table is None else table,
                    rows,
                    mode="append",
                    partition_by=["partition_key"],
                    schema_mode="merge",
                )
                return
            except (CommitFailedError, DeltaError) as error:
                if attempt == _ATTEMPTS - 1 or not _is_conflict(error):
                    raise

    def read(
        self,
        layer: Layer,
        partitions: Sequence[str] | None = None,
        *,
        version: int | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Rows of the partitions (all, when None), ordered by partition and row. Raises `DataError` where there is no table."""
        table = self._open(layer, version)
        if table is None:
            raise DataError(f"there is no table {layer!r} below {self._root}; run the stage that writes it first")
        return _read(table, self.path(layer), partitions, columns)

    def partitions(self, layer: Layer, version: int | None = None) -> list[str]:
        """Keys of the partitions that hold rows, sorted; none where there is no table."""
        table = self._open(layer, version)
        return [] if table is None else sorted({partition["partition_key"] for partition in table.partitions()})

    def version(self, layer: Layer) -> int:
        """The newest version of the table. Raises `DataError` where there is none."""
        table = self._open(layer)
        if table is None:
            raise DataError(f"there is no table {layer!r} below {self._root}; run the stage that writes it first")
        return int(table.version())

    def _open(self, layer: Layer, version: int | None = None) -> DeltaTable | None:
        try:
            return DeltaTable(str(self.path(layer)), version=version)
        except TableNotFoundError:
            return None


def _with_partition(rows: pa.Table, partition_key: str) -> pa.Table:
    if safe_name(partition_key) != partition_key:
        raise DataError(f"partition key {partition_key!r}: letters, digits, '.', '-', '_' and '+' only")
    if "partition_key" in rows.column_names:
        rows = rows.drop_columns(["partition_key"])
    rows = rows.append_column("partition_key", pa.array([partition_key] * rows.num_rows, pa.string()))
    return rows.sort_by("row_id")


def _read(table: DeltaTable, folder: Path, partitions: Sequence[str] | None, columns: Sequence[str] | None = None) -> pa.Table:
    filters = None if partitions is None else pc.field("partition_key").isin(pa.array(list(partitions), pa.string()))
    wanted = None if columns is None else list(dict.fromkeys([*columns, "row_id", "partition_key"]))
    # Arrow's own file system: with delta-rs's, whose reads call back into Python from Arrow's threads, one process in
    # twenty aborts at its end ("terminate called without an active exception").
    files = fs.SubTreeFileSystem(str(folder.resolve()), fs.LocalFileSystem())
    rows = table.to_pyarrow_table(filters=filters, columns=wanted, filesystem=files)
    return rows.sort_by([("partition_key", "ascending"), ("row_id", "ascending")])


def _same(there: pa.Table, rows: pa.Table) -> bool:
    absent = set(there.column_names) - set(rows.column_names)
    if not set(rows.column_names) <= set(there.column_names) or any(there[name].null_count < there.num_rows for name in absent):
        return False
    there = there.select(rows.column_names)
    return bool(there.schema.equals(rows.schema) and _nan_as_null(there).equals(_nan_as_null(rows)))


def _nan_as_null(rows: pa.Table) -> pa.Table:
    """For comparing only: NaN is unequal to itself, and rows that hold one would be written again and again."""
    for index, field in enumerate(rows.schema):
        if pa.types.is_floating(field.type):
            column = rows.column(index)
            rows = rows.set_column(index, field, pc.if_else(pc.is_nan(column), pa.scalar(None, field.type), column))
    return rows


def _spelled_as(there: pa.Schema, rows: pa.Table) -> pa.Table:
    """`rows` under the names of `there` where case alone tells them apart."""
    known = {name.casefold(): name for name in there.names}
    return rows.rename_columns([known.get(name.casefold(), name) for name in rows.column_names])


def _check_columns(path: Path, there: pa.Schema, rows: pa.Schema) -> None:
    """Delta would cast without a word, and make 1 of 1.5; it tells no case apart, and says so late."""
    known_names = {name.casefold(): name for name in there.names}
    for field in rows:
        if (spelling := known_names.get(field.name.casefold(), field.name)) != field.name:
            raise DataError(
                f"{path}: column {field.name!r} stands there as {spelling!r}, and a table can't tell the two apart; "
                "go back to that spelling, or remove the table and backfill its partitions"
            )
        if field.name in there.names and (known := there.field(field.name).type) != field.type:
            raise DataError(
                f"{path}: column {field.name!r} is {known} there and {field.type} in these rows; a table keeps its types. "
                "Give the column a new name, or remove the table and backfill its partitions"
            )


def _is_conflict(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, CommitFailedError) or any(word in text for word in ("conflict", "already exists", "version", "concurrent"))
