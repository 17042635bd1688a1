"""The gate between `raw` and `clean`: what each expectation finds in a partition that comes in batches.

Expectations are Great Expectations' own (docs.greatexpectations.io/expectations):

- One that judges each row sends every row that fails to quarantine, with the expectation among the row's reasons.
- One that judges each row and has `mostly` below 1 judges the partition instead: as long as it holds, the rows it found stay
  (they are the exceptions it allows); where it does not, the partition is held.
- One that judges the table (a mean, a row count) holds the partition where it fails.

Most that judge rows need no other row for it and are done batch by batch. What is left (a mean, uniqueness) is done once at the
end, each with the columns that it looks at and no others.
"""

import datetime as dt
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipelines_lib.data.quality import gx
from pipelines_lib.errors import ConfigError
from pipelines_lib.use_case import Quality

MASK = "▒▒▒"
"""Stands for a value of a column that carries a privacy role."""

Read = Callable[[Sequence[str]], pa.Table]
"""Reads columns of the partition's typed rows, all of them in the order that they came in; `row_id` is one of them."""


@dataclass(frozen=True)
class Example:
    """A row that failed, and the value it failed with."""

    row_id: str
    value: Any
    """A tuple where the expectation names a pair of columns, a dict where it names a list; masked where a column is personal."""


@dataclass(frozen=True)
class Check:
    """What one expectation found in a partition."""

    name: str
    """The expectation with its column: `expect_column_values_to_be_between(price)`."""
    success: bool
    of_rows: bool
    """Whether it judges row by row, so that a failure costs rows and not the partition."""
    n_checked: int = 0
    """Rows that it judged: those that lack the value are not among them."""
    n_failed: int = 0
    """Rows that failed; nothing where it judges the table."""
    observed: str = ""
    """What a table expectation saw."""
    examples: tuple[Example, ...] = ()
    """The first rows that failed."""
    result: Any = field(default=None, compare=False, repr=False)
    """Great Expectations' own result, for its Data Docs."""


class Judge:
    """Great Expectations on a partition that comes in batches; the findings are those of one run on the whole."""

    def __init__(self, quality: Quality, private: Collection[str] = ()) -> None:
        """Raises `ConfigError` where an expectation is unknown or takes other arguments."""
        self._judges = [
            gx.expectation(name, arguments, index) for index, item in enumerate(quality.expectations) for name, arguments in item.items()
        ]
        self._private = frozenset(private)
        self._tallies: dict[int, gx.Tally] = {}
        self._examples: dict[int, list[Example]] = {}
        self._columns: list[str] = []
        self._n_rows = 0

    def add(self, batch: pa.Table) -> dict[str, set[str]]:
        """Judge the next typed rows (`row_id` and the declared columns). Returns `row_id` to the row-local expectations the row failed.

        Raises `ConfigError` where an expectation can't judge the columns.
        """
        reasons: dict[str, set[str]] = {}
        if batch.num_rows == 0:
            return reasons
        self._columns = [name for name in batch.column_names if name != "row_id"]
        self._n_rows += batch.num_rows
        for judge in self._judges:
            if judge.row_local:
                rows = batch.select(judge.columns(self._columns))
                self._note(judge, rows, lambda: batch["row_id"], reasons)
        return reasons

    def finish(self, read: Read) -> tuple[list[Check], dict[str, set[str]]]:
        """Judge what needs the whole partition, after its batches. Returns every finding and the reasons that came last."""
        reasons = self.whole(self._columns, self._n_rows, read)
        return self.checks(), reasons

    def whole(self, columns: Sequence[str], n_rows: int, read: Read) -> dict[str, set[str]]:
        """Judge what needs the whole partition of `n_rows` typed rows with `columns`; before its batches or after.

        Returns `row_id` to the reasons found. Raises `ConfigError` as `add` does.
        """
        reasons: dict[str, set[str]] = {}
        self._columns = [name for name in columns if name != "row_id"]
        if n_rows == 0:
            return reasons
        for wanted, judges in _by_columns([judge for judge in self._judges if not judge.row_local], self._columns):
            rows = read(wanted).select(wanted) if wanted else None
            for judge in judges:
                if rows is None:
                    self._tallies[judge.index] = gx.tally_of_shape(judge, self._columns, n_rows)
                else:
                    self._note(judge, rows, lambda: read(["row_id"])["row_id"], reasons)
        return reasons

    def state(self) -> dict[str, Any]:
        """What the row-local expectations counted, as JSON for `take_in`. Values of personal columns are masked in it."""
        counted = [judge for judge in self._judges if judge.row_local and judge.index in self._tallies]
        return {
            "n_rows": self._n_rows,
            "counts": {str(judge.index): {name: int(n) for name, n in self._tallies[judge.index].counts.items()} for judge in counted},
            "examples": {
                str(judge.index): [[one.row_id, _as_json(one.value)] for one in self._examples.get(judge.index, [])] for judge in counted
            },
        }

    def take_in(self, state: dict[str, Any], nothing: pa.Table) -> None:
        """What another judge of these expectations counted in the rows that follow; `nothing` are typed rows, but none."""
        self._columns = [name for name in nothing.column_names if name != "row_id"]
        self._n_rows += state["n_rows"]
        for judge in self._judges:
            if (counts := state["counts"].get(str(judge.index))) is None:
                continue
            if judge.index not in self._tallies:
                self._tallies[judge.index] = gx.nothing_counted(nothing.select(judge.columns(self._columns)))
            self._tallies[judge.index].add_counts(counts)
            examples = self._examples.setdefault(judge.index, [])
            examples += [Example(row, _from_json(value)) for row, value in state["examples"][str(judge.index)][: gx.SAMPLE - len(examples)]]

    def checks(self) -> list[Check]:
        """Every finding, in the order written; none where there were no rows."""
        return [self._check(judge) for judge in self._judges] if self._n_rows else []

    def _note(self, judge: gx.Expectation, rows: pa.Table, row_ids: Callable[[], pa.ChunkedArray], reasons: dict[str, set[str]]) -> None:
        """Count the expectation's findings in `rows`, keep the first as examples, and add its name to the reasons of rows that failed."""
        found = gx.tally(judge, rows, private=not self._private.isdisjoint(rows.column_names))
        if judge.index in self._tallies:
            self._tallies[judge.index].add(found)
        else:
            self._tallies[judge.index] = found
        if len(found.failed) == 0:
            return
        examples = self._examples.setdefault(judge.index, [])
        first = pa.array(found.failed[: gx.SAMPLE - len(examples)])
        names = row_ids().take(pa.array(found.failed) if judge.mostly >= 1 else first).to_pylist()
        values = _values(rows.take(first), judge, self._private)
        examples += [Example(name, value) for name, value in zip(names, values, strict=False)]
        if judge.mostly >= 1:
            for name in names:
                reasons.setdefault(name, set()).add(judge.label)

    def _check(self, judge: gx.Expectation) -> Check:
        examples = self._examples.get(judge.index, [])
        result = gx.verdict(judge, self._tallies[judge.index], [e.value for e in examples], [e.row_id for e in examples])
        if not self._private.isdisjoint(judge.columns(self._columns)):
            _mask(judge, result.result)
        by_row = "unexpected_percent" in result.result
        n_checked = result.result.get("element_count", self._n_rows) - (result.result.get("missing_count") or 0)
        return Check(
            name=judge.label,
            success=bool(result.success),
            of_rows=by_row and judge.mostly >= 1,
            n_checked=n_checked,
            n_failed=int(result.result["unexpected_count"] or 0) if by_row else 0,
            observed="" if by_row else _observed(result.result),
            examples=tuple(examples),
            result=result,
        )


def problems(quality: Quality, sample: pa.Table | None = None, private: Collection[str] = ()) -> list[tuple[int, str]]:
    """(place, message) of each expectation that Great Expectations does not know, takes no such arguments for, or that can't
    judge the columns of `sample` (typed rows); no message quotes a value of a `private` column."""
    found: list[tuple[int, str]] = []
    for index, item in enumerate(quality.expectations):
        try:
            judge = Judge(Quality(expectations=[item]), private)
            if sample is not None:
                judge.add(sample)
                judge.finish(sample.select)
        except ConfigError as error:
            found.append((index, str(error).partition(": ")[2]))
    return found


def _by_columns(judges: Iterable[gx.Expectation], known: list[str]) -> list[tuple[list[str], list[gx.Expectation]]]:
    """The expectations grouped by the columns that they look at, so that each group's are read once."""
    groups: dict[tuple[str, ...], list[gx.Expectation]] = {}
    for judge in judges:
        columns = () if judge.of_shape and not judge.arguments.get("row_condition") else tuple(judge.columns(known))
        groups.setdefault(columns, []).append(judge)
    return [(list(columns), grouped) for columns, grouped in groups.items()]


def _values(rows: pa.Table, judge: gx.Expectation, private: frozenset[str]) -> list[Any]:
    """What stands in the rows, in the shape that GX gives it."""
    shown = [{name: MASK if name in private else value for name, value in row.items()} for row in rows.to_pylist()]
    if "column_list" in judge.arguments:
        return shown
    named = [judge.arguments[key] for key in ("column", "column_A", "column_B") if key in judge.arguments]
    return [row[named[0]] if len(named) == 1 else tuple(row[name] for name in named) for row in shown]


def _as_json(value: Any) -> Any:
    """An example's value; what JSON has no word for stands in an object that says what it is."""
    match value:
        case dt.datetime():
            return {"time": value.isoformat()}
        case tuple():
            return {"pair": [_as_json(item) for item in value]}
        case dict():
            return {"record": {name: _as_json(item) for name, item in value.items()}}
        case _:
            return value


def _from_json(value: Any) -> Any:
    match value:
        case {"time": text}:
            return dt.datetime.fromisoformat(text)
        case {"pair": items}:
            return tuple(_from_json(item) for item in items)
        case {"record": items}:
            return {name: _from_json(item) for name, item in items.items()}
        case _:
            return value


def _mask(judge: gx.Expectation, result: dict[str, Any]) -> None:
    """Take out what a table expectation saw of a personal column; a count or a share names nobody."""
    result.pop("details", None)
    if "observed_value" in result and not any(word in judge.name for word in ("count", "proportion", "type")):
        result["observed_value"] = MASK
    for key in [
        key
        for key in result
        if key.startswith("partial_missing") or (key.startswith("partial_unexpected") and "unexpected_percent" not in result)
    ]:
        del result[key]


def _observed(result: dict[str, Any]) -> str:
    if (observed := result.get("observed_value")) is not None:
        return f"observed {observed}"[:200]
    return f"observed {result['unexpected_count']} other values" if result.get("unexpected_count") else ""
