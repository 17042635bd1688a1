"""An HTTP API that the test serves on loopback: it pages, limits, fails, breaks off, and looks at who asks."""

import gzip
import itertools
import json
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.config import Project
from pipelines_lib.data.records import Batch, Records
from pipelines_lib.data.sources import api
from pipelines_lib.data.sources import http as module
from pipelines_lib.data.sources.context import SourceContext
from pipelines_lib.data.sources.http import flat, open_http
from pipelines_lib.data.sources.jsontext import AS_WRITTEN
from pipelines_lib.errors import ConfigError, DataError, Unavailable
from pipelines_lib.use_case import Http

ROWS = [{"id": n, "name": f"n{n}"} for n in range(1, 8)]
TOKEN = "t0ken-s3cret"


@dataclass
class Reply:
    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    """Whether the connection is closed before all of the body was sent."""


@dataclass
class Request:
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    at: float


class Server:
    """Answers with what `answer` makes of a request."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.answer: Callable[[Request], Reply] = lambda request: Reply(ROWS)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                request = Request(parts.path, dict(parse_qsl(parts.query, keep_blank_values=True)), dict(self.headers), time.monotonic())
                outer.requests.append(request)
                reply = outer.answer(request)
                body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                self.send_response(reply.status)
                for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if reply.cut else body)
                self.close_connection = reply.cut

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=lambda: self._server.serve_forever(poll_interval=0.01), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def replies(self, *replies: Reply) -> None:
        """One after the other; the last for good."""
        left = list(replies)
        self.answer = lambda request: left.pop(0) if len(left) > 1 else left[0]


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def other() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def opened(server: Server, tmp_path: Path, make_use_case: Callable[..., Any]) -> Callable[..., Iterator[Records]]:
    """Returns `opened(**settings)`: the records of partition 2026-01-01T05 at the server."""

    def open_(**settings: Any) -> Iterator[Records]:
        project = Project(tmp_path, tmp_path / "home", tmp_path / "cases", "local")
        context = SourceContext(project, make_use_case(partition="hour"), "2026-01-01T05")
        http = Http.model_validate({"url": f"{server.url}/orders", "retry": {"first_wait": 0.01}, **settings})
        return open_http(http, context)

    return open_


@pytest.fixture
def read(opened: Callable[..., Iterator[Records]]) -> Callable[..., list[Batch]]:
    """Returns `read(**settings)`: the batches."""
    return lambda **settings: [batch for records in opened(**settings) for batch in records.batches]


def ids(batches: list[Batch]) -> list[str]:
    return [value for batch in batches for value in batch.rows["id"].to_pylist()]


ALL = [str(row["id"]) for row in ROWS]


def test_one_page_of_records(server, read):
    server.replies(
        Reply(
            b'{"data": {"items": [{"id": 90071992547409931, "a": {"b": {"c": 1.50}, "d": [1, 2.0, "x"]}, "ok": true}, {"id": null, "e": "\\u00e9"}]}}'
        )
    )

    [batch] = read(records="data.items", params={"day": "{partition}", "from": "{start}", "to": "{end}", "on": True, "y": "{year}"})

    assert batch.rows.to_pylist() == [
        {"id": "90071992547409931", "a.b.c": "1.50", "a.d": '[1,2.0,"x"]', "ok": "true", "e": None},
        {"id": None, "a.b.c": None, "a.d": None, "ok": None, "e": "é"},
    ]
    assert batch.numbers.to_pylist() == [1, 2]
    assert server.requests[0].query == {
        "day": "2026-01-01T05", "from": "2026-01-01T05:00:00Z", "to": "2026-01-01T06:00:00Z", "on": "true", "y": "2026",
    }  # fmt: skip


def test_names_are_known_before_the_first_batch_and_batches_are_cut(server, opened, monkeypatch):
    monkeypatch.setattr(module, "_BATCH", 3)
    server.replies(Reply([*ROWS, "no object", {"late": 1}]))

    [records] = opened()

    assert records.names == ["id", "name", "late"]
    assert records.facts == {"pages": 1}


def test_batches(server, opened, monkeypatch):
    monkeypatch.setattr(module, "_BATCH", 3)
    server.replies(Reply([*ROWS[:4], ["no", 1.5], *ROWS[4:], {"late": 1}]))

    found = [(records.names, batch) for records in opened() for batch in records.batches]

    assert [batch.numbers.to_pylist() for _, batch in found] == [[1, 2, 3], [4, 6], [7, 8, 9]]
    assert [(u.number, u.text) for _, batch in found for u in batch.unreadable] == [(5, '["no",1.5]')]
    assert all(batch.rows.column_names == ["id", "name", "late"] for _, batch in found)


def test_a_record_with_half_a_character_is_none(server, read):
    server.replies(Reply(b'[{"id": "a"}, {"id": "\\ud83d"}, {"\\udc00": 1}, {"id": "\\ud83d\\ude00"}]'))

    [batch] = read()

    assert batch.rows.to_pylist() == [{"id": "a"}, {"id": "😀"}]
    assert batch.numbers.to_pylist() == [1, 4]
    assert [(u.number, u.text) for u in batch.unreadable] == [(2, '{"id":"\\ud83d"}'), (3, '{"\\udc00":1}')]


@pytest.mark.parametrize("number", ["-0", "1.50", "1E400", "9" * 5000])
def test_numbers_stay_as_they_are_written(server, read, number):
    server.replies(Reply(f'[{{"id": {number}, "a": [{number}]}}, [{number}, "é\\ud83d"]]'.encode()))

    [batch] = read()

    assert batch.rows.to_pylist() == [{"id": number, "a": f"[{number}]"}]
    assert [u.text for u in batch.unreadable] == [f'[{number},"é\\ud83d"]']


def test_an_answer_that_unpacks_to_more_than_a_page_is_refused(server, read, monkeypatch):
    monkeypatch.setattr(api, "_MOST_BYTES", 1 << 22)
    server.replies(Reply(gzip.compress(b'[{"id": "' + b"0" * (1 << 23) + b'"}]'), headers={"Content-Encoding": "gzip"}))

    with pytest.raises(DataError, match=r"more than 4 MiB; ask for pages"):
        read()


@pytest.mark.parametrize("size", [1, 3, 7])
def test_no_records_left_over_or_made_up_by_the_cut(server, read, monkeypatch, size):
    monkeypatch.setattr(module, "_BATCH", size)

    assert ids(read()) == ALL
    server.replies(Reply([]))
    assert read() == []


# --- paging ------------------------------------------------------------------------------------------------------------


def test_pages_by_number(server, read):
    server.answer = lambda r: Reply(ROWS[(int(r.query["p"]) - 1) * 3 : int(r.query["p"]) * 3])

    assert ids(read(pages={"by": "page", "param": "p", "size": {"per": 3}})) == ALL
    assert [r.query for r in server.requests] == [{"p": str(n), "per": "3"} for n in (1, 2, 3, 4)]


def test_pages_by_offset_count_what_came_and_not_what_was_asked_for(server, read):
    server.answer = lambda r: Reply(ROWS[int(r.query["offset"]) :][:2])  # never more than two, whatever is asked for

    assert ids(read(pages={"by": "offset", "size": {"limit": 500}})) == ALL
    assert [r.query["offset"] for r in server.requests] == ["0", "2", "4", "6", "7"]


@pytest.mark.parametrize("end", [None, "", {}, 0, 0.0, False])
def test_pages_by_mark(server, read, end):
    def answer(r: Request) -> Reply:
        at = int(r.query.get("after", "0"))
        meta = {"next": at + 3} if at < 6 else end if end == {} else {"next": end}
        return Reply({"items": ROWS[at : at + 3], "meta": meta})

    server.answer = answer

    assert ids(read(records="items", pages={"by": "cursor", "param": "after", "next": "meta.next"})) == ALL


def test_pages_by_an_address_in_the_answer(server, read):
    server.answer = lambda r: Reply(
        {
            "items": ROWS[int(r.query.get("at", 0)) :][:3],
            "next": f"/orders?at={int(r.query.get('at', 0)) + 3}" if r.query.get("at") != "6" else None,
        }
    )

    assert ids(read(records="items", pages={"by": "cursor", "next": "next"}, params={"day": "{partition}"})) == ALL
    assert [r.query for r in server.requests] == [{"day": "2026-01-01T05"}, {"at": "3"}, {"at": "6"}]


def test_pages_by_the_link_header(server, read):
    def answer(r: Request) -> Reply:
        at = int(r.query.get("at", 0))
        link = f'<{server.url}/orders?at={at + 3}>; rel="next", </orders?at=0>; rel="first"' if at < 6 else '</orders?at=0>; rel="first"'
        return Reply(ROWS[at : at + 3], headers={"Link": link})

    server.answer = answer

    assert ids(read(pages={"by": "link"})) == ALL


@pytest.mark.parametrize(
    ("pages", "body"),
    [
        ({"by": "page"}, ROWS),
        ({"by": "offset"}, ROWS),
        ({"by": "cursor", "next": "next"}, {"items": ROWS, "next": "again"}),
        ({"by": "cursor", "next": "next"}, {"items": ROWS, "next": "/orders"}),
    ],
)
def test_an_api_that_never_ends(server, read, pages, body):
    server.replies(Reply(body))

    with pytest.raises(DataError, match="the same page twice"):
        read(records="items" if isinstance(body, dict) else "", pages=pages)
    assert len(server.requests) <= 3


def test_more_pages_than_are_believed(server, read):
    server.answer = lambda r: Reply([{"id": r.query["page"]}])

    with pytest.raises(DataError, match=r"more than 5 pages; raise source\.http\.pages\.at_most"):
        read(pages={"by": "page", "at_most": 5})
    assert len(server.requests) == 5


# --- failures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failure",
    [
        Reply(status=500),
        Reply(status=503, body=b"<html>"),
        Reply(status=429),
        Reply(ROWS, cut=True),
        Reply(b'[{"id": 1'),
        Reply(status=408),
    ],
)
def test_what_passes_is_tried_again(server, read, failure):
    server.replies(failure, failure, Reply(ROWS))

    assert ids(read()) == ALL
    first, second, third = (r.at for r in server.requests)
    assert second - first >= 0.01
    assert third - second >= 0.02


@pytest.mark.parametrize("wait", ["1", "date"])
def test_retry_after_is_honoured(server, read, wait):
    def answer(r: Request) -> Reply:
        if len(server.requests) > 1:
            return Reply(ROWS)
        # A date has whole seconds: two from now is more than one.
        text = wait if wait == "1" else time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 2))
        return Reply(status=429, headers={"Retry-After": text})

    server.answer = answer

    assert ids(read()) == ALL
    assert server.requests[1].at - server.requests[0].at >= 0.95


@pytest.mark.parametrize(
    ("reply", "retry", "says", "n_requests"),
    [
        (Reply(status=502), {"attempts": 3}, "HTTP 502 Bad Gateway, after 3 attempts in which", 3),
        (Reply(status=502), {"attempts": 1}, "HTTP 502 Bad Gateway, after 1 attempt in which", 1),
        (Reply(ROWS, cut=True), {"attempts": 2}, "the connection failed", 2),
        (Reply(b"[1,"), {"attempts": 2}, "broken JSON", 2),
        (Reply(b'["\xff"]'), {"attempts": 2}, "UnicodeDecodeError", 2),
        (Reply(b"[" * 100_000), {"attempts": 2}, "RecursionError", 2),
        (Reply(status=429, headers={"Retry-After": "3600"}), {}, "asks for 3600 s more", 1),
        (Reply(status=500), {"first_wait": 0.6, "longest": "1s"}, "after 2 attempts in which 1 s were waited", 2),
    ],
)
def test_in_the_end_it_is_left_to_a_later_try(server, read, reply, retry, says, n_requests):  # noqa: PLR0917
    server.replies(reply)

    with pytest.raises(Unavailable, match=says):
        read(retry={"first_wait": 0.01, **retry})
    assert len(server.requests) == n_requests


def test_nobody_listens(read):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/orders"

    with pytest.raises(Unavailable, match=r"the connection failed \(ConnectionError\), after 2 attempts") as raised:
        read(url=url, params={"key": "s3cret"}, retry={"attempts": 2, "first_wait": 0.01})
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (Reply(status=400, body=b'{"error": "Jane Doe"}'), "HTTP 400 Bad Request; correct source.http.url or its params"),
        (Reply(status=401), "HTTP 401 Unauthorized; check source.http.connection"),
        (Reply(status=404), "HTTP 404 Not Found"),
        (Reply(status=501), "HTTP 501 Not Implemented"),
        (Reply(b"<html>", headers={"Content-Type": "text/html"}), "answers in text/html, not in JSON"),
        (Reply({"rows": [], "total": 0}), r"a list as the answer, and there is a dict. The answer has the keys rows, total"),
        (Reply(b"17"), r"a list as the answer, and there is a number. Correct"),
    ],
)
def test_what_does_not_pass_is_not_tried_again(server, read, reply, says):
    server.replies(reply)

    with pytest.raises(DataError, match=says) as raised:
        read()
    assert len(server.requests) == 1
    assert "Jane" not in str(raised.value)


def test_the_rate_limit(server, read):
    server.answer = lambda r: Reply(ROWS[int(r.query["offset"]) :][:2])
    read(pages={"by": "offset"}, rate=50)

    times = [r.at for r in server.requests]
    assert min(after - before for before, after in itertools.pairwise(times)) >= 0.015
    assert times[-1] - times[0] >= 0.02 * (len(times) - 1) * 0.9


# --- secrets -----------------------------------------------------------------------------------------------------------


def export(monkeypatch: pytest.MonkeyPatch, server: Server, **changes: Any) -> None:
    given = {"conn_type": "http", "host": "127.0.0.1", "port": server.port, "password": TOKEN, **changes}
    monkeypatch.setenv("SLUICE_CONN_SHOP_API", json.dumps(given))


@pytest.mark.parametrize(
    ("changes", "settings", "header", "value"),
    [
        ({}, {}, "Authorization", f"Bearer {TOKEN}"),
        ({}, {"auth_header": "X-Api-Key"}, "X-Api-Key", TOKEN),
        ({"login": "jürgen"}, {}, "Authorization", "Basic asO8cmdlbjp0MGtlbi1zM2NyZXQ="),
        ({"password": None, "extra": {"headers": {"X-Key": "k"}}}, {}, "X-Key", "k"),
    ],
)
def test_the_secret_is_sent(server, read, monkeypatch, tmp_path, changes, settings, header, value):  # noqa: PLR0917
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login other password other\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    export(monkeypatch, server, **changes)

    assert ids(read(url="/orders", connection="shop_api", **settings)) == ALL
    assert server.requests[0].headers[header] == value


@pytest.mark.parametrize("form", ["http://user:{t}@127.0.0.1:{port}/base", "http://user:{t}@127.0.0.1:{port}/base?x=y"])
def test_a_connection_as_a_url(server, read, monkeypatch, form):
    monkeypatch.setenv("SLUICE_CONN_SHOP_API", form.format(t=TOKEN, port=server.port))

    assert ids(read(url="/orders", connection="shop_api")) == ALL
    assert server.requests[0].path == "/base/orders"


def test_a_redirect_to_another_host_does_not_carry_the_secret(server, other, read, monkeypatch):
    export(monkeypatch, server)
    server.answer = lambda r: Reply(status=302, headers={"Location": "/moved" if r.path == "/orders" else f"{other.url}/there"})

    assert ids(read(url="/orders", connection="shop_api")) == ALL
    assert [r.headers.get("Authorization") for r in server.requests] == [f"Bearer {TOKEN}"] * 2
    [request] = other.requests
    assert request.path == "/there"
    assert TOKEN not in str(request.headers)


def test_redirects_in_a_circle(server, read):
    server.replies(Reply(status=301, headers={"Location": "/orders"}))

    with pytest.raises(DataError, match="more than 5 redirects"):
        read()


@pytest.mark.parametrize("pages", [{"by": "link"}, {"by": "cursor", "next": "next"}])
def test_a_next_page_at_another_host_is_refused(server, other, read, monkeypatch, pages):
    export(monkeypatch, server)
    server.answer = lambda r: Reply({"items": ROWS, "next": f"{other.url}/x?k={TOKEN}"}, headers={"Link": f'<{other.url}/x>; rel="next"'})

    with pytest.raises(DataError, match="which is another host, port or scheme; set source") as raised:
        read(url="/orders", connection="shop_api", records="items", pages=pages)
    assert other.requests == []
    assert TOKEN not in str(raised.value)


def test_the_secret_of_one_host_is_not_for_another(server, other, read, monkeypatch):
    export(monkeypatch, server)

    with pytest.raises(ConfigError, match="its secret goes nowhere else"):
        read(url=f"{other.url}/orders", connection="shop_api")


@pytest.mark.parametrize("status", [403, 500])
def test_an_error_shows_no_secret(server, read, monkeypatch, status):
    export(monkeypatch, server)
    server.replies(Reply(status=status))

    with pytest.raises((DataError, Unavailable)) as raised:
        read(url="/orders", connection="shop_api", params={"key": TOKEN}, retry={"attempts": 1})
    assert TOKEN not in "".join(traceback.format_exception(raised.value))


# --- rows --------------------------------------------------------------------------------------------------------------

_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=2), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text("xyz", min_size=1, max_size=2), _values, max_size=4))
def test_a_flat_row_says_all_that_the_object_said(record):
    row = flat(json.loads(json.dumps(record), **AS_WRITTEN))

    def at(value: Any, name: str) -> Any:
        for key in name.split("."):
            value = value[key]
        return value

    for name, text in row.items():
        value = at(record, name)
        assert text == (value if isinstance(value, str) else None if value is None else text)
        if not isinstance(value, str | None):
            assert json.loads(text) == value
    assert sum(1 for _ in _leaves(record)) == len(row)


def _leaves(value: Any) -> Iterator[Any]:
    for inner in value.values():
        if isinstance(inner, dict):
            yield from _leaves(inner)
        else:
            yield inner


def test_two_fields_of_one_name():
    with pytest.raises(DataError, match=r"the field 'a\.b' twice"):
        flat({"a": {"b": 1}, "a.b": 2})
