"""Checkpoints in an object store, over HTTP; what a folder does besides is in `test_checkpoint.py`."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import boto3
import pytest
import torch

from pipelines_lib.errors import ConfigError, Unavailable
from pipelines_lib.training.checkpoints import Checkpoints
from pipelines_lib.training.checkpoints.files import Bucket, Folder

BUCKET = "models"


@pytest.fixture
def store(cloud, monkeypatch, request):
    """Its client, an empty prefix, and a connection to it called `store`."""
    connect(monkeypatch, cloud)
    client = boto3.client("s3", endpoint_url=cloud, aws_access_key_id="k", aws_secret_access_key="s", region_name="us-east-1")
    client.create_bucket(Bucket=BUCKET)
    return client, f"s3://{BUCKET}/{request.node.name}"


def connect(monkeypatch, endpoint):
    extra = {"endpoint_url": endpoint, "region_name": "us-east-1", "addressing_style": "path"}
    monkeypatch.setenv("SLUICE_CONN_STORE", json.dumps({"conn_type": "aws", "login": "k", "password": "s", "extra": extra}))


def checkpoints(address, keep=2):
    return Checkpoints(address, "store", fingerprint="print", keep=keep, group=None)


def write(place, *steps):
    for step in steps:
        place.begin(step, {"w": torch.full((1000,), float(step)), "step": torch.tensor(step)}, {"epoch": step})
        assert place.wait()


def read(place, step):
    found = {"w": torch.zeros(1000), "step": torch.tensor(0)}
    progress = place.load(step, found)
    return int(found["step"]), float(found["w"][-1]), progress


def keys(client, address):
    prefix = address.removeprefix(f"s3://{BUCKET}/") + "/"
    objects = client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    return [each["Key"].removeprefix(prefix) for each in objects]


def test_checkpoints_in_a_store_are_kept_found_and_read(store):
    client, address = store
    place = checkpoints(address)
    assert place.newest() is None
    write(place, 1, 2, 3)
    assert keys(client, address) == [
        f"step-00000000{step}/{name}" for step in (2, 3) for name in ("manifest.json", "part-000-00000.safetensors")
    ]
    other = checkpoints(address + "/")
    assert other.newest() == 3
    assert read(other, 3) == (3, 3.0, {"epoch": 3})


def test_a_damaged_object_is_skipped(store, caplog):
    client, address = store
    write(checkpoints(address), 1, 2)
    prefix = address.removeprefix(f"s3://{BUCKET}/")
    part = f"{prefix}/step-000000002/part-000-00000.safetensors"
    data = client.get_object(Bucket=BUCKET, Key=part)["Body"].read()
    client.put_object(Bucket=BUCKET, Key=part, Body=data[:-1] + b"?")
    assert checkpoints(address).newest() == 1
    assert f"{address}/step-000000002 is skipped and removed: part-000-00000.safetensors differs from its hash" in caplog.text
    assert all("step-000000001" in key for key in keys(client, address))


def test_a_big_part_is_sent_in_pieces_and_one_that_was_cut_off_is_forgotten(store, monkeypatch):
    client, address = store
    monkeypatch.setattr("pipelines_lib.s3._PIECE", 5 << 20)
    place = checkpoints(address)
    big = torch.arange(3 << 20, dtype=torch.float32)  # 12 MB
    place.begin(1, {"big": big}, {})
    assert place.wait()
    key = f"{address.removeprefix(f's3://{BUCKET}/')}/step-000000001/part-000-00000.safetensors"
    assert client.head_object(Bucket=BUCKET, Key=key)["ETag"].strip('"').endswith("-3")
    found = {"big": torch.zeros(3 << 20)}
    client.create_multipart_upload(Bucket=BUCKET, Key=f"{key}.more")
    assert place.newest() == 1
    place.load(1, found)
    assert torch.equal(found["big"], big)
    assert "Uploads" not in client.list_multipart_uploads(Bucket=BUCKET)


KILLED = """
import os, signal, sys, torch
from pipelines_lib.training.checkpoints import Checkpoints
from pipelines_lib.training.checkpoints.files import Bucket

write = Bucket.write

def until_the_manifest(bucket, name, pieces):
    if name == "step-000000002/manifest.json":
        os.kill(os.getpid(), signal.SIGKILL)
    write(bucket, name, pieces)

Bucket.write = until_the_manifest
checkpoints = Checkpoints(sys.argv[1], "store", fingerprint="print", keep=2, group=None)
for step in (1, 2):
    checkpoints.begin(step, {"w": torch.full((1000,), float(step)), "step": torch.tensor(step)}, {"epoch": step})
    checkpoints.wait()
"""


def test_a_kill_before_the_manifest_leaves_the_one_before(store, caplog):
    client, address = store
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[4]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", KILLED, address], check=False, env=environment, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert "step-000000002/part-000-00000.safetensors" in keys(client, address)
    place = checkpoints(address)
    assert place.newest() == 1
    assert "step-000000002 is skipped and removed: it has no manifest, so it was never finished" in caplog.text
    assert read(place, 1) == (1, 1.0, {"epoch": 1})
    assert all("step-000000001" in key for key in keys(client, address))


@pytest.fixture
def nowhere():
    """An address where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.usefixtures("impatient")
def test_a_store_that_is_down_costs_that_checkpoint_alone(monkeypatch, caplog, nowhere):
    connect(monkeypatch, nowhere)
    place = checkpoints("s3://models/down")
    with pytest.raises(
        Unavailable, match=r"s3://models/down \(connection 'store'\): the store does not answer \(EndpointConnectionError\)"
    ):
        place.newest()
    place.begin(1, {"w": torch.zeros(1)}, {})
    assert not place.wait()
    assert "step-000000001 could not be written, and training goes on without it: worker 0: s3://models/down (connection" in caplog.text
    assert "is left there until the next start" in caplog.text


def test_what_is_wrong_with_a_store_is_said(store, monkeypatch):
    client, _ = store
    with pytest.raises(ConfigError, match=r"s3://nowhere/x \(connection 'store'\): there is no such bucket"):
        Bucket("s3://nowhere/x", "store").files()
    with pytest.raises(ConfigError, match=r"s3://\?/y: '\?' is no name of a bucket; write s3://bucket/prefix"):
        Bucket("s3://?/y", "store").files()
    with pytest.raises(FileNotFoundError), Bucket(f"s3://{BUCKET}/x", "store").opened("step-000000001/manifest.json"):
        pass
    client.put_object(Bucket=BUCKET, Key="root/manifest.json", Body=b"")
    assert "root/manifest.json" in Bucket(f"s3://{BUCKET}", "store").files()
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    with pytest.raises(ConfigError, match="there are no credentials"):
        Bucket(f"s3://{BUCKET}", None).files()


@pytest.mark.usefixtures("impatient")
def test_a_store_that_refuses_is_named_and_no_secret_is_shown(store, troubled, monkeypatch):
    connect(monkeypatch, troubled.address)
    bucket = Bucket("s3://sluice/x", "store")
    troubled.fail("answer", status=403, code="AccessDenied")
    with (
        pytest.raises(ConfigError, match=r"x/a \(connection 'store'\): the store refused access \(AccessDenied\)") as caught,
        bucket.opened("a"),
    ):
        pass
    assert "hush" not in str(caught.value)
    troubled.fail("answer", status=503, code="SlowDown", times=5)
    with pytest.raises(Unavailable, match=r"does not answer \(SlowDown, status 503\)"), bucket.opened("a"):
        pass


def test_a_folder_forgets_what_was_cut_off(tmp_path):
    folder = Folder(tmp_path)
    folder.write("a/part", [b"1", memoryview(b"23")])
    (tmp_path / "a" / "other.new").write_bytes(b"half")
    (tmp_path / "b").mkdir()
    assert folder.files() == {"a/part": 3}
    folder.sweep()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "part"]
    folder.remove(["a/none", "a/part"])
    assert list(tmp_path.iterdir()) == []
