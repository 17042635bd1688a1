"""From a package to a device's answers: made smaller, signed, rolled out to some, pulled, verified."""

import io
import json

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pipelines_lib.connections import Connection
from pipelines_lib.edge import device, release
from pipelines_lib.edge.__main__ import main
from pipelines_lib.edge.rollout import within
from pipelines_lib.edge.rows import answers
from pipelines_lib.errors import BadInput, ConfigError, DataError, Held, Unavailable
from pipelines_lib.registry.package import predicted
from tests.tiny import training_rows
from tests.unit.edge.conftest import KEY, PUBLIC, ROW


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int8_static"])
def test_a_device_answers_as_the_package_does(package, group, folder, precision):
    rows = package.transform.apply(training_rows(200, seed=1))
    name, figures = release.release(package, group, KEY, version=1, precision=precision, share=1, bound=0.05, calibration=rows)
    assert device.pull(str(group), folder, "d1", PUBLIC)["bundle"] == name
    bundle, columns = device.opened(folder, PUBLIC), package.holdout().columns
    assert bundle.transform == package.transform
    for key, array in package.transform.apply(columns).items():
        assert array.tobytes() == bundle.transform.apply(columns)[key].tobytes()
    largest = np.abs(bundle.predict(columns) - package.predict(columns)).max()
    assert largest == pytest.approx(figures[precision]["largest_difference"], abs=1e-6)
    assert figures["fp32"]["largest_difference"] < 1e-6


def test_a_device_predicts_from_the_operating_point_on_as_the_service_does(package, group, folder, monkeypatch):
    scores = package.predict(package.holdout().columns)
    middle = float(np.median(scores[:, 1].astype(float)))
    monkeypatch.setattr(package, "manifest", package.manifest.model_copy(update={"operating_point": middle}))
    release.release(package, group, KEY, version=1, precision="fp32", share=1, bound=0.05)
    device.pull(str(group), folder, "d1", PUBLIC)
    columns = package.holdout().columns
    lines = [json.dumps(dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True)]
    said = [answer["prediction"] for answer in answers(device.opened(folder, PUBLIC), lines, as_csv=False)]
    assert said == predicted(package.manifest, scores)[0]
    assert said != [package.manifest.classes[place] for place in scores.argmax(axis=1)]


def test_a_score_that_moves_too_far_holds_the_release_and_writes_nothing(package, group):
    with pytest.raises(Held, match="moves a score by"):
        release.release(package, group, KEY, version=1, precision="fp16", share=1, bound=-1.0)
    assert not group.exists()


def test_the_same_release_again_changes_nothing(put, group):
    put()
    before = {path: path.read_bytes() for path in group.rglob("*") if path.is_file()}
    put()
    assert {path: path.read_bytes() for path in group.rglob("*") if path.is_file()} == before


def test_a_candidate_reaches_its_share_is_widened_and_taken_back(put, group):
    stable, candidate = put(1), put(2, share=0.3)
    devices = [f"device{i}" for i in range(2000)]
    first = {each for each in devices if within(each, candidate, 0.3)}
    assert 500 < len(first) < 700
    assert first < {each for each in devices if within(each, candidate, 0.6)}
    assert all(within(each, candidate, 1.0) and not within(each, candidate, 0.0) for each in devices)
    assert release.pointer(group, KEY) | {"serial": 0} == {
        "format": 1, "serial": 0, "group": "shop/all", "stable": stable, "candidate": candidate, "previous": None, "share": 0.3,
    }  # fmt: skip
    assert release.widen(group, KEY, 0.6)["share"] == 0.6
    assert release.widen(group, KEY, 1.0)["stable"] == candidate
    assert release.roll_back(group, KEY)["stable"] == stable
    with pytest.raises(BadInput, match="nothing to go back to"):
        release.roll_back(group, KEY)
    with pytest.raises(BadInput, match="no candidate"):
        release.widen(group, KEY, 0.5)


def test_the_same_release_again_leaves_a_share_that_was_widened(put, group):
    put(1)
    put(2, share=0.1)
    release.widen(group, KEY, 0.6)
    put(2, share=0.1)
    assert release.pointer(group, KEY)["share"] == 0.6


def test_a_bucket_holds_the_same_bytes_as_a_folder(package, group, bucket):
    there = bucket / "shop" / "edge" / "all"
    for place in (group, there):
        release.release(package, place, KEY, version=1, precision="int8", share=1, bound=0.05)
        name = release.pointer(place, KEY)["stable"]
    for file in ("pointer.json", *(f"{name}/{each}" for each in ("manifest.json", "model.onnx", "transform.json"))):
        assert (there / file).read_bytes() == (group / file).read_bytes()


def test_a_device_outside_the_share_keeps_the_stable_bundle(put, group, folder, tmp_path):
    stable, candidate = put(1), put(2, share=0.5)
    inside = next(f"d{i}" for i in range(100) if within(f"d{i}", candidate, 0.5))
    outside = next(f"d{i}" for i in range(100) if not within(f"d{i}", candidate, 0.5))
    assert device.pull(str(group), folder, outside, PUBLIC)["bundle"] == stable
    assert device.pull(str(group), folder, inside, PUBLIC)["bundle"] == candidate
    release.roll_back(group, KEY)
    assert device.pull(str(group), folder, inside, PUBLIC)["bundle"] == stable


@pytest.mark.parametrize("file", ["model.onnx", "transform.json", "manifest.json"])
def test_a_bad_bundle_leaves_the_old_one_in_use(put, group, folder, file):
    put(1)
    before = device.pull(str(group), folder, "d1", PUBLIC)
    path = group / put(2) / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(DataError):
        device.pull(str(group), folder, "d1", PUBLIC)
    assert device.current(folder) == before
    assert device.opened(folder, PUBLIC).manifest["version"] == 1


def test_what_another_key_signed_is_refused(put, group, folder):
    put(key=Ed25519PrivateKey.generate())
    with pytest.raises(DataError, match="not signed with the key"):
        device.pull(str(group), folder, "d1", PUBLIC)


def test_an_older_pointer_is_not_followed(put, group, folder):
    put(1)
    old = (group / "pointer.json").read_bytes()
    put(2)
    device.pull(str(group), folder, "d1", PUBLIC)
    (group / "pointer.json").write_bytes(old)
    with pytest.raises(DataError, match="has serial 1, and this device has seen 2"):
        device.pull(str(group), folder, "d1", PUBLIC)


def test_without_the_store_the_device_goes_on(put, group, folder):
    name = put(1)
    device.pull(str(group), folder, "d1", PUBLIC)
    with pytest.raises(Unavailable, match="stays in use"):
        device.pull(str(group / "gone"), folder, "d1", PUBLIC)
    assert device.current(folder)["bundle"] == name
    device.opened(folder, PUBLIC)


def test_a_pull_that_was_cut_off_goes_on_where_it_was(put, group, folder, monkeypatch):
    name, fetched, fetch = put(1), [], device.fetch

    def cut(source, file, most):
        if file.endswith("transform.json"):
            raise Unavailable("cut off")
        return fetch(source, file, most)

    monkeypatch.setattr(device, "fetch", cut)
    with pytest.raises(Unavailable):
        device.pull(str(group), folder, "d1", PUBLIC)
    monkeypatch.setattr(device, "fetch", lambda source, file, most: fetched.append(file) or fetch(source, file, most))
    device.pull(str(group), folder, "d1", PUBLIC)
    assert fetched == ["pointer.json", f"{name}/transform.json"]
    assert sorted(path.name for path in folder.iterdir()) == ["current.copy.json", "current.json", name]


def test_a_device_goes_back_by_itself_and_does_not_take_that_bundle_again(put, group, folder):
    first = put(1)
    device.pull(str(group), folder, "d1", PUBLIC)
    put(2)
    device.pull(str(group), folder, "d1", PUBLIC)
    assert device.roll_back(folder)["bundle"] == first
    assert device.pull(str(group), folder, "d1", PUBLIC)["bundle"] == first
    third = put(3)
    assert device.pull(str(group), folder, "d1", PUBLIC)["bundle"] == third


def test_a_damaged_bundle_in_use_is_mended_by_a_pull(put, group, folder):
    name = put(1)
    device.pull(str(group), folder, "d1", PUBLIC)
    (folder / name / "model.onnx").write_bytes(b"")
    with pytest.raises(DataError, match="not what the manifest says"):
        device.opened(folder, PUBLIC)
    device.pull(str(group), folder, "d1", PUBLIC)
    device.opened(folder, PUBLIC)


def test_each_bad_row_says_what_is_wrong_and_the_others_are_answered(put, group, folder):
    put(1)
    device.pull(str(group), folder, "d1", PUBLIC)
    bundle = device.opened(folder, PUBLIC)
    lines = [
        json.dumps(ROW),
        "{",
        "[1]",
        json.dumps({"amount": 1}),
        json.dumps(ROW | {"age": "old"}),
        json.dumps(ROW | {"country": ["de"]}),
        json.dumps(ROW | {"age": None}),
    ]
    found = list(answers(bundle, lines, as_csv=False))
    assert [answer["line"] for answer in found if "error" not in answer] == [1, 7]
    assert [found[0]["prediction"] in {"yes", "no"}, len(found[0]["scores"])] == [True, 2]
    for answer, said in zip(
        found[1:6], ["not JSON", "a JSON object", "'age' is absent", 'age: "old" can\'t be read as integer', "no single value"], strict=True
    ):
        assert said in answer["error"]
    csv = ["amount,age,member,country\n", "0.5,30,true,de\n", "0.5,30\n", "0.5,,true,de\n"]
    by_csv = list(answers(bundle, csv, as_csv=True))
    assert by_csv[0]["scores"] == found[0]["scores"]
    assert "2 values under a header of 4" in by_csv[1]["error"]
    assert by_csv[2]["scores"] == found[6]["scores"]


def test_a_key_that_is_none_is_refused_without_quoting_it():
    with pytest.raises(ConfigError, match="no ed25519 key") as raised:
        release.private_key(Connection(name="sluice_edge", type="generic", password="hunter2"))
    assert "hunter2" not in str(raised.value)


def test_the_command_pulls_verifies_and_predicts(put, group, tmp_path, capsys, monkeypatch):
    put(1)
    (tmp_path / "public").write_text(PUBLIC[0].public_bytes_raw().hex() + "\n")
    key = ["--folder", str(tmp_path / "device"), "--key", str(tmp_path / "public")]
    assert main(["pull", str(group), "--device", "d1", *key]) == 0
    assert main(["verify", *key]) == 0
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(ROW) + "\n"))
    capsys.readouterr()
    assert main(["predict", *key]) == 0
    assert json.loads(capsys.readouterr().out)["prediction"] == "yes"
    (tmp_path / "rows").write_bytes(json.dumps(ROW).replace("de", "d?").encode().replace(b"?", b"\xff") + b"\n" + json.dumps(ROW).encode())
    assert main(["predict", *key, str(tmp_path / "rows")]) == 2
    refused, answered = map(json.loads, capsys.readouterr().out.splitlines())
    assert "no UTF-8 text" in refused["error"]
    assert answered["prediction"] == "yes"
    assert main(["predict", *key, str(tmp_path / "absent")]) == 2
    assert "can't be read" in capsys.readouterr().err
