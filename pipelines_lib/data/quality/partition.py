"""Judging a partition of `raw` as it goes by: one look at the columns that expectations need whole, then one look at every row.

Memory holds a batch, the columns of those expectations, and the rows that only they reject; not the rows that are rejected, which
may be all. Shards of the partition can be judged by themselves, and what needs the whole is then done by who puts them together.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines_lib.data.anonymity import Groups, held_because
from pipelines_lib.data.quality.findings import Findings
from pipelines_lib.data.quality.judge import Judge
from pipelines_lib.data.quality.rejections import Rejections
from pipelines_lib.data.quality.upstream import Change, TypeWatch
from pipelines_lib.data.typed import raw_names, typed, typed_columns, typed_nothing
from pipelines_lib.use_case import UseCase

Scan = Callable[[Sequence[str] | None], Iterator[pa.Table]]
"""Gives the partition's raw rows, in order, with these columns and `row_id`; with all, where it is given None."""

Reasons = dict[str, set[str]]
"""`row_id` to the reasons the row must not pass."""

UNREADABLE = "unreadable: "
"""How the reason of a record begins that is no row."""

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
    judged = Judged(use_case)
    late = judged.whole(scan, columns, n_raw)
    judged.rows(scan(None), unreadable, quarantine, late)
    return judged.findings(n_raw + len(unreadable), changes)


class Judged:
    """What is found in the rows of a partition, or of a shard of it: what shards found adds up to what one pass finds."""

    def __init__(self, use_case: UseCase) -> None:
        """Raises `ConfigError` where an expectation is unknown or takes other arguments."""
        self._use_case = use_case
        self._judge = Judge(use_case.quality, use_case.private())
        self._rejections = Rejections(use_case)
        self._types = TypeWatch(use_case)
        self.groups = Groups.of(use_case)
        """Of the rows that pass; None where nothing is asked of them."""

    def whole(self, scan: Scan, columns: Sequence[str], n_raw: int) -> Reasons:
        """Judge what needs the whole partition. Returns the reasons found, which `rows` or `add_late` must be told."""
        names = raw_names(columns, self._use_case)

        def read(wanted: Sequence[str]) -> pa.Table:
            batches = scan([names[name] for name in wanted if name != "row_id"])
            return pa.concat_tables(typed_columns(batch, self._use_case, wanted) for batch in batches)

        return self._judge.whole(list(self._use_case.written), n_raw, read)

    def rows(
        self,
        batches: Iterable[pa.Table],
        unreadable: Mapping[str, tuple[str, str]],
        quarantine: Callable[[pa.Table], None],
        late: Reasons | None = None,
    ) -> None:
        """Judge raw rows, in order; `late` are the reasons that are known already."""
        waiting = sorted(unreadable)
        for raw in batches:
            rows = typed(raw, self._use_case)
            reasons = _merged(rows.reasons, self._judge.add(rows.rows), _of_batch(late or {}, raw))
            self._types.add(rows)
            self._rejections.add(reasons, raw)
            if self.groups is not None:
                self.groups.add(rows.rows.filter(pc.invert(_is_among(rows.rows, reasons))))
            last = raw["row_id"][-1].as_py()
            before = [row for row in waiting if row < last]
            waiting = waiting[len(before) :]
            quarantine(_rejected(raw, reasons, {row: unreadable[row] for row in before}))
        quarantine(_rejected(None, {}, {row: unreadable[row] for row in waiting}))
        self._rejections.add({row: {f"{UNREADABLE}{why}"} for row, (_, why) in unreadable.items()})

    def add_late(
        self, late: Reasons, rejected: Callable[[], Iterable[pa.Table]], scan: Scan, quarantine: Callable[[pa.Table], None]
    ) -> None:
        """Take in reasons that were found after the rows were judged. `rejected` gives the rows of the quarantine so far, in order, and
        `quarantine` takes those of now: each once, with all its reasons."""
        known = {row: reasons for rows in rejected() for row, reasons in _reasons_of(rows, late).items()}
        new = {row: reasons - known.get(row, set()) for row, reasons in late.items()}
        self._rejections.add({row: reasons for row, reasons in new.items() if reasons}, n_known=sum(bool(new[row]) for row in known))
        fresh = {row: reasons for row, reasons in late.items() if row not in known}
        added = [QUARANTINE.empty_table()]
        for raw in scan(None):
            if reasons := _of_batch(fresh, raw):
                added.append(_rejected(raw, reasons, {}))
                if self.groups is not None:
                    self.groups.remove(typed(raw.filter(_is_among(raw, reasons)), self._use_case).rows)
        for rows in _merged_in_order((_with_reasons(rows, late) for rows in rejected()), pa.concat_tables(added)):
            quarantine(rows)

    def state(self) -> dict[str, Any]:
        """What was found, as JSON for `take_in`; but for `groups`."""
        return {"judge": self._judge.state(), "rejections": self._rejections.state(), "types": self._types.state()}

    def take_in(self, state: dict[str, Any], groups: Sequence[pa.Table]) -> None:
        """What was found in the shard that follows."""
        self._judge.take_in(state["judge"], typed_nothing(self._use_case))
        self._rejections.take_in(state["rejections"])
        self._types.take_in(state["types"])
        if self.groups is not None:
            self.groups.take_in(groups)

    def findings(self, n_rows: int, changes: Sequence[Change] = ()) -> Findings:
        """All that was found; `n_rows` with the records that are no rows."""
        found = None if self.groups is None else self.groups.figures()
        telling = "" if found is None else held_because(found, self._use_case)
        changed = [*changes, *self._types.changes(self._rejections)]
        return Findings(self._use_case.quality, n_rows, self._rejections, self._judge.checks(), changed, found, telling)


def _is_among(rows: pa.Table, names: Collection[str]) -> pa.ChunkedArray:
    return pc.is_in(rows["row_id"], value_set=pa.array(list(names), pa.string()))


def _reasons_of(quarantined: pa.Table, names: Collection[str]) -> Reasons:
    """The reasons of those rows of the quarantine that are among `names`."""
    mine = quarantined.filter(_is_among(quarantined, names))
    return {row: set(reasons) for row, reasons in zip(mine["row_id"].to_pylist(), mine["reasons"].to_pylist(), strict=True)}


def _with_reasons(quarantined: pa.Table, late: Reasons) -> pa.Table:
    """The same rows; those among `late` with these reasons, too."""
    if not _reasons_of(quarantined, late):
        return quarantined
    pairs = zip(quarantined["row_id"].to_pylist(), quarantined["reasons"].to_pylist(), strict=True)
    every = [sorted({*reasons, *late.get(row, ())}) for row, reasons in pairs]
    return quarantined.set_column(1, QUARANTINE.field("reasons"), pa.array(every, QUARANTINE.field("reasons").type))


def _merged_in_order(parts: Iterable[pa.Table], others: pa.Table) -> Iterator[pa.Table]:
    """The rows of `parts`, which follow one another, and of `others`, all in the order of their names."""
    for part in parts:
        before = pc.less(others["row_id"], part["row_id"][-1])
        yield pa.concat_tables([part, others.filter(before)]).sort_by("row_id")
        others = others.filter(pc.invert(before))
    yield others


def _of_batch(late: Reasons, raw: pa.Table) -> Reasons:
    """Those of `late` that are rows of the batch."""
    if not late:
        return {}
    return {row: late[row] for row in raw["row_id"].filter(_is_among(raw, late)).to_pylist()}


def _merged(*parts: Reasons) -> Reasons:
    merged: Reasons = {}
    for part in parts:
        for row, reasons in part.items():
            merged.setdefault(row, set()).update(reasons)
    return merged


def _rejected(raw: pa.Table | None, reasons: Reasons, unreadable: Mapping[str, tuple[str, str]]) -> pa.Table:
    """Rows of the layer `quarantine`: what broke a rule as JSON of its raw columns, what can't be read as its text."""
    texts = {row: text for row, (text, _) in unreadable.items()}
    if raw is not None and reasons:
        bad = raw.filter(_is_among(raw, reasons))
        for row in bad.drop_columns([name for name in ("partition_key",) if name in bad.column_names]).to_pylist():
            name = row.pop("row_id")
            texts[name] = json.dumps(row, ensure_ascii=False)
    every = {**reasons, **{row: {f"{UNREADABLE}{why}"} for row, (_, why) in unreadable.items()}}
    rows = sorted(every)
    columns = [rows, [sorted(every[row]) for row in rows], [texts[row] for row in rows]]
    return pa.Table.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, QUARANTINE, strict=True)], schema=QUARANTINE
    )
