"""A use case that has no file: a database's rows, an API's joined to them, through the whole data pipeline."""

import json
import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import Held
from pipelines_lib.jobs import ingest, prepare, validate

KEY = "2026-01-02"
CUSTOMERS = [{"id": f"u{n}", "profile": {"age": 20 + n}} for n in range(9)]


@pytest.fixture
def api() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps([] if self.path.startswith("/nothing") else CUSTOMERS).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def shop(make_use_case, sandbox, api, monkeypatch):
    sandbox.project.home.mkdir(parents=True)
    path = sandbox.project.home / "shop.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE visits (id TEXT, who TEXT, at TEXT, price REAL, count INTEGER, colour TEXT, action TEXT)")
        rows = [(f"v{n:02}", f"u{n % 10}", f"{KEY}T{n:02}:00:00", n / 4, n, "red", "buy" if n % 3 else "view") for n in range(20)]
        database.executemany("INSERT INTO visits VALUES (?, ?, ?, ?, ?, ?, ?)", [*rows, ("next", "u1", "2026-01-03", 1, 1, "red", "buy")])
    database.close()
    monkeypatch.setenv("SLUICE_CONN_SHOP_DB", f"sqlite:///{path}")
    query = "SELECT *, at AS [when] FROM visits WHERE datetime(at) >= :start AND datetime(at) < :end"
    columns = {**make_use_case().model_dump(mode="json")["columns"], "age": {"type": "integer", "nullable": False}}
    join = {"name": "customers", "source": {"http": {"url": f"{api}/customers"}}, "on": {"who": "id"}, "columns": {"profile.age": "age"}}
    return make_use_case(
        columns=columns,
        source={"sql": {"connection": "shop_db", "query": query, "order_by": ["id"]}},
        joins=[{**join, "required": True}],
        quality={"max_quarantined": 0.2},
    )


def test_from_a_database_and_an_api_to_labelled_rows(sandbox, shop):
    results = [
        sandbox.run(module.main, name, shop, KEY) for name, module in (("ingest", ingest), ("validate", validate), ("prepare", prepare))
    ]

    tables = Tables(sandbox.stage("ingest", shop, KEY).root)
    assert results[0].figures["joined_customers"] == {"n_records": 9, "n_rows_without": 2}
    quarantine = tables.read("quarantine").to_pylist()
    assert [row["row_id"] for row in quarantine] == [f"{KEY}:000000010", f"{KEY}:000000020"]
    assert all("join: customers has no record for it" in reason for row in quarantine for reason in row["reasons"])
    labelled = tables.read("labelled").sort_by("row_id").to_pylist()
    assert [(row["id"], row["age"], row["label"]) for row in labelled[:2]] == [("v00", 20, "no"), ("v01", 21, "yes")]
    assert len(labelled) == 18

    again = [
        sandbox.run(module.main, name, shop, KEY) for name, module in (("ingest", ingest), ("validate", validate), ("prepare", prepare))
    ]
    assert [result.outputs for result in again] == [result.outputs for result in results]


def test_an_api_without_a_record_is_a_partition_without_rows(sandbox, make_use_case, api):
    """Which no column is missing from, and in which no truth came."""
    nothing = {"http": {"url": f"{api}/nothing", "params": {"day": "{partition}"}}}
    label = {"join": {"source": nothing, "on": ["id"], "column": "outcome"}, "positive": "yes"}
    use_case = make_use_case(source=nothing, label=label)

    result = sandbox.run(ingest.main, "ingest", use_case, KEY)

    assert (result.figures["n_rows"], result.figures["ground_truth"]["n_truths"]) == (0, 0)
    with pytest.raises(Held, match="it has no rows"):
        sandbox.run(validate.main, "validate", use_case, KEY)
