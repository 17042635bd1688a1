"""All that is inferred from a file, before it is written down."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines_lib.errors import DataError
from pipelines_lib.scaffold.expectations import Expectation, expectations
from pipelines_lib.scaffold.leakage import Target, leaks
from pipelines_lib.scaffold.roles import Use, roles
from pipelines_lib.scaffold.sizes import Sizes, sizes
from pipelines_lib.scaffold.survey import Facts, Survey
from pipelines_lib.scaffold.suspects import suspect
from pipelines_lib.scaffold.target import Goal, find_target, goal


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The settings of a use case and the reasons for them."""

    survey: Survey
    goal: Goal
    columns: list[Facts]
    """In the file's order; the target as its task reads it."""
    uses: dict[str, Use]
    sizes: Sizes
    expectations: list[Expectation]
    split_by: str
    in_order: bool
    """Whether the file's rows follow its time column."""
    suspects: dict[str, tuple[int, str]]
    """Column name to a number that may mean "missing", and why."""
    notes: list[str] = field(default_factory=list)
    """What a person should look at."""

    def named(self, role: str) -> str | None:
        """The first column with `role`."""
        return next((name for name, use in self.uses.items() if use.role == role), None)


def plan(path: Path, survey: Survey, wanted: str) -> Plan:
    """Infer everything. Raises `DataError` where the target is no column, or nothing is left to learn from."""
    target = goal(path, find_target(path, survey.columns, wanted))
    columns = [target.facts if column.source == target.facts.source else column for column in survey.columns]
    uses = roles(columns, target.facts.name)
    features = [column for column in columns if uses[column.name].role == "feature"]
    found = leaks(Target(target.facts, target.task), features)
    uses |= {name: Use("other", f"may leak the target: {why}") for name, why in found.items()}
    left = [column for column in features if column.name not in found]
    if not left:
        why = "; ".join(f"{name}: {use.why or use.role}" for name, use in uses.items() if name != target.facts.name)
        raise DataError(
            f"{path}: no column is left to predict {target.facts.source!r} from ({why}); add columns that say something about it"
        )
    n_known = survey.n_rows - target.facts.n_missing
    n_numbers = sum(column.is_number for column in left)
    scaled = sizes(n_rows=n_known, n_numbers=n_numbers, has_text=any(c.type == "text" for c in left), task=target.task)
    in_order = _in_order(columns, uses)
    names = {use.role for use in uses.values()}
    draft = Plan(
        survey=survey,
        goal=target,
        columns=columns,
        uses=uses,
        sizes=scaled,
        expectations=expectations(columns, {name: use.role for name, use in uses.items()}, survey.n_rows / scaled.partitions),
        split_by="entity" if "entity" in names else "time" if in_order else "row",
        in_order=in_order,
        suspects={column.name: suspected for column in left if (suspected := suspect(column))},
    )
    return replace(draft, notes=list(_notes(draft)))


def _in_order(columns: list[Facts], uses: dict[str, Use]) -> bool:
    """Whether there is a time column, and the file is sorted by it."""
    time = next((column for column in columns if uses[column.name].role == "time"), None)
    if time is None or time.values.null_count:
        return False
    moments = np.asarray(time.values.cast(pa.int64()))
    return bool((np.diff(moments) >= 0).all() and moments[-1] > moments[0])


def _notes(plan: Plan) -> Iterator[str]:
    survey, target = plan.survey, plan.goal.facts
    for column in plan.columns:
        use = plan.uses[column.name]
        if use.role == "other":
            yield f"{column.name} is not used: {use.why}"
        if column.n_unfit and use.role != "other":
            yield f"{column.name}: {column.n_unfit} values are no {column.type}; their rows will be quarantined"
    for name, (value, why) in plan.suspects.items():
        yield f'{name}: {value} may mean "missing" ({why}); see `clean`'
    if survey.n_unreadable:
        yield f"{survey.n_unreadable} records have another number of cells than the rest; they will be quarantined"
    if target.n_missing:
        yield f"{target.n_missing} rows have no {target.name}, so nothing is learned from them"
    if plan.goal.task == "multiclass" and (rare := sum(count < 10 for count in target.counts.values())):
        yield f"{rare} of the {target.n_distinct} classes have fewer than 10 rows, too few to learn from"
    if survey.n_rows < 200:
        yield f"{survey.n_rows} rows are very few: figures on the hold-out will swing"
