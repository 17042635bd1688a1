"""Checkpoints: complete or not read."""

import json
import logging

import pytest
import torch

from pipelines_lib.training.checkpoint import Checkpoints


def write(checkpoints, step):
    checkpoints.begin(step, {"w": torch.full((2, 3), float(step))}, {"epoch": step})
    assert checkpoints.wait()


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(str(tmp_path), "print", keep=2, group=None)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_read(checkpoints):
    assert checkpoints.newest() is None
    write(checkpoints, 7)
    assert checkpoints.newest() == 7
    found = torch.zeros(2, 3)
    assert checkpoints.load(7, {"w": found}) == {"epoch": 7}
    assert torch.equal(found, torch.full((2, 3), 7.0))


def test_the_last_two_are_kept(checkpoints, tmp_path):
    for step in (5, 10, 200, 1000):
        write(checkpoints, step)
    assert names(tmp_path) == ["step-000000200", "step-000001000"]


@pytest.mark.parametrize("part", ["tensors.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_one_is_skipped_with_a_warning(checkpoints, tmp_path, caplog, part, damage):
    write(checkpoints, 1)
    write(checkpoints, 2)
    path = tmp_path / "step-000000002" / part
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(bytes(data) if damage == "flip" else data[: len(data) // 2])
    with caplog.at_level(logging.WARNING):
        assert checkpoints.newest() == 1
    assert "step-000000002 is skipped" in caplog.text
    assert names(tmp_path) == ["step-000000001"]


def test_one_of_another_training_is_not_resumed(checkpoints, tmp_path, caplog):
    write(checkpoints, 900)
    other = Checkpoints(str(tmp_path), "another", keep=2, group=None)
    assert other.newest() is None
    assert "another snapshot" in caplog.text
    # The other's high step number must not push out the new training's own.
    write(other, 1)
    write(other, 2)
    assert other.newest() == 2


def test_the_manifest_comes_last(checkpoints, tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError("no space left")

    monkeypatch.setattr("pipelines_lib.training.checkpoint.write_json", full_disk)
    with pytest.raises(OSError, match="no space"):
        write(checkpoints, 1)
    assert "manifest.json" not in names(tmp_path / "step-000000001")
    assert checkpoints.newest() is None


def test_a_manifest_may_not_be_nonsense(checkpoints, tmp_path):
    write(checkpoints, 1)
    for nonsense in ([], {"fingerprint": "print"}, {"fingerprint": "print", "files": []}):
        write(checkpoints, 1)
        (tmp_path / "step-000000001" / "manifest.json").write_text(json.dumps(nonsense))
        assert checkpoints.newest() is None
