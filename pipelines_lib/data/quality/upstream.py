"""What a source changed without a word: columns that came, columns that went, columns whose values are of another type now.

Measured against what the use case declares and nothing else: what an earlier partition held has no say, so a backfill finds what
the daily run found.
"""

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipelines_lib.data.privacy import names_for_people
from pipelines_lib.data.quality.rejections import Rejections, such_as
from pipelines_lib.data.typed import Typed
from pipelines_lib.errors import DataError, Held
from pipelines_lib.use_case import UseCase


@dataclass(frozen=True)
class Change:
    """One difference between a source and what the use case declares."""

    kind: str
    """`new column`, `lost column` or `changed type`."""
    column: str
    said: str
    """What is done about it."""
    holds: bool = False
    """Whether it holds the partition."""
    n_failed: int = 0
    """Values that are none of the declared type any more."""


def column_changes(where: str, found: Sequence[str], use_case: UseCase) -> list[Change]:
    """The source's columns that are not declared, and the declared ones that it lacks, as far as the policy lets them be.

    Raises `DataError` where a declared column is lost and may not be, and `Held` where columns are new and may not be.
    """
    policy = use_case.quality.upstream
    wanted = {column.source or name: name for name, column in use_case.written.items()}
    declared = {column.source or name for name, column in use_case.columns.items()}
    lost = [source for source in wanted if source not in found]
    new = [source for source in found if source not in declared]
    if lost and (policy.lost_columns == "hold" or len(lost) == len(wanted)):
        # Where the header is missing, a row about a person stands in its place.
        near = [] if use_case.private() else new
        raise DataError(
            f"{where}: {'; '.join(_without(source, wanted[source], near) for source in lost)}. It has: {names_for_people(found, use_case)}"
        )
    if new and policy.new_columns == "hold":
        raise Held(
            f"{where}: has columns that use case {use_case.name} does not declare: {', '.join(map(repr, new))}; declare them under `columns` "
            "(with `role: other` where nobody needs them), or set quality.upstream.new_columns to keep or ignore",
            {"new_columns": list(new)},
        )
    kept = "kept in raw" if policy.new_columns == "keep" and not use_case.private() else "left out"
    return [
        *(Change("new column", source, f"not declared, and {kept}") for source in new),
        *(Change("lost column", source, f"columns.{wanted[source]} is empty in every row") for source in lost),
    ]


def conformed(rows: pa.Table, use_case: UseCase) -> pa.Table:
    """A batch of a source's rows with the columns that the policy wants in `raw`: lost ones are empty, ignored ones left out."""
    wanted = [column.source or name for name, column in use_case.written.items()]
    if use_case.quality.upstream.new_columns == "ignore":
        rows = rows.select([name for name in rows.column_names if name in wanted])
    for name in wanted:
        if name not in rows.column_names:
            rows = rows.append_column(name, pa.nulls(rows.num_rows, pa.string()))
    return rows


class TypeWatch:
    """Counts how many values of each column are of its type, as the partition goes by."""

    def __init__(self, use_case: UseCase) -> None:
        self._use_case = use_case
        self._n_right = dict.fromkeys(use_case.written, 0)

    def add(self, typed: Typed) -> None:
        """Take in the next rows."""
        for name in self._n_right:
            self._n_right[name] += typed.rows.num_rows - typed.rows[name].null_count

    def state(self) -> dict[str, int]:
        """What was counted, as JSON for `take_in`."""
        return self._n_right

    def take_in(self, state: dict[str, int]) -> None:
        """The counts of other rows."""
        for name, n_right in state.items():
            self._n_right[name] += n_right

    def changes(self, rejections: Rejections) -> list[Change]:
        """The columns whose values are mostly none of their type, by quality.upstream.changed_share."""
        policy = self._use_case.quality.upstream
        changes = []
        for reason in rejections.by_reason():
            kind, _, rest = reason.name.partition(": ")
            column = rest.partition(" ")[0]
            if kind != "type":
                continue
            n_values = reason.n_rows + self._n_right[column]
            if _at_least(reason.n_rows, n_values) > policy.changed_share:
                share = reason.n_rows / n_values
                said = (
                    f"{share:.1%} of its values are no {self._use_case.columns[column].type} any more, such as {such_as(reason.examples)}; "
                    f"correct columns.{column}.type, or mend the source"
                )
                changes.append(Change("changed type", column, said, policy.changed_types == "hold", reason.n_rows))
        return changes


def _at_least(n: int, of: int) -> float:
    """The share that `n` of `of` speaks for with 97.5 % certainty (Wilson's lower bound), so that three odd values change no type."""
    z2 = 1.96**2
    share = n / of
    return (share + z2 / (2 * of) - math.sqrt(z2 * (share * (1 - share) + z2 / (4 * of)) / of)) / (1 + z2 / of)


def _without(source: str, name: str, new: Sequence[str]) -> str:
    near = difflib.get_close_matches(source, new, n=1, cutoff=0.6)
    return (
        f"has no column {source!r}, which is declared as columns.{name}"
        + (f"; did you mean {near[0]!r}? " if near else ". ")
        + f"Set columns.{name}.source to the name in the source, or remove the column, or set quality.upstream.lost_columns to empty"
    )
