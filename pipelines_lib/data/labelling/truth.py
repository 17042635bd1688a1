"""Labels from ground truth that comes later: the layer `ground_truth`, by the partition it arrived in, and the join with the rows.

A row of the layer is one truth: the key columns under the use case's names and types, and `label`, the outcome as it came.
"""

import difflib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import JsonValue

from pipelines_lib.data.labelling.values import labels_of
from pipelines_lib.data.privacy import names_for_people, protected
from pipelines_lib.data.pseudonyms import Pseudonyms
from pipelines_lib.data.raw import row_ids
from pipelines_lib.data.records import Batch, Records
from pipelines_lib.data.sources import SourceContext, open_source
from pipelines_lib.data.tables import Tables
from pipelines_lib.data.typed import ARROW_TYPES, cast, none_of
from pipelines_lib.data.whole_partition import PLACE
from pipelines_lib.errors import DataError, Held
from pipelines_lib.use_case import UseCase
from pipelines_lib.use_case.label import Join


def collect(context: SourceContext, tables: Tables, names: Pseudonyms | None = None) -> dict[str, JsonValue]:
    """Read the ground truth that arrived in the partition and keep it, its key protected as the rows' own is. Returns the figures.

    Raises `Held` where more of its records than `quality.max_quarantined` allows are no truths: unreadable, without a whole
    key, or with an outcome that is none of the label's values. A record without an outcome is a truth that is still open.
    """
    use_case, join = context.use_case, _join(context.use_case)
    truths: list[pa.Table] = [_empty(use_case)]
    counts = {"n_records": 0, "n_unusable": 0, "n_open": 0}
    for records in open_source(join.source, context):
        _check_columns(records, use_case)
        for batch in records.batches:
            rows = _typed(batch, records.part, context, names)
            usable = rows.filter(rows["usable"]).drop_columns(["usable"])
            known = usable.filter(pc.is_valid(usable["label"]))
            truths.append(known)
            counts["n_records"] += rows.num_rows + len(batch.unreadable)
            counts["n_unusable"] += rows.num_rows - usable.num_rows + len(batch.unreadable)
            counts["n_open"] += usable.num_rows - known.num_rows
    _judge(context, counts)
    arrived = pa.concat_tables(truths)
    tables.write("ground_truth", context.partition_key, arrived)
    return {**counts, "n_truths": arrived.num_rows}


def newest(tables: Tables, partitions: Sequence[str], version: int, use_case: UseCase) -> pa.Table:
    """The truth of each key that arrived in `partitions`: its key columns and `label`."""
    keys = list(_join(use_case).keys)
    truths = tables.read("ground_truth", partitions, version=version, columns=[*keys, "label"])
    # In the order of arrival and record; single-threaded, so that the last is the last.
    last = truths.group_by(keys, use_threads=False).aggregate([("label", "last")])
    return last.select([*keys, "label_last"]).rename_columns([*keys, "label"])


def joined(batches: Iterable[pa.Table], truths: pa.Table, use_case: UseCase) -> Iterator[pa.Table]:
    """The batches with `label`; null for a row that no truth has come for, unless `join.missing` names its class."""
    join = _join(use_case)
    labels = labels_of(truths["label"].combine_chunks(), use_case)
    truths = truths.set_column(truths.column_names.index("label"), "label", labels)
    for rows in batches:
        keys = rows.select(list(join.keys)).append_column(PLACE, pa.array(np.arange(rows.num_rows)))
        found = keys.join(truths, keys=list(join.keys)).sort_by(PLACE)["label"].combine_chunks()
        yield rows.append_column("label", found if join.missing is None else pc.fill_null(found, join.missing))


def touches(batches: Iterable[pa.Table], truths: pa.Table, use_case: UseCase) -> bool:
    """Whether a row among `batches` has one of the keys of `truths`. Looks no further than the first that has."""
    keys = list(_join(use_case).keys)
    return any(rows.select(keys).join(truths.select(keys), keys=keys, join_type="left semi").num_rows for rows in batches)


def _join(use_case: UseCase) -> Join:
    assert use_case.label.join is not None
    return use_case.label.join


def _outcome_type(use_case: UseCase) -> str:
    return "number" if use_case.task == "regression" or use_case.label.threshold is not None else "string"


def _empty(use_case: UseCase) -> pa.Table:
    types = {name: ARROW_TYPES[use_case.columns[name].type] for name in _join(use_case).keys}
    outcome = ARROW_TYPES["number" if _outcome_type(use_case) == "number" else "string"]
    return pa.schema([("row_id", pa.string()), *types.items(), ("label", outcome)]).empty_table()


def _typed(batch: Batch, part: str, context: SourceContext, names: Pseudonyms | None) -> pa.Table:
    """`row_id`, the key columns, `label` (null: still open), and whether the record is `usable`."""
    use_case, join = context.use_case, _join(context.use_case)
    columns = {"row_id": row_ids(context.partition_key, batch.numbers, part)}
    usable = pa.array([True] * batch.rows.num_rows, pa.bool_())
    for name, there in join.keys.items():
        values, _ = cast(protected(batch.rows[there], name, use_case, names), use_case.columns[name].type)
        columns[name] = values
        usable = pc.and_(usable, pc.is_valid(values))
    outcome, failed = cast(batch.rows[join.column].combine_chunks(), "number" if _outcome_type(use_case) == "number" else "string")
    if use_case.label.map is not None:
        failed = none_of(outcome, use_case.label.map)
    return pa.table({**columns, "label": outcome, "usable": pc.and_not(usable, failed)})


def _judge(context: SourceContext, counts: dict[str, int]) -> None:
    allowed = context.use_case.quality.max_quarantined
    share = counts["n_unusable"] / max(1, counts["n_records"])
    if share > allowed:
        raise Held(
            f"ground truth that arrived in {context.partition_key} of {context.use_case.name} is held: {counts['n_unusable']} of "
            f"{counts['n_records']} records ({share:.1%}) can't be read, lack a key or have an outcome that is none of the label's values, and "
            f"quality.max_quarantined allows {allowed:.1%}. Mend label.join and its source, and run ingest again",
            {**counts},
        )


def _check_columns(records: Records, use_case: UseCase) -> None:
    join = _join(use_case)
    for wanted, setting in [*((there, "on") for there in join.keys.values()), (join.column, "column")]:
        if wanted in records.names:
            continue
        near = [] if use_case.private() else difflib.get_close_matches(wanted, records.names, n=1, cutoff=0.6)
        raise DataError(
            f"the ground truth of {use_case.name} has no column {wanted!r}, which label.join.{setting} names; it has: {names_for_people(records.names, use_case)}. "
            + (f"Did you mean {near[0]!r}? " if near else "")
            + f"Correct label.join.{setting}, or mend the source"
        )
