"""Several ranks: the exact strategies compute what one process does, the others learn as well."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines_lib.errors import ConfigError
from pipelines_lib.training.distributed import world

WORKER = """
import importlib.util, json, sys
import torch
from pathlib import Path
from pipelines_lib.training.checkpoints import copies
from pipelines_lib.training.distributed import world
from pipelines_lib.training.observer import Observer
copies.BUFFER = 2048  # several, of which each rank writes some
spec = importlib.util.spec_from_file_location("problem", sys.argv[1])
problem = importlib.util.module_from_spec(spec)
spec.loader.exec_module(problem)
def state(loop):
    return {name: whole(tensor) for name, tensor in loop._strategy.tensors().items() if name.startswith("optimizer")}

def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor

def same(some, others):
    return some.keys() == others.keys() and all(torch.equal(tensor, others[name]) for name, tensor in some.items())


class Hears(Observer):
    def __init__(self):
        self.losses = {}

    def progress(self, pace):
        self.losses[pace.epoch] = pace.loss


with world() as ranks:
    for name, settings in json.loads(sys.argv[3]).items():
        hears = Hears()
        loop = problem.build_loop(Path(sys.argv[2]) / name, ranks, observers=[hears], **settings)
        progress = loop.run()
        box = {"history": progress.history, "weights": {k: v.flatten().tolist() for k, v in loop.weights().items()}}
        box["told"] = list(hears.losses.values())
        box["stalest"] = getattr(loop._strategy, "stalest", 0)
        again = problem.build_loop(Path(sys.argv[2]) / name, ranks, **settings)
        box["kept"] = again.run().history == progress.history and same(state(loop), state(again)) and same(loop.weights(), again.weights())
        (Path(sys.argv[2]) / f"{name}-{ranks.rank}.json").write_text(json.dumps(box))
"""
MODEL = {"hidden": [16, 8], "embedding": 4, "dropout": 0.0}
# 150 rows in batches of 149: the last global batch has one row, so one rank's share of it is empty.
BASE = {"model": MODEL, "batch_size": 149, "epochs": 4, "task": "regression", "shares": "equal"}
SMALL = BASE | {"batch_size": 16, "epochs": 6, "patience": 6}


def train(folder: Path, n_ranks: int, trainings: dict[str, dict]) -> dict[str, list[dict]]:
    """Each of the trainings, by name, one after the other; what each rank came to."""
    folder.mkdir()
    (folder / "worker.py").write_text(WORKER)
    arguments = [str(folder / "worker.py"), str(Path(__file__).with_name("conftest.py")), str(folder), json.dumps(trainings)]
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={n_ranks}", "--standalone"] if n_ranks > 1 else []
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launcher, *arguments], capture_output=True, text=True, check=False, env=environment, timeout=200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(n_ranks)] for name in trainings}


EXACT = {
    "ddp": {},
    "fsdp": {"strategy": "fsdp"},
    "unequal": {"shares": [3, 1], "workers": 2},
    "unequal_shards": {"shares": [1, 4], "workers": 2, "strategy": "fsdp"},
    "accumulated": {"accumulate": 3, "clip_norm": 0.5},
    "accumulated_shards": {"accumulate": 3, "clip_norm": 0.5, "strategy": "fsdp"},
}
LEARNING = {
    "local_sgd": SMALL | {"strategy": "local_sgd", "sync_steps": 3},
    "unequal_local_sgd": SMALL | {"strategy": "local_sgd", "sync_steps": 3, "shares": [3, 1], "workers": 2},
    "async": SMALL | {"strategy": "async", "staleness": 2},
    "checkpointed": SMALL | {"checkpoint_steps": 2},
    "fp16": SMALL | {"precision": "fp16"},
    "bf16_shards": SMALL | {"precision": "bf16", "strategy": "fsdp"},
    "async_fp16": SMALL | {"strategy": "async", "precision": "fp16"},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What one process and two come to, in each of the ways."""
    folder = tmp_path_factory.mktemp("trained")
    alone = {"plain": BASE, "clipped": BASE | {"clip_norm": 0.5}, "small": SMALL}
    return train(folder / "one", 1, alone) | train(folder / "two", 2, {name: BASE | own for name, own in EXACT.items()} | LEARNING)


@pytest.mark.parametrize("name", EXACT)
def test_two_ranks_train_like_one_process(trained, name):
    [alone] = trained["clipped" if "clip_norm" in EXACT[name] else "plain"]
    first, second = trained[name]
    assert (first["history"], first["weights"]) == (second["history"], second["weights"])
    for epoch, expected in zip(first["history"], alone["history"], strict=True):
        assert epoch == pytest.approx(expected, rel=1e-4)
    assert alone["history"][-1]["train_loss"] < 0.95 * alone["history"][0]["train_loss"]
    for weight, values in alone["weights"].items():
        assert first["weights"][weight] == pytest.approx(values, abs=2e-4), weight


@pytest.mark.parametrize("name", LEARNING)
def test_the_other_ways_learn_too_and_all_ranks_end_in_the_same_weights(trained, name):
    first, second = trained[name]
    assert first["weights"] == second["weights"]
    assert first["history"] == second["history"]
    [alone] = trained["small"]
    start, end = (alone["history"][place]["validation_loss"] for place in (0, -1))
    assert first["history"][-1]["validation_loss"] < (start + end) / 2
    assert first["stalest"] <= LEARNING[name].get("staleness", 4)


@pytest.mark.parametrize("name", [*EXACT, *LEARNING])
def test_what_a_checkpoint_keeps_is_what_every_rank_had(trained, name):
    assert all(rank["kept"] for rank in trained[name])


def test_the_loss_that_is_told_on_the_way_is_a_rows_whatever_a_checkpoint_has_added_up(trained):
    first, _ = trained["checkpointed"]
    # The last of an epoch lacks the other rank's rows of the last step.
    assert first["told"] == pytest.approx([epoch["train_loss"] for epoch in first["history"]], rel=0.1)


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match=r"training\.device is cuda, and this machine has 0 CUDA"), world("cuda"):
        pass
    with pytest.raises(ConfigError, match="torch_xla is not installed"), world("xla"):
        pass
