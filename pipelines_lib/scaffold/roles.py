"""What each column is for: what names a row, whose row it is, when it happened, what can be learned from, and why the rest can't."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pipelines_lib.scaffold.survey import Facts
from pipelines_lib.use_case import Role

_ID_ITSELF = re.compile(
    r"(.*_)?(id|uuid|guid|uid|pid|sid|key|udi|index|idx|pidnum|idnum|row_?(number|num|id|no)|serial_?(number|no)?|no|nr)"
)
_OWNER = (
    "user|customer|client|patient|member|account|person|subject|student|employee|household|device|machine|store|merchant"
    "|visitor|card|driver|session|seller|buyer|company|vehicle|sensor|unit|engine|product|item|用户|客户|患者|会员|账户|设备"
)
_ID_OF_AN_OWNER = re.compile(
    rf"(.*_)?({_OWNER})(_?(id|uuid|no|nr|num|number|key|code|name))?|[a-z]*[a-z_]id|(用户|客户|患者|会员|账户|设备)(编号|号|名)?"
)
_NOT_AN_ID = frozenset(
    {"paid", "unpaid", "prepaid", "valid", "invalid", "humid", "acid", "grid", "bid", "solid", "fluid", "covid", "android"}
)
_TIME = re.compile(r"(.*_)?(time|timestamp|date|datetime|ts|at|day|when|created|occurred)(_.*)?|.*(时间|日期).*")
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T].*)?")


@dataclass(frozen=True)
class Use:
    """A column's role, and why where that is not plain."""

    role: Role
    why: str = ""


def roles(columns: list[Facts], target: str) -> dict[str, Use]:
    """Column name to its use; leakage is looked for afterwards."""
    uses = {column.name: _alone(column) for column in columns}
    uses[target] = Use("label")
    others = [column for column in columns if column.name != target]
    _appoint(uses, "time", _times(uses, others), "a time too")
    _appoint(uses, "key", _keys(others), "a different value in every row")
    _appoint(uses, "entity", _entities(uses, others), "names whose row it is too")
    return uses


def _alone(column: Facts) -> Use:
    """What a column looks like by itself."""
    if column.n_distinct <= 1:
        return Use("other", "the same in every row" if column.n_distinct else "empty")
    if column.type == "timestamp":
        return Use("other", "a time")
    if column.type == "string":
        return _category(column)
    if column.type == "integer" and _is_id(column.name) and column.n_distinct > 50:
        return Use("other", "an id: its size means nothing")
    return Use("feature")


def _category(column: Facts) -> Use:
    present = column.n_rows - column.n_missing
    rows_a_value = present / column.n_distinct
    if rows_a_value >= 10 or (column.n_distinct <= 50 and rows_a_value >= 4):
        return Use("feature")
    if all(_DATE.fullmatch(text) for text in list(column.counts)[:100]):
        return Use("other", "looks like a time, and Sluice reads ISO 8601 (2026-01-31 12:00); rewrite it at the source to use it")
    if column.n_distinct > 0.95 * present:
        return Use("other", "a different value in nearly every row")
    return Use(
        "other", f"{column.n_distinct} different values, too few rows of each to learn from; `role: entity` if it says whose row it is"
    )


def _times(uses: dict[str, Use], columns: list[Facts]) -> list[Facts]:
    times = [column for column in columns if column.type == "timestamp" and uses[column.name].why == "a time"]
    return sorted(times, key=lambda column: _TIME.fullmatch(column.name) is None)


def _keys(columns: list[Facts]) -> list[Facts]:
    """Unique and named like an id first, then numbered from end to end, R's row numbers last."""
    unique = [c for c in columns if c.n_distinct == c.n_rows >= 20 and c.type in ("integer", "string")]
    named = [column for column in unique if _is_id(column.name)]
    numbered = [column for column in unique if column.type == "integer" and _is_counting(column)]
    found = {column.name: column for column in [*named, *numbered]}
    return sorted(found.values(), key=lambda column: column.name == "row_number")


def _entities(uses: dict[str, Use], columns: list[Facts]) -> list[Facts]:
    """Named like the id of somebody, with some rows each; the one with the fewest values first, for it holds the others together."""
    found = [
        column
        for column in columns
        if column.type in ("integer", "string")
        and uses[column.name].role != "key"
        and column.n_distinct >= 20
        and 1.2 <= (column.n_rows - column.n_missing) / column.n_distinct <= 1000
        and _is_id_of_an_owner(column.name)
    ]
    return sorted(found, key=lambda column: column.n_distinct)


def _appoint(uses: dict[str, Use], role: Role, candidates: Iterable[Facts], why_not: str) -> None:
    """The first candidate gets the role, the rest are kept and not used."""
    for place, column in enumerate(candidates):
        uses[column.name] = Use(role) if place == 0 else Use("other", why_not)


def _is_id(name: str) -> bool:
    return name not in _NOT_AN_ID and (_ID_ITSELF.fullmatch(name) is not None or _is_id_of_an_owner(name))


def _is_id_of_an_owner(name: str) -> bool:
    return name not in _NOT_AN_ID and _ID_OF_AN_OWNER.fullmatch(name) is not None


def _is_counting(column: Facts) -> bool:
    numbers = column.numbers
    return bool(numbers.max() - numbers.min() == len(numbers) - 1)
