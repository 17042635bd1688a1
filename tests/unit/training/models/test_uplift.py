"""The model for treatments: a row is answered by its arm's head, and learns who is helped."""

import numpy as np
import pytest
import torch

from pipelines_lib.features.transform import FeatureTransform
from pipelines_lib.training.export import to_onnx
from pipelines_lib.training.models.shape import Shape
from pipelines_lib.training.models.uplift import UpliftModel
from pipelines_lib.training.objective import Objective
from pipelines_lib.use_case import Model

TYPES = {"arm": "string", "age": "number", "site": "string"}


def trial(n: int = 2000, seed: int = 0):
    """`drug` helps those with a high age and harms the others; `sugar` does nothing."""
    random = np.random.default_rng(seed)
    age = random.normal(size=n)
    arm = random.choice(["drug", "none", "sugar"], n)
    chance = 0.5 + 0.3 * np.sign(age) * (arm == "drug")
    columns = {"arm": arm.tolist(), "age": age, "site": random.choice(["x", "y"], n).tolist()}
    return columns, (random.random(n) < chance).astype(np.int64)


@pytest.fixture
def made():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    columns, labels = trial()
    transform = FeatureTransform.fit(columns, TYPES)
    settings = Model(type="uplift", control="none", hidden=[16], dropout=0.0)
    return transform, UpliftModel(Shape.of(transform, 2), settings, treatment="arm", arms=transform.categorical[0].words), columns, labels


def answers(model, transform, columns, arm):
    arrays = transform.apply({**columns, "arm": [arm] * len(columns["age"])})
    with torch.no_grad():
        return model(**{name: torch.from_numpy(array) for name, array in arrays.items()}).softmax(1)[:, 1].numpy()


def test_it_tells_whom_the_treatment_helps(made, fit):
    transform, model, columns, labels = made
    fit(model, transform.apply(columns), labels)
    unseen, _ = trial(500, seed=1)
    by_arm = {arm: answers(model, transform, unseen, arm) for arm in ("drug", "none", "sugar")}
    drug, sugar = by_arm["drug"] - by_arm["none"], by_arm["sugar"] - by_arm["none"]
    old = unseen["age"] > 0.3
    young = unseen["age"] < -0.3
    assert drug[old].mean() == pytest.approx(0.3, abs=0.1)
    assert drug[young].mean() == pytest.approx(-0.3, abs=0.1)
    assert sugar.mean() == pytest.approx(0, abs=0.08)


def test_a_missing_or_unknown_arm_is_answered_as_the_control(made):
    transform, model, columns, _ = made
    model.eval()
    control = answers(model, transform, columns, "none")
    for arm in (None, "another"):
        np.testing.assert_array_equal(answers(model, transform, columns, arm), control)
    assert (answers(model, transform, columns, "drug") != control).all()


def test_the_trunk_does_not_see_the_arm(made):
    transform, model, _, _ = made
    assert 0 == transform.categorical[0].words.index("drug") == model._treatment
    assert model.inputs.categories.num_embeddings == transform.categorical[1].size
    model.heads = torch.nn.ModuleList([model.heads[0]] * 3)
    columns, _ = trial(50)
    np.testing.assert_array_equal(*(answers(model.eval(), transform, columns, arm) for arm in ("drug", "sugar")))


def test_every_rank_has_a_gradient_for_every_head_whatever_arms_its_rows_have(made):
    transform, model, columns, _ = made
    arrays = transform.apply({**columns, "arm": ["drug"] * len(columns["age"])})
    model(**{name: torch.from_numpy(array) for name, array in arrays.items()}).square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_it_comes_through_the_export(made):
    transform, model, columns, _ = made
    arrays = {name: array[:12] for name, array in transform.apply(columns).items()}
    assert to_onnx(Objective(("no", "yes")).scoring(model), arrays)
