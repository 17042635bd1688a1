"""A Delta table at one version: its columns and files, looked up once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable

from pipelines_lib.data.table_files import File
from pipelines_lib.data.table_store import delta_options
from pipelines_lib.store import StorePath


@dataclass(frozen=True)
class Opened:
    """A version of the table in a folder. Whoever brings `table` up to date, or commits with it, makes another of it."""

    table: DeltaTable
    version: int
    _options: dict[str, str] | None
    """How the store was reached."""
    _commit: tuple[float, int] | None
    """Time and size of the version's file in the log; None where a checkpoint has taken its place."""

    @classmethod
    def of(cls, folder: StorePath, table: DeltaTable) -> Self:
        """`table`, which lies in `folder`, as it is now."""
        version = int(table.version())
        return cls(table, version, delta_options(folder), _commit(folder, version))

    def goes_on(self, folder: StorePath) -> bool:
        """Whether the table in `folder` has this version in its history, and the store is reached as it was.

        Where a table was taken away meanwhile, to commit with this would leave a log without its beginning.
        """
        return self._commit is not None and self._commit == _commit(folder, self.version) and self._options == delta_options(folder)

    def is_behind(self) -> bool:
        """Bring `table` up to date. Whether that made another version of it."""
        self.table.update_incremental()
        return int(self.table.version()) != self.version

    @cached_property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""
        assert self.table.version() == self.version
        return pa.schema(self.table.schema().to_arrow())

    @cached_property
    def files(self) -> list[File]:
        """By partition, those of a partition in their order."""
        assert self.table.version() == self.version
        actions = pa.table(self.table.get_add_actions(flatten=True))
        keys, paths = actions["partition.partition_key"].to_pylist(), actions["path"].to_pylist()
        return sorted(File(key, unquote(path)) for key, path in zip(keys, paths, strict=True))

    def partitions(self, keys: Sequence[str] | None) -> Iterator[list[File]]:
        """The files of each of the partitions that holds rows, by key; of every one where `keys` is None."""
        grouped: dict[str, list[File]] = {}
        for file in self.files:
            grouped.setdefault(file.partition_key, []).append(file)
        for key in sorted(grouped if keys is None else set(keys) & grouped.keys()):
            yield grouped[key]


def _commit(folder: StorePath, version: int) -> tuple[float, int] | None:
    try:
        stat = (folder / "_delta_log" / f"{version:020d}.json").stat()
    except FileNotFoundError:
        return None
    return stat.st_mtime, stat.st_size
