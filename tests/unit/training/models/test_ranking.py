"""The model for clicks: it learns who likes what, which neither the user nor the item tells alone."""

import numpy as np
import pytest
import torch

from pipelines_lib.evaluation import metrics
from pipelines_lib.features.transform import FeatureTransform
from pipelines_lib.training.export import to_onnx
from pipelines_lib.training.models.ranking import RankingModel
from pipelines_lib.training.models.shape import Shape
from pipelines_lib.training.objective import Objective
from pipelines_lib.use_case import Model

TYPES = {"taste": "string", "age": "number", "kind": "string", "price": "number", "hour": "integer"}
KINDS = ("book", "film", "game")


def clicks(n: int = 3000, seed: int = 0):
    random = np.random.default_rng(seed)
    taste, kind = random.choice(KINDS, (2, n))
    age, price = random.normal(size=(2, n))
    logit = 3.0 * (taste == kind) + 1.5 * age * price - 1.5
    columns = {"taste": taste.tolist(), "age": age, "kind": kind.tolist(), "price": price, "hour": random.integers(0, 24, n).astype(float)}
    return columns, (random.random(n) < 1 / (1 + np.exp(-logit))).astype(np.int64)


@pytest.fixture
def made():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    columns, labels = clicks()
    transform = FeatureTransform.fit(columns, TYPES)
    settings = Model(type="ranking", user=["taste", "age"], item=["kind", "price"], hidden=[16, 8], embedding=4, dropout=0.0)
    return transform, RankingModel(Shape.of(transform, 2), settings), columns, labels


def tensors(arrays):
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def test_it_learns_who_likes_what_and_is_exported(made, fit):
    transform, model, columns, labels = made
    fit(model, transform.apply(columns), labels, steps=120)
    unseen, truth = clicks(2000, seed=1)
    arrays = transform.apply(unseen)
    with torch.no_grad():
        scores = model(**tensors(arrays)).softmax(1).numpy()
    # Who knew the odds would have 0.86 here, the match of taste and kind alone 0.75, and a sum of features 0.53.
    assert metrics.value("roc_auc", metrics.Truth(truth, ("no", "yes"), 1), scores) > 0.82
    assert to_onnx(Objective(("no", "yes")).scoring(model), {name: array[:9] for name, array in arrays.items()})


def test_each_tower_sees_its_own_features_alone(made):
    transform, model, columns, _ = made
    model.eval()
    given = tensors(transform.apply(columns))
    changed = tensors(
        transform.apply({**columns, "kind": columns["kind"][::-1], "price": columns["price"][::-1], "hour": columns["hour"] + 1})
    )
    assert torch.equal(model.user(**given, text=None), model.user(**changed, text=None))
    assert not torch.equal(model.item(**given, text=None), model.item(**changed, text=None))


def test_every_parameter_has_a_part_in_the_answer(made):
    transform, model, columns, _ = made
    model(**tensors(transform.apply(columns))).square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_flags_go_with_their_column_and_nothing_is_left_for_the_circumstances():
    shape = Shape(numeric=("age", "price", "age_outlier"), categorical=(), categories=(), n_outputs=2)
    assert shape.places(["age"]) == ([0, 2], [], [])
    model = RankingModel(shape, Model(type="ranking", user=["age"], item=["price"]))
    assert model.context is None
    assert model(numeric=torch.zeros(4, 3)).shape == (4, 2)
