"""Judging a partition of `raw` as it goes by: one look at the columns that expectations need whole, then one look at every row.

Memory holds a batch, the columns of those expectations, and the rows that only they reject; not the rows that are rejected, which
may be all.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipelines_lib.data.anonymity import Groups, held_because
from pipelines_lib.data.quality.findings import Findings
from pipelines_lib.data.quality.judge import Judge
from pipelines_lib.data.quality.rejections import Rejections
from pipelines_lib.data.quality.upstream import Change, TypeWatch
from pipelines_lib.data.typed import raw_names, typed, typed_columns
from pipelines_lib.use_case import UseCase

Scan = Callable[[Sequence[str] | None], Iterator[pa.Table]]
"""Gives the partition's raw rows, in order, with these columns and `row_id`; with all, where it is given None."""

QUARANTINE = pa.schema([("row_id", pa.string()), ("reasons", pa.list_(pa.string())), ("raw", pa.string())])


def judge_partition(
    use_case: UseCase,
    scan: Scan,
    columns: Sequence[str],
    n_raw: int,
    *,
    unreadable: Mapping[str, tuple[str, str]],
    changes: Sequence[Change] = (),
    quarantine: Callable[[pa.Table], None] = lambda _: None,
) -> Findings:
    """What is found in the partition of `n_raw` raw rows with `columns`.

    `unreadable` are the records that are no rows: `row_id` to (text, why). `quarantine` takes the rejected rows, each once with all its
    reasons, in order. Raises `ConfigError` where an expectation can't judge its columns.
    """
    judge, rejections, types, groups = (
        Judge(use_case.quality, use_case.private()),
        Rejections(use_case),
        TypeWatch(use_case),
        Groups.of(use_case),
    )
    names = raw_names(columns, use_case)

    def read(wanted: Sequence[str]) -> pa.Table:
        batches = scan([names[name] for name in wanted if name != "row_id"])
        return pa.concat_tables(typed_columns(batch, use_case, wanted) for batch in batches)

    late = judge.whole(list(use_case.written), n_raw, read)
    waiting = sorted(unreadable)
    for raw in scan(None):
        rows = typed(raw, use_case)
        reasons = _merged(rows.reasons, judge.add(rows.rows), _of_batch(late, raw))
        types.add(rows)
        rejections.add(reasons, raw)
        if groups is not None:
            groups.add(rows.rows.filter(pc.invert(pc.is_in(rows.rows["row_id"], value_set=pa.array(list(reasons), pa.string())))))
        last = raw["row_id"][-1].as_py()
        before = [row for row in waiting if row < last]
        waiting = waiting[len(before) :]
        quarantine(_rejected(raw, reasons, {row: unreadable[row] for row in before}))
    quarantine(_rejected(None, {}, {row: unreadable[row] for row in waiting}))
    rejections.add({row: {f"unreadable: {why}"} for row, (_, why) in unreadable.items()})
    found = None if groups is None else groups.figures()
    telling = "" if found is None else held_because(found, use_case)
    changed = [*changes, *types.changes(rejections)]
    return Findings(use_case.quality, n_raw + len(unreadable), rejections, judge.checks(), changed, found, telling)


def _of_batch(late: dict[str, set[str]], raw: pa.Table) -> dict[str, set[str]]:
    """Those of `late` that are rows of the batch."""
    if not late:
        return {}
    mine = raw["row_id"].filter(pc.is_in(raw["row_id"], value_set=pa.array(list(late), pa.string())))
    return {row: late[row] for row in mine.to_pylist()}


def _merged(*parts: dict[str, set[str]]) -> dict[str, set[str]]:
    merged: dict[str, set[str]] = {}
    for part in parts:
        for row, reasons in part.items():
            merged.setdefault(row, set()).update(reasons)
    return merged


def _rejected(raw: pa.Table | None, reasons: dict[str, set[str]], unreadable: Mapping[str, tuple[str, str]]) -> pa.Table:
    """Rows of the layer `quarantine`: what broke a rule as JSON of its raw columns, what can't be read as its text."""
    texts = {row: text for row, (text, _) in unreadable.items()}
    if raw is not None and reasons:
        bad = raw.filter(pc.is_in(raw["row_id"], value_set=pa.array(list(reasons), pa.string())))
        for row in bad.drop_columns([name for name in ("partition_key",) if name in bad.column_names]).to_pylist():
            name = row.pop("row_id")
            texts[name] = json.dumps(row, ensure_ascii=False)
    every = {**reasons, **{row: {f"unreadable: {why}"} for row, (_, why) in unreadable.items()}}
    rows = sorted(every)
    columns = [rows, [sorted(every[row]) for row in rows], [texts[row] for row in rows]]
    return pa.Table.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, QUARANTINE, strict=True)], schema=QUARANTINE
    )
