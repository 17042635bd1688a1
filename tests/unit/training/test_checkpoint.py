"""Checkpoints: complete or not read."""

import json
import logging

import pytest
import torch

from pipelines_lib.training.checkpoint import Checkpoint, Checkpoints, load_optimizer, optimizer_tensors


def checkpoint(step):
    return Checkpoint(step, {"epoch": step}, {"model": {"w": torch.full((2, 3), float(step))}, "empty": {}})


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path, "print")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_read(checkpoints):
    assert checkpoints.newest() is None
    checkpoints.write(checkpoint(7))
    found = checkpoints.read(7)
    assert (checkpoints.newest(), found.step, found.state) == (7, 7, {"epoch": 7})
    assert torch.equal(found.tensors["model"]["w"], torch.full((2, 3), 7.0))
    assert found.tensors["empty"] == {}


def test_the_last_two_are_kept(checkpoints, tmp_path):
    for step in (5, 10, 200, 1000):
        checkpoints.write(checkpoint(step))
    assert names(tmp_path) == ["step-000000200", "step-000001000"]


@pytest.mark.parametrize("part", ["model.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_one_is_skipped_with_a_warning(checkpoints, tmp_path, caplog, part, damage):
    checkpoints.write(checkpoint(1))
    checkpoints.write(checkpoint(2))
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
    checkpoints.write(checkpoint(900))
    other = Checkpoints(tmp_path, "another")
    assert other.newest() is None
    assert "another snapshot" in caplog.text
    # The other's high step number must not push out the new training's own.
    other.write(checkpoint(1))
    other.write(checkpoint(2))
    assert other.newest() == 2


def test_the_manifest_comes_last(checkpoints, tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError("no space left")

    monkeypatch.setattr("pipelines_lib.training.checkpoint.write_json", full_disk)
    with pytest.raises(OSError, match="no space"):
        checkpoints.write(checkpoint(1))
    assert "manifest.json" not in names(tmp_path / "step-000000001")
    assert checkpoints.newest() is None


def test_a_manifest_may_not_be_nonsense(checkpoints, tmp_path):
    checkpoints.write(checkpoint(1))
    for nonsense in ([], {"fingerprint": "print"}, {"fingerprint": "print", "files": []}):
        checkpoints.write(checkpoint(1))
        (tmp_path / "step-000000001" / "manifest.json").write_text(json.dumps(nonsense))
        assert checkpoints.newest() is None


def test_an_optimizer_goes_on_where_it_stopped():
    def steps(model, optimizer, n):
        for _ in range(n):
            optimizer.zero_grad()
            model(torch.ones(1, 2)).square().sum().backward()
            optimizer.step()

    torch.manual_seed(0)
    model, copy = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    steps(model, optimizer, 3)
    copy.load_state_dict(model.state_dict())
    other = torch.optim.AdamW(copy.parameters())
    load_optimizer(other, {name: tensor.clone() for name, tensor in optimizer_tensors(optimizer).items()})
    steps(model, optimizer, 2)
    steps(copy, other, 2)
    assert torch.equal(model.weight, copy.weight)
