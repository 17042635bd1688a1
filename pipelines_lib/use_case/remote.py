"""Sources that are no files, and series of readings made into rows: `sql:`, `http:`, `sensors:` of a source."""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from pipelines_lib.use_case.base import ConnectionName, Duration, Settings

PLACEHOLDERS = ("partition", "year", "month", "day", "hour")
"""Parts of the partition that a path, an address or a parameter may name in braces."""


def has_placeholder(text: object, *more: str) -> bool:
    """Whether `text` names a part of the partition: `{partition}`, `{year}`, `{month}`, `{day}`, `{hour}`, or one of `more`."""
    return any(f"{{{name}}}" in str(text) for name in (*PLACEHOLDERS, *more))


class Sql(Settings):
    """Rows of a database: one query a partition, never committed, and in a transaction that may only read where it is PostgreSQL or SQLite."""

    connection: ConnectionName
    """The Airflow connection of the database; any that SQLAlchemy has a dialect and this environment a driver for."""
    query: str = Field(min_length=1)
    """A SELECT. `:partition`, `:start` and `:end` (of the partition, UTC, the end not included) and the names of `params` are bound to it as
    values; they can't stand for a table or a column."""
    order_by: list[str] = Field(min_length=1)
    """Columns of the result that no two rows agree on. They say which row is the first, so that a row keeps its name when it is read again."""
    params: dict[str, str | int | float | bool | None] = Field(default_factory=dict)
    """Further values for the query."""
    timeout: Duration = timedelta(minutes=10)
    """How long the database may take over one step of the query. PostgreSQL and SQLite are held to it."""

    @field_validator("query")
    @classmethod
    def _one_select(cls, value: str) -> str:
        query = value.strip().removesuffix(";").rstrip()
        without_comments = re.sub(r"--[^\n]*(\n|$)|/\*.*?\*/", " ", query, flags=re.DOTALL)
        if not re.match(r"\s*\(*\s*(select|with|values)\b", without_comments, re.IGNORECASE):
            raise ValueError("a source only reads: write one SELECT (or WITH … SELECT), whose rows are the partition's")
        return query

    @field_validator("params")
    @classmethod
    def _own_names(cls, value: Mapping[str, object]) -> Mapping[str, object]:
        for name in value:
            if name in {"partition", "start", "end"}:
                raise ValueError(f"parameter {name!r} is filled in with the partition's own; rename it")
            if not re.fullmatch(r"[A-Za-z_]\w*", name):
                raise ValueError(f"parameter {name!r}: a name holds letters, digits and underscores; rename it")
        return value

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        known = {"partition", "start", "end", *self.params}
        used = self.names()
        if unknown := sorted(used - known):
            raise ValueError(
                f"the query names :{unknown[0]}, which nothing fills in; known are {', '.join(sorted(known))}. Add it to params"
            )
        if unused := sorted(set(self.params) - used):
            raise ValueError(f"parameter {unused[0]!r} is not in the query; write :{unused[0]} there, or remove it")
        return self

    def names(self) -> set[str]:
        """Names of the values that the query asks for (`:name`; `::type` is a cast and `\\:` a colon)."""
        return set(re.findall(r"(?<![:\w\\]):(\w+)(?!:)", self.query))

    def by_partition(self) -> bool:
        """Whether each partition has an answer of its own."""
        return bool(self.names() & {"partition", "start", "end"})


class Pages(Settings):
    """How the API says that there is more; nothing set: one page is all."""

    by: Literal["none", "page", "offset", "cursor", "link"] = "none"
    """`page`: a page's number is asked for; `offset`: how many records to skip; `cursor`: a mark from the page before; `link`: the header
    `Link` with `rel="next"`. `page` and `offset` end at the first page without records."""
    param: str | None = None
    """The request's parameter for the number, the offset or the mark: `page`, `offset`, `cursor` where nothing is said."""
    start: int = Field(default=1, ge=0)
    """Number of the first page."""
    size: dict[str, int] = Field(default_factory=dict, max_length=1)
    """The request's parameter for how many records a page has, and how many to ask for: `{limit: 500}`."""
    next: str | None = None
    """`cursor`: where in the answer the next mark stands, with dots (`meta.next`). Absent, null, false, 0 or empty there: the last page. A mark that is
    an address is followed as it is."""
    at_most: int = Field(default=10_000, ge=1)
    """Pages after which something must be wrong."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.by == "cursor") != (self.next is not None):
            raise ValueError("`next` says where the next mark stands in the answer: `by: cursor` needs it, and the others have none")
        if self.param is not None and self.by in ("none", "link"):
            raise ValueError(f"`by: {self.by}` sets no parameter; remove `param`")
        return self


class Retry(Settings):
    """How long an API that fails is asked again: 408, 425, 429, 500, 502, 503, 504, a lost connection, a page that breaks off."""

    attempts: int = Field(default=6, ge=1, le=20)
    """Requests for one page, the first included."""
    first_wait: float = Field(default=1.0, gt=0, le=60)
    """Seconds before the second attempt; each further wait is twice as long. An answer's `Retry-After` counts instead where it is longer."""
    longest: Duration = timedelta(minutes=5)
    """Time spent waiting on one page before the task gives up, to be tried again by Airflow."""


class Http(Settings):
    """Records of an HTTP API that answers in JSON."""

    url: str
    """The address; with a connection it may begin at `/`. Placeholders in braces: `{partition}`, `{year}`, `{month}`, `{day}`, `{hour}`,
    `{start}`, `{end}` (ISO 8601, UTC)."""
    connection: ConnectionName | None = None
    """The Airflow connection with the host and the secret: with a login, login and password as HTTP basic authentication; otherwise the
    password as a token. Strings under `headers` of its extra are sent as headers."""
    auth_header: str = "Authorization"
    """The header that carries the token: as `Bearer <token>` in `Authorization`, by itself in any other."""
    params: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """The request's parameters; placeholders are filled in."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Further headers. No secrets: these stand in a file that everyone reads."""
    records: str = ""
    """Where in the answer the list of records stands, with dots (`data.items`); empty where the answer is the list."""
    pages: Pages = Pages()
    rate: float | None = Field(default=None, gt=0)
    """Requests a second at most."""
    retry: Retry = Retry()
    timeout: Duration = timedelta(seconds=60)
    """How long the API may take between two bytes of an answer."""

    @model_validator(mode="after")
    def _an_address(self) -> Self:
        if not re.match(r"https?://[^/\s]+", self.url) and not (self.url.startswith("/") and self.connection is not None):
            raise ValueError(
                f"{self.url!r} is not an address; write it with its scheme (https://…), or from its / on where the connection has the host"
            )
        for name in self.headers:
            if name.casefold() in {"authorization", "cookie", self.auth_header.casefold()}:
                raise ValueError(f"header {name!r} would put a secret into this file; keep it in the connection")
        return self

    def by_partition(self) -> bool:
        """Whether each partition has an answer of its own."""
        return any(has_placeholder(text, "start", "end") for text in (self.url, *self.params.values()))


Aggregate = Literal["mean", "min", "max", "sum", "count", "last"]


class Fill(Settings):
    """What stands in a step without a reading."""

    method: Literal["forward", "interpolate"]
    """`forward`: the last value before it; `interpolate`: on the line between its neighbours, which looks at the reading that comes after."""
    limit: int = Field(default=1, ge=1)
    """Steps in a row that are filled; the rest of a longer gap stays missing."""


class Sensors(Settings):
    """Readings made into rows: one a machine (or whatever is measured) and step of time."""

    layout: Literal["long", "wide"]
    """`long`: a record is one reading, with the sensor's name in it; `wide`: a record has a column a sensor."""
    entity: str
    """The source's column that says what was measured."""
    time: str
    """Its column with the time of the reading."""
    name: str | None = None
    """`long`: its column with the sensor's name."""
    value: str | None = None
    """`long`: its column with the reading."""
    columns: dict[str, Aggregate] = Field(min_length=1)
    """The sensors that become columns, and what stands for the several readings of a step: `last` the text of the last one, which need be no
    number. For `last` and `count` any text but an empty one is a reading, `n/a` too. Readings of other sensors are left out, and counted."""
    every: Duration
    """Length of a step. Steps begin at the partition's start, and a whole number of them makes a partition."""
    stamp: Literal["end", "start"] = "end"
    """Which time a row carries: the end of its step, when all of it is known, or its start."""
    fill: Fill | None = None
    """Steps without a reading stay missing where nothing is said, and a step without any is no row."""
    window: int | None = Field(default=None, ge=2, le=1000)
    """So many steps of each sensor that is a number stand beside each row, its own the last: `heat_0` … `heat_15` for 16. They come from the same
    partition, so at its start, and where a step is no row, they are missing."""

    @property
    def windows(self) -> dict[str, list[str]]:
        """The sensors that have a window, and its columns, oldest first."""
        steps = range(self.window or 0)
        return {name: [f"{name}_{step}" for step in steps] for name, how in self.columns.items() if steps and how != "last"}

    @property
    def made(self) -> list[str]:
        """The columns of the rows."""
        return [self.entity, self.time, *self.columns, *(name for window in self.windows.values() for name in window)]

    @model_validator(mode="after")
    def _fits_the_layout(self) -> Self:
        if self.layout == "long" and None in (self.name, self.value):
            raise ValueError("`layout: long` needs `name` and `value`: the columns with the sensor's name and with the reading")
        if self.layout == "wide" and (self.name, self.value) != (None, None):
            raise ValueError(
                "`layout: wide` has a column a sensor, so there is no `name` and no `value`; remove them, or set `layout: long`"
            )
        taken = [self.entity, self.time, *((self.name, self.value) if self.layout == "long" else ())]
        if len(set(taken)) != len(taken):
            raise ValueError(f"{taken} name one column twice; each has its own")
        if both := sorted({self.entity, self.time} & set(self.columns)):
            raise ValueError(f"column {both[0]!r} is no reading; remove it from `columns`")
        if self.window is not None and not self.windows:
            raise ValueError("`window` is of sensors that are numbers, and all are `last`, the text of a reading; remove it")
        if len(set(self.made)) < len(self.made):
            name = next(name for name in self.made if self.made.count(name) > 1)
            raise ValueError(
                f"a window's column would be called {name!r}, as another column is; rename that in the source, or remove `window`"
            )
        if self.fill is not None and self.fill.method == "interpolate" and "last" in self.columns.values():
            raise ValueError(
                "`last` keeps a reading as the text it was, and there is no line between two texts; fill it `forward`, or take the mean"
            )
        return self
