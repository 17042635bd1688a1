"""Checkpoints: complete or not read, whatever happens while they are written, and for any number of ranks."""

import errno
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines_lib.errors import ConfigError, DataError, Unavailable
from pipelines_lib.training.checkpoints import Checkpoints
from pipelines_lib.training.checkpoints.format import DTYPES, FORMAT, Manifest, sealed

BEFORE, LAST = "step-000000001", "step-000000002"


def checkpoints(folder, fingerprint="print", keep=2):
    return Checkpoints(str(folder), fingerprint=fingerprint, keep=keep, group=None)


def tensors(step):
    return {"model.w": torch.full((2, 3), float(step)), "optimizer.w.step": torch.tensor(float(step))}


def write(place, *steps):
    for step in steps:
        place.begin(step, tensors(step), {"epoch": step})
        assert place.wait()


def read(place, step):
    found = {name: torch.zeros_like(tensor) for name, tensor in tensors(step).items()}
    progress = place.load(step, found)
    return found, progress


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def bits(tensor):
    return tensor.contiguous().as_strided((tensor.numel(),), (1,)).view(torch.uint8)


def test_what_is_written_is_read(tmp_path):
    place = checkpoints(tmp_path)
    assert place.newest() is None
    assert not place.wait()
    write(place, 7)
    found, progress = read(checkpoints(tmp_path), 7)
    assert (checkpoints(tmp_path).newest(), progress) == (7, {"epoch": 7})
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors(7).items())


@st.composite
def any_tensor(draw):
    dtype = draw(st.sampled_from(list(DTYPES)))
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    whole = torch.Size([*shape[:-1], 2 * shape[-1]]) if shape else torch.Size([])
    n_bytes = whole.numel() * dtype.itemsize
    # Of a bool, bits other than the lowest mean nothing.
    data = draw(st.binary(min_size=n_bytes, max_size=n_bytes)) if dtype != torch.bool else bytes(i % 2 for i in range(n_bytes))
    tensor = torch.frombuffer(bytearray(data), dtype=dtype).reshape(whole) if n_bytes else torch.empty(whole, dtype=dtype)
    tensor = tensor[..., ::2] if shape else tensor
    return tensor.transpose(0, -1) if len(shape) > 1 and draw(st.booleans()) else tensor


@given(st.dictionaries(st.text(min_size=1), any_tensor(), min_size=1, max_size=4))
@settings(max_examples=40)
def test_any_tensors_come_back_bit_for_bit(tmp_path_factory, given_tensors):
    folder = tmp_path_factory.mktemp("any")
    place = checkpoints(folder)
    place.begin(1, given_tensors, {})
    assert place.wait()
    found = {name: torch.zeros_like(tensor) for name, tensor in given_tensors.items()}
    assert checkpoints(folder).newest() == 1
    checkpoints(folder).load(1, found)
    for name, tensor in given_tensors.items():
        assert torch.equal(bits(found[name]), bits(tensor)), name


def test_what_training_changes_meanwhile_is_not_in_it(tmp_path):
    place = checkpoints(tmp_path)
    weights, history = torch.ones(1000, 1000), [1]
    for step in (1, 2):  # the second one goes to the buffers of the first
        place.begin(step, {"w": weights, "again": weights[:10]}, {"history": history})
        weights.add_(1)
        history.append(step)
    assert place.wait()
    found = {"w": torch.zeros(1000, 1000), "again": torch.zeros(10, 1000)}
    assert place.load(2, found) == {"history": [1, 1]}
    assert torch.equal(found["w"], torch.full((1000, 1000), 2.0))
    assert torch.equal(found["again"], torch.full((10, 1000), 2.0))


def test_the_last_ones_are_kept(tmp_path):
    write(checkpoints(tmp_path, keep=3), 5, 10, 200, 1000)
    assert names(tmp_path) == ["step-000000010", "step-000000200", "step-000001000"]
    write(checkpoints(tmp_path, keep=1), 1001)
    assert names(tmp_path) == ["step-000001001"]


DAMAGES = {
    "flip": lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :],
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "remove": None,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("pattern", ["part-*", "manifest.json"])
def test_a_damaged_one_is_skipped_with_a_warning(tmp_path, caplog, pattern, damage):
    write(checkpoints(tmp_path), 1, 2)
    [path] = (tmp_path / LAST).glob(pattern)
    if change := DAMAGES[damage]:
        path.write_bytes(change(path.read_bytes()))
    else:
        path.unlink()
    place = checkpoints(tmp_path)
    assert place.newest() == 1
    assert f"{LAST} is skipped and removed: " in caplog.text
    assert names(tmp_path) == [BEFORE]
    assert read(place, 1)[1] == {"epoch": 1}


@given(st.data())
@settings(max_examples=60)
def test_no_changed_byte_goes_unseen(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("byte")
    write(checkpoints(folder), 1, 2)
    path = data.draw(st.sampled_from(sorted((folder / LAST).iterdir())))
    content = bytearray(path.read_bytes())
    place, change = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(1, 255))
    content[place] ^= change
    path.write_bytes(content)
    step = checkpoints(folder).newest()
    # A changed blank of the manifest changes nothing.
    assert step == 1 or (path.suffix == ".json" and json.loads(bytes(content)))
    assert step == 1 or read(checkpoints(folder), 2)[1] == {"epoch": 2}


def changed(**changes):
    """A manifest with a seal that is right."""
    return lambda data: sealed(Manifest.from_bytes(data).model_dump(mode="json") | changes)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda _: b"\xff{", "its manifest is no JSON"),
        (lambda _: b"[1]", "its manifest has another format"),
        (changed(format="sluice checkpoint 9"), f"its manifest has another format than '{FORMAT}'"),
        (lambda data: data.replace(b'"epoch": 2', b'"epoch": 3'), "its manifest was changed after it was written"),
        (changed(step=3), "its manifest is that of step 3"),
        (changed(fingerprint="other"), "it belongs to another snapshot or other training settings"),
        (changed(parts={"part-000-00000.safetensors": "?"}), "its manifest lacks parts"),
    ],
)
def test_a_manifest_may_not_be_nonsense(tmp_path, caplog, change, says):
    write(checkpoints(tmp_path), 1, 2)
    path = tmp_path / LAST / "manifest.json"
    path.write_bytes(change(path.read_bytes()))
    assert checkpoints(tmp_path).newest() == 1
    assert f"{LAST} is skipped and removed: {says}" in caplog.text


def test_one_of_another_training_is_not_resumed(tmp_path, caplog):
    write(checkpoints(tmp_path), 900)
    other = checkpoints(tmp_path, "another")
    assert other.newest() is None
    assert "another snapshot" in caplog.text
    # The other's high step number must not push out the new training's own.
    write(other, 1, 2)
    assert other.newest() == 2


def test_a_damaged_one_is_not_among_those_that_are_kept(tmp_path, caplog):
    write(checkpoints(tmp_path, keep=3), 1, 2, 3)
    [path] = (tmp_path / LAST).glob("part-*")
    path.write_bytes(DAMAGES["flip"](path.read_bytes()))
    place = checkpoints(tmp_path, keep=3)
    assert place.newest() == 3
    assert "skipped" not in caplog.text
    write(place, 4)
    assert names(tmp_path) == [BEFORE, "step-000000003", "step-000000004"]
    assert f"{LAST} is skipped and removed: " in caplog.text


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
@pytest.mark.parametrize("which", ["part-000-00000.safetensors", "manifest.json"])
def test_a_full_disk_costs_that_checkpoint_alone(tmp_path, caplog, monkeypatch, call, which):
    place = checkpoints(tmp_path)
    write(place, 1)
    with monkeypatch.context() as patched:
        break_down(patched, call, which)
        place.begin(2, tensors(2), {})
        assert not place.wait()
    assert "step-000000002 could not be written, and training goes on without it: worker 0: [Errno 28] No space left" in caplog.text
    assert names(tmp_path) == [BEFORE]
    assert checkpoints(tmp_path).newest() == 1
    write(place, 3)
    assert names(tmp_path) == [BEFORE, "step-000000003"]


def test_a_full_disk_is_told_of_once_until_it_changes(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO, logger="sluice")
    place = checkpoints(tmp_path)

    def begin(step):
        place.begin(step, tensors(step), {})
        return place.wait()

    with monkeypatch.context() as patched:
        break_down(patched, "fsync", "part-000-00000.safetensors")
        assert not any(begin(step) for step in (1, 2, 3))
    assert begin(4)
    assert begin(5)
    with monkeypatch.context() as patched:
        break_down(patched, "fsync", "manifest.json")
        assert not begin(6)

    first, again, other = [record.getMessage() for record in caplog.records if record.name == "sluice"]
    assert "step-000000001 could not be written, and training goes on without it: worker 0: [Errno 28]" in first
    assert first.endswith("(said once until it changes)")
    assert again.startswith("checkpoints can be written again; the first is ")
    assert again.endswith("step-000000004")
    assert "step-000000006 could not be written" in other


def break_down(patched, call, which):
    """Have `call` on the file `which` fail as on a full disk."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if call == "write":
        opened = Path.open

        def open_full(path, mode="r", *rest):
            if which in path.name and "w" in mode:
                return opened(Path("/dev/full"), "wb", buffering=0)
            return opened(path, mode, *rest)

        patched.setattr(Path, "open", open_full)
        return
    real = getattr(os, call)

    def refuse(target, *rest):
        path = str(Path(f"/proc/self/fd/{target}").readlink()) if isinstance(target, int) else str(target)
        if which in path:
            raise full
        return real(target, *rest)

    patched.setattr(os, call, refuse)


def test_a_checkpoint_that_is_written_again_stands_until_the_new_one_does(tmp_path, monkeypatch):
    write(checkpoints(tmp_path), 1, 2)
    place = checkpoints(tmp_path)
    assert place.newest() == 2
    with monkeypatch.context() as patched:
        break_down(patched, "write", "manifest.json")
        place.begin(2, tensors(5), {"epoch": 5})
        assert not place.wait()
    assert read(checkpoints(tmp_path), 2)[1] == {"epoch": 2}
    place.begin(2, tensors(5), {"epoch": 5})
    assert place.wait()
    found, progress = read(checkpoints(tmp_path), 2)
    assert (float(found["model.w"][0, 0]), progress) == (5.0, {"epoch": 5})
    assert len(names(tmp_path / LAST)) == 2


def test_old_ones_that_can_not_be_removed_do_not_spoil_a_new_one(tmp_path, caplog, monkeypatch):
    place = checkpoints(tmp_path, keep=1)
    write(place, 1)

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(Path, "unlink", refuse)
    write(place, 2)
    assert "is complete, but older ones could not be removed: [Errno 13] no" in caplog.text


def test_a_mistake_of_ours_is_no_full_disk(tmp_path, monkeypatch):
    place = checkpoints(tmp_path)
    monkeypatch.setattr("pipelines_lib.training.checkpoints.storage.safetensors", lambda _: iter([None]))
    place.begin(1, tensors(1), {})
    with pytest.raises(TypeError):
        place.wait()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model.w": torch.zeros(3, 3)}, r"differ in model\.w:"),
        ({"model.w": torch.zeros(2, 3, dtype=torch.float64)}, r"differ in model\.w:"),
        ({"model.v": torch.zeros(2)}, r"differ in model\.v:"),
    ],
)
def test_tensors_that_are_not_the_checkpoints_are_refused(tmp_path, change, says):
    place = checkpoints(tmp_path)
    write(place, 1)
    with pytest.raises(DataError, match=says):
        place.load(1, tensors(1) | change)
    with pytest.raises(DataError, match=r"differ in optimizer\.w\.step:"):
        place.load(1, {"model.w": torch.zeros(2, 3)})


def test_damage_since_the_look_is_found_when_it_is_read(tmp_path):
    place = checkpoints(tmp_path)
    write(place, 1)
    assert place.newest() == 1
    [path] = (tmp_path / BEFORE).glob("part-*")
    whole = path.read_bytes()
    path.write_bytes(DAMAGES["flip"](whole))
    with pytest.raises(Unavailable, match=r"part-000-00000\.safetensors differs from its hash"):
        read(place, 1)
    path.unlink()
    with pytest.raises(Unavailable, match="is missing"):
        read(place, 1)


def test_numbers_that_can_not_be_kept_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"model\.w holds torch\.complex128, which a checkpoint can't"):
        checkpoints(tmp_path).begin(1, {"model.w": torch.zeros(2, dtype=torch.complex128)}, {})


KILLED = """
import io, os, pathlib, signal, sys, torch
from pipelines_lib.training.checkpoints import Checkpoints

folder, left = sys.argv[1], 0

def count():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

class Counted:
    def __init__(self, file): self.file = file
    def write(self, data):
        count()
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        count()
        self.file.write(data[len(data) // 2 :])
    def __getattr__(self, name): return getattr(self.file, name)
    def __enter__(self): return self
    def __exit__(self, *how): self.file.close()

def audited(event, arguments):
    if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir") and str(arguments[0]).startswith(folder):
        count()

opened = pathlib.Path.open
pathlib.Path.open = lambda path, mode="r", *rest: Counted(opened(path, mode, *rest)) if "w" in mode else opened(path, mode, *rest)
sync = os.fsync
os.fsync = lambda descriptor: (count(), sync(descriptor))[1]
sys.addaudithook(audited)
tensors = lambda step: {"w": torch.full((100,), float(step)), "step": torch.tensor(step)}
checkpoints = Checkpoints(folder, fingerprint="print", keep=2, group=None)
for step in (1, 2):
    checkpoints.begin(step, tensors(step), {"epoch": step})
    checkpoints.wait()
for number in range(1, 1000):
    child = os.fork()
    if child == 0:
        left = number
        checkpoints = Checkpoints(folder, fingerprint="print", keep=2, group=None)
        newest = checkpoints.newest()
        found = {name: torch.zeros_like(tensor) for name, tensor in tensors(0).items()}
        assert checkpoints.load(newest, found) == {"epoch": newest}, newest
        assert all(bool((tensor == newest).all()) for tensor in found.values()), newest
        checkpoints.begin(newest + 1, tensors(newest + 1), {"epoch": newest + 1})
        assert checkpoints.wait()
        print("done", newest + 1, flush=True)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0, "a child failed"
        print("kills", number - 1)
        break
    assert os.WTERMSIG(status) == signal.SIGKILL
"""


def test_a_kill_at_any_file_operation_leaves_a_checkpoint_to_go_on_from(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[4]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "kept")], capture_output=True, text=True, check=False, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *_, last, kills = done.stdout.strip().splitlines()
    assert int(kills.split()[1]) > 15
    place = checkpoints(tmp_path / "kept")
    assert place.newest() == int(last.split()[1])
    assert len(names(tmp_path / "kept")) == 2


WORKER = """
import logging, resource, sys
from pathlib import Path
import torch, torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from pipelines_lib.training.checkpoints import Checkpoints, copies

copies.BUFFER = 64  # so that both ranks have some to write
folder = Path(sys.argv[1])
dist.init_process_group("gloo")
rank = dist.get_rank()
logging.basicConfig(format=f"[{rank}] %(levelname)s %(message)s", stream=sys.stdout)

def state(mesh, seed=0):
    torch.manual_seed(seed)
    # A row, and an odd number of rows: ranks get different shares, and some none.
    model = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.Linear(5, 1))
    if mesh:
        for layer in model:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(3, 7)).sum().backward()
    optimizer.step()
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for (name, _), values in zip(model.named_parameters(), optimizer.state.values()):
        tensors |= {f"optimizer.{name}.{key}": value for key, value in values.items()}
    # As a parameter server has, before and after what all have.
    server = {name: torch.full((number,), number + float(seed)) for number, name in enumerate(("a", "z"), start=9)} if rank == 0 else {}
    tensors |= {"plain": torch.arange(1000.0) + seed, "shift": torch.tensor(7 + seed), "bits": torch.arange(20) % 2 == seed}
    return dict(sorted((tensors | server).items()))

def whole(tensors):
    return {name: tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor for name, tensor in tensors.items()}

def written_by_two(mesh, group):
    checkpoints = Checkpoints(str(folder), fingerprint="print", keep=2, group=group)
    assert checkpoints.newest() is None
    kept = state(mesh)
    for step in (1, 2):
        checkpoints.begin(step, kept, {"epoch": step})
        dist.all_reduce(torch.ones(1), group=mesh.get_group())  # training's collectives go on meanwhile
    assert checkpoints.wait()
    # One rank's disk is full.
    if rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    checkpoints.begin(3, kept, {})
    assert not checkpoints.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert checkpoints.newest() == 2
    # A part that the second rank looks at.
    checkpoints.begin(4, kept, {"epoch": 4})
    assert checkpoints.wait()
    if rank == 0:
        part = folder / "step-000000004" / "part-000-00001.safetensors"
        part.write_bytes(part.read_bytes()[:-1] + b"?")
    assert checkpoints.newest() == 2
    return whole(kept)

def check_read(mesh, group, expected):
    filled = state(mesh, seed=1)
    checkpoints = Checkpoints(str(folder), fingerprint="print", keep=2, group=group)
    assert checkpoints.newest() == 2
    assert checkpoints.load(2, filled) == {"epoch": 2}
    found = whole(filled)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items()), found
    assert rank or found.keys() == expected.keys()

two, training, three = dist.new_group([0, 1]), DeviceMesh("cpu", [0, 1]), dist.new_group()
expected = written_by_two(training, two) if rank < 2 else whole(state(None))
dist.barrier()
check_read(DeviceMesh("cpu", [0, 1, 2]), three, expected)
if rank == 0:
    check_read(None, None, expected)
    # And what one process writes, with plain tensors, two read as shards.
    checkpoints = Checkpoints(str(folder / "alone"), fingerprint="print", keep=2, group=None)
    checkpoints.begin(2, state(None), {"epoch": 2})
    assert checkpoints.wait()
dist.barrier()
if rank < 2:
    folder = folder / "alone"
    check_read(training, two, whole(state(None)))
dist.barrier()
dist.destroy_process_group()
"""


def test_what_two_ranks_write_any_number_reads(tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3", str(tmp_path / "worker.py"), str(tmp_path / "kept")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[4]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[0] WARNING checkpoint" in done.stdout
    assert "step-000000003 could not be written, and training goes on without it: worker 1: [Errno 27] File too large" in done.stdout
    assert "[1] WARNING checkpoint" in done.stdout
    assert "part-000-00001.safetensors differs from its hash in the manifest" in done.stdout
    assert names(tmp_path / "kept") == ["alone", LAST]
    assert len(names(tmp_path / "kept" / LAST)) == 3
