"""Does each strategy reach what one process reaches? Two public data sets, three seeds each; prints the table of docs/training/strategies.md.

Two ranks work as two workers of a cluster would, on this machine; `unequal` gives the second a third of the first one's share.

    python benchmarks/quality_strategies.py [folder of the data sets]
"""

import io
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from sklearn.metrics import roc_auc_score
from training_work import NoCheckpoints

from pipelines_lib.features.transform import FeatureTransform
from pipelines_lib.training.dataset import Rows, rows_of
from pipelines_lib.training.distributed import World, world
from pipelines_lib.training.loop import Loop
from pipelines_lib.training.models import build
from pipelines_lib.training.objective import Objective
from pipelines_lib.use_case import Column, UseCase

ROOT = Path(__file__).parents[1]
SEEDS = (0, 1, 2)
WAYS: dict[str, dict[str, Any]] = {
    "one process": {},
    "ddp": {"strategy": "ddp"},
    "ddp, unequal": {"strategy": "ddp", "shares": [3, 1]},
    "fsdp": {"strategy": "fsdp"},
    "local_sgd": {"strategy": "local_sgd", "sync_steps": 8},
    "local_sgd, unequal": {"strategy": "local_sgd", "sync_steps": 8, "shares": [3, 1]},
    "async": {"strategy": "async", "staleness": 4},
}
TASKS: dict[str, dict[str, Any]] = {
    "credit default (AUC)": {"file": "credit_default.csv", "target": "default.payment.next.month", "drop": ["ID"], "classes": ("0", "1")},
    "ccpp (RMSE)": {"file": "ccpp.csv", "target": "PE", "drop": [], "classes": ()},
}
TRAINING = {"epochs": 12, "patience": 12, "batch_size": 512, "learning_rate": 2e-3, "schedule": "cosine", "shares": "equal", "workers": 2}


def main(folder: Path) -> None:
    """Train in every way and print the table."""
    one, two = (trained(folder, n) for n in (1, 2))
    print(f"| way | {' | '.join(TASKS)} |")
    print(f"|---|{'---|' * len(TASKS)}")
    for way in WAYS:
        found = (one if way == "one process" else two)[way]
        cells = [f"{statistics.mean(found[task]):.4f} ± {statistics.stdev(found[task]):.4f}" for task in TASKS]
        print(f"| {way} | {' | '.join(cells)} |")


def trained(folder: Path, n: int) -> dict[str, dict[str, list[float]]]:
    """Way → task → figure of each seed, trained by `n` processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}"] if n > 1 else []
    command = [sys.executable, *launcher, __file__, "--rank", str(folder)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    found: dict[str, dict[str, list[float]]] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def rank(folder: Path) -> None:
    """As one of the ranks: train in every way that fits their number."""
    with world("cpu") as ranks:
        ways = {way: own for way, own in WAYS.items() if (way == "one process") == (ranks.size == 1)}
        found = {way: {task: [train(folder, task, own, seed, ranks) for seed in SEEDS] for task in TASKS} for way, own in ways.items()}
        if ranks.is_first:
            print(json.dumps(found), flush=True)


def train(folder: Path, task: str, own: dict[str, Any], seed: int, ranks: World) -> float:
    """The figure of the test rows: a seventh of all, as are those to stop by."""
    given = TASKS[task]
    # Reading text makes one line ending of all kinds.
    table = pd.read_csv(io.StringIO((folder / given["file"]).read_text(encoding="utf-8-sig"))).drop(columns=given["drop"])
    target = table.pop(given["target"])
    table = table.rename(columns=lambda name: name.replace(".", "_"))
    use_case = UseCase.model_validate(
        {
            "name": "bench",
            "title": "bench",
            "owner": "bench",
            "start": "2026-01-01",
            "source": {"path": "{partition}.csv"},
            "task": "binary" if given["classes"] else "regression",
            "columns": {
                **{name: {"type": "number"} for name in table},
                "target": {"type": "string" if given["classes"] else "number", "role": "label"},
            },
            "label": {"column": "target", **({"positive": "1"} if given["classes"] else {})},
            "gate": {"metric": "roc_auc" if given["classes"] else "rmse", "floor": 0.5},
            "training": {**TRAINING, **own, "seed": seed},
        }
    )
    order = np.random.default_rng(0).permutation(len(table))
    sides = np.split(order, [len(order) * 5 // 7, len(order) * 6 // 7])
    types = {name: column.type for name, column in use_case.columns.items() if isinstance(column, Column) and column.role == "feature"}
    columns = [{name: table[name].to_numpy(np.float64)[side] for name in table} for side in sides]
    transform = FeatureTransform.fit(columns[0], types)
    labels = pa.chunked_array([pa.array(target.astype(str) if given["classes"] else target.astype(float))])
    objective = Objective.of(use_case.task, given["classes"], labels.take(pa.array(sides[0])))
    data = [_rows(transform, objective, some, labels.take(pa.array(side))) for some, side in zip(columns, sides, strict=True)]
    torch.manual_seed(seed)
    net = build(
        use_case, transform, objective.n_outputs, sample={name: tensor.numpy()[:64] for name, tensor in data[0].inputs.items()}, hooks=_none
    )
    loop = Loop(
        net,
        objective=objective,
        train=data[0],
        validation=data[1],
        settings=use_case.training,
        world=ranks,
        checkpoints=NoCheckpoints(),  # type: ignore[arg-type]
    )
    loop.run()
    weights = loop.weights()
    net = build(use_case, transform, objective.n_outputs, sample={}, hooks=_none)
    net.load_state_dict(weights)
    with torch.no_grad():
        scores = objective.scoring(net).eval()(**data[2].inputs).numpy()
    truth = target.to_numpy()[sides[2]]
    if given["classes"]:
        return float(roc_auc_score(truth, scores[:, 1]))
    return float(np.sqrt(np.mean((scores[:, 0] - truth) ** 2)))


def _rows(transform: FeatureTransform, objective: Objective, columns: dict[str, Any], labels: Any) -> Rows:
    ids = pa.chunked_array([pa.array(np.arange(len(labels))).cast(pa.string())])
    return rows_of(transform.apply(columns), objective.encode(labels), ids)


def _none() -> Any:
    raise AssertionError("no model of a user's own")


if __name__ == "__main__":
    if "--rank" in sys.argv:
        rank(Path(sys.argv[-1]))
    else:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT.parent / "shared" / "data")
