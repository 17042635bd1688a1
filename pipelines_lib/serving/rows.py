"""The rows of a request, checked value by value against the model's features.

What breaks a rule is refused with what was found, where, the rule and the remedy; it never reaches the model.
"""

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any, NoReturn

from pipelines_lib.contracts import safe_name
from pipelines_lib.errors import DataError
from pipelines_lib.use_case import ColumnType

MAX_ROWS = 50_000
"""Rows of a request. Ten million bytes of small numbers would be millions of rows, and gigabytes once they are read."""


class RequestError(DataError):
    """A request that breaks a rule: what was found, where, the rule, and the remedy."""

    def __init__(self, what: str, *, where: str, rule: str, remedy: str, status: int = 400) -> None:
        super().__init__(f"{where}: {what}; {rule}. {remedy}")
        self.status = status
        self.parts = {"what": what, "where": where, "rule": rule, "remedy": remedy}


@dataclass(frozen=True)
class Shape:
    """What the model that answers wants of a request."""

    features: Mapping[str, ColumnType]
    keys: Mapping[str, ColumnType]
    """Columns a request may carry for the prediction log."""
    required: tuple[str, ...]
    """Features that no row may lack."""
    key_format: str
    private: frozenset[str] = frozenset()
    """Columns about a person: what was found there is in no message."""
    words: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """The categories that a column may have, as the model knows them once they are cleaned; of columns that are not named, any."""

    @cached_property
    def known(self) -> dict[str, ColumnType]:
        """Features and keys."""
        return {**self.features, **self.keys}

    @cached_property
    def by_type(self) -> dict[ColumnType, list[str]]:
        """Features and keys of each type."""
        found: dict[ColumnType, list[str]] = {}
        for name, kind in self.known.items():
            found.setdefault(kind, []).append(name)
        return found


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a request says beside its rows."""

    id: str | None = None
    partition_key: str | None = None
    """The partition the rows belong to; the current one where it is left out."""
    log: bool = True
    """Whether the answer goes to the prediction log."""
    outputs: tuple[str, ...] = ()
    """Outputs asked for; all, where none is named."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of a request: checked, typed, ready for the model."""

    n: int
    columns: dict[str, list[Any]]
    """Every feature, one value a row; None where it is missing."""
    keys: dict[str, list[Any]]
    ignored: list[str]
    """Columns of the request that neither the model nor the log knows."""
    options: Options


def rows_of(columns: Mapping[str, list[Any]], shape: Shape, options: Options) -> Rows:
    """The rows in `columns` (name to one value a row). Raises `RequestError`."""
    if not shape.features.keys() <= columns.keys():
        absent = [name for name in shape.features if name not in columns]
        rule = f"the model needs {_some(list(shape.features))}"
        refuse(f"lacks {_some(absent)}", "columns", rule, "Send every column, with null where a value is missing")
    typed = {name: columns[name] for name in shape.known if name in columns}
    first = next(iter(typed))
    n = len(typed[first])
    check_rows(n, "columns")
    for name, values in typed.items():
        if len(values) != n:
            what = f"{len(values)} values in {name!r}, {n} in {first!r}"
            refuse(what, "columns", "every column has one value a row", "Complete the shorter one")
    for kind, names in shape.by_type.items():
        given = [name for name in names if name in typed]
        # Most values are what they should be, which is seen of all at once without a look at each in Python.
        if not _as_wanted(kind, [typed[name] for name in given]):
            for name in given:
                if not _as_wanted(kind, [typed[name]]):
                    typed[name] = checked_column(typed[name], kind, name, told=name not in shape.private)
    if n == 0:
        refuse("no rows", "columns", "a request has at least one row", "Send a row")
    for name in shape.required:
        if None in typed[name]:
            where = f"column {name!r}, row {typed[name].index(None)}"
            refuse(
                "found null",
                where,
                "the use case declares the column not nullable, so the model never saw a row without it",
                "Send a value",
            )
    return Rows(
        n=n,
        columns={name: typed[name] for name in shape.features},
        keys={name: typed[name] for name in shape.keys if name in typed},
        ignored=sorted(columns.keys() - shape.known.keys()) if len(typed) < len(columns) else [],
        options=options,
    )


_TEXTS: frozenset[type] = frozenset({str, type(None)})
_RIGHT: dict[ColumnType, frozenset[type]] = {
    "number": frozenset({float}),
    "integer": frozenset({int}),
    "boolean": frozenset({bool, type(None)}),
    "string": _TEXTS,
    "text": _TEXTS,
    "timestamp": _TEXTS,
}
"""Types of values that are taken as they are."""


def _as_wanted(kind: ColumnType, columns: list[list[Any]]) -> bool:
    """Whether no value of these columns needs a closer look."""
    if not _RIGHT[kind].issuperset(map(type, chain.from_iterable(columns))):
        return False
    values = chain.from_iterable(columns)
    match kind:
        case "number":
            return all(map(math.isfinite, values))
        case "integer":
            return all(-(2**63) <= value < 2**63 for value in values)
        case _:
            return True


def checked_column(values: list[Any], kind: ColumnType, name: str, *, told: bool) -> list[Any]:
    """`values` as `checked` leaves each of them. Raises `RequestError`."""
    return [checked(value, kind, name, row, told=told) for row, value in enumerate(values)]


def checked(value: Any, kind: ColumnType, name: str, row: int, *, told: bool = True) -> Any:
    """`value` as the Python type of a column of type `kind`. Raises `RequestError`, which quotes the value where it may be `told`."""
    if value is None:
        return None
    found: Any = None
    match kind:
        case "number":
            found = _number(value)
        case "integer":
            found = _integer(value)
        case "boolean":
            found = value if isinstance(value, bool) else None
        case _:
            found = value if isinstance(value, str) else None
    if found is None:
        rule = f"the column is of type {kind}, so a value is {_WANTED.get(kind, 'text')} or null"
        refuse(f"found {kind_of(value) if told else 'another value'}", f"column {name!r}, row {row}", rule, "Correct the value")
    return found


_WANTED = {"number": "a number", "integer": "a whole number within 64 bits", "boolean": "true or false"}


def _integer(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:  # beyond that a float is no exact whole number
        return int(value)
    return value if type(value) is int and -(2**63) <= value < 2**63 else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def read_options(given: Any, where: str, shape: Shape, *, request_id: str | None, outputs: tuple[str, ...] = ()) -> Options:
    """The parameters of a request. Raises `RequestError`."""
    given = {} if given is None else given
    if not isinstance(given, dict):
        refuse(f"found {kind_of(given)}", where, "parameters are an object", 'Send {"partition_key": …} or leave it out')
    log = given.get("log", True)
    if not isinstance(log, bool):
        refuse(f"found {kind_of(log)}", f"{where}.log", "true or false", "Leave it out to have the answer logged")
    partition_key = given.get("partition_key")
    if partition_key is not None and not _is_partition(partition_key, shape.key_format):
        example = dt.datetime(2026, 1, 31).strftime(shape.key_format)
        refuse(
            f"found {short(partition_key)}",
            f"{where}.partition_key",
            f"a partition is written like {example}",
            "Correct it, or leave it out for the current one",
        )
    return Options(id=request_id, partition_key=partition_key, log=log, outputs=outputs)


def _is_partition(key: Any, key_format: str) -> bool:
    if not isinstance(key, str) or safe_name(key) != key:
        return False
    try:
        return dt.datetime.strptime(key, key_format).strftime(key_format) == key
    except ValueError:
        return False


def as_id(value: Any, where: str) -> str | None:
    """A request's id. Raises `RequestError`."""
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= 200 or not value.isprintable():
        refuse(
            f"found {short(value)}",
            where,
            "an id is a text of 1 to 200 printable characters",
            "Correct it, or leave it out to have one made",
        )
    return value


def as_list(value: Any, where: str) -> list[Any]:
    """`value` if it is a list. Raises `RequestError`."""
    if not isinstance(value, list):
        refuse(f"found {kind_of(value)}", where, "a list", "Send [ … ]")
    return value


def check_rows(n: int, where: str) -> None:
    """Raises `RequestError` where a request has too many rows."""
    if n > MAX_ROWS:
        rule = f"a request has {MAX_ROWS} rows at most"
        raise RequestError(f"found {n} rows", where=where, rule=rule, remedy="Send the rows in several requests", status=413)


def as_name(value: Any, where: str) -> str:
    """`value` if it can name a column. Raises `RequestError`."""
    if not isinstance(value, str):
        refuse(f"found {kind_of(value)}", where, "a column's name is text", "Write it in quotes")
    return value


def refuse(what: str, where: str, rule: str, remedy: str) -> NoReturn:
    """Raise the `RequestError` that says so."""
    raise RequestError(what, where=where, rule=rule, remedy=remedy)


def kind_of(value: Any) -> str:
    """What a JSON value is, in few words."""
    match value:
        case None:
            return "null"
        case bool() | int() | float() | str():
            return short(value)
        case list():
            return f"a list of {len(value)}"
        case _:
            return "an object"


def short(value: Any) -> str:
    """A JSON value, cut short."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of more digits, or lists of more depth, than Python prints
        text = "something too long to print"
    # repr() keeps half surrogates escaped, and the answer is UTF-8.
    return text if len(text) <= 60 else f"{text[:57]}…"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
