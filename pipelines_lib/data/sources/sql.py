"""A database as a source: one query a partition, read in batches as the database finds the rows.

The query is the inside of `SELECT * FROM (…) ORDER BY …`, so it can't be anything but a query, and what differs from
partition to partition is bound to it as values. The transaction may only read.
"""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Connection as Database
from sqlalchemy import CursorResult, Engine, NullPool, bindparam, column, create_engine, literal_column, select, text, types
from sqlalchemy import exc as errors

from pipelines_lib import connections
from pipelines_lib.data.records import Batch, Records
from pipelines_lib.data.sources.context import SourceContext
from pipelines_lib.data.sources.values import texts
from pipelines_lib.errors import ConfigError, DataError, SluiceError, Unavailable
from pipelines_lib.use_case import Sql
from pipelines_lib.use_case.base import duration_text

_BATCH = 100_000
"""Rows of a batch: Python objects a cell until they are text, so fewer than a file's batch has."""
_CONNECT_SECONDS = 10


def open_sql(sql: Sql, context: SourceContext) -> Iterator[Records]:
    """The rows of the partition, in the order of `order_by`. The connection is open until the next item is asked for.

    Raises `DataError` where the database refuses the query, or where `order_by` does not order the rows; `Unavailable` where it
    does not answer.
    """
    connection = connections.connection(sql.connection)
    with (
        _explained(sql, connection),
        _reading(sql, connection) as database,
        database.execution_options(stream_results=True, max_row_buffer=_BATCH).execute(
            _ordered(sql), _bound(sql, context, database)
        ) as result,
    ):
        names = list(result.keys())
        _check_names(sql, names)
        yield Records("", names, _batches(sql, result, names, connection), {"database": database.dialect.name})


def _batches(sql: Sql, result: CursorResult[Any], names: list[str], connection: connections.Connection) -> Iterator[Batch]:
    """At least one, so that an empty answer has its columns too."""
    number, last = 1, None
    while True:
        with _explained(sql, connection):
            fetched = result.fetchmany(_BATCH)
        if not fetched and number > 1:
            return
        cells = zip(*fetched, strict=True) if fetched else ((),) * len(names)
        rows = pa.table({name: texts(values, name) for name, values in zip(names, cells, strict=True)})
        keys = rows.select(sql.order_by)
        _check_order(sql, keys if last is None else pa.concat_tables([last, keys]), number)
        last = keys.slice(max(0, len(fetched) - 1))
        yield Batch(rows, pa.array(range(number, number + len(fetched)), pa.int64()))
        number += len(fetched)
        if not fetched:
            return


def _ordered(sql: Sql) -> Any:
    """The query within one that orders it. A line end keeps a comment at its end from taking the bracket."""
    # Text is bound without a type, or PostgreSQL would refuse to compare it with a date.
    query = text(sql.query + "\n").bindparams(*(bindparam(name, type_=types.NullType()) for name in _texts_in(sql)))
    rows = query.columns(*(column(name) for name in sql.order_by)).subquery("partition_rows")
    return select(literal_column("*")).select_from(rows).order_by(*(rows.c[name] for name in sql.order_by))


def _texts_in(sql: Sql) -> list[str]:
    return [name for name in sorted(sql.names()) if name == "partition" or isinstance(sql.params.get(name), str)]


def _bound(sql: Sql, context: SourceContext, database: Database) -> dict[str, object]:
    """The values of the query's names. SQLite has no times: it is given the text that its own `datetime()` writes."""
    moments = {"start": context.start, "end": context.end}
    own: dict[str, object] = {"partition": context.partition_key, **moments}
    if database.dialect.name == "sqlite":
        own |= {name: str(moment) for name, moment in moments.items()}
    return {name: value for name, value in {**own, **sql.params}.items() if name in sql.names()}


def _check_names(sql: Sql, names: Sequence[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{_where(sql)}: two columns of the query are called {twice[0]!r}; give one another name (… AS other)")


def _check_order(sql: Sql, keys: pa.Table, number: int) -> None:
    """Neighbours must differ: of rows that agree on every column of the order, nobody can say which comes first."""
    n = keys.num_rows - 1
    if n < 1:
        return
    same = pa.array([True] * n)
    for name in keys.column_names:
        this, following = keys[name].slice(0, n).combine_chunks(), keys[name].slice(1).combine_chunks()
        equal = pc.or_(pc.fill_null(pc.equal(this, following), False), pc.and_(pc.is_null(this), pc.is_null(following)))
        same = pc.and_(same, equal)
    if pc.any(same).as_py():
        first = number + pc.index(same, True).as_py() - (0 if number == 1 else 1)
        raise DataError(
            f"{_where(sql)}: rows {first} and {first + 1} agree on {', '.join(sql.order_by)}, so which of them comes first is chance, and "
            "rows could change their names; add a column to order_by that tells every two rows apart, such as the primary key"
        )


# --- the connection ------------------------------------------------------------------------------------------------


@contextmanager
def _reading(sql: Sql, connection: connections.Connection) -> Iterator[Database]:
    """A connection in a transaction that may only read, and is never committed."""
    engine = _engine(connection)
    try:
        with engine.connect() as database:
            _hold_to(database, sql.timeout.total_seconds())
            yield database
    finally:
        engine.dispose()


def _engine(connection: connections.Connection) -> Engine:
    try:
        url = connection.url()
        dialect = url.get_backend_name()
        if dialect == "sqlite":
            path = Path(url.database or "")
            if not path.is_file():
                raise DataError(f"connection {connection.name!r}: there is no SQLite file {path}; put it there, or correct the connection")
            # Opened by a file's URI, which is the one way to ask SQLite for reading only.
            url = url.set(database=path.absolute().as_uri(), query={**url.query, "mode": "ro", "uri": "true"})
        arguments = {"connect_timeout": _CONNECT_SECONDS} if dialect == "postgresql" else {}
        return create_engine(url, poolclass=NullPool, connect_args=arguments)
    except errors.NoSuchModuleError as error:
        raise ConfigError(
            f"connection {connection.name!r}: SQLAlchemy has no dialect for its type ({connection.type}); set the type to a database's, or the "
            "extra `sqlalchemy_scheme` to a dialect and driver such as mysql+pymysql, and install its package"
        ) from error
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"connection {connection.name!r}: its driver {error.name} is not installed where jobs run; install it there, or set the "
            "connection's extra `sqlalchemy_scheme` to a dialect and driver that are"
        ) from error


def _hold_to(database: Database, seconds: float) -> None:
    """Reading only, an end to a query that takes too long, and UTC: what the transaction is held to."""
    if database.dialect.name == "postgresql":
        for setting in ("TRANSACTION READ ONLY", f"LOCAL statement_timeout = {round(seconds * 1000)}", "LOCAL TIME ZONE 'UTC'"):
            database.exec_driver_sql(f"SET {setting}")
    elif database.dialect.name == "sqlite":
        file = database.connection.driver_connection
        assert isinstance(file, sqlite3.Connection)
        deadline = time.monotonic() + seconds
        file.set_progress_handler(lambda: time.monotonic() > deadline, 100_000)


@contextmanager
def _explained(sql: Sql, connection: connections.Connection) -> Iterator[None]:
    """What the database says, as an error of ours; without the statement's values, and without the password wherever it stands."""
    try:
        yield
    except errors.SQLAlchemyError as error:
        explained = _explanation(sql, error)
        message = str(explained)
        raise type(explained)(message.replace(connection.password, "***") if connection.password else message) from None


def _explanation(sql: Sql, error: errors.SQLAlchemyError) -> SluiceError:
    said = _first_line(error.orig) if isinstance(error, errors.DBAPIError) else type(error).__name__
    if isinstance(error, errors.DataError):
        # Such a message quotes the value, which may be a person's.
        return DataError(
            f"{_where(sql)}: a value in the database does not fit what the query makes of it ({type(getattr(error, 'orig', error)).__name__}; "
            "the value is not shown here); correct the query's casts and comparisons"
        )
    refused = isinstance(error, errors.ProgrammingError | errors.InternalError | errors.NotSupportedError | errors.CompileError)
    if refused or getattr(getattr(error, "orig", None), "sqlite_errorname", None) in ("SQLITE_ERROR", "SQLITE_READONLY", "SQLITE_NOTADB"):
        return DataError(f"{_where(sql)}: the database refuses the query: {said}; correct `query`, `order_by`, or the login's rights")
    return Unavailable(
        f"{_where(sql)}: the database did not answer: {said}. A retry may help; where the query took longer than {duration_text(sql.timeout)}, narrow it, "
        "add an index, or raise `timeout`"
    )


def _first_line(error: BaseException | None) -> str:
    """The message itself; the lines below it may quote a row."""
    primary = getattr(getattr(error, "diag", None), "message_primary", None)
    return str(primary or error).strip().partition("\n")[0]


def _where(sql: Sql) -> str:
    return f"query through connection {sql.connection!r}"
