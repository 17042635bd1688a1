"""A Delta table at one version: its columns and files, looked up once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
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

    def is_behind(self, folder: StorePath) -> bool:
        """Bring `table` up to date. Whether that made another version of it."""
        # Commits are numbered without a gap: to look for the next is cheaper than to list them all, as Delta would.
        if _commit(folder, self.version + 1) is None:
            return False
        self.table.update_incremental()
        return True

    @cached_property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""
        assert self.table.version() == self.version
        return pa.schema(self.table.schema().to_arrow())

    @property
    def keys(self) -> list[str]:
        """Of the partitions that hold rows, sorted."""
        return sorted(pc.unique(self._files["partition.partition_key"]).to_pylist())

    def partitions(self, keys: Sequence[str] | None) -> Iterator[list[File]]:
        """The files of each of these partitions that holds rows, in their order, by key; of every one where `keys` is None."""
        files = self._files
        if keys is not None:
            files = files.filter(pc.is_in(files["partition.partition_key"], pa.array(keys, pa.string())))
        grouped: dict[str, list[File]] = {}
        for key, path in zip(files["partition.partition_key"].to_pylist(), files["path"].to_pylist(), strict=True):
            grouped.setdefault(key, []).append(File(key, unquote(path)))
        for key in sorted(grouped):
            yield sorted(grouped[key])

    @cached_property
    def _files(self) -> pa.Table:
        assert self.table.version() == self.version
        return pa.table(self.table.get_add_actions(flatten=True)).select(["partition.partition_key", "path"])


def _commit(folder: StorePath, version: int) -> tuple[float, int] | None:
    try:
        stat = (folder / "_delta_log" / f"{version:020d}.json").stat()
    except FileNotFoundError:
        return None
    return stat.st_mtime, stat.st_size
