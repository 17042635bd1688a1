"""Rows that stay in their files: of many, a few columns or one batch at a time is in memory."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines_lib.data.table_files import File, as_wanted, in_file, opened_file, told
from pipelines_lib.data.table_store import footer_of
from pipelines_lib.store import StorePath


def _nobody() -> None:
    """Nobody wants to know."""


@dataclass(frozen=True)
class StoredRows:
    """The rows of some partitions at one version of a table that is written whole, ordered by partition and row."""

    folder: StorePath
    files: Sequence[File]
    schema: pa.Schema
    on_read: Callable[[], None] = _nobody
    """Called whenever another part of a file has been read."""

    @property
    def column_names(self) -> list[str]:
        """Every column that there is to read."""
        return list(self.schema.names)

    @cached_property
    def num_rows(self) -> int:
        """As the footers of the files say. Raises `DamagedFile`, as whatever reads here does."""
        return sum(footer.num_rows for footer in self._footers)

    def select(self, names: Sequence[str]) -> pa.Table:
        """These columns of all rows."""
        batches = list(self.batches(names))
        return pa.concat_tables(batches) if batches else self._wanted(names).empty_table()

    def batches(self, names: Sequence[str]) -> Iterator[pa.Table]:
        """These columns, a row group at a time."""
        wanted = self._wanted(names)
        for file, footer in zip(self.files, self._footers, strict=True):
            with told(self.folder, file):
                parquet = opened_file(self.folder, file, footer)
            columns = in_file(parquet, wanted)
            for group in range(footer.num_row_groups):
                with told(self.folder, file):
                    rows = parquet.read_row_group(group, columns=columns)
                yield as_wanted(rows, file, wanted)
                self.on_read()

    @cached_property
    def _footers(self) -> list[pq.FileMetaData]:
        footers = []
        for file in self.files:
            with told(self.folder, file):
                footers.append(footer_of(self.folder / file.path))
            self.on_read()
        return footers

    def _wanted(self, names: Sequence[str]) -> pa.Schema:
        return pa.schema([self.schema.field(name) for name in names])
