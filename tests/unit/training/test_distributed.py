"""Two ranks compute what one process does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = """
import importlib.util, json, logging, sys
from pathlib import Path
from pipelines_lib.training.distributed import world
logging.basicConfig(level=logging.INFO)
spec = importlib.util.spec_from_file_location("problem", sys.argv[1])
problem = importlib.util.module_from_spec(spec)
spec.loader.exec_module(problem)
settings = json.loads(sys.argv[3])
with world() as ranks:
    loop = problem.build_loop(Path(sys.argv[2]) / "checkpoints", ranks, **settings)
    progress = loop.run()
    box = {"history": progress.history, "weights": {k: v.flatten().tolist() for k, v in loop._model.state_dict().items()}}
    (Path(sys.argv[2]) / f"rank{ranks.rank}of{ranks.size}.json").write_text(json.dumps(box))
"""


def train(folder: Path, n_ranks: int, settings: dict) -> list[dict]:
    folder.mkdir()
    (folder / "worker.py").write_text(WORKER)
    arguments = [str(folder / "worker.py"), str(Path(__file__).with_name("conftest.py")), str(folder), json.dumps(settings)]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n_ranks}"] if n_ranks > 1 else []
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *launcher, *arguments], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads((folder / f"rank{rank}of{n_ranks}.json").read_text()) for rank in range(n_ranks)]


def test_two_ranks_train_like_one_process(tmp_path):
    # 150 rows in batches of 149: the last global batch has one row, so one rank's share of it is empty.
    settings = {"model": {"hidden": [16, 8], "embedding": 4, "dropout": 0.0}, "batch_size": 149, "epochs": 4, "task": "regression"}
    [alone] = train(tmp_path / "one", 1, settings)
    first, second = train(tmp_path / "two", 2, settings)
    assert first == second
    for epoch, expected in zip(first["history"], alone["history"], strict=True):
        assert epoch == pytest.approx(expected, rel=1e-4)
    assert alone["history"][-1]["train_loss"] < 0.9 * alone["history"][0]["train_loss"]
    for name, values in alone["weights"].items():
        assert first["weights"][name] == pytest.approx(values, abs=2e-4), name
