import gzip
import json
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import boto3
import pytest
from moto.server import ThreadedMotoServer

from pipelines_lib.data.sources import SourceContext, open_source
from pipelines_lib.data.sources.files import part_of
from pipelines_lib.data.sources.storage import Bucket, Folder, Found, fixed_part
from pipelines_lib.errors import ConfigError, DataError, Unavailable

HEADER = b"id,who,when,price,count,colour,action\n"
KEY = "2026-01-02"


@pytest.fixture(scope="module")
def clouds():
    """Two S3-compatible stores, reached over HTTP."""
    servers = [ThreadedMotoServer("127.0.0.1", 0, verbose=False) for _ in range(2)]
    for server in servers:
        server.start()
    yield [f"http://127.0.0.1:{server.get_host_and_port()[1]}" for server in servers]
    for server in servers:
        server.stop()


def put(endpoint, bucket, **objects):
    client = boto3.client("s3", endpoint_url=endpoint, aws_access_key_id="k", aws_secret_access_key="s", region_name="us-east-1")
    client.create_bucket(Bucket=bucket)
    for key, data in objects.items():
        client.put_object(Bucket=bucket, Key=key, Body=data)
    return client


@pytest.fixture
def connect(monkeypatch):
    def make(name, endpoint):
        extra = {"endpoint_url": endpoint, "region_name": "us-east-1", "addressing_style": "path"}
        given = {"conn_type": "aws", "login": "k", "password": "s", "extra": extra}
        monkeypatch.setenv(f"SLUICE_CONN_{name.upper()}", json.dumps(given))

    return make


def rows_of(sandbox, use_case, key=KEY):
    """(part, who) of every row."""
    found = []
    for records in open_source(use_case.source, SourceContext(sandbox.project, use_case, key)):
        for batch in records.batches:
            found += [(records.part, who) for who in batch.rows["who"].to_pylist()]
    return found


def line(who):
    return f"e,{who},2026-01-01,1,1,red,buy\n".encode()


def test_several_files_are_read_and_keep_their_names_when_others_come(sandbox, make_use_case):
    folder = sandbox.project.home / "in" / "2026" / "01" / "02"
    folder.mkdir(parents=True)
    use_case = make_use_case(source={"path": "{home}/in/{year}/{month}/{day}/*.csv"})
    (folder / "b.csv").write_bytes(HEADER + line("b"))
    (folder / "a.txt").write_bytes(b"none of it")
    [(part, _)] = rows_of(sandbox, use_case)
    (folder / "a.csv").write_bytes(HEADER + line("a"))

    rows = rows_of(sandbox, use_case)
    assert dict(rows)[part] == "b"
    assert sorted(who for _, who in rows) == ["a", "b"]
    assert [name for name, _ in rows] == sorted(name for name, _ in rows)


def test_two_stars_go_through_folders_and_one_does_not(tmp_path):
    for name in ("x/a.csv", "x/y/b.csv", "c.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    assert [found.below for found in Folder().find(f"{tmp_path}/**/*.csv")] == ["c.csv", "x/a.csv", "x/y/b.csv"]
    assert [found.below for found in Folder().find(f"{tmp_path}/*/*.csv")] == ["x/a.csv"]
    assert [found.below for found in Folder().find(f"{tmp_path}/?.csv")] == ["c.csv"]
    assert fixed_part("s/a/b*/c") == "s/a/"


def test_clouds_stand_side_by_side(sandbox, make_use_case, clouds, connect):
    for endpoint, who, name in zip(clouds, ("east", "west"), ("oss_east", "oss_west"), strict=True):
        keys = {"day=2026-01-02/part 1+[x].csv": HEADER + line(who), "day=2026-01-03/p.csv": HEADER + line("late"), "other/p.csv": b""}
        put(endpoint, "events", **keys)
        connect(name, endpoint)
        use_case = make_use_case(source={"path": "s3://events/day={partition}/*.csv", "connection": name})
        assert [found for _, found in rows_of(sandbox, use_case)] == [who]


def test_an_object_is_the_one_that_was_found(clouds, connect, tmp_path):
    client = put(clouds[0], "changing", **{"a.csv": b"x" * 100})
    connect("store", clouds[0])
    bucket = Bucket("store")
    [found] = bucket.find("s3://changing/a.csv")
    with bucket.local(found) as path:
        assert path.read_bytes() == b"x" * 100
    assert not path.exists()

    client.put_object(Bucket="changing", Key="a.csv", Body=b"y")
    with pytest.raises(Unavailable, match=r"s3://changing/a\.csv \(connection 'store'\): it was changed"), bucket.local(found):
        pass


def test_a_long_list_is_read_to_its_end(clouds, connect):
    put(clouds[0], "many", **{f"d/{i:05d}.csv": b"" for i in range(1010)})
    connect("store", clouds[0])

    found = Bucket("store").find("s3://many/d/*.csv")
    assert len({part_of(each) for each in found}) == len(found) == 1010


def test_what_is_wrong_is_said(sandbox, make_use_case, clouds, connect):
    connect("store", clouds[0])
    put(clouds[0], "empty")
    with pytest.raises(DataError, match=r"s3://nowhere/x\.csv \(connection 'store'\): there is no such bucket"):
        Bucket("store").find("s3://nowhere/x.csv")
    use_case = make_use_case(source={"path": "s3://empty/{partition}/*.csv", "connection": "store"})
    with pytest.raises(DataError, match=r"partition 2026-01-02 of shop: no file matches s3://empty/2026-01-02/\*\.csv; wait for it"):
        rows_of(sandbox, use_case)
    with pytest.raises(ConfigError, match="export SLUICE_CONN_NONE"):
        Bucket("none")


@pytest.mark.parametrize(
    "changes",
    [
        {"extra": {"endpoint_url": "oss-cn-beijing.aliyuncs.com"}},
        {"extra": {"region_name": "us east"}},
        {"extra": {"addressing_style": "paths"}},
        {"password": None},
    ],
)
def test_a_connection_that_can_not_be_right_is_said(monkeypatch, changes):
    given = {"conn_type": "aws", "login": "k", "password": "s", "extra": {}}
    monkeypatch.setenv("SLUICE_CONN_STORE", json.dumps({**given, **changes}))
    with pytest.raises(ConfigError, match=r"connection 'store': .*; correct its login and password, or its extras endpoint_url") as raised:
        Bucket("store")
    assert "AWS_PROFILE" not in str(raised.value)


def test_an_environment_that_can_not_be_right_is_said(monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    with pytest.raises(ConfigError, match=r"nobody.*; correct AWS_PROFILE .* or set source\.connection") as raised:
        Bucket(None)
    assert "extras" not in str(raised.value)


@pytest.mark.parametrize("path", ["s3:///a.csv", "s3://our bucket/*.csv"])
def test_an_address_that_is_none_is_not_tried_again(connect, path):
    connect("store", "http://127.0.0.1:1")
    with pytest.raises(DataError, match=r"\(connection 'store'\): is no address that a store can have; correct source\.path"):
        Bucket("store").find(path)


def test_a_day_on_which_nothing_came_is_a_file_without_a_line(sandbox, make_use_case):
    (sandbox.project.home / "in").mkdir(parents=True)
    (sandbox.project.home / "in" / f"{KEY}.jsonl").write_bytes(b"\n")
    assert rows_of(sandbox, make_use_case(source={"path": "{home}/in/{partition}.jsonl"})) == []


def test_a_store_that_does_not_answer_is_tried_again(connect, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        connect("store", f"http://127.0.0.1:{free.getsockname()[1]}")
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)
    with pytest.raises(Unavailable, match="the store does not answer"):
        Bucket("store").find("s3://events/*")


class Store(BaseHTTPRequestHandler):
    """A store that refuses some keys and breaks off in the middle of others, once."""

    broken: ClassVar[set[str]] = set()
    body = os.urandom(200_000)

    def do_GET(self):
        if "refused" in self.path:
            text = b"<Error><Code>AccessDenied</Code><Message>the secret is s3cr3t</Message></Error>"
            self.send_response(403)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)
            return
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(self.body) - start))
        self.end_headers()
        if self.path not in self.broken:
            self.broken.add(self.path)
            self.wfile.write(self.body[start : start + 70_000])
            self.wfile.flush()
            self.connection.close()
            return
        self.wfile.write(self.body[start:])

    def log_message(self, *_):
        pass


def test_a_stream_that_breaks_off_goes_on_where_it_was_and_a_refusal_shows_no_secret(connect):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Store)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        connect("store", f"http://127.0.0.1:{server.server_port}")
        with Bucket("store").local(Found("s3://b/big", "big", '"tag"')) as path:
            assert path.read_bytes() == Store.body
        with (
            pytest.raises(DataError, match=r"refused access \(AccessDenied\)") as caught,
            Bucket("store").local(Found("s3://b/refused", "r")),
        ):
            pass
        assert "s3cr3t" not in str(caught.value)
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({"path": "x/{partition}.csv", "connection": "store"}, "does not begin with s3://"),
        ({"path": "s3://b/{partition}.csv", "land": True}, "`land` writes one file of this machine"),
        ({"path": "x/*.csv", "replay": {}}, "path stands for several"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(make_use_case, source, says):
    with pytest.raises(ValueError, match=says):
        make_use_case(source=source)


def test_a_packed_object_is_unpacked(sandbox, make_use_case, clouds, connect):
    put(clouds[1], "packed", **{"2026-01-02.csv.gz": gzip.compress(HEADER + line("gz"))})
    connect("store", clouds[1])
    use_case = make_use_case(source={"path": "s3://packed/{partition}.csv.gz", "connection": "store"})
    assert [who for _, who in rows_of(sandbox, use_case)] == ["gz"]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("status", "code", "error", "says"),
    [
        (400, "ExpiredToken", DataError, "the token has expired"),
        (400, "AuthorizationHeaderMalformed", DataError, "the bucket is in the region eu-west-1 .*; set the connection's region_name"),
        (403, "RequestTimeTooSkewed", Unavailable, "finds this machine's clock wrong"),
        (400, "Odd", DataError, r"the store refused the request \(Odd, status 400\)"),
    ],
)
def test_a_source_tells_what_the_store_answers(troubled, monkeypatch, *, status, code, error, says):
    extra = {"endpoint_url": troubled.address, "region_name": "us-east-1", "addressing_style": "path"}
    monkeypatch.setenv("SLUICE_CONN_LAKE", json.dumps({"conn_type": "aws", "login": "k", "password": "s", "extra": extra}))
    troubled.fail("answer", times=10, status=status, code=code, headers={"x-amz-bucket-region": "eu-west-1"})
    with pytest.raises(error, match=rf"s3://sluice/\*\.csv \(connection 'lake'\): .*{says}"):
        Bucket("lake").find("s3://sluice/*.csv")
