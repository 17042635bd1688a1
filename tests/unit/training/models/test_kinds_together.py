"""Every kind of model is trained by several ranks: the exact strategies compute what one process does, the others learn."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KINDS = Path(__file__).with_name("kinds.py")
WORKER = """
import importlib.util, json, sys
from pathlib import Path
from pipelines_lib.training.distributed import world
spec = importlib.util.spec_from_file_location("kinds", sys.argv[1])
kinds = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kinds)
folder = Path(sys.argv[2])
with world() as ranks:
    for name, (kind, settings) in json.loads(sys.argv[3]).items():
        loop = kinds.loop_of(kind, folder / name, ranks, **settings)
        history = loop.run().history
        weights = {k: v.flatten().tolist() for k, v in loop.weights().items()}
        (folder / f"{name}-{ranks.rank}.json").write_text(json.dumps({"history": history, "weights": weights}))
"""
NAMES = ("gru", "transformer", "ranking", "uplift", "hooks", "multilabel")
STRATEGIES = {
    "ddp": {},
    "fsdp": {"strategy": "fsdp"},
    "local_sgd": {"strategy": "local_sgd", "sync_steps": 2},
    "async": {"strategy": "async", "staleness": 2},
}
EXACT = ("ddp", "fsdp")
PAIRS = [
    *((kind, strategy) for kind in NAMES for strategy in EXACT),
    *(("gru", "local_sgd"), ("multilabel", "local_sgd"), ("uplift", "async"), ("hooks", "async")),
]


def train(folder: Path, n_ranks: int, trainings: dict) -> dict:
    folder.mkdir()
    (folder / "worker.py").write_text(WORKER)
    arguments = [str(folder / "worker.py"), str(KINDS), str(folder), json.dumps(trainings)]
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={n_ranks}", "--standalone"] if n_ranks > 1 else []
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[4]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launcher, *arguments], capture_output=True, text=True, check=False, env=environment, timeout=250
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(n_ranks)] for name in trainings}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    two = {f"{kind}-{strategy}": (kind, STRATEGIES[strategy]) for kind, strategy in PAIRS}
    return train(folder / "one", 1, {kind: (kind, {}) for kind in NAMES}) | train(folder / "two", 2, two)


@pytest.mark.parametrize(("kind", "strategy"), PAIRS)
def test_a_kind_is_trained_by_two_ranks(trained, kind, strategy):
    [alone], (first, second) = trained[kind], trained[f"{kind}-{strategy}"]
    assert first == second
    if strategy in EXACT:
        for epoch, expected in zip(first["history"], alone["history"], strict=True):
            assert epoch == pytest.approx(expected, rel=1e-4)
        for name, values in alone["weights"].items():
            assert first["weights"][name] == pytest.approx(values, abs=5e-4), name
    else:
        start, end = (first["history"][place]["train_loss"] for place in (0, -1))
        assert end < start


def test_every_kind_is_here():
    spec = importlib.util.spec_from_file_location("kinds", KINDS)
    kinds = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kinds)
    assert tuple(kinds.MODELS) == NAMES
