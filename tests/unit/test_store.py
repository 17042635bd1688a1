"""What a store promises, in a folder and in a bucket that is asked over HTTP."""

import json
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipelines_lib.config import Profile
from pipelines_lib.connections import Connection, connection
from pipelines_lib.errors import ConfigError, DataError, Unavailable
from pipelines_lib.s3 import S3Path
from pipelines_lib.store import (
    at,
    create_json,
    local,
    move,
    read_json,
    remove_tree,
    store_of,
    update_json,
    write_bytes,
    write_json,
    write_text,
)


def names(paths, place):
    return sorted(path.relative_to(place).as_posix() for path in paths)


def test_what_is_written_is_read(place):
    write_json(place / "a" / "b.json", {"z": 1, "a": "é"})
    assert (place / "a" / "b.json").read_text(encoding="utf-8") == '{\n  "a": "é",\n  "z": 1\n}\n'
    assert read_json(place / "a" / "b.json") == {"a": "é", "z": 1}
    write_text(place / "a" / "b.json", "other")
    assert (place / "a" / "b.json").read_bytes() == b"other"
    write_bytes(place / "empty", b"")
    assert (place / "empty").read_bytes() == b""
    assert (place / "empty").stat().st_size == 0


def test_what_is_not_there_is_told_as_of_a_file(place):
    missing = place / "a" / "none.json"
    for ask in (missing.read_bytes, lambda: read_json(missing), missing.stat, missing.unlink):
        with pytest.raises(FileNotFoundError):
            ask()
    with pytest.raises(FileNotFoundError), local(missing) as copy:
        copy.read_bytes()
    assert not missing.exists()
    assert not missing.is_file()
    assert not missing.is_dir()
    missing.unlink(missing_ok=True)
    assert list((place / "a").glob("*")) == []
    remove_tree(place / "a")


def test_json_that_is_none_is_refused(place):
    write_text(place / "a.json", '{"a":\n oops}')
    with pytest.raises(DataError, match=r"a\.json, line 2: not valid JSON"):
        read_json(place / "a.json")


def test_paths_have_the_verbs_of_pathlib(place):
    path = place / "run" / "train" / "usage" / "1-0.json"
    assert (path.name, path.stem, path.suffix, path.parent.name) == ("1-0.json", "1-0", ".json", "usage")
    assert path.with_name("2-0.json") == path.parent / "2-0.json"
    assert path.relative_to(place).parts == ("run", "train", "usage", "1-0.json")
    assert path.is_relative_to(place)
    assert not (place / "run" / "training").is_relative_to(place / "run" / "train")
    with pytest.raises(ValueError, match="is not"):
        place.relative_to(path)
    assert sorted([place / "b", place / "a"]) == [place / "a", place / "b"]
    assert len({place / "a", place / "a", place / "b"}) == 2


def test_a_path_that_climbs_out_is_seen(place):
    for text in ("../x", "a/../../x", "/etc/passwd"):
        assert not (place / text).resolve().is_relative_to(place.resolve())
    assert (place / "a/../x").resolve() == (place / "x").resolve()


def test_folders_and_files_match_as_in_a_folder(place):
    for name in ("a/1/usage/x.json", "a/1/usage/y.txt", "a/2/shard-0/usage/x.json", "a/2/result.json", "a/top.json", "ab/z.json"):
        write_text(place / name, name)
    below = place / "a"
    assert names(below.glob("*"), below) == ["1", "2", "top.json"]
    assert names(below.iterdir(), below) == ["1", "2", "top.json"]
    assert names(below.glob("*.json"), below) == ["top.json"]
    assert names(below.glob("*/result.json"), below) == ["2/result.json"]
    assert names(below.glob("*/usage"), below) == ["1/usage"]
    assert names(below.glob("*/usage/*.json"), below) == ["1/usage/x.json"]
    assert names(below.glob("2/shard-*"), below) == ["2/shard-0"]
    assert names(below.glob("2/shard-?/*/x.json"), below) == ["2/shard-0/usage/x.json"]
    assert names(below.glob("**/x.json"), below) == ["1/usage/x.json", "2/shard-0/usage/x.json"]
    assert names(below.glob("nothing/*"), below) == []
    assert (below / "1").is_dir()
    assert not (below / "1").is_file()
    assert (below / "1").exists()
    assert not (place / "a/t").exists()
    [found] = below.glob("top.json")
    assert found.stat().st_size == len("a/top.json")
    remove_tree(below)
    assert names(place.glob("*/*"), place) == ["ab/z.json"]


def test_of_several_that_create_a_document_one_does(place):
    write = threading.Barrier(4)

    def create(number):
        write.wait()
        try:
            create_json(place / "claims" / "1.json", {"by": number})
        except FileExistsError:
            return None
        return number

    with ThreadPoolExecutor(4) as threads:
        [winner] = [number for number in threads.map(create, range(4)) if number is not None]
    assert read_json(place / "claims" / "1.json") == {"by": winner}


def test_changes_that_meet_are_made_one_after_the_other(place):
    with ThreadPoolExecutor(4) as threads:
        done = threads.map(lambda _: update_json(place / "count.json", lambda before: (before or 0) + 1), range(24))
        assert all(done)
    assert read_json(place / "count.json") == 24
    assert not update_json(place / "count.json", lambda _: None)
    assert read_json(place / "count.json") == 24


def test_files_find_their_place(place, tmp_path):
    source = tmp_path / "made"
    source.write_bytes(b"bytes")
    move(source, place / "staged" / "x")
    move(place / "staged" / "x", place / "final" / "y")
    assert not source.exists()
    assert not (place / "staged" / "x").exists()
    with local(place / "final" / "y") as copy:
        assert copy.read_bytes() == b"bytes"


def test_a_big_object_goes_in_pieces(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines_lib.s3._PIECE", 5 << 20)
    source = tmp_path / "big"
    source.write_bytes(b"0123456789abcdef" * (3 << 16) + bytes(8 << 20))
    data = source.read_bytes()
    move(source, bucket / "big")
    assert (bucket / "big").stat().etag.strip('"').endswith("-3")
    assert (bucket / "big").read_bytes() == data


def test_a_list_of_objects_goes_over_several_answers(bucket):
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: write_text(bucket / "many" / f"{number:04d}", ""), range(1003)))
    assert names(bucket.glob("many/*"), bucket) == [f"many/{number:04d}" for number in range(1003)]


def test_a_process_with_the_connection_can_take_a_path_along_and_its_keys_stay_at_home(bucket):
    write_text(bucket / "x", "x")
    packed = pickle.dumps(bucket / "x")
    assert b"SLUICE" not in packed
    assert pickle.loads(packed).read_text() == "x"
    assert pickle.loads(packed) == bucket / "x"


@pytest.mark.parametrize("address", ["s3://", "s3:///prefix", "s3://a b/prefix"])
def test_an_address_without_a_bucket_is_refused(address):
    with pytest.raises(ConfigError, match="is no name of a bucket; write s3://bucket/prefix"):
        at(address)


def test_a_store_is_opened_by_its_connection_alone(cloud):
    profile = Profile(name="p", store="s3://sluice/prefix", store_connection="oss", tracking_uri="")
    with pytest.raises(ConfigError, match="connection 'oss': there is none"):
        store_of(profile, {})
    given = {"conn_type": "aws", "login": "k", "password": "s", "extra": {"endpoint_url": cloud, "region_name": "us-east-1"}}
    store = store_of(profile, {"SLUICE_CONN_OSS": json.dumps(given)})
    write_text(store / "x", "x")
    assert (str(store / "x"), (store / "x").read_text()) == ("s3://sluice/prefix/x", "x")


def opened(address, bucket, monkeypatch, **changes):
    """The bucket's path with another connection."""
    given = connection("bucket")
    return at(address, Connection(**{**vars(given), **changes, "extra": {**given.extra, **changes.get("extra", {})}}))


def test_a_bucket_that_is_not_there_is_told(bucket, monkeypatch):
    elsewhere = opened("s3://nobody-has-this", bucket, monkeypatch)
    for ask in ((elsewhere / "x").read_bytes, lambda: write_text(elsewhere / "x", "x"), lambda: list(elsewhere.glob("*"))):
        with pytest.raises(
            ConfigError, match=r"s3://nobody-has-this.*\(connection 'bucket'\): there is no such bucket; make it, or correct"
        ):
            ask()
    with pytest.raises(ConfigError, match="there is no such bucket"):
        update_json(elsewhere / "x.json", lambda _: 1)


def test_a_store_that_does_not_answer_is_tried_again_later(bucket, monkeypatch):
    import socket

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setattr("pipelines_lib.s3.ATTEMPTS", 1)
    gone = opened(str(bucket), bucket, monkeypatch, extra={"endpoint_url": endpoint})
    for ask in ((gone / "x").read_bytes, lambda: write_text(gone / "x", "x"), lambda: list(gone.glob("*")), (gone / "x").exists):
        with pytest.raises(Unavailable, match=r"s3://sluice/.* \(connection 'bucket'\): the store does not answer"):
            ask()


def test_no_secret_is_shown(bucket):
    assert "login" not in repr(bucket.access.given)
    assert repr(bucket / "x") == f"S3Path('{bucket}/x')"


def test_opening_the_module_imports_nothing_heavy():
    import subprocess
    import sys

    code = "import sys, pipelines_lib.store; print([n for n in ('boto3', 'botocore', 'pyarrow', 'deltalake') if n in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_a_path_is_no_file_of_this_machine(bucket):
    assert isinstance(bucket, S3Path)
    with pytest.raises(TypeError):
        os.stat(bucket / "x")  # noqa: PTH116 - whoever takes it for a local path is to fail
