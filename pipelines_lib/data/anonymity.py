"""How alike the people in a partition look: k-anonymity (Sweeney 2002) and distinct l-diversity (Machanavajjhala et al. 2007).

Rows that agree in every quasi-identifier make a group. k is the size of the smallest: whoever knows someone's age and postcode
finds at least k rows that may be theirs. l is the smallest number of different values that a group has in a sensitive column:
where all of a group have one diagnosis, its members have no secret, however many they are. A missing value is a value of its own,
which never makes a figure look better than it is.

Groups are counted batch by batch; memory follows the number of groups, not of rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines_lib.use_case import PrivacyRole, UseCase


@dataclass(frozen=True)
class Anonymity:
    """The figures of some rows."""

    k: int
    """Rows of the smallest group; 0 where there are no rows."""
    n_rows: int
    n_groups: int
    n_below: int
    """Rows in groups smaller than `min_k`."""
    min_k: int
    l_diversity: dict[str, int] = field(default_factory=dict)
    """Sensitive column to the smallest number of its values in a group; a row without the value counts as none."""

    def sentence(self) -> str:
        """The figures for a person: what was found, and how many rows are too telling."""
        told = f"k = {self.k}: every row shares its quasi-identifiers with at least {max(0, self.k - 1)} others"
        if self.n_below:
            told += f"; {self.n_below} of {self.n_rows} rows are in groups smaller than {self.min_k}"
        return told + "".join(f"; l = {least} in {name}" for name, least in self.l_diversity.items())


# No column of a use case has a blank in its name.
_N_ROWS, _SEEN = "number of rows", "was seen"


class Groups:
    """Counts of the groups of a use case's rows; `add` takes typed rows, batch by batch."""

    def __init__(self, quasi: Sequence[str], sensitive: Sequence[str] = (), min_k: int = 5) -> None:
        self._quasi = list(quasi)
        self._sensitive = list(sensitive)
        self._min_k = min_k
        self._counts: pa.Table | None = None
        self._values: dict[str, pa.Table] = {}

    @classmethod
    def of(cls, use_case: UseCase) -> "Groups | None":
        """The groups to count of the use case; None where no column is a quasi-identifier.

        l is counted for sensitive strings and truth values: of numbers, nearly every value is another one, which says nothing.
        """
        quasi = _written(use_case, "quasi_identifier")
        sensitive = [name for name in _written(use_case, "sensitive") if use_case.columns[name].type in ("string", "boolean")]
        return cls(quasi, sensitive, use_case.privacy.min_k) if quasi else None

    def add(self, rows: pa.Table) -> None:
        """Count these rows too."""
        ones = pa.array(np.ones(rows.num_rows, np.int64))
        counted = rows.select(self._quasi).append_column(_N_ROWS, ones)
        self._counts = _summed(self._counts, counted, self._quasi)
        for name in self._sensitive:
            pairs = rows.select([*self._quasi, name]).append_column(_N_ROWS, ones)
            self._values[name] = _summed(self._values.get(name), pairs, [*self._quasi, name])

    def remove(self, rows: pa.Table) -> None:
        """Count these rows, which were counted, no more."""
        self.take_in(_negative(Groups(self._quasi, self._sensitive, self._min_k), rows))

    @property
    def tables(self) -> list[pa.Table]:
        """What was counted, for `take_in`: no row and no name, but groups of quasi-identifiers."""
        return [table for table in (self._counts, *self._values.values()) if table is not None]

    def take_in(self, tables: Sequence[pa.Table]) -> None:
        """The counts of other rows: the `tables` of their groups."""
        if not tables:
            return
        self._counts = _summed(self._counts, tables[0], self._quasi)
        for name, pairs in zip(self._sensitive, tables[1:], strict=True):
            self._values[name] = _summed(self._values.get(name), pairs, [*self._quasi, name])

    def figures(self) -> Anonymity:
        """The figures of all rows so far."""
        sizes = pa.chunked_array([[]], pa.int64()) if self._counts is None else self._counts[_N_ROWS]
        below = sizes.filter(pc.less(sizes, self._min_k))
        return Anonymity(
            k=pc.min(sizes).as_py() or 0,
            n_rows=pc.sum(sizes).as_py() or 0,
            n_groups=len(sizes),
            n_below=pc.sum(below).as_py() or 0,
            min_k=self._min_k,
            l_diversity={name: _least(pairs, self._quasi, name) for name, pairs in self._values.items() if pairs.num_rows},
        )


def k_anonymity(rows: pa.Table, quasi: Sequence[str], sensitive: Sequence[str] = (), min_k: int = 5) -> Anonymity:
    """The figures of `rows`."""
    groups = Groups(quasi, sensitive, min_k)
    groups.add(rows)
    return groups.figures()


def held_because(found: Anonymity, use_case: UseCase) -> str:
    """Why the partition must not pass, or nothing."""
    if use_case.privacy.action != "hold" or not found.n_below:
        return ""
    return (
        f"{found.n_below} of {found.n_rows} rows agree in every quasi-identifier ({', '.join(_written(use_case, 'quasi_identifier'))}) with fewer than "
        f"{found.min_k - 1} others; make `protect` of these columns coarser, or lower privacy.min_k"
    )


def _written(use_case: UseCase, role: PrivacyRole) -> list[str]:
    return [name for name in use_case.private(role) if name in use_case.written]


def _summed(before: pa.Table | None, rows: pa.Table, by: list[str]) -> pa.Table:
    parts = [rows] if before is None else [before, _added(rows, by)]
    return _added(pa.concat_tables(parts), by)


def _added(rows: pa.Table, by: list[str]) -> pa.Table:
    found = rows.group_by(by).aggregate([(_N_ROWS, "sum")]).rename_columns([*by, _N_ROWS])
    return found.filter(pc.not_equal(found[_N_ROWS], 0))


def _negative(groups: Groups, rows: pa.Table) -> list[pa.Table]:
    groups.add(rows)
    return [table.set_column(len(table.column_names) - 1, _N_ROWS, pc.negate(table[_N_ROWS])) for table in groups.tables]


def _least(pairs: pa.Table, quasi: list[str], name: str) -> int:
    seen = pairs.append_column(_SEEN, pc.is_valid(pairs[name]).cast(pa.int64()))
    return int(pc.min(seen.group_by(quasi).aggregate([(_SEEN, "sum")])[f"{_SEEN}_sum"]).as_py())
