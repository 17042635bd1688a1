"""Writing one partition of a table, batch by batch: all of it lands in one commit, or none does.

Files are named after their content. The same rows in the same order give the same bytes, however they were cut into
batches, and so the same names: a run that writes what is there already finds its files in the table and commits nothing,
and a run that was killed leaves, at worst, files that no version names.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import JsonValue

from pipelines_lib.errors import DataError
from pipelines_lib.s3 import S3Path
from pipelines_lib.store import StorePath, move, new_file

GROUP_ROWS = 1 << 18
"""Rows of a Parquet row group; so many are held in memory at once."""
FILE_ROWS = 1 << 22
"""Rows of a file at most."""
STAGING = "_staging"
"""Below the table's folder; Delta leaves names that start with an underscore alone."""


@dataclass(frozen=True)
class StagedFile:
    """A Parquet file that no version of the table names yet."""

    path: StorePath
    n_rows: int
    sha256: str

    def document(self) -> dict[str, JsonValue]:
        """As JSON."""
        return {"path": str(self.path), "n_rows": self.n_rows, "sha256": self.sha256}


@dataclass(frozen=True)
class PlacedFile:
    """A file of the partition under its final name."""

    path: str
    """Below the table's folder."""
    n_rows: int
    size: int


class PartitionWriter:
    """Takes the rows of a partition in the order of their `row_id` and stages them as Parquet files.

    As a context manager it commits at the end, or, where an exception left it, removes what it staged. Without a `commit` it leaves
    the files staged in the store, for whoever commits those of several shards at once; with one, those of a bucket wait on this machine.
    """

    def __init__(
        self,
        table: StorePath,
        partition_key: str,
        commit: Callable[[list[StagedFile], pa.Schema], int] | None,
        spelling: Mapping[str, str] | None = None,
    ) -> None:
        self._table = table
        self._here = TemporaryDirectory(prefix="sluice-") if isinstance(table, S3Path) else None
        self._folder = Path(self._here.name) if self._here is not None else Path(str(table)) / STAGING
        self._key = partition_key
        self._commit = commit
        self._spelling = None if spelling is None else dict(spelling)
        self._pending: list[pa.Table] = []
        self._n_pending = 0
        self._schema: pa.Schema | None = None
        self._all_columns = pa.schema([])
        self._last_row = ""
        self._open: tuple[pq.ParquetWriter, Path] | None = None
        self._rows_of_open = 0
        self._staged: list[StagedFile] = []
        self.n_rows = 0
        self._version: int | None = None

    def add(self, rows: pa.Table) -> None:
        """The next rows. A column that earlier ones lacked starts a new file."""
        if "partition_key" in rows.column_names:
            rows = rows.drop_columns(["partition_key"])
        rows = self._spelled(rows).replace_schema_metadata(None)
        if self._schema is None or not rows.schema.equals(self._schema):
            self._flush()
            self._close_file()
            self._schema = rows.schema
            self._all_columns = pa.unify_schemas([self._all_columns, rows.schema])
        if rows.num_rows == 0:
            return
        self._check_order(rows["row_id"])
        self._pending.append(rows)
        self._n_pending += rows.num_rows
        self.n_rows += rows.num_rows
        while self._n_pending >= GROUP_ROWS:
            self._write_group(GROUP_ROWS)

    @property
    def staged(self) -> list[StagedFile]:
        """The finished files; all, after the with block."""
        return self._staged

    @property
    def columns(self) -> pa.Schema:
        """Every column of the rows so far."""
        return self._all_columns

    @property
    def version(self) -> int:
        """The table's version that holds the rows, once they are committed."""
        assert self._version is not None, "read the version after the with block"
        return self._version

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        is_staged = False
        try:
            if kind is None:
                self._flush()
                self._close_file()
                is_staged = self._commit is None
                if self._commit is not None:
                    self._version = self._commit(self._staged, self._all_columns)
        finally:
            if not is_staged:
                self._discard()
            if self._here is not None:
                self._here.cleanup()

    def _spelled(self, rows: pa.Table) -> pa.Table:
        """`rows` with their columns spelt as the table, or the first rows that had them, spell them. Raises `DataError` where two would be one."""
        names: dict[str, str] = {}
        for name in rows.column_names:
            if (other := names.setdefault(name.casefold(), name)) != name or rows.column_names.count(name) > 1:
                raise DataError(
                    f"{self._table}: columns {other!r} and {name!r} differ in case alone or not at all, and a table can't tell the two apart; "
                    "rename one of them at the source"
                )
        if self._spelling is None:
            return rows
        return rows.rename_columns([self._spelling.setdefault(folded, name) for folded, name in names.items()])

    def _discard(self) -> None:
        for file in self._staged:
            file.path.unlink(missing_ok=True)
        if self._open is not None:
            writer, path = self._open
            with contextlib.suppress(OSError):  # a full disk has no room for the footer either
                writer.close()
            path.unlink(missing_ok=True)

    def _check_order(self, row_ids: pa.ChunkedArray) -> None:
        column = row_ids.combine_chunks()
        first, last = column[0].as_py(), column[-1].as_py()
        increasing = pc.all(pc.less(column[:-1], column[1:])).as_py()
        assert increasing is not False, f"partition {self._key}: row_id does not increase within a batch"
        assert first > self._last_row, f"partition {self._key}: row {first} comes after {self._last_row}"
        self._last_row = last

    def _flush(self) -> None:
        if self._n_pending:
            self._write_group(self._n_pending)

    def _write_group(self, n_rows: int) -> None:
        """Write the oldest pending rows. Group and file bounds follow from the rows' places alone, not from the batches."""
        pending = pa.concat_tables(self._pending).combine_chunks()
        group, rest = pending.slice(0, n_rows), pending.slice(n_rows)
        self._pending, self._n_pending = ([rest] if rest.num_rows else []), rest.num_rows
        if self._open is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = new_file(self._folder, f"{self._key}.", ".parquet")
            writer = pq.ParquetWriter(path, group.schema, compression="zstd", compression_level=1, write_page_checksum=True)
            self._open = (writer, path)
        self._open[0].write_table(group, row_group_size=GROUP_ROWS)
        self._rows_of_open += n_rows
        if self._rows_of_open >= FILE_ROWS:
            self._close_file()

    def _close_file(self) -> None:
        if self._open is None:
            return
        writer, path = self._open
        writer.close()
        sha256 = _sha256(path)
        staged: StorePath = path
        if self._here is not None and self._commit is None:
            staged = self._table / STAGING / path.name
            move(path, staged)
        self._staged.append(StagedFile(staged, self._rows_of_open, sha256))
        self._open, self._rows_of_open = None, 0


def place(table: StorePath, partition_key: str, staged: Iterable[StagedFile], active: frozenset[str]) -> list[PlacedFile]:
    """Give the partition's files their final names, `partition_key=<key>/<hash of all>-<number>.parquet`.

    One hash for all of them: a partition that changes in part changes all its names, so that no commit both adds and removes a file.
    A file that the table holds already (`active`) is not touched, unless it has been damaged or lost, nor is one that an earlier
    attempt has placed.
    """
    staged = list(staged)
    whole = hashlib.sha256("".join(file.sha256 for file in staged).encode()).hexdigest()[:32]
    placed = []
    for number, file in enumerate(staged):
        path = f"partition_key={partition_key}/{whole}-{number:05d}.parquet"
        target = table / path
        if file.path.is_file() and (path not in active or not _holds(target, file)):
            move(file.path, target)
        placed.append(PlacedFile(path, file.n_rows, target.stat().st_size))
    return placed


def _holds(path: StorePath, file: StagedFile) -> bool:
    """Whether the file at `path` is the staged one still. A bucket watches over its bytes itself."""
    if not path.is_file() or path.stat().st_size != file.path.stat().st_size:
        return False
    return isinstance(path, S3Path) or _sha256(path) == file.sha256


def stats(file: PlacedFile) -> str:
    """A file's statistics as Delta writes them."""
    return json.dumps({"numRecords": file.n_rows})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
