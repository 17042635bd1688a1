"""A bucket that gives trouble: what passes is tried again, what stays is told, and nothing that can't be read counts as missing."""

import pyarrow as pa
import pytest

from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import ConfigError, Unavailable
from pipelines_lib.s3 import Access, S3Path
from pipelines_lib.store import create_json, local, read_json, update_json, write_json

EVERY = "GET PUT HEAD POST DELETE"
ROWS = pa.table({"row_id": [f"{number:06d}" for number in range(2000)], "x": list(range(2000))})


@pytest.fixture
def place(bucket, troubled_bucket):
    """A document and a table in a store that may give trouble."""
    write_json(bucket / "x.json", {"a": "b" * 5000})
    Tables(bucket).write("clean", "d1", ROWS)
    return troubled_bucket


PASSING = {
    "throttled": [("answer", {"methods": EVERY, "times": 3, "status": 503, "code": "SlowDown"})],
    "broken": [("answer", {"methods": EVERY, "times": 3, "status": 500})],
    "answers break off": [("break off", {"methods": "GET", "path": r"x\.json|\.parquet"})],
    "what is sent breaks off": [("cut off", {"methods": "PUT", "path": name}) for name in ("x.json", ".parquet")],
    "answers are lost": [("lost", {"methods": "PUT", "path": name}) for name in ("x.json", "new.json", ".parquet")],
    "slow": [("slow", {"methods": EVERY, "times": 3, "seconds": 0.2})],
}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_tried_again(place, troubled, name):
    for kind, fault in PASSING[name]:
        troubled.fail(kind, **fault)
    assert read_json(place / "x.json") == {"a": "b" * 5000}
    assert update_json(place / "x.json", lambda before: {**before, "n": 1 + before.get("n", 0)})
    create_json(place / "new.json", {"by": "me"})
    with local(place / "x.json") as copy:
        assert '"n": 1' in copy.read_text(encoding="utf-8")
    Tables(place).write("clean", "d2", ROWS)
    assert Tables(place).read("clean")["x"].to_pylist() == 2 * list(range(2000))
    assert not [fault for fault in troubled.faults if fault.times]


def asked(place):
    """Each thing that is asked of a store."""
    tables = Tables(place)
    return {
        "read": lambda: read_json(place / "x.json"),
        "write": lambda: write_json(place / "y.json", {}),
        "list": lambda: list(place.glob("*")),
        "look": (place / "none").is_file,
        "look for anything": (place / "none").exists,
        "create": lambda: create_json(place / "new.json", {}),
        "change": lambda: update_json(place / "x.json", lambda _: 1),
        "copy": lambda: (place / "x.json").copy_to(place / "z.json"),
        "remove": (place / "x.json").unlink,
        "read a table": lambda: tables.read("clean"),
        "list partitions": lambda: tables.contents("clean"),
        "write a table": lambda: tables.write("clean", "d2", ROWS),
        "make a table": lambda: tables.write("raw", "d1", ROWS),
        "append": lambda: tables.append("predictions", ROWS.append_column("partition_key", pa.array(["d1"] * 2000))),
    }


STAYING = {
    "throttled": (Unavailable, r"does not answer \(SlowDown, status 503\); it is tried again", {"status": 503, "code": "SlowDown"}),
    "refused": (
        ConfigError,
        r"the store refused access \(AccessDenied\); correct the connection's",
        {"status": 403, "code": "AccessDenied"},
    ),
    "no bucket": (ConfigError, "there is no such bucket; make it, or correct the address", {"status": 404, "code": "NoSuchBucket"}),
    "expired": (ConfigError, r"the token has expired \(ExpiredToken\); renew", {"status": 400, "code": "ExpiredToken"}),
    "skewed": (Unavailable, "finds this machine's clock wrong .*; have it set", {"status": 403, "code": "RequestTimeTooSkewed"}),
    "elsewhere": (
        ConfigError,
        r"the bucket is in (the region eu-west-1|another region) \(AuthorizationHeaderMalformed, status 400\); set the connection's region_name",
        {"status": 400, "code": "AuthorizationHeaderMalformed", "headers": {"x-amz-bucket-region": "eu-west-1"}},
    ),
    "moved": (
        ConfigError,
        r"the bucket is in .*; set the connection's region_name",
        {"status": 301, "code": "PermanentRedirect", "headers": {"x-amz-bucket-region": "eu-west-1"}},
    ),
}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", STAYING)
def test_what_stays_is_told(place, troubled, name):
    error, says, answer = STAYING[name]
    troubled.fail("answer", methods=EVERY, times=10_000, **answer)
    for what, ask in asked(place).items():
        with pytest.raises(error, match=rf"{place}.* \(connection 'troubled'\): .*{says}") as caught:
            ask()
        assert "hush" not in str(caught.value), what


@pytest.mark.usefixtures("impatient")
def test_a_machine_that_hangs_is_given_up(place, troubled, monkeypatch):
    monkeypatch.setattr("pipelines_lib.s3.SECONDS_TO_ANSWER", 0.2)
    monkeypatch.setattr("pipelines_lib.s3.ATTEMPTS", 2)
    hanging = S3Path(Access(place.access.given), place.bucket, place.key)
    troubled.fail("slow", methods=EVERY, times=10_000, seconds=1.0)
    with pytest.raises(Unavailable, match=r"the store does not answer \(ReadTimeoutError\); it is tried again"):
        read_json(hanging / "x.json")


@pytest.mark.usefixtures("impatient")
def test_only_writing_is_refused(place, troubled):
    troubled.fail("answer", methods="PUT", times=10_000, status=403, code="AccessDenied")
    assert Tables(place).read("clean").num_rows == 2000
    for what in ("write", "create", "change", "write a table", "make a table", "append"):
        with pytest.raises(ConfigError, match="the store refused access"):
            asked(place)[what]()


@pytest.mark.parametrize("status", [400, 501])
def test_a_store_that_refuses_conditions_is_told_apart(place, troubled, status):
    troubled.fail("answer", methods="PUT", path=r"new\.json|tried|_delta_log|x\.json", times=10_000, status=status, code="NotImplemented")
    for what in ("create", "change", "write a table", "make a table", "append"):
        with pytest.raises(ConfigError, match=r"the store lacks .*conditional writes \(If-None-Match and If-Match of PutObject\)"):
            asked(place)[what]()


def test_in_a_store_that_passes_over_conditions_no_table_is_made(place, troubled):
    troubled.fail("deaf", methods="PUT", times=10_000)
    for what in ("make a table", "append"):
        with pytest.raises(ConfigError, match=r"the store lacks .*\(condition passed over.*conditional writes"):
            asked(place)[what]()
    troubled.heal()
    assert sorted(path.name for path in place.glob("**/*") if "tried" in path.name) == []
    Tables(place).write("raw", "d1", ROWS)
    assert not [path for path in place.glob("**/*") if "tried" in path.name]


def test_a_batch_whose_commit_was_not_heard_of_lands_once(place, troubled):
    tables, answers = Tables(place), ROWS.append_column("partition_key", pa.array(["d1"] * 2000))
    tables.append("predictions", answers, batch=("log", 1))
    troubled.fail("lost", methods="PUT", path=r"predictions/_delta_log/\d+\.json")
    with pytest.raises(Unavailable, match="does not answer"):
        tables.append("predictions", answers, batch=("log", 2))
    tables.append("predictions", answers, batch=("log", 2))
    assert tables.read("predictions").num_rows == 4000
    tables.append("predictions", answers, batch=("log", 3))
    tables.append("predictions", answers, batch=("other", 1))
    assert tables.read("predictions").num_rows == 8000


def test_a_partition_whose_commit_was_not_heard_of_is_there_at_the_next_try(place, troubled):
    troubled.fail("lost", methods="PUT", path=r"_delta_log/\d+\.json")
    with pytest.raises(Unavailable, match="does not answer"):
        Tables(place).write("clean", "d2", ROWS)
    assert Tables(place).write("clean", "d2", ROWS) == 1
