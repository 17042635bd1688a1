"""Which rows train, which stop the training early, which judge.

A row's side follows from a hash of its entity (or of its row id) and the seed alone. So no entity stands on two sides, a
row keeps its side however many others come, and, while these settings stay, a later training never judges by rows that an
earlier one learned from. Where they change, or where partitions are split, such rows exist; the evaluation knows each
champion's settings and leaves them out (`evaluation.holdout.new_to`).

With `by: partition` the side depends on the window, which only a snapshot knows: here every row is `train`, and the
snapshot turns the last partitions of its window into `validation` and `test`.
"""

import hashlib

import pyarrow as pa
import pyarrow.compute as pc

from pipelines_lib.use_case import Split, UseCase


def with_split(rows: pa.Table, use_case: UseCase) -> pa.Table:
    """`rows` with the column `split`: train, validation or test."""
    split = use_case.split
    if split.by == "partition":
        sides = pa.array(["train"] * rows.num_rows, pa.string())
    else:
        column = use_case.entity if split.by == "entity" else None
        owners = rows["row_id"] if column is None else pc.coalesce(rows[column].cast(pa.string()), rows["row_id"])
        distinct = pc.dictionary_encode(owners).combine_chunks()
        distinct = distinct.chunk(0) if isinstance(distinct, pa.ChunkedArray) else distinct
        sides = pa.array([side(owner, split) for owner in distinct.dictionary.to_pylist()], pa.string()).take(distinct.indices)
    return rows.append_column("split", sides)


def side(owner: str, split: Split) -> str:
    """The side of an entity, or of a row, by its name."""
    digest = hashlib.blake2b(f"{split.seed}:{owner}".encode(), digest_size=8).digest()
    share = int.from_bytes(digest) / 2**64
    if share < split.test:
        return "test"
    return "validation" if share < split.test + split.validation else "train"
