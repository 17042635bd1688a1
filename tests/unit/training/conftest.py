"""A small training problem, without tables or use cases."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines_lib.use_case import Training

SETTINGS = {"epochs": 3, "batch_size": 32, "model": {"hidden": [16, 8], "embedding": 4, "dropout": 0.2}, "learning_rate": 0.01, "seed": 3}
N_TRAIN, N_VALIDATION = 150, 60


@pytest.fixture(autouse=True)
def _one_thread():
    """Models this small only lose time by sharing the work out."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def make_loop(tmp_path: Path) -> Callable[..., "object"]:
    """Returns `make(folder, world, task, **settings)`: a Loop over made-up rows, ready to run."""
    return lambda folder="checkpoints", world=None, task="binary", **settings: build_loop(tmp_path / folder, world, task, **settings)


def build_loop(folder: Path, world=None, task: str = "binary", observers=(), **settings):
    import torch

    from pipelines_lib.features.transform import FeatureTransform
    from pipelines_lib.training.checkpoints import Checkpoints
    from pipelines_lib.training.dataset import rows_of
    from pipelines_lib.training.distributed import World
    from pipelines_lib.training.loop import Loop
    from pipelines_lib.training.models.shape import Shape
    from pipelines_lib.training.models.tabular import TabularModel
    from pipelines_lib.training.objective import Objective

    columns, labels = problem(task)
    transform = FeatureTransform.fit({name: values[:N_TRAIN] for name, values in columns.items()}, TYPES)
    arrays = transform.apply(columns)
    sides = [
        rows_of(
            {name: array[part] for name, array in arrays.items()},
            labels[part],
            pa.chunked_array([[f"row{i}" for i in range(part.start, part.stop)]]),
        )
        for part in (slice(0, N_TRAIN), slice(N_TRAIN, N_TRAIN + N_VALIDATION))
    ]
    given = Training.model_validate(SETTINGS | settings)
    objective = Objective() if task == "regression" else Objective(("no", "yes"))
    torch.manual_seed(given.seed)
    model = TabularModel(Shape.of(transform, objective.n_outputs), given.model)
    world = world or World()
    return Loop(
        model,
        objective=objective,
        train=sides[0],
        validation=sides[1],
        settings=given,
        world=world,
        checkpoints=Checkpoints(str(folder), fingerprint="print", keep=2, group=world.group()),
        observers=observers,
    )


TYPES = {"x": "number", "y": "number", "colour": "string", "note": "text"}


def problem(task: str):
    random = np.random.default_rng(0)
    n = N_TRAIN + N_VALIDATION
    x, y = random.normal(size=(2, n))
    colour = random.choice(["red", "green", "blue"], n)
    good = random.random(n) < 0.5
    signal = x - y + 2 * (colour == "red") + 2 * good + random.normal(scale=0.5, size=n)
    columns = {"x": x, "y": y, "colour": colour.tolist(), "note": ["a good thing" if g else "bad, very bad" for g in good]}
    return columns, signal.astype(np.float32) if task == "regression" else (signal > 1.5).astype(np.int64)
