"""The layers of a use case as Delta tables, partitioned by `partition_key`.

A run overwrites its own partition in one commit and touches no other; writing what is already there makes no commit.
Rows come back ordered by partition and `row_id`, whatever the number of files, so the same version reads the same.

The log of a table that is written whole is kept for ever (it is small), so every version can be read until `vacuum` removes its files.
"""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from threading import get_ident
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Schema, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, create_table_with_add_actions

from pipelines_lib.contracts import safe_name
from pipelines_lib.data.opened_table import Opened
from pipelines_lib.data.partition_writer import PartitionWriter, PlacedFile, StagedFile, place, stats
from pipelines_lib.data.stored_rows import StoredRows
from pipelines_lib.data.table_files import File, as_wanted, groups_of, in_file, opened_file, picked, read_file, told
from pipelines_lib.data.table_store import delta_options, reached
from pipelines_lib.errors import DataError
from pipelines_lib.s3 import S3Path
from pipelines_lib.store import StorePath, read_json

Layer = Literal[
    "raw",
    "clean",
    "labelled",
    "quarantine",
    "quality",
    "predictions",
    "shadows",
    "scored",
    "profiles",
    "drift",
    "performance",
    "decisions",
    "health",
    "ground_truth",
    "reviews",
]

_ATTEMPTS = 20
_MANY_COMMITS = 10
"""Since the last checkpoint: they are read one by one where a table is opened."""
_CONFIGURATION = {
    # Delta's default forgets how to read versions older than 30 days, and snapshots are read months later.
    "delta.enableExpiredLogCleanup": "false",
    "delta.logRetentionDuration": "interval 36500 days",
    # With deltalake's 100 they took 20 ms, for each table of each stage.
    "delta.checkpointInterval": str(_MANY_COMMITS),
}
"""Of tables that are written whole, with a commit or two a partition."""
_OF_APPENDED = {
    "delta.enableExpiredLogCleanup": "false",
    # Of what is added to all day nobody reads an old version.
    "delta.logRetentionDuration": "interval 1 days",
    "delta.deletedFileRetentionDuration": "interval 3 days",  # so that each file meets the vacuum of a next day
    # Least and largest value of each column of each file, which nobody asks for; every commit went through those of all files.
    "delta.dataSkippingNumIndexedCols": "0",
}
"""Of tables that are added to, with thousands of commits a partition."""
_KEEP_THE_LOG = PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=False)


@dataclass(frozen=True)
class Shard:
    """A contiguous part of a partition, and what lies between its rows: every `row_id` from `first` on and before `end`."""

    groups: range
    """Its row groups, counted over the partition's files."""
    n_before: int
    """Rows of the partition before it."""
    n_rows: int
    first: str | None
    """None behind all rows."""
    end: str | None
    """None where nothing comes behind it."""

    def holds(self, row_id: str) -> bool:
        """Whether the row belongs to it, or would if it could be read."""
        return self.first is not None and self.first <= row_id and (self.end is None or row_id < self.end)


class Tables:
    """The tables of one use case below `root` (the use case's folder in the store)."""

    def __init__(self, root: StorePath) -> None:
        self._root = root
        self._opened: dict[tuple[int, Layer], Opened] = {}
        """The tables at their newest version as each thread last saw them: one that commits brings its own up to date, and nobody else's."""

    def __reduce__(self) -> tuple[type["Tables"], tuple[StorePath]]:
        return Tables, (self._root,)  # what is open stays in its process

    def path(self, layer: Layer) -> StorePath:
        """Folder of a layer's table."""
        return self._root / "tables" / layer

    def write(self, layer: Layer, partition_key: str, rows: pa.Table) -> int:
        """Make `rows` the whole content of the partition. Returns the table's version that holds it.

        `rows` carries `row_id` (string, unique in the partition), in any order. Raises `DataError` where a column is of another
        type than in the table, or differs from one there in case alone. The columns of `raw` are the source's: there the
        table's spelling stays.
        """
        with self.writer(layer, partition_key) as writer:
            writer.add(_sorted(rows))
        return writer.version

    def writer(self, layer: Layer, partition_key: str) -> PartitionWriter:
        """The same, batch by batch: rows come in the order of their `row_id`, and the partition changes at the end of the `with`."""
        if safe_name(partition_key) != partition_key:
            raise DataError(f"partition key {partition_key!r}: letters, digits, '.', '-', '_' and '+' only")
        return PartitionWriter(
            self.path(layer),
            partition_key,
            lambda staged, columns: self.commit(layer, partition_key, staged, columns),
            self._spelling(layer) if layer == "raw" else None,
        )

    def shard_writer(self, layer: Layer, partition_key: str) -> PartitionWriter:
        """A `writer` that leaves its files staged, for `commit` with those of the other shards."""
        return PartitionWriter(self.path(layer), partition_key, None)

    def commit(self, layer: Layer, partition_key: str, staged: Sequence[StagedFile], columns: pa.Schema) -> int:
        """Make the staged files, in this order, the whole content of the partition. Returns the version that holds them."""
        folder = self.path(layer)
        for attempt in range(_ATTEMPTS):
            opened = self._open(layer)
            try:
                with reached(folder):
                    if opened is None:
                        return self._create(folder, partition_key, staged, columns)
                    return _overwrite(opened, folder, partition_key, staged, columns)
            except (CommitFailedError, DeltaError) as error:
                # Two runs made the table at once, or met in a commit: the loser looks again.
                if attempt == _ATTEMPTS - 1 or not _is_conflict(error):
                    raise
        raise AssertionError("unreachable")

    def append(self, layer: Layer, rows: pa.Table, *, batch: tuple[str, int] | None = None) -> None:
        """Add rows (with `partition_key`) in one commit; for what has no natural whole, such as answers of a service.

        `batch` is the writer and its number of the batch, counted from 1 on: one that is appended again, since it was not known to have landed,
        lands once. Raises `DataError` as `write` does.
        """
        once = None if batch is None else CommitProperties(app_transactions=[Transaction(app_id=batch[0], version=batch[1])])
        for attempt in range(_ATTEMPTS):
            try:
                # Where this object has appended, it goes on from there: to read what others have appended since would take longer than to append.
                opened = self._kept(layer) or self._open(layer)
                self._opened.pop((get_ident(), layer), None)
                if opened is None:
                    _check_store(self.path(layer))
                else:
                    if batch is not None and (opened.table.transaction_version(batch[0]) or 0) >= batch[1]:
                        return
                    _check_columns(self.path(layer), opened.schema, rows.schema)
                table = None if opened is None else opened.table
                with reached(self.path(layer)):
                    write_deltalake(
                        str(self.path(layer)) if table is None else table,
                        rows,
                        mode="append",
                        partition_by=["partition_key"],
                        schema_mode="merge",
                        configuration=_OF_APPENDED if table is None else None,
                        storage_options=delta_options(self.path(layer)),
                        commit_properties=once,
                        post_commithook_properties=_KEEP_THE_LOG,
                    )
                if table is not None:
                    self._opened[get_ident(), layer] = Opened.of(self.path(layer), table)
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
        encoded: Collection[str] = (),
    ) -> pa.Table:
        """Rows of the partitions (all, when None), ordered by partition and row; columns of strings that are `encoded` as dictionaries.

        Raises `DataError` where there is no table.
        """
        opened = self._table(layer, version)
        wanted = opened.schema if columns is None else picked(opened.schema, columns)
        wanted = pa.schema([_encoded(field) if field.name in encoded else field for field in wanted])
        parts = [
            _sorted(pa.concat_tables(read_file(self.path(layer), file, wanted) for file in files))
            for files in opened.partitions(partitions)
        ]
        return pa.concat_tables(parts) if parts else wanted.empty_table()

    def stored(self, layer: Layer, partitions: Sequence[str], *, version: int, columns: Sequence[str]) -> StoredRows:
        """The same rows, left in their files until a column or a batch of them is asked for. For layers that are written whole.

        Raises `DataError` as `read` does, `KeyError` with the first of `columns` that the table lacks.
        """
        opened = self._table(layer, version)
        files = [file for files in opened.partitions(partitions) for file in files]
        return StoredRows(self.path(layer), files, picked(opened.schema, columns))

    def scan(
        self,
        layer: Layer,
        partition_key: str,
        *,
        version: int | None = None,
        columns: Sequence[str] | None = None,
        shard: Shard | None = None,
    ) -> Iterator[pa.Table]:
        """Rows of one partition, or of one shard of it, a row group at a time, in order. For layers that are written whole.

        Without `columns`, rows of `raw` have those that the partition came with, whatever other partitions brought; rows of any
        other layer have all of the table's. Raises `DataError` as `read` does.
        """
        opened = self._table(layer, version)
        schema, files = opened.schema, [file for files in opened.partitions([partition_key]) for file in files]
        own = columns is None and layer == "raw"
        wanted = self._own(files, schema) if own else schema if columns is None else picked(schema, columns)
        number = 0
        for file in files:
            with told(self.path(layer), file):
                parquet = opened_file(self.path(layer), file)
            for group in range(parquet.num_row_groups):
                if shard is None or shard.groups.start <= number < shard.groups.stop:
                    with told(self.path(layer), file):
                        rows = parquet.read_row_group(group, columns=in_file(parquet, wanted))
                    yield as_wanted(rows, file, wanted)
                number += 1

    def _own(self, files: Sequence[File], schema: pa.Schema) -> pa.Schema:
        """The columns that these files of a partition hold, in their order, and `partition_key`."""
        names: dict[str, None] = {}
        for file in files:
            with told(self.path("raw"), file):
                names |= dict.fromkeys(opened_file(self.path("raw"), file).schema_arrow.names)
        return pa.schema([schema.field(name) for name in (*names, "partition_key")])

    def shards(self, layer: Layer, partition_key: str, of: int, *, version: int | None = None) -> list[Shard]:
        """One partition cut into `of` ranges of its row groups, of about equal length; some are empty where it has fewer groups.

        For layers that are written whole. Raises `DataError` as `read` does.
        """
        firsts, ends = [], [0]
        for files in self._table(layer, version).partitions([partition_key]):
            for file in files:
                with told(self.path(layer), file):
                    groups = list(groups_of(self.path(layer) / file.path))
                for first, n_rows in groups:
                    firsts.append(first)
                    ends.append(ends[-1] + n_rows)
        starts = [-(-number * len(firsts) // of) for number in range(of + 1)]
        bounds = ["", *(firsts[start] if start < len(firsts) else None for start in starts[1:])]
        return [
            Shard(range(start, stop), ends[start], ends[stop] - ends[start], first, end)
            for (start, stop), (first, end) in zip(pairwise(starts), pairwise(bounds), strict=True)
        ]

    def schema(self, layer: Layer, version: int | None = None) -> pa.Schema:
        """Names and types of the table's columns. Raises `DataError` where there is no table."""
        return self._table(layer, version).schema

    @property
    def root(self) -> StorePath:
        """The use case's folder in the store."""
        return self._root

    def contents(self, layer: Layer, version: int | None = None) -> tuple[int | None, dict[str, str]]:
        """(version, partition to its content): the content is another when the partition's rows are. For layers written whole.

        The version is the newest where none is given, and None where there is no table.
        """
        opened = self._open(layer, version)
        if opened is None:
            return None, {}
        named = {files[0].partition_key: "".join(file.path for file in files) for files in opened.partitions(None)}
        return opened.version, {key: hashlib.sha256(paths.encode()).hexdigest()[:16] for key, paths in named.items()}

    def partitions(self, layer: Layer, version: int | None = None) -> list[str]:
        """Keys of the partitions that hold rows, sorted; none where there is no table."""
        opened = self._open(layer, version)
        return [] if opened is None else opened.keys

    def version(self, layer: Layer) -> int:
        """The newest version of the table. Raises `DataError` where there is none."""
        return self._table(layer).version

    def compact(self, layer: Layer, partition_key: str) -> int:
        """Put the small files of an appended partition together; its rows stay what they are. Returns how many files there are less.

        Whoever appends meanwhile is not disturbed. The small files, and the commits that added them, stay for a day for those who read them.
        """
        folder, opened = self.path(layer), self._open(layer)
        if opened is None:
            return 0
        table, n_less = opened.table, 0
        with reached(folder):
            if sum(map(len, opened.partitions([partition_key]))) > 1:
                done = table.optimize.compact([("partition_key", "=", partition_key)], post_commithook_properties=_KEEP_THE_LOG)
                n_less = int(done["numFilesRemoved"]) - int(done["numFilesAdded"])
            if n_less:
                table.vacuum(retention_hours=24, enforce_retention_duration=False, dry_run=False, post_commithook_properties=_KEEP_THE_LOG)
            if table.version() - _checkpoint(folder) >= _MANY_COMMITS:
                table.create_checkpoint()
                table.cleanup_metadata()
        return n_less

    def vacuum(self, layer: Layer, *, hours: int, keep_versions: Sequence[int] = (), dry_run: bool = False) -> list[str]:
        """Remove the files that only versions older than `hours` name, except those of `keep_versions`. Returns their paths below the table."""
        opened = self._open(layer)
        if opened is None:
            return []
        with reached(self.path(layer)):
            removed: list[str] = opened.table.vacuum(
                retention_hours=hours,
                enforce_retention_duration=False,
                dry_run=dry_run,
                full=True,
                keep_versions=sorted(set(keep_versions)),
                post_commithook_properties=_KEEP_THE_LOG,
            )
        return removed

    def _spelling(self, layer: Layer) -> dict[str, str]:
        """How the table spells each of its columns, by the name in lower case: Delta can't tell two spellings apart."""
        opened = self._open(layer)
        return {} if opened is None else {name.casefold(): name for name in opened.schema.names}

    def _table(self, layer: Layer, version: int | None = None) -> Opened:
        opened = self._open(layer, version)
        if opened is None:
            raise DataError(f"there is no table {layer!r} below {self._root}; run the stage that writes it first")
        return opened

    def _kept(self, layer: Layer) -> Opened | None:
        """The table as this object last saw it, if it goes on from there."""
        opened = self._opened.get((get_ident(), layer))
        return opened if opened is not None and opened.goes_on(self.path(layer)) else None

    def _open(self, layer: Layer, version: int | None = None) -> Opened | None:
        """The table at a version, the newest where none is given; None where there is none.

        A table that was open is brought up to date: a log is as long as its history, and what is new of it is short.
        """
        folder = self.path(layer)
        opened = self._kept(layer) if version is None else None
        try:
            with reached(folder):
                if opened is None:
                    opened = Opened.of(folder, DeltaTable(str(folder), version=version, storage_options=delta_options(folder)))
                elif opened.is_behind(folder):
                    opened = Opened.of(folder, opened.table)
        except TableNotFoundError:
            return None
        except DeltaError as error:
            if "Json error" not in str(error):
                raise
            raise DataError(
                f"{self.path(layer) / '_delta_log'}: a file of the table's log is damaged ({str(error).splitlines()[0]}); "
                "restore it from a copy, or remove the table's folder and backfill its partitions"
            ) from error
        if version is None:
            self._opened[get_ident(), layer] = opened
        return opened

    def _create(self, folder: StorePath, partition_key: str, staged: Sequence[StagedFile], columns: pa.Schema) -> int:
        _check_store(folder)
        create_table_with_add_actions(
            str(folder),
            Schema.from_arrow(_with_partition_key(columns)),
            [_add(file, partition_key) for file in place(folder, partition_key, staged, frozenset())],
            # Only the first writer makes the table; who comes second at it looks again.
            mode="error",
            partition_by=["partition_key"],
            configuration=_CONFIGURATION,
            storage_options=delta_options(folder),
            # Nor does it try again by itself: it would land behind the table that another made, and not as its beginning.
            commit_properties=CommitProperties(max_commit_retries=0),
        )
        return 0


def _check_store(folder: StorePath) -> None:
    """Before a table is made: of two commits that meet, the store must refuse one."""
    if isinstance(folder, S3Path):
        folder.require_conditional_writes()


def _overwrite(opened: Opened, folder: StorePath, partition_key: str, staged: Sequence[StagedFile], columns: pa.Schema) -> int:
    there = opened.schema
    active = frozenset(file.path for files in opened.partitions([partition_key]) for file in files)
    _check_columns(folder, there, columns)
    placed = place(folder, partition_key, staged, active)
    if {file.path for file in placed} == active:
        return opened.version
    new = [field for field in columns if field.name not in there.names]
    version = opened.version + 1
    opened.table.create_write_transaction(
        [_add(file, partition_key) for file in placed],
        "overwrite",
        Schema.from_arrow(pa.schema([*there, *new])),
        ["partition_key"],
        [("partition_key", "=", partition_key)],
        # Two runs of a partition that holds nothing yet would both land, and leave a mixture. Delta lets no two commits of one
        # application meet, and here each partition is one.
        # No retries of its own: they would commit under a later number than the one that is returned here.
        commit_properties=CommitProperties(app_transactions=[Transaction(app_id=partition_key, version=version)], max_commit_retries=0),
        post_commithook_properties=_KEEP_THE_LOG,
    )
    return version


def _add(file: PlacedFile, partition_key: str) -> AddAction:
    # The time of a file is no part of what it holds.
    return AddAction(file.path, file.size, {"partition_key": partition_key}, 0, True, stats(file))


def _checkpoint(folder: StorePath) -> int:
    """The version of the newest checkpoint, 0 where there is none."""
    try:
        found: Any = read_json(folder / "_delta_log" / "_last_checkpoint")
    except FileNotFoundError:
        return 0
    return int(found["version"])


def _sorted(rows: pa.Table) -> pa.Table:
    """In the order of `row_id`; for rows that stand so already (all that were written whole) the look is cheaper than the sort."""
    row_ids = rows["row_id"].combine_chunks()
    if len(row_ids) < 2 or pc.all(pc.less_equal(row_ids[:-1], row_ids[1:])).as_py():
        return rows
    return rows.sort_by("row_id")


def _encoded(field: pa.Field) -> pa.Field:
    return field.with_type(pa.dictionary(pa.int32(), field.type)) if pa.types.is_string(field.type) else field


def _with_partition_key(columns: pa.Schema) -> pa.Schema:
    return pa.schema([*columns, pa.field("partition_key", pa.string())])


def _check_columns(path: StorePath, there: pa.Schema, rows: pa.Schema) -> None:
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
