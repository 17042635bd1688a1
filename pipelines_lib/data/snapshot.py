"""A dataset snapshot: which labelled rows a training reads, chosen once and read the same by everyone after.

`choose` decides; `load` reads for a training, `read` for whoever has nothing but the reference. A row's side (train, validation, test) stands in the table, except where the split goes
by time: which partitions judge depends on the window, so it is worked out here (`data.sides`).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake.exceptions import DeltaError
from numpy.typing import NDArray

from pipelines_lib.contracts import DatasetRef
from pipelines_lib.data.privacy import classes_for_people
from pipelines_lib.data.sides import SIDES, TRAIN, sides_of_partitions
from pipelines_lib.data.tables import DamagedFile, Tables
from pipelines_lib.data.texts import bytes_of
from pipelines_lib.errors import DataError
from pipelines_lib.use_case import UseCase, classes_in

_MIN_ROWS_OF_ARM = 10
"""Training rows below which nothing can be said of an arm of a treatment."""


@dataclass(frozen=True)
class Snapshot:
    """The rows of a `DatasetRef`: `row_id`, `partition_key`, `label`, `split`, the features, the entity and the group of the split."""

    ref: DatasetRef
    rows: pa.Table

    def side(self, *sides: str) -> pa.Table:
        """The rows of one side or several, in the snapshot's order."""
        return self.rows.filter(pc.is_in(self.rows["split"], pa.array(sides)))

    def sizes(self) -> dict[str, int]:
        """Rows on each side."""
        return {side: self.side(side).num_rows for side in SIDES}

    def classes(self, separator: str | None = None, sides: Sequence[str] = SIDES) -> list[str]:
        """The classes that occur on any of `sides`, sorted; for classifications. With `separator` a row may have several."""
        labels = pc.unique(self.side(*sides)["label"]).to_pylist()
        return sorted(labels if separator is None else {name for label in labels for name in classes_in(label, separator)})


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
    owners = [name for name in (use_case.entity, use_case.owner_column) if name is not None]
    unread = DatasetRef(
        use_case=use_case.name,
        table="labelled",
        version=version,
        partitions=tuple(partitions),
        columns=tuple(dict.fromkeys([*use_case.features(), *owners, "label", "split"])),
        sides=sides_of_partitions(partitions, use_case.split, use_case.gap) if use_case.split.by == "time" else None,
        n_rows=0,
        config_hash=use_case.data_hash(),
        content_hash="",
    )
    rows = _read(tables, unread)
    snapshot = Snapshot(unread.model_copy(update={"n_rows": rows.num_rows, "content_hash": _content_hash(unread, rows)}), rows)
    _check(use_case, snapshot)
    return snapshot


def load(use_case: UseCase, tables: Tables, ref: DatasetRef) -> Snapshot:
    """Read a snapshot again to train on. Raises `DataError` where the settings or the rows are no longer those it was taken of."""
    if ref.config_hash != use_case.data_hash():
        raise DataError(
            f"{use_case.name}: columns, cleaning, label or split were changed after the snapshot was taken; run the stage snapshot again"
        )
    return read(tables, ref)


def read(tables: Tables, ref: DatasetRef) -> Snapshot:
    """Read a snapshot again from its reference alone, whatever the use case has become since. Raises `DataError` where its rows are lost or changed."""
    try:
        rows = _read(tables, ref)
    except (DamagedFile, DeltaError) as error:
        # Not the remedy of a damaged file: who runs the partition again gets the rows of today.
        why = str(error.__cause__ if isinstance(error, DamagedFile) else error).strip().splitlines()[0]
        raise DataError(
            f"{ref.use_case}: version {ref.version} of table {ref.table} can't be read any more ({why}); "
            "its files were removed or damaged by something else than `sluice vacuum`, which keeps what a model was trained on. Restore them from a backup"
        ) from error
    if rows.num_rows != ref.n_rows:
        raise DataError(
            f"{ref.use_case}: the snapshot has {ref.n_rows} rows, and version {ref.version} of its table gives {rows.num_rows}; run the stage snapshot again"
        )
    if _content_hash(ref, rows) != ref.content_hash:
        raise DataError(
            f"{ref.use_case}: version {ref.version} of table {ref.table} gives other values than the snapshot was taken of, so its files "
            "were changed by something else than a pipeline; run the data pipeline for these partitions again, then the stage snapshot"
        )
    return Snapshot(ref, rows)


def _read(tables: Tables, ref: DatasetRef) -> pa.Table:
    try:
        rows = tables.read("labelled", ref.partitions, version=ref.version, columns=ref.columns)
    except (pa.ArrowException, KeyError) as error:
        first_line = str(error).partition("\n")[0]
        raise DataError(
            f"{ref.use_case}: the labelled table lacks a declared column ({first_line}); "
            f"run the data pipeline again for {ref.partitions[0]} … {ref.partitions[-1]}"
        ) from error
    if ref.sides is not None:
        places = pc.index_in(rows["partition_key"], value_set=pa.array(list(ref.sides), pa.string()))
        sides = pa.array(list(ref.sides.values()), pa.string()).take(places)
        rows = rows.set_column(rows.column_names.index("split"), "split", sides)
    return rows


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
    rows, control = snapshot.side(*SIDES), use_case.training.model.control
    if n_missing := rows[column].null_count:
        ids = rows["row_id"].filter(pc.is_null(rows[column])).slice(0, 5).to_pylist()
        raise DataError(
            f"{where}: {n_missing} rows say no arm in {column!r} (rows {', '.join(ids)}), so nothing can be learned of a treatment from them; "
            "set `nullable: false`, which puts such rows into quarantine, or fill them with a cleaning step"
        )
    arms = dict.fromkeys(pc.unique(rows[column]).to_pylist(), 0)
    arms |= {entry["values"]: entry["counts"] for entry in pc.value_counts(snapshot.side(TRAIN)[column]).to_pylist()}
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
    values: NDArray[np.float64] = pc.cast(snapshot.rows["label"], pa.float64()).to_numpy()
    if (wrong := ~np.isfinite(values)).any():
        ids = snapshot.rows["row_id"].filter(pa.array(wrong)).slice(0, 5).to_pylist()
        raise DataError(f"{where}: {int(wrong.sum())} labels are no finite numbers (rows {', '.join(ids)}); clean them, or drop those rows")


def _check_classes(where: str, use_case: UseCase, snapshot: Snapshot) -> None:
    if (separator := use_case.label.separator) is not None:
        _check_several(where, snapshot, separator)
        return
    classes = snapshot.classes()
    in_train = set(snapshot.side(TRAIN)["label"].to_pylist())
    if len(in_train) < 2:
        raise DataError(
            f"{where}: the training rows show one class, {classes_for_people(sorted(in_train), use_case)}, so there is nothing to tell apart; widen training.window, or mend label.map"
        )
    if use_case.task == "binary" and (len(classes) != 2 or use_case.label.positive not in classes):
        raise DataError(
            f"{where}: a binary task has two classes, one of them {use_case.label.positive!r}; the labels are {classes_for_people(classes, use_case)}. Mend label.map or label.positive, or set `task: multiclass`"
        )


def _check_several(where: str, snapshot: Snapshot, separator: str) -> None:
    if not snapshot.classes(separator, (TRAIN,)) or len(pc.unique(snapshot.side(TRAIN)["label"])) < 2:
        raise DataError(
            f"{where}: the training rows all have the same classes, or none, so there is nothing to tell apart; widen training.window, "
            "or mend label.separator"
        )


def _content_hash(ref: DatasetRef, rows: pa.Table) -> str:
    """Of the rows of a snapshot, and of the settings that made them; half a second for 300 000 rows of 20 columns."""
    parts = [ref.use_case, ref.table, *ref.partitions, str(rows.num_rows), ref.config_hash, _hash_of(rows)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _hash_of(rows: pa.Table) -> str:
    """SHA-256 of names, types, order and values. What lies under a null, and how the table is chunked, does not count."""
    digest = hashlib.sha256()
    for name in sorted(rows.column_names):
        column = rows[name].combine_chunks()
        digest.update(f"{name}\x1f{column.type}\x1e".encode())
        digest.update(pc.cast(pc.is_valid(column), pa.uint8()).to_numpy().tobytes())
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            starts, data = bytes_of(column.drop_null())
            digest.update(np.diff(starts).astype(np.int64).tobytes())
            digest.update(data[starts[0] : starts[-1]].tobytes())
        else:
            digest.update(_plain(column.drop_null()).tobytes())
    return digest.hexdigest()


def _plain(column: Any) -> NDArray[Any]:
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    elif pa.types.is_temporal(column.type):
        column = column.cast(pa.int64())
    values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return values
