"""A small training of each kind of model, for one process or several: `loop_of(kind, folder, world, **settings)`."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from pipelines_lib.features.transform import FeatureTransform
from pipelines_lib.training.checkpoints import Checkpoints
from pipelines_lib.training.dataset import rows_of
from pipelines_lib.training.loop import Loop
from pipelines_lib.training.models import build
from pipelines_lib.training.objective import Objective
from pipelines_lib.use_case import Training, UseCase

STEPS = 4
MODELS = {
    "gru": {"type": "sequence", "series": {"heat": "heat_{step}"}, "layers": 2},
    "transformer": {"type": "sequence", "series": {"heat": "heat_{step}"}, "encoder": "transformer", "heads": 2},
    "ranking": {"type": "ranking", "user": ["age"], "item": ["arm"]},
    "uplift": {"type": "uplift", "control": "none"},
    "hooks": {"type": "hooks"},
    "multilabel": {"type": "tabular"},
}
N_TRAIN, N_VALIDATION = 97, 40  # in batches of 32 the last one has a single row, so a rank's share of it is empty


class Own(nn.Module):
    """A model of the user's own."""

    def __init__(self, shape) -> None:
        super().__init__()
        self.numbers = nn.Linear(shape.n_numeric, 8)
        self.arms = nn.Embedding(shape.categories[0], 8)
        self.head = nn.Linear(8, shape.n_outputs)

    def forward(self, numeric, categorical):
        return self.head(torch.tanh(self.numbers(numeric) + self.arms(categorical[:, 0])))


def hooks() -> ModuleType:
    module = ModuleType("hooks")
    module.__file__ = "hooks.py"
    module.model = lambda shape, settings: Own(shape)
    return module


def use_case_of(kind: str) -> UseCase:
    several = kind == "multilabel"
    return UseCase.model_validate(
        {
            "name": "kinds",
            "title": "Kinds",
            "owner": "tests",
            "task": "multilabel" if several else "binary",
            "start": "2026-01-01",
            "source": {"path": "{home}/in/{partition}.csv"},
            "columns": {
                **{f"heat_{step}": {"type": "number"} for step in range(STEPS)},
                "age": {"type": "number"},
                "arm": {"type": "string", "role": "treatment" if kind == "uplift" else "feature"},
                "outcome": {"type": "string", "role": "label"},
            },
            "label": {"column": "outcome", **({"separator": ";"} if several else {"positive": "yes"})},
            "gate": {"metric": "micro_f1" if several else "roc_auc", "floor": 0.5},
            "training": {"model": MODELS[kind] | {"hidden": [8], "embedding": 4, "dropout": 0.0}},
        }
    )


def problem(kind: str):
    """Columns, and labels as the layer `labelled` holds them."""
    random = np.random.default_rng(0)
    n = N_TRAIN + N_VALIDATION
    columns = {f"heat_{step}": random.normal(size=n) for step in range(STEPS)}
    columns |= {"age": random.normal(size=n), "arm": random.choice(["drug", "none"], n).tolist()}
    signal = columns["heat_3"] - columns["heat_0"] + columns["age"] * np.where(np.array(columns["arm"]) == "drug", 1, -1)
    if kind == "multilabel":
        names = [["hot"] * int(a > 0) + ["old"] * int(b > 0) for a, b in zip(signal, columns["age"], strict=True)]
        return columns, pa.array([";".join(some) for some in names])
    return columns, pa.array(np.where(signal > 0, "yes", "no"))


def loop_of(kind: str, folder: Path, world, **settings) -> Loop:
    use_case, (columns, labels) = use_case_of(kind), problem(kind)
    types = {name: use_case.columns[name].type for name in use_case.features()}
    transform = FeatureTransform.fit({name: values[:N_TRAIN] for name, values in columns.items()}, types, (), use_case.series)
    arrays = transform.apply(columns)
    objective = Objective(("hot", "old"), separator=";") if kind == "multilabel" else Objective(("no", "yes"))
    encoded, ids = objective.encode(labels), [f"row{place}" for place in range(len(labels))]
    sides = [
        rows_of({name: array[part] for name, array in arrays.items()}, encoded[part], pa.chunked_array([ids[part]]))
        for part in (slice(0, N_TRAIN), slice(N_TRAIN, None))
    ]
    given = Training.model_validate(
        {"epochs": 3, "batch_size": 32, "learning_rate": 0.01, "shares": "equal", "model": use_case.training.model.model_dump()} | settings
    )
    torch.manual_seed(3)
    sample = {name: array[:8] for name, array in arrays.items()}
    model = build(use_case, transform, objective.n_outputs, sample=sample, hooks=hooks)
    checkpoints = Checkpoints(str(folder), fingerprint="print", keep=2, group=world.group())
    return Loop(
        model, objective=objective, train=sides[0], validation=sides[1], settings=given, world=world, checkpoints=checkpoints, observers=()
    )
