"""What may go wrong on a device and on the way to it: each is said, with its remedy, and what was in use goes on predicting."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pipelines_lib.edge import device, release
from pipelines_lib.edge.__main__ import main
from pipelines_lib.edge.bundle import MANIFEST, MODEL, POINTER, TRANSFORM, sealed
from pipelines_lib.registry.package import Package
from tests.unit.edge.conftest import KEY, PUBLIC, ROW

OTHER = Ed25519PrivateKey.from_private_bytes(bytes([1] * 32))


@pytest.fixture(scope="module")
def two_versions(tmp_path_factory, make_package):
    """A folder: `shop` is the store, whose group has a second version, and `device` still has the first."""
    home = tmp_path_factory.mktemp("two")
    names = []
    for version in (1, 2):
        package = Package.open(home / make_package(home / "shop", bias=float(version)))
        names.append(release.release(package, home / "shop/edge/all", KEY, version=version, precision="int8", share=1, bound=0.05)[0])
        if version == 1:
            device.pull(str(home / "shop/edge/all"), home / "device", "d1", PUBLIC)
    return home, *names


@pytest.fixture
def world(two_versions, tmp_path, capsys):
    """The paths of a copy of it, its bundles' names, and `run(*arguments)`: exit code and what was printed to the two streams."""
    home, old, new = two_versions
    for name in ("shop", "device"):
        shutil.copytree(home / name, tmp_path / name)
    (tmp_path / "rows").write_text(json.dumps(ROW))
    (tmp_path / "public").write_text(PUBLIC[0].public_bytes_raw().hex())
    group = tmp_path / "shop/edge/all"

    def run(what, *arguments, source=str(group), key=tmp_path / "public"):
        given = [source, "--device", "d1"] if what == "pull" else [str(tmp_path / "rows")] if what == "predict" else []
        trusted = [] if what == "back" else ["--key", str(key)]
        code = main([what, *given, "--folder", str(tmp_path / "device"), *trusted, *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    def put(file, change):
        path = group / file
        path.write_bytes(change(path.read_bytes()))

    return SimpleNamespace(home=tmp_path, group=group, device=tmp_path / "device", old=old, new=new, run=run, put=put)


def pointer_with(**changes):
    """Signed as it should be, and it says something else."""

    def change(world):
        world.put(POINTER, lambda data: json.dumps(sealed({**json.loads(data)["signed"], **changes}, KEY)).encode())

    return change


def put(file, change):
    return lambda world: world.put(file.replace("new/", f"{world.new}/"), change)


def flipped(data):
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]


def signed_by_another(data):
    return json.dumps(sealed(json.loads(data)["signed"], OTHER)).encode()


def replayed(world):
    shutil.rmtree(world.group / world.new)
    shutil.copytree(world.group / world.old, world.group / world.new)


def seen(world):
    path = world.device / "current.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"serial": 9}))


WAY = {
    "the store is gone": (lambda world: shutil.rmtree(world.group), 1, "pointer.json can't be read: .*pull again when the store can be reached; what is in use stays"),
    "half a pointer": (put(POINTER, lambda data: data[: len(data) // 2]), 2, "pointer.json is no signed document .*release it again"),
    "an empty pointer": (put(POINTER, lambda _: b""), 2, "no signed document"),
    "a pointer that nests without end": (put(POINTER, lambda _: b"[" * 200_000), 2, "no signed document"),
    "a pointer without end": (put(POINTER, lambda _: b" " * (5 << 20)), 2, "larger than the 4,194,304 bytes that it may have"),
    "a pointer of another's": (put(POINTER, signed_by_another), 2, "not signed with the key that is trusted here; give this device the key"),
    "a pointer of another group": (pointer_with(group="shop/others", serial=9), 2, "is of the group shop/others, and this folder follows shop/all"),
    "a pointer of before": (seen, 2, "serial 2, and this device has seen 9: an older one that was put back"),
    "a pointer out of the folder": (pointer_with(stable="../../device"), 2, "names a bundle '../../device', which is no name"),
    "a pointer of tomorrow": (pointer_with(format=99), 2, "has a format that this device does not read .*bring the device up to date"),
    "a manifest as the pointer": (lambda world: shutil.copy(world.group / world.new / MANIFEST, world.group / POINTER), 2, "is signed, and is another document: it lacks serial"),
    "a pointer as the manifest": (lambda world: shutil.copy(world.group / POINTER, world.group / world.new / MANIFEST), 2, "is signed, and is another document: it lacks version"),
    "a manifest of another's": (put(f"new/{MANIFEST}", signed_by_another), 2, "manifest.json is not signed with the key"),
    "an old bundle in the new one's place": (replayed, 2, "is the manifest of another bundle, v1-int8-.*put in this one's place"),
    "no manifest": (lambda world: (world.group / world.new / MANIFEST).unlink(), 1, "manifest.json can't be read"),
    "a damaged graph": (put(f"new/{MODEL}", flipped), 2, "model.onnx is not what the manifest says"),
    "half a graph": (put(f"new/{MODEL}", lambda data: data[: len(data) // 2]), 2, "model.onnx is not what the manifest says"),
    "a graph without end": (put(f"new/{MODEL}", lambda data: data + bytes(1)), 2, r"model.onnx is larger than the [\d,]+ bytes that it may have"),
    "a damaged transform": (put(f"new/{TRANSFORM}", flipped), 2, "transform.json is not what the manifest says"),
}  # fmt: skip


@pytest.mark.parametrize("case", WAY)
def test_what_the_store_gives_is_refused_and_the_old_bundle_answers(world, case):
    spoil, code, said = WAY[case]
    before = world.run("predict")
    spoil(world)
    refused = world.run("pull")
    assert refused[:2] == (code, ""), refused
    assert_said(refused[2], said)
    assert world.run("verify")[0] == 0
    assert world.run("predict") == before


ADDRESSES = {
    "http://store.example/all": (
        2,
        "http://store.example/all/pointer.json is not read, for others could read along; give a folder, an https",
    ),
    "ftp://store.example/all": (2, "others could read along"),
    "file:///all": (2, "others could read along"),
    "s3://bucket/all": (2, "others could read along"),
    "https://[all": (2, "is no address"),
    "http://127.0.0.1:1/all": (1, "refused.*pull again when the store can be reached"),
}


@pytest.mark.parametrize("source", ADDRESSES)
def test_an_address_that_is_not_read_is_told_from_one_that_does_not_answer(world, source):
    code, said = ADDRESSES[source]
    refused = world.run("pull", source=source)
    assert refused[0] == code
    assert_said(refused[2], said)


KEYS = {
    "absent": (None, "can't be read from .*No such file"),
    "empty": (b"", "holds no public keys: one a line, 64 hexadecimal digits"),
    "not hexadecimal": (b"\xff\xfe key", "holds no public keys"),
    "another": (OTHER.public_key().public_bytes_raw().hex().encode(), "not signed with the key that is trusted here"),
}


@pytest.mark.parametrize("case", KEYS)
@pytest.mark.parametrize("what", ["pull", "verify", "predict"])
def test_nothing_is_done_without_the_right_key(world, what, case):
    key, said = KEYS[case]
    if key is not None:
        (world.home / "wrong").write_bytes(key)
    code, out, err = world.run(what, key=world.home / "wrong")
    assert (code, out) == (2, "")
    assert_said(err, said)


HERE = {
    "half a current.json": (lambda world: spoil(world, "current.json", lambda data: data[:20]), None),
    "an empty current.json": (lambda world: spoil(world, "current.json", lambda _: b""), None),
    "a current.json of something else": (lambda world: spoil(world, "current.json", lambda _: b'{"bundle": 5}'), None),
    "a current.json that leads out": (lambda world: spoil(world, "current.json", lambda _: b'{"bundle": "../shop"}'), None),
    "no current.json": (lambda world: (world.device / "current.json").unlink(), None),
    "both damaged": (
        lambda world: [spoil(world, name, lambda _: b"{") for name in ("current.json", "current.copy.json")],
        "are damaged, so that nobody can say which bundle is in use; remove them and pull",
    ),
    "nothing pulled": (lambda world: shutil.rmtree(world.device), "holds no bundle; pull one"),
    "a damaged graph": (
        lambda world: spoil(world, f"{world.old}/{MODEL}", flipped),
        "model.onnx is not what the manifest says; pull it again",
    ),
    "no transform": (lambda world: (world.device / world.old / TRANSFORM).unlink(), "transform.json can't be read .*pull the bundle again"),
    "a manifest of another's": (lambda world: spoil(world, f"{world.old}/{MANIFEST}", signed_by_another), "not signed with the key"),
    "another bundle in its place": (
        lambda world: [shutil.rmtree(world.device / world.old), shutil.copytree(world.group / world.new, world.device / world.old)],
        "is the manifest of another bundle, v2-int8-",
    ),
}


def spoil(world, file, change):
    path = world.device / file
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize("case", HERE)
def test_what_is_damaged_on_the_device_is_found_and_mended_by_a_pull(world, case):
    damage, said = HERE[case]
    before = world.run("predict")
    damage(world)
    for what in ("verify", "predict"):
        code, out, err = world.run(what)
        if said is None:
            assert code == 0
            assert what == "verify" or out == before[1]
        else:
            assert (code, out) == (2, "")
            assert_said(err, said)
    if case == "both damaged":
        assert world.run("pull")[0] == 2
        for name in ("current.json", "current.copy.json"):
            (world.device / name).unlink()
    assert world.run("pull")[0] == 0
    assert json.loads(world.run("verify")[1])["version"] == 2


def test_a_file_that_is_swapped_once_it_was_verified_changes_no_answer(world):
    bundle = device.opened(world.device, PUBLIC)
    columns = {name: [value] for name, value in ROW.items()}
    before = bundle.predict(columns)
    shutil.copy(world.group / world.new / MODEL, world.device / world.old / MODEL)
    assert (bundle.predict(columns) == before).all()
    assert world.run("predict")[0] == 2


@pytest.mark.parametrize(
    ("where", "error"), [("os.fsync", OSError(28, "No space left on device")), ("os.replace", PermissionError(13, "Permission denied"))]
)
def test_a_disk_that_takes_nothing_leaves_the_old_bundle(world, monkeypatch, where, error):
    def refuse(*_):
        raise error

    with monkeypatch.context() as full:
        full.setattr(f"pipelines_lib.edge.device.{where}", refuse)
        code, _, err = world.run("pull")
    assert code == 1
    assert_said(err, f"can't be written .{error.strerror}.; see that the disk has room")
    assert json.loads(world.run("verify")[1])["version"] == 1
    assert world.run("pull")[0] == 0
    assert json.loads(world.run("verify")[1])["version"] == 2


class PowerLoss(BaseException):
    """Nothing catches it."""


def test_whenever_the_power_goes_one_of_the_two_bundles_is_in_use_and_the_next_pull_ends_it(world, monkeypatch):
    whole = world.home / "whole"
    world.device.rename(whole)
    for moment in range(100):
        shutil.copytree(whole, world.device)
        with monkeypatch.context() as losing:
            lose_power_at(moment, losing)
            try:
                world.run("pull")
            except PowerLoss:
                ended = False
            else:
                ended = True
        assert json.loads(world.run("verify")[1])["version"] in ({2} if ended else {1, 2}), moment
        assert world.run("pull")[0] == 0, moment
        assert sorted(path.name for path in world.device.iterdir()) == ["current.copy.json", "current.json", world.old, world.new], moment
        assert json.loads(world.run("verify")[1])["version"] == 2, moment
        shutil.rmtree(world.device)
        if ended:
            break
    assert ended
    assert moment > 10


def lose_power_at(moment, monkeypatch):
    """At the call of that number that changes the disk; of a file that is written just then, half is there."""
    calls = iter(range(1000))

    def failing(of, name):
        real = getattr(of, name)

        def call(*arguments, **named):
            if next(calls) == moment:
                if name == "fsync" and (opened := Path(f"/proc/self/fd/{arguments[0]}").resolve()).is_file():
                    os.truncate(opened, opened.stat().st_size // 2)
                raise PowerLoss
            return real(*arguments, **named)

        monkeypatch.setattr(of, name, call)

    for of, name in ((os, "replace"), (os, "fsync"), (os, "unlink"), (os, "rmdir"), (Path, "mkdir")):
        failing(of, name)


def test_a_key_is_changed_while_devices_go_on(world):
    def trust(*keys):
        (world.home / "public").write_text("\n".join(key.public_key().public_bytes_raw().hex() for key in keys))

    assert world.run("pull")[0] == 0
    trust(OTHER, KEY)
    assert world.run("predict")[0] == world.run("pull")[0] == 0
    assert release.resign(world.group, OTHER, KEY)["serial"] == 3
    assert world.run("pull")[0] == 0
    trust(OTHER)
    assert world.run("predict")[0] == world.run("pull")[0] == 0
    assert release.resign(world.group, OTHER, KEY)["serial"] == 4
    assert release.roll_back(world.group, OTHER)["stable"] == world.old
    assert world.run("pull")[0] == 0
    assert json.loads(world.run("verify")[1])["version"] == 1


def assert_said(text, pattern):
    import re

    assert text.startswith("sluice: ")
    assert re.search(pattern, text), text
    assert "Traceback" not in text
