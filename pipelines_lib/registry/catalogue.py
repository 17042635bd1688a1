"""What a recommendation chooses from: the items of a training's rows, and which of them each user has met.

items.arrow  a row an item, the one seen last at the end: `item`, and the features that say what it is, as they were last seen
known.arrow  a row a meeting: `user` (see `user_hash`) and `item`, the item's place in the other file; sorted by both

Both are Arrow's file format, which holds numbers and texts and nothing that executes. Users are not named in them.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines_lib.errors import DataError

if TYPE_CHECKING:  # a server opens a catalogue, and reads no snapshot
    from pipelines_lib.data.snapshot import Snapshot

ITEMS, KNOWN = "items.arrow", "known.arrow"
MAX_ITEMS = 100_000
"""Those seen last are kept: each request scores all that its user has not met."""
MAX_MEETINGS = 5_000_000
"""The last ones are kept: 12 bytes each, in a server's memory."""


@dataclass(frozen=True)
class Catalogue:
    """Items to choose from, and who has met which."""

    items: pa.Table
    """`item` and its features."""
    users: NDArray[np.uint64]
    """Hash of the user of each meeting [m], rising."""
    met: NDArray[np.int32]
    """Place of its item [m]."""

    @classmethod
    def of(cls, snapshot: "Snapshot", *, user: str, item: str, columns: tuple[str, ...]) -> Self:
        """From the rows of a snapshot, of which one batch at a time is in memory: each row is a meeting of the `user` and the `item` it names.

        Raises `DataError` where no row names an item.
        """
        if absent := [name for name in (user, item, *columns) if name not in snapshot.column_names]:
            raise DataError(f"the snapshot has no column {', '.join(absent)}, which was asked for since; run the stage snapshot again")
        items = _items(snapshot, item, columns)
        if not items.num_rows:
            raise DataError(
                f"no row of {snapshot.ref.partitions[0]} … {snapshot.ref.partitions[-1]} names an item in {item!r} (deployment.recommend.item), so there is "
                "nothing to recommend; correct the column, or leave `recommend` out"
            )
        users, met = _meetings(snapshot, user, item, items["item"].combine_chunks())
        order = np.lexsort((met, users))
        return cls(items, users[order], met[order])

    def files(self) -> dict[str, bytes]:
        """Name to content. Equal catalogues give equal bytes."""
        return {ITEMS: _written(self.items), KNOWN: _written(pa.table({"user": self.users, "item": self.met}))}

    @classmethod
    def opened(cls, files: Mapping[str, bytes], columns: Sequence[str], where: str) -> Self:
        """From what `files` gave; `columns` are the items' features. Raises `DataError` where it is something else."""
        try:
            items, known = (pa.ipc.open_file(pa.BufferReader(files[name])).read_all() for name in (ITEMS, KNOWN))
            items.validate(full=True)
            users, met = (known[name].to_numpy() for name in ("user", "item"))
        except (pa.ArrowException, KeyError) as error:
            raise DataError(
                f"{where}: {ITEMS} and {KNOWN} are no catalogue ({error}); deploy an earlier version, or train again"
            ) from error
        if items.column_names != ["item", *columns] or (len(met) and not 0 <= met.min() <= met.max() < items.num_rows):
            raise DataError(f"{where}: {ITEMS} lacks features or items that others name; deploy an earlier version, or train again")
        return cls(items, users.astype(np.uint64, copy=False), met.astype(np.int32, copy=False))

    def known(self, user: Any) -> NDArray[np.int32]:
        """Places of the items that `user`, as the tables have him, has met; none for somebody unknown."""
        wanted = np.uint64(user_hash(str(user)))
        return self.met[np.searchsorted(self.users, wanted, "left") : np.searchsorted(self.users, wanted, "right")]

    @cached_property
    def places(self) -> dict[Any, int]:
        """Item to its place."""
        return {item: place for place, item in enumerate(self.items["item"].to_pylist())}


def user_hash(user: str) -> int:
    """The first 8 bytes of SHA-256: short, and no list of names. Who can guess a name can look for it, so a name that must not be found is protected in the tables, too.

    Two of n users share one with a probability below n²/2⁶⁵, and then miss each other's items: 3 in 10⁶ for 10⁷ users.
    """
    return int.from_bytes(hashlib.sha256(user.encode()).digest()[:8])


def _items(snapshot: "Snapshot", item: str, columns: tuple[str, ...]) -> pa.Table:
    """The items as they were last seen, the last at the end."""
    kept = None
    for batch in snapshot.batches([item, *columns]):
        rows = batch.select([item]).rename_columns(["item"])
        for name in columns:
            rows = rows.append_column(name, batch[name])
        rows = rows.filter(pc.is_valid(rows["item"]))
        # What is new comes after what is there, and of what comes twice the last row counts.
        kept = _last_of_each(rows if kept is None else pa.concat_tables([kept, rows]))
        kept = kept.slice(max(0, kept.num_rows - MAX_ITEMS))
    assert kept is not None, "a snapshot gives one batch at least"
    return kept.combine_chunks()


def _last_of_each(rows: pa.Table) -> pa.Table:
    encoded = rows["item"].combine_chunks().dictionary_encode()
    last = np.full(len(encoded.dictionary), -1, np.int64)
    np.maximum.at(last, encoded.indices.to_numpy(), np.arange(rows.num_rows))
    return rows.take(np.sort(last))


def _meetings(snapshot: "Snapshot", user: str, item: str, items: pa.Array) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
    """Users and items of the last meetings, each once."""
    users, met = np.empty(0, np.uint64), np.empty(0, np.int32)
    for of_users, of_items in _pairs(snapshot, user, item, items):
        users, met = np.concatenate([users, of_users]), np.concatenate([met, of_items])
        if len(users) > 2 * MAX_MEETINGS:
            users, met = _last_meetings(users, met)
    return _last_meetings(users, met)


def _pairs(snapshot: "Snapshot", user: str, item: str, items: pa.Array) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int32]]]:
    for batch in snapshot.batches([user, item]):
        places = pc.index_in(batch[item], value_set=items)
        rows = pa.table({"user": batch[user].cast(pa.string()), "place": places})
        rows = rows.filter(pc.and_(pc.is_valid(rows["user"]), pc.is_valid(rows["place"])))
        encoded = rows["user"].combine_chunks().dictionary_encode()
        hashes = np.array([user_hash(name) for name in encoded.dictionary.to_pylist()], np.uint64)
        yield hashes[encoded.indices.to_numpy()], rows["place"].to_numpy().astype(np.int32)


def _last_meetings(users: NDArray[np.uint64], met: NDArray[np.int32]) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
    """Of each pair the last one, in their order; the last MAX_MEETINGS of those."""
    order = np.lexsort((met, users))  # which keeps the order of equal pairs
    differs = (users[order][1:] != users[order][:-1]) | (met[order][1:] != met[order][:-1])
    last = np.sort(order[np.r_[differs, True][: len(order)]])[-MAX_MEETINGS:]
    return users[last], met[last]


def _written(table: pa.Table) -> bytes:
    out = pa.BufferOutputStream()
    with pa.ipc.new_file(out, table.schema.remove_metadata()) as file:
        file.write_table(table.replace_schema_metadata(None))
    return bytes(out.getvalue().to_pybytes())
