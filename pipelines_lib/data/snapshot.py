"""A dataset snapshot: which labelled rows a training reads, chosen once and read the same by everyone after.

`choose` decides; `load` reads for a training, `read` for whoever has nothing but the reference. A row's side (train, validation, test) stands in the table, except where the split goes
by time: which partitions judge depends on the window, so it is worked out here (`data.sides`).
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake.exceptions import DeltaError
from numpy.typing import NDArray

from pipelines_lib.contracts import DatasetRef
from pipelines_lib.data.privacy import classes_for_people
from pipelines_lib.data.sides import SIDES, TRAIN, sides_of_partitions
from pipelines_lib.data.stored_rows import StoredRows
from pipelines_lib.data.table_files import DamagedFile
from pipelines_lib.data.tables import Tables
from pipelines_lib.data.texts import bytes_of
from pipelines_lib.errors import DataError
from pipelines_lib.use_case import UseCase, classes_in

_FEW = 1 << 22
"""Values that are read once and kept: then no file is opened again for each column."""
_MIN_ROWS_OF_ARM = 10
"""Training rows below which nothing can be said of an arm of a treatment."""
_LARGEST_LABEL = 1e30
"""Of a regression, in size: a model answers in 32 bits, which end at 3e38."""


@dataclass(frozen=True)
class Snapshot:
    """The rows of a `DatasetRef`: `row_id`, `partition_key`, `label`, `split`, the features, the entity and the group of the split.

    They stay in their files; what is asked for is read, so that of many rows a few columns, or one batch, are in memory.
    """

    ref: DatasetRef
    source: pa.Table | StoredRows
    """In memory, or where they are; there without what `ref.sides` says of their sides."""

    @property
    def column_names(self) -> list[str]:
        """Every column that there is to read."""
        return list(self.source.column_names)

    def select(self, names: Sequence[str], *sides: str) -> pa.Table:
        """These columns of the rows of some sides, or of all rows where none is named, in the snapshot's order."""
        wanted = [SIDES.index(side) for side in sides]
        batches, n_before = [], 0
        for batch in self.batches(names):
            here = slice(n_before, n_before := n_before + batch.num_rows)
            batches.append(batch.filter(pa.array(np.isin(self._sides[here], wanted))) if sides else batch)
        return pa.concat_tables(batches)

    @cached_property
    def _sides(self) -> NDArray[np.int8]:
        """Place in SIDES of each row's side, read once; -1 of rows on none."""
        sides = [pc.index_in(rows["split"], value_set=pa.array(SIDES)).fill_null(-1) for rows in self.batches(["split"])]
        return np.concatenate([place.to_numpy().astype(np.int8) for place in sides])

    def side(self, *sides: str) -> pa.Table:
        """The rows of one side or several, in the snapshot's order."""
        return self.select(self.column_names, *sides)

    def column(self, name: str, *sides: str) -> pa.ChunkedArray:
        """One column of the rows of some sides, or of all rows where none is named."""
        return self.select([name], *sides)[name]

    def batches(self, names: Sequence[str]) -> Iterator[pa.Table]:
        """These columns of all rows, some at a time; at least one batch, be it without rows."""
        wanted = dict.fromkeys(["partition_key" if name == "split" and self.ref.sides is not None else name for name in names])
        found = iter([self.source.select([*wanted])] if isinstance(self.source, pa.Table) else self.source.batches([*wanted]))
        first = next(found, None)
        if first is None:
            first = self.source.select([*wanted])
        for rows in chain([first], found):
            yield (rows if self.ref.sides is None else _with_sides(rows, self.ref.sides)).select(list(dict.fromkeys(names)))

    def told(self, on_read: Callable[[], None]) -> "Snapshot":
        """The same, which calls `on_read` whenever it has read another part of its files."""
        return self if isinstance(self.source, pa.Table) else replace(self, source=replace(self.source, on_read=on_read))

    def sizes(self) -> dict[str, int]:
        """Rows on each side."""
        return {side: int(np.sum(self._sides == place)) for place, side in enumerate(SIDES)}

    def classes(self, separator: str | None = None, sides: Sequence[str] = SIDES) -> list[str]:
        """The classes that occur on any of `sides`, sorted; for classifications. With `separator` a row may have several."""
        labels = pc.unique(self.column("label", *sides)).to_pylist()
        return sorted(labels if separator is None else {name for label in labels for name in classes_in(label, separator)})

    def verified(self) -> "Snapshot":
        """The same, in memory where it is small. Raises `DataError` where its rows are lost, or not those that the snapshot was taken of."""
        ref = self.ref
        if isinstance(self.source, pa.Table):  # they are what they are
            return self
        with _lost(ref):
            if self.source.num_rows != ref.n_rows:
                raise DataError(
                    f"{ref.use_case}: the snapshot has {ref.n_rows} rows, and version {ref.version} of its table gives {self.source.num_rows}; run the stage snapshot again"
                )
            kept = self.kept()
            if _content_hash(kept) != ref.content_hash:
                raise DataError(
                    f"{ref.use_case}: version {ref.version} of table {ref.table} gives other values than the snapshot was taken of, so its files "
                    "were changed by something else than a pipeline; run the data pipeline for these partitions again, then the stage snapshot"
                )
        return kept

    def kept(self) -> "Snapshot":
        """The same, in memory where it is small."""
        small = self.source.num_rows * len(self.column_names) <= _FEW
        return replace(self, source=self.select(self.column_names)) if small else self


def choose(use_case: UseCase, tables: Tables, last: str, window: int) -> Snapshot:
    """The newest `window` labelled partitions up to `last`, fit to train on.

    Raises `DataError` where there are none, a side is empty, or the labels leave nothing to learn.
    """
    version = tables.version("labelled")
    partitions = [key for key in tables.partitions("labelled", version) if key <= last][-window:]
    if not partitions:
        raise DataError(
            f"{use_case.name}: no labelled partition up to {last}; run {use_case.name}__data for it or for earlier ones"
            + (f" (labels are known {use_case.horizon} partitions later)" if use_case.horizon else "")
        )
    asked = use_case.deployment.recommend
    owners = [name for name in (use_case.entity, use_case.owner_column, asked.item if asked else None) if name is not None]
    unread = DatasetRef(
        use_case=use_case.name,
        table="labelled",
        version=version,
        partitions=tuple(partitions),
        columns=tuple(dict.fromkeys([*use_case.features(), *owners, "label", "split", *use_case.gate.columns()])),
        sides=sides_of_partitions(partitions, use_case.split, use_case.gap) if use_case.split.by == "time" else None,
        n_rows=0,
        config_hash=use_case.data_hash(),
        content_hash="",
    )
    rows = Snapshot(unread, _stored(tables, unread)).kept()
    snapshot = replace(rows, ref=unread.model_copy(update={"n_rows": rows.source.num_rows, "content_hash": _content_hash(rows)}))
    _check(use_case, snapshot)
    return snapshot


def load(use_case: UseCase, tables: Tables, ref: DatasetRef) -> Snapshot:
    """Read a snapshot again to train on. Raises `DataError` where the settings or the rows are no longer those it was taken of."""
    return opened(use_case, tables, ref).verified()


def opened(use_case: UseCase, tables: Tables, ref: DatasetRef) -> Snapshot:
    """The same without a look at the rows, for who knows that another has `verified` them."""
    if ref.config_hash != use_case.data_hash():
        raise DataError(
            f"{use_case.name}: columns, cleaning, label or split were changed after the snapshot was taken; run the stage snapshot again"
        )
    with _lost(ref):
        return Snapshot(ref, _stored(tables, ref))


def read(tables: Tables, ref: DatasetRef) -> Snapshot:
    """Read a snapshot again from its reference alone, whatever the use case has become since. Raises `DataError` where its rows are lost or changed."""
    with _lost(ref):
        return Snapshot(ref, _stored(tables, ref)).verified()


def _stored(tables: Tables, ref: DatasetRef) -> StoredRows:
    try:
        return tables.stored("labelled", ref.partitions, version=ref.version, columns=ref.columns)
    except KeyError as error:
        raise DataError(
            f"{ref.use_case}: the labelled table lacks a declared column ({error}); "
            f"run the data pipeline again for {ref.partitions[0]} … {ref.partitions[-1]}"
        ) from error


@contextmanager
def _lost(ref: DatasetRef) -> Iterator[None]:
    """Say of rows that can't be read any more what is left to do."""
    try:
        yield
    except (DamagedFile, DeltaError) as error:
        # Not the remedy of a damaged file: who runs the partition again gets the rows of today.
        why = str(error.__cause__ if isinstance(error, DamagedFile) else error).strip().splitlines()[0]
        raise DataError(
            f"{ref.use_case}: version {ref.version} of table {ref.table} can't be read any more ({why}); "
            "its files were removed or damaged by something else than `sluice vacuum`, which keeps what a model was trained on. Restore them from a backup"
        ) from error


def _with_sides(rows: pa.Table, sides: Mapping[str, str]) -> pa.Table:
    """`rows` with the side of each one's partition as its `split`."""
    if "partition_key" not in rows.column_names:
        return rows
    places = pc.index_in(rows["partition_key"], value_set=pa.array(list(sides), pa.string()))
    of_row = pa.array(list(sides.values()), pa.string()).take(places)
    return (
        rows.append_column("split", of_row)
        if "split" not in rows.column_names
        else rows.set_column(rows.column_names.index("split"), "split", of_row)
    )


def _check(use_case: UseCase, snapshot: Snapshot) -> None:
    where = f"{use_case.name}, {snapshot.ref.partitions[0]} … {snapshot.ref.partitions[-1]}"
    for side, n_rows in snapshot.sizes().items():
        if n_rows == 0:
            raise DataError(f"{where}: no rows for {side} among {snapshot.ref.n_rows}; widen training.window, or run more partitions")
    if use_case.task == "regression":
        _check_values(where, snapshot)
    else:
        _check_classes(where, use_case, snapshot)
    if use_case.treatment is not None:
        _check_arms(where, use_case, use_case.treatment, snapshot)


def _check_arms(where: str, use_case: UseCase, column: str, snapshot: Snapshot) -> None:
    """Every row has an arm, and every arm enough training rows to be learned from."""
    rows, control = snapshot.select([column, "row_id"], *SIDES), use_case.training.model.control
    if n_missing := rows[column].null_count:
        ids = rows["row_id"].filter(pc.is_null(rows[column])).slice(0, 5).to_pylist()
        raise DataError(
            f"{where}: {n_missing} rows say no arm in {column!r} (rows {', '.join(ids)}), so nothing can be learned of a treatment from them; "
            "set `nullable: false`, which puts such rows into quarantine, or fill them with a cleaning step"
        )
    arms = dict.fromkeys(pc.unique(rows[column]).to_pylist(), 0)
    arms |= {entry["values"]: entry["counts"] for entry in pc.value_counts(snapshot.column(column, TRAIN)).to_pylist()}
    told = (
        f"{len(arms)} arms"
        if use_case.columns[column].privacy
        else f"the arms {', '.join(f'{arm!r} ({n})' for arm, n in sorted(arms.items()))}"
    )
    if control not in arms:
        raise DataError(f"{where}: {column!r} has {told}, and training.model.control is {control!r}; correct it")
    if len(arms) < 2 or min(arms.values()) < _MIN_ROWS_OF_ARM:
        raise DataError(
            f"{where}: {column!r} has {told} with so many training rows, and two arms or more are needed, of {_MIN_ROWS_OF_ARM} rows at least each; "
            "widen training.window, or group or leave out the rare ones"
        )


def _check_values(where: str, snapshot: Snapshot) -> None:
    values: NDArray[np.float64] = pc.cast(snapshot.column("label"), pa.float64()).to_numpy()
    if (wrong := ~(np.abs(values) <= _LARGEST_LABEL)).any():
        ids = snapshot.column("row_id").filter(pa.array(wrong)).slice(0, 5).to_pylist()
        raise DataError(
            f"{where}: {int(wrong.sum())} labels are no finite numbers, or beyond {_LARGEST_LABEL:g}, which models can't compute with "
            f"(rows {', '.join(ids)}); clean them, or drop those rows"
        )


def _check_classes(where: str, use_case: UseCase, snapshot: Snapshot) -> None:
    if (separator := use_case.label.separator) is not None:
        _check_several(where, snapshot, separator)
        return
    classes = snapshot.classes()
    in_train = set(pc.unique(snapshot.column("label", TRAIN)).to_pylist())
    if len(in_train) < 2:
        raise DataError(
            f"{where}: the training rows show one class, {classes_for_people(sorted(in_train), use_case)}, so there is nothing to tell apart; widen training.window, or mend label.map"
        )
    if use_case.task == "binary" and (len(classes) != 2 or use_case.label.positive not in classes):
        raise DataError(
            f"{where}: a binary task has two classes, one of them {use_case.label.positive!r}; the labels are {classes_for_people(classes, use_case)}. Mend label.map or label.positive, or set `task: multiclass`"
        )


def _check_several(where: str, snapshot: Snapshot, separator: str) -> None:
    if not snapshot.classes(separator, (TRAIN,)) or len(pc.unique(snapshot.column("label", TRAIN))) < 2:
        raise DataError(
            f"{where}: the training rows all have the same classes, or none, so there is nothing to tell apart; widen training.window, "
            "or mend label.separator"
        )


def _content_hash(snapshot: Snapshot) -> str:
    """Of the rows of a snapshot, and of the settings that made them; half a second for 300 000 rows of 20 columns."""
    ref = snapshot.ref
    parts = [ref.use_case, ref.table, *ref.partitions, str(snapshot.source.num_rows), ref.config_hash, _hash_of(snapshot)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _hash_of(snapshot: Snapshot) -> str:
    """SHA-256 of names, types, order and values. What lies under a null, and how the rows are cut into chunks, does not count."""
    digest = hashlib.sha256()
    for name in sorted(snapshot.column_names):
        _hash_column(digest, name, snapshot.column(name))
    return digest.hexdigest()


def _hash_column(digest: "hashlib._Hash", name: str, column: pa.ChunkedArray) -> None:
    digest.update(f"{name}\x1f{column.type}\x1e".encode())
    for chunk in column.chunks:
        digest.update(pc.cast(pc.is_valid(chunk), pa.uint8()).to_numpy().data)
    known = [chunk.drop_null() for chunk in column.chunks]
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        for chunk in known:
            digest.update(np.ascontiguousarray(_plain(chunk)).data)
        return
    texts = [bytes_of(chunk) for chunk in known]
    for starts, _ in texts:
        digest.update(np.diff(starts).astype(np.int64).data)
    for starts, data in texts:
        digest.update(data[starts[0] : starts[-1]].data)


def _plain(column: Any) -> NDArray[Any]:
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    elif pa.types.is_temporal(column.type):
        column = column.cast(pa.int64())
    values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return values
