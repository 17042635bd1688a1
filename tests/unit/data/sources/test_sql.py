"""SQL against a PostgreSQL that the test starts, and against SQLite."""

import json
import os
import pwd
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from pipelines_lib.config import Project
from pipelines_lib.data.records import Batch
from pipelines_lib.data.sources import sql as module
from pipelines_lib.data.sources.context import SourceContext
from pipelines_lib.data.sources.sql import open_sql
from pipelines_lib.errors import ConfigError, DataError, Unavailable
from pipelines_lib.use_case import Sql

BINARIES = next((path for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)


class Postgres:
    """A server on loopback with the database `shop` and the login `reader`."""

    def __init__(self, folder: Path) -> None:
        assert BINARIES is not None
        self._user = "postgres" if os.getuid() == 0 else None  # PostgreSQL refuses to run as root
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        if self._user:
            os.chown(folder, pwd.getpwnam(self._user).pw_uid, -1)
        self._run(
            "initdb",
            "-D",
            folder / "data",
            "-A",
            "scram-sha-256",
            "-U",
            "owner",
            "--pwfile",
            self._password_file(),
            "-E",
            "UTF8",
            "--no-sync",
        )
        self.start()
        with self.owner("postgres") as database:
            database.execute(sqlalchemy.text("CREATE DATABASE shop"))

    def _password_file(self) -> Path:
        path = self.folder / "pw"
        path.write_text("owner-s3cret")
        path.chmod(0o644)
        return path

    def start(self) -> None:
        options = f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories={self.folder} -c fsync=off"
        self._run("pg_ctl", "-D", self.folder / "data", "-w", "-o", options, "-l", self.folder / "log", "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", self.folder / "data", "-m", "immediate", "-w", "stop")

    def _run(self, program: str, *arguments: Any) -> None:
        group = {"user": self._user, "group": self._user, "extra_groups": []} if self._user else {}
        done = subprocess.run(
            [BINARIES / program, *map(str, arguments)],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
            **group,
        )
        assert done.returncode == 0, done.stderr

    def owner(self, database: str = "shop") -> Any:
        url = f"postgresql+psycopg://owner:owner-s3cret@127.0.0.1:{self.port}/{database}"
        return sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, isolation_level="AUTOCOMMIT").connect()

    def connection(self, **changes: Any) -> str:
        """The connection in Airflow's JSON form."""
        own = {
            "conn_type": "postgres",
            "host": "127.0.0.1",
            "port": self.port,
            "login": "reader",
            "password": "r3ader-s3cret",
            "schema": "shop",
        }
        return json.dumps({**own, **changes})


SCHEMA = """
CREATE TABLE orders (id bigint PRIMARY KEY, at timestamptz, day date, amount numeric(20, 4), paid boolean, note text, weight double precision,
                     tags text[], more jsonb, mark bytea, who uuid, took interval, clock time, address inet, level real);
INSERT INTO orders VALUES
  (3, '2026-01-01 23:59:59.5+00', '2026-01-01', 12345678901234.5000, true, 'naïve "quoted", 50%', 0.1, '{a,b}', '{"k": [1, 2.50]}', '\\x00ff',
   '00000000-0000-0000-0000-000000000001', '1 hour 0.5 seconds', '10:30', '10.0.0.1', 0.1),
  (1, '2026-01-01 01:00+01', '2026-01-01', 0.1, false, '', 1e300, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
  (2, '2026-01-01 12:00+00', '2026-01-01', NULL, NULL, NULL, NULL, '{}', 'null', NULL, NULL, NULL, NULL, NULL, NULL),
  (9, '2026-01-02 00:00+00', '2026-01-02', 1, true, 'next day', 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
CREATE ROLE reader LOGIN PASSWORD 'r3ader-s3cret';
GRANT SELECT, INSERT, DELETE ON orders TO reader;
GRANT CREATE ON SCHEMA public TO reader;
CREATE TABLE closed (id int);
"""


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    if BINARIES is None:
        pytest.skip("PostgreSQL is not installed")
    folder = Path(tempfile.mkdtemp(prefix="sluice-pg-"))
    folder.chmod(0o755)
    server = Postgres(folder)
    try:
        with server.owner() as database:
            database.execute(sqlalchemy.text(SCHEMA.replace(":", "\\:")))
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


@pytest.fixture
def context(tmp_path: Path, make_use_case: Callable[..., Any]) -> SourceContext:
    return SourceContext(Project(tmp_path, tmp_path / "home", tmp_path / "cases", "local"), make_use_case(), "2026-01-01")


@pytest.fixture
def read(context: SourceContext, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Batch]]:
    """Returns `read(connection, query, **settings)`: the batches of the partition 2026-01-01."""

    def batches(connection: str, query: str, order_by: list[str] | None = None, **settings: Any) -> list[Batch]:
        monkeypatch.setenv("SLUICE_CONN_SHOP_DB", connection)
        sql = Sql.model_validate({"connection": "shop_db", "query": query, "order_by": order_by or ["id"], **settings})
        found = []
        for records in open_sql(sql, context):
            assert records.part == ""
            for batch in records.batches:
                assert batch.rows.column_names == records.names
                found.append(batch)
        return found

    return batches


IN_PARTITION = "SELECT * FROM orders WHERE at >= :start AND at < :end"


def test_every_type_has_its_canonical_text(postgres, read):
    [batch] = read(postgres.connection(), IN_PARTITION)

    assert batch.numbers.to_pylist() == [1, 2, 3]
    assert batch.rows.to_pylist() == [
        {"id": "1", "at": "2026-01-01T00:00:00", "day": "2026-01-01", "amount": "0.1000", "paid": "false", "note": "", "weight": "1e+300", **dict.fromkeys(("tags", "more", "mark", "who", "took", "clock", "address", "level"))},
        {"id": "2", "at": "2026-01-01T12:00:00", "day": "2026-01-01", "tags": "[]", **dict.fromkeys(("amount", "paid", "note", "weight", "more", "mark", "who", "took", "clock", "address", "level"))},
        {
            "id": "3", "at": "2026-01-01T23:59:59.500000", "day": "2026-01-01", "amount": "12345678901234.5000", "paid": "true",
            "note": 'naïve "quoted", 50%', "weight": "0.1", "tags": '["a","b"]', "more": '{"k":[1,2.5]}', "mark": "AP8=",
            "who": "00000000-0000-0000-0000-000000000001", "took": "3600.5", "clock": "10:30:00", "address": "10.0.0.1", "level": "0.1",
        },
    ]  # fmt: skip


@pytest.mark.parametrize(
    "where",
    ["day = :partition", "day = CAST(:partition AS date)", "day >= :start AND day < :end", "id <= :most AND note LIKE :like OR id = 2"],
)
def test_a_partition_is_asked_for_with_values(postgres, read, where):
    params = {"most": 3, "like": "%"} if ":most" in where else {}

    [batch] = read(postgres.connection(), f"SELECT id, note FROM orders WHERE {where}", params=params)

    assert batch.rows["id"].to_pylist() == ["1", "2", "3"]


def test_a_value_is_no_sql(postgres, read):
    evil = "' OR 1=1; DROP TABLE orders; --"

    [batch] = read(postgres.connection(), "SELECT id, day FROM orders WHERE note = :note", params={"note": evil})

    assert batch.rows.num_rows == 0
    assert batch.rows.schema.names == ["id", "day"]
    assert read(postgres.connection(), "SELECT id FROM orders WHERE day = :partition")[0].rows.num_rows == 3


def test_a_big_answer_comes_in_batches(postgres, read, monkeypatch):
    monkeypatch.setattr(module, "_BATCH", 1000)
    query = "SELECT n AS id, n % 7 AS rest, CASE WHEN n > 2000 THEN n * 0.5 END AS half FROM generate_series(1, 2500) AS n -- all"

    batches = read(postgres.connection(), query)

    assert [batch.rows.num_rows for batch in batches] == [1000, 1000, 500]
    assert [n for batch in batches for n in batch.numbers.to_pylist()] == list(range(1, 2501))
    assert [n for batch in batches for n in batch.rows["id"].to_pylist()] == [str(n) for n in range(1, 2501)]
    assert str(batches[0].rows["half"].type) == "string"  # all null there


def test_the_same_rows_in_the_same_order_whatever_the_tables_order(postgres, read):
    with postgres.owner() as database:
        database.execute(sqlalchemy.text("UPDATE orders SET note = note WHERE id = 1"))  # moves the row to the table's end

    assert read(postgres.connection(), IN_PARTITION)[0].rows["id"].to_pylist() == ["1", "2", "3"]


@pytest.mark.parametrize("size", [2, 3, 100])
def test_an_order_that_leaves_a_tie_is_refused(postgres, read, monkeypatch, size):
    monkeypatch.setattr(module, "_BATCH", size)
    query = "SELECT v AS a, CAST(NULL AS int) AS b FROM (VALUES (1), (2), (5), (3), (5)) AS t(v)"

    with pytest.raises(DataError, match=r"rows 4 and 5 agree on a, b.*primary key"):
        read(postgres.connection(), query, order_by=["a", "b"])


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("SELECT nothing FROM orders", 'column "nothing" does not exist'),
        ("SELECT id FROM no_such", 'relation "no_such" does not exist'),
        ("SELECT id FROM closed", "permission denied for table closed"),
        ("SELECT note FROM orders", "id"),
        ("SELECT id, id FROM orders", "ambiguous"),
        ("SELECT id, note AS a, day AS a FROM orders", "two columns of the query are called 'a'"),
        ("WITH gone AS (DELETE FROM orders RETURNING id) SELECT id FROM gone", "WITH clause containing a data-modifying statement"),
        ("SELECT id FROM orders); DELETE FROM orders; SELECT (1", "refuses the query"),
        ("SELECT nextval('s') AS id FROM (SELECT 1) AS x", "does not exist"),
        ("SELECT box(point(0,0), point(1,1)) AS b, 1 AS id", None),
    ],
)
def test_a_wrong_query_is_told_with_what_the_database_says(postgres, read, query, says):
    if says is None:
        assert read(postgres.connection(), query)[0].rows["b"].to_pylist() == ["(1,1),(0,0)"]
        return
    with pytest.raises(DataError, match=says):
        read(postgres.connection(), query)
    with postgres.owner() as database:
        assert database.execute(sqlalchemy.text("SELECT count(*) FROM orders")).scalar() == 4


def test_a_function_that_writes_is_refused(postgres, read):
    with postgres.owner() as database:
        database.execute(sqlalchemy.text("CREATE OR REPLACE FUNCTION sneak() RETURNS int LANGUAGE sql AS 'DELETE FROM orders; SELECT 1'"))

    with pytest.raises(DataError, match="read-only transaction"):
        read(postgres.connection(), "SELECT sneak() AS id")


def test_a_value_that_does_not_fit_is_not_quoted(postgres, read):
    with pytest.raises(DataError, match="does not fit") as raised:
        read(postgres.connection(), "SELECT id, CAST(note AS int) AS n FROM orders")

    shown = "".join(traceback.format_exception(raised.value))
    assert "naïve" not in shown
    assert "next day" not in shown


def test_a_query_that_takes_too_long_is_ended(postgres, read):
    started = time.monotonic()

    with pytest.raises(Unavailable, match=r"statement timeout.*raise `timeout`"):
        read(postgres.connection(), "SELECT 1 AS id FROM pg_sleep(30)", timeout="1s")
    assert time.monotonic() - started < 10


def test_no_answer_is_worth_a_retry_and_shows_no_password(postgres, read):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed_port = free.getsockname()[1]
    for changes in ({"port": closed_port}, {"password": "wr0ng-s3cret"}, {"schema": "no_such"}):
        with pytest.raises(Unavailable, match="did not answer") as raised:
            read(postgres.connection(**changes), "SELECT 1 AS id")
        assert "s3cret" not in "".join(traceback.format_exception(raised.value))


def test_a_connection_lost_between_two_batches(postgres, read, context, monkeypatch):
    monkeypatch.setattr(module, "_BATCH", 10)
    monkeypatch.setenv("SLUICE_CONN_SHOP_DB", postgres.connection())
    sql = Sql(connection="shop_db", query="SELECT n AS id, repeat('x', 10000) AS x FROM generate_series(1, 5000) AS n", order_by=["id"])

    opened = open_sql(sql, context)
    records = next(opened)
    assert next(records.batches).rows.num_rows == 10
    with postgres.owner() as database:
        database.execute(sqlalchemy.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'reader'"))
    with pytest.raises(Unavailable, match="did not answer"):
        list(records.batches)
    opened.close()


def test_no_connection_is_left_open(postgres, read):
    read(postgres.connection(), IN_PARTITION)
    with pytest.raises(DataError):
        read(postgres.connection(), "SELECT nothing FROM orders")

    with postgres.owner() as database:
        assert database.execute(sqlalchemy.text("SELECT count(*) FROM pg_stat_activity WHERE usename = 'reader'")).scalar() == 0


# --- SQLite ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def lite(tmp_path: Path) -> str:
    path = tmp_path / "shop é.db"
    database = sqlite3.connect(path)
    database.executescript(
        "CREATE TABLE visits (id INTEGER, at TEXT, score REAL, mark BLOB);"
        "INSERT INTO visits VALUES (2, '2026-01-01T08:00:00', 0.30000000000000004, x'00'), (1, '2026-01-01', 3, NULL),"
        "(3, '2026-01-02 00:00:00', 9, NULL), (4, '2025-12-31 23:59:59', 9, NULL);"
    )
    database.close()
    return json.dumps({"conn_type": "sqlite", "host": str(path)})


def test_sqlite(lite, read):
    [batch] = read(lite, "SELECT * FROM visits WHERE datetime(at) >= :start AND datetime(at) < :end")

    assert batch.rows.to_pylist() == [
        {"id": "1", "at": "2026-01-01", "score": "3", "mark": None},
        {"id": "2", "at": "2026-01-01T08:00:00", "score": "0.30000000000000004", "mark": "AA=="},
    ]


@pytest.mark.parametrize(
    ("query", "error", "says"),
    [
        ("SELECT id FROM no_such", DataError, "no such table: no_such"),
        ("SELECT bad syntax here FROM", DataError, "syntax error"),
        (
            "WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n) SELECT max(id) AS id FROM n",
            Unavailable,
            "interrupted",
        ),
    ],
)
def test_sqlite_says_what_is_wrong(lite, read, query, error, says):
    with pytest.raises(error, match=says):
        read(lite, query, timeout="1s")


def test_sqlite_makes_no_file(tmp_path, read):
    with pytest.raises(DataError, match="no SQLite file"):
        read(json.dumps({"conn_type": "sqlite", "host": str(tmp_path / "none.db")}), "SELECT 1 AS id")
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize(
    ("kind", "says"),
    [("nodb", "no dialect for its type.*sqlalchemy_scheme"), ("mysql+pymysql", "driver pymysql is not installed"), ("http", "no dialect")],
)
def test_a_connection_that_is_no_database(read, kind, says):
    with pytest.raises(ConfigError, match=says):
        read(json.dumps({"conn_type": kind, "host": "h"}), "SELECT 1 AS id")
