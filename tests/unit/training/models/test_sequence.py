"""The model for windows: it learns what only the order of the steps tells, and comes through the export."""

import numpy as np
import pytest
import torch

from pipelines_lib.features.transform import FeatureTransform
from pipelines_lib.training.export import to_onnx
from pipelines_lib.training.models.sequence import SequenceModel
from pipelines_lib.training.models.shape import Shape
from pipelines_lib.training.objective import Objective
from pipelines_lib.use_case import Model

N, STEPS = 300, 8
WINDOWS = {name: [f"{name}_{step}" for step in range(STEPS)] for name in ("heat", "noise")}


def rising(seed: int = 0, n: int = N):
    """Windows of which half rise and half fall, through the same values: their mean, and each step's, say nothing."""
    random = np.random.default_rng(seed)
    rises = random.random(n) < 0.5
    slope = np.where(rises, 1.0, -1.0) * random.uniform(0.1, 0.3, n)
    heat = random.normal(0, 2, n)[:, None] + slope[:, None] * (np.arange(STEPS) - (STEPS - 1) / 2) + random.normal(0, 0.1, (n, STEPS))
    columns = {f"heat_{step}": heat[:, step] for step in range(STEPS)}
    columns |= {f"noise_{step}": random.normal(size=n) for step in range(STEPS)}
    columns["age"] = random.normal(size=n)
    return columns, rises.astype(np.int64)


TYPES = dict.fromkeys([*WINDOWS["heat"], *WINDOWS["noise"], "age"], "number")


def made(encoder: str, **settings):
    columns, labels = rising()
    transform = FeatureTransform.fit(columns, TYPES, (), WINDOWS)
    torch.manual_seed(0)
    settings = Model(type="sequence", series={name: name + "_{step}" for name in WINDOWS}, hidden=[16], encoder=encoder, **settings)
    return transform, SequenceModel(Shape.of(transform, 2), settings), columns, labels


@pytest.mark.parametrize("encoder", ["gru", "transformer"])
def test_it_learns_the_order_of_steps_and_is_exported(encoder, fit):
    torch.set_num_threads(1)
    transform, model, columns, labels = made(encoder, dropout=0.0)
    fit(model, transform.apply(columns), labels, steps=120)
    unseen, truth = rising(seed=1)
    arrays = transform.apply(unseen)
    with torch.no_grad():
        found = model(**{name: torch.from_numpy(array) for name, array in arrays.items()}).argmax(dim=1).numpy()
    assert (found == truth).mean() > 0.9
    # to_onnx proves that the graph answers like the model, many rows and one.
    assert to_onnx(Objective(("falls", "rises")).scoring(model), {name: array[:9] for name, array in arrays.items()})


@pytest.mark.parametrize("encoder", ["gru", "transformer"])
def test_every_parameter_has_a_part_in_the_answer(encoder):
    transform, model, columns, _ = made(encoder, layers=2)
    model(**{name: torch.from_numpy(array) for name, array in transform.apply(columns).items()}).square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_windows_alone_are_enough():
    columns, _ = rising()
    types = {name: kind for name, kind in TYPES.items() if name != "age"}
    transform = FeatureTransform.fit(columns, types, (), WINDOWS)
    arrays = transform.apply(columns)
    assert set(arrays) == {"series"}
    model = SequenceModel(Shape.of(transform, 3), Model(type="sequence", series={"heat": "heat_{step}"}, hidden=[8]))
    assert model(torch.from_numpy(arrays["series"])).shape == (N, 3)
