import datetime as dt
import itertools
import json
import sqlite3
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipelines_lib.data.records import Batch, Records
from pipelines_lib.data.sources import joins as module
from pipelines_lib.data.sources.context import SourceContext
from pipelines_lib.data.sources.joins import open_rows
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import DataError
from pipelines_lib.jobs import ingest
from pipelines_lib.use_case import Join, Source

KEY = "2026-01-03"
ORDERS = """\
id,who,when,price,count,colour,action
a,c1,2026-01-03T10:00:00,1,1,red,buy
b, c2 ,2026-01-03T11:00:00,1,1,red,buy
c,c9,2026-01-03T12:00:00,1,1,red,view
d,,2026-01-03T13:00:00,1,1,red,view
e,c1,2026-01-03T09:00:00,1,1,red,view
"""
CUSTOMERS = {"name": "customers", "source": {"path": "{home}/customers.csv"}, "on": {"who": "customer"}, "columns": ["age", "town"]}


@pytest.fixture
def rows(sandbox, make_use_case) -> Callable[..., list[dict[str, Any]]]:
    """Returns `rows(*joins, **files)`: the orders of `KEY` with what is joined to them; files are written below the state folder."""

    def read(*joins: dict[str, Any], **files: str) -> list[dict[str, Any]]:
        sandbox.source(KEY, ORDERS)
        for name, text in files.items():
            (sandbox.project.home / f"{name}.csv").write_text(text, encoding="utf-8")
        context = SourceContext(sandbox.project, make_use_case(joins=list(joins)), KEY)
        read.records = list(open_rows(context))
        read.batches = [batch for records in read.records for batch in records.batches]
        assert all(batch.rows.column_names == read.records[0].names for batch in read.batches)
        return pa.concat_tables([batch.rows for batch in read.batches]).to_pylist()

    return read


def test_many_rows_get_the_one_record_of_their_key(rows):
    found = rows(CUSTOMERS, customers="customer,age,town,more\nc2,20,Köln,x\nc1 ,10,,y\nc3,30,Bonn,z\n,99,Ghost,q\n")

    assert [(row["id"], row["age"], row["town"]) for row in found] == [
        ("a", "10", None), ("b", "20", "Köln"), ("c", None, None), ("d", None, None), ("e", "10", None),
    ]  # fmt: skip
    assert "more" not in found[0]
    assert rows.batches[0].numbers.to_pylist() == [2, 3, 4, 5, 6]
    assert rows.records[0].facts["joined_customers"] == {"n_records": 3, "n_rows_without": 2}


def test_rows_without_a_record_go_to_quarantine_where_one_is_required(rows):
    found = rows({**CUSTOMERS, "required": True}, customers="customer,age,town\nc1,10,Bonn\n")

    assert [row["id"] for row in found] == ["a", "e"]
    [batch] = rows.batches
    assert batch.numbers.to_pylist() == [2, 6]
    assert [(u.number, u.why) for u in batch.unreadable] == [(n, "join: customers has no record for it") for n in (3, 4, 5)]
    assert json.loads(batch.unreadable[1].text)["id"] == "c"


def test_names_may_change_and_joins_follow_each_other(rows):
    first = {**CUSTOMERS, "columns": {"age": "customer_age", "town": "lives_in"}}
    towns = {"name": "towns", "source": {"path": "{home}/towns.csv"}, "on": {"lives_in": "town"}, "columns": ["size"]}

    found = rows(first, towns, customers="customer,age,town\nc1,10,Bonn\n", towns="town,size\nBonn,330000\n")

    assert [(row["customer_age"], row["lives_in"], row["size"]) for row in found[:2]] == [("10", "Bonn", "330000"), (None, None, None)]


def test_a_key_of_several_columns_is_compared_part_by_part(rows):
    join = {"name": "shades", "source": {"path": "{home}/shades.csv"}, "on": {"who": "a", "colour": "b"}, "columns": ["shade"]}

    found = rows(join, shades="a,b,shade\nc1,red,dark\nc,1red,wrong\nc1r,ed,wrong\n")

    assert [row["shade"] for row in found] == ["dark", None, None, None, "dark"]


def test_a_lookup_of_each_partition(rows):
    join = {**CUSTOMERS, "source": {"path": "{home}/{partition}.csv"}}

    assert [row["age"] for row in rows(join, **{KEY: "customer,age,town\nc1,7,Bonn\n"})] == ["7", None, None, None, "7"]


@pytest.mark.parametrize(
    ("changes", "text", "says"),
    [
        (
            {},
            "customer,age,town\nc1,1,A\nc2,2,B\n c1,3,C\nc1,4,D\n",
            r"2 records repeat the customer of another, for instance record 4, 5.*set `asof`",
        ),
        ({}, "customer,years,town\nc1,1,A\n", "has no column 'age'"),
        ({"on": ["who"]}, "customer,age,town\nc1,1,A\n", "has no column 'who'"),
        ({"on": {"whom": "customer"}}, "customer,age,town\nc1,1,A\n", "the rows: has no column 'whom'; did you mean 'who'"),
        ({"columns": {"age": "Price"}}, "customer,age,town\nc1,1,A\n", r"have a column 'Price' already.*columns: {Price: customers_Price}"),
        ({}, "customer,age,town\nc1,1,A,more\nc2,1,A\nc3,1,A\n", r"record 2 can't be read"),
    ],
)
def test_a_join_that_is_wrong(rows, changes, text, says):
    with pytest.raises(DataError, match=says) as raised:
        rows({**CUSTOMERS, **changes}, customers=text)
    assert "joins.customers" in str(raised.value)
    assert "c1" not in str(raised.value)


def test_a_lookup_that_is_not_there(rows):
    with pytest.raises(DataError, match="there is no file"):
        rows(CUSTOMERS)


@pytest.mark.parametrize(
    ("joins", "says"),
    [
        ([{**CUSTOMERS, "source": {"path": "x.csv", "replay": {}}}], "`replay` and `land` are for the rows' own source"),
        ([{**CUSTOMERS, "columns": {"age": "x", "town": "X"}}], "gives 2 columns 1 names"),
        ([CUSTOMERS, CUSTOMERS], "two joins are called 'customers'"),
        ([{**CUSTOMERS, "on": []}], "at least 1 item"),
    ],
)
def test_settings_that_do_not_fit(make_use_case, joins, says):
    with pytest.raises(ValidationError) as raised:
        make_use_case(joins=joins)
    assert says in str(raised.value)


def test_a_row_without_a_time_can_be_compared_with_none(make_use_case):
    columns = {name: column for name, column in make_use_case().model_dump(mode="json")["columns"].items() if name != "when"}
    asof = {**CUSTOMERS, "asof": {"time": "since", "within": "7d"}}

    with pytest.raises(ValidationError, match="no column has `role: time`"):
        make_use_case(columns=columns, joins=[asof])
    make_use_case(columns=columns, joins=[{**asof, "asof": {**asof["asof"], "row": "when"}}])


# --- as of a time ------------------------------------------------------------------------------------------------------

ASOF = {**CUSTOMERS, "asof": {"time": "since", "within": "2d"}}


def test_a_row_gets_what_was_known_at_its_time(rows):
    found = rows(
        ASOF,
        customers="""\
customer,age,town,since
c1,3,future,2026-01-03T10:00:00.000001
c1,2,now,2026-01-03T12:00:00+02:00
c1,1,earlier,2026-01-03 08:00
c2,9,too old,2026-01-01T10:59:59
""",
    )

    assert [(row["id"], row["town"]) for row in found] == [("a", "now"), ("b", None), ("c", None), ("d", None), ("e", "earlier")]


def test_a_source_of_partitions_is_read_as_far_back_as_it_counts(rows, sandbox):
    for day, town in (("2026-01-01", "first"), ("2026-01-02", "second")):
        rows.day = sandbox.project.home / "towns"
        rows.day.mkdir(parents=True, exist_ok=True)
        (rows.day / f"{day}.csv").write_text(f"customer,age,town,since\nc1,1,{town},{day}T20:00:00\nc2,1,{town},{day}T20:00:00\n")
    (rows.day / f"{KEY}.csv").write_text(f"customer,age,town,since\nc1,1,third,{KEY}T09:30:00\n")
    join = {**ASOF, "source": {"path": "{home}/towns/{partition}.csv"}, "asof": {"time": "since", "within": "30d"}}

    assert [row["town"] for row in rows(join)] == ["third", "second", None, None, "second"]
    assert rows.records[0].facts["joined_customers"] == {"n_records": 5, "n_rows_without": 2}  # nothing before the first partition
    (rows.day / "2026-01-01.csv").unlink()
    with pytest.raises(DataError, match="2026-01-01"):
        rows(join)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "customer,age,town,since\nc1,1,A,2026-01-01\nc1,1,A,2026-01-01T00:00\n",
            "repeat the customer and since of another, for instance record 3",
        ),
        ("customer,age,town,since\nc1,1,A,2026-01-01\nc1,1,A,soon\nc2,1,A,\n", "'since' holds no ISO 8601 time in record 3, 4"),
    ],
)
def test_times_that_are_wrong(rows, text, says):
    with pytest.raises(DataError, match=says):
        rows(ASOF, customers=text)


_moment = st.integers(0, 40).map(lambda n: dt.datetime(2026, 1, 1) + dt.timedelta(hours=n))
_keyed = st.tuples(st.sampled_from("abc"), _moment)


@given(
    records=st.lists(_keyed, unique=True, max_size=20),
    orders=st.lists(st.tuples(st.sampled_from("abcd") | st.none(), _moment | st.none()), max_size=20),
    within=st.integers(1, 30),
    cuts=st.lists(st.integers(0, 20), max_size=3),
)
def test_as_of_is_what_a_person_would_look_up(records, orders, within, cuts):
    join = Join.model_validate(
        {
            "name": "x",
            "source": Source(path="x.csv"),
            "on": {"k": "key"},
            "columns": ["v"],
            "asof": {"time": "at", "row": "t", "within": f"{within}h"},
        }
    )
    table = pa.table(
        {
            "key": pa.array([key for key, _ in records], pa.string()),
            "v": pa.array([f"{key}{at}" for key, at in records], pa.string()),
            "at": pa.array([at.isoformat() for _, at in records], pa.string()),
        }
    )
    lookup = _lookup(join, table)

    def expected(key: str | None, at: dt.datetime | None) -> str | None:
        known = [t for k, t in records if k == key and at is not None and t <= at and at - t <= dt.timedelta(hours=within)]
        return f"{key}{max(known)}" if known else None

    rows = pa.table(
        {
            "k": pa.array([key for key, _ in orders], pa.string()),
            "t": pa.array([None if at is None else at.isoformat() for _, at in orders], pa.string()),
        }
    )
    edges = sorted({0, len(orders), *(cut for cut in cuts if cut <= len(orders))})
    batches = [Batch(rows.slice(a, b - a), pa.array(range(a, b), pa.int64())) for a, b in itertools.pairwise(edges)]
    found = [value for batch in batches for value in module._with(batch, [lookup]).rows["v"].to_pylist()]

    assert found == [expected(key, at) for key, at in orders]


def _lookup(join: Join, table: pa.Table) -> module.Lookup:
    """A lookup of a table in memory."""
    with pytest.MonkeyPatch.context() as patch:
        records = Records("", table.column_names, iter([Batch(table, pa.array(range(1, table.num_rows + 1), pa.int64()))]), {})
        patch.setattr(module, "open_source", lambda *_: iter([records]))
        patch.setattr(module, "_in_reach", lambda *_: iter([None]))
        return module.Lookup.read(join, SimpleNamespace(use_case=None))


def test_each_of_many_records_is_its_own_last_one():
    rng = np.random.default_rng(0)
    n = 200_000
    at = (np.datetime64("2026-01-01T00:00:00") + rng.permutation(n).astype("timedelta64[s]")).astype(str)
    table = pa.table(
        {"key": pa.array(rng.integers(0, 20_000, n)).cast(pa.string()), "v": pa.array(at, pa.string()), "at": pa.array(at, pa.string())}
    )
    settings = {"time": "at", "row": "t", "within": "1d"}
    join = Join.model_validate({"name": "x", "source": Source(path="x.csv"), "on": {"k": "key"}, "columns": ["v"], "asof": settings})
    lookup = _lookup(join, table)

    found = module._with(Batch(table.select(["key", "at"]).rename_columns(["k", "t"]), pa.array(range(n), pa.int64())), [lookup])

    assert found.rows["v"].equals(found.rows["t"])


# --- all the way to raw ------------------------------------------------------------------------------------------------


def test_sources_of_different_kinds_meet_in_raw(sandbox, make_use_case, monkeypatch):
    sandbox.source(KEY, ORDERS)
    with sqlite3.connect(sandbox.project.home / "shop.db") as database:
        database.execute("CREATE TABLE customers (customer TEXT, age INTEGER)")
        database.execute("INSERT INTO customers VALUES ('c1', 30), ('c2', 40)")
    database.close()
    monkeypatch.setenv("SLUICE_CONN_SHOP_DB", f"sqlite:///{sandbox.project.home / 'shop.db'}")
    sql = {"connection": "shop_db", "query": "SELECT * FROM customers", "order_by": ["customer"]}
    columns = {**make_use_case().model_dump(mode="json")["columns"], "years": {"type": "integer", "source": "age"}}
    join = {"name": "customers", "source": {"sql": sql}, "on": {"who": "customer"}, "columns": ["age"], "required": True}
    use_case = make_use_case(columns=columns, joins=[join])

    result = sandbox.run(ingest.main, "ingest", use_case, KEY)

    assert use_case.connections("ingest") == ["shop_db"]
    assert result.figures["joined_customers"] == {"n_records": 2, "n_rows_without": 2}
    assert (result.figures["n_rows"], result.figures["n_unreadable"]) == (3, 2)
    raw = Tables(sandbox.stage("ingest", use_case, KEY).root).read("raw")
    assert raw["age"].to_pylist() == ["30", "40", "30"]


@pytest.mark.parametrize("of", ["sensors", "joins"])
def test_no_name_is_told_where_a_row_about_a_person_may_stand(make_use_case, sandbox, of):
    columns = {"machine": {"type": "string", "role": "entity", "privacy": "identifier"}, "heat": {"type": "number"}}
    path = {"path": "{home}/in/{partition}.csv"}
    series = {"layout": "wide", "entity": "machine", "time": "at", "columns": {"heat": "mean"}, "every": "1h"}
    lookup = {"name": "people", "source": path, "on": ["machine"], "columns": ["heat"]}
    settings = {"source": {**path, "sensors": series}} if of == "sensors" else {"joins": [lookup]}
    use_case = make_use_case(
        columns=columns, label={"rules": {"functions": ["f"], "classes": ["yes", "no"]}, "positive": "yes"}, **settings
    )
    sandbox.source("2026-01-01", "machina,2026-01-01,1\nada,2026-01-01,1\n")

    with pytest.raises(DataError, match="has no column 'machine'") as raised:
        next(open_rows(SourceContext(sandbox.project, use_case, "2026-01-01")))
    assert "machina" not in str(raised.value)
