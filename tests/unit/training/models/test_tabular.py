"""The model for tables: every input counts, each row by itself."""

import numpy as np
import pytest
import torch

from pipelines_lib.features.transform import FeatureTransform
from pipelines_lib.training.models.shape import Shape
from pipelines_lib.training.models.tabular import TabularModel
from pipelines_lib.training.objective import Objective
from pipelines_lib.use_case import Model

TYPES = {"x": "number", "y": "number", "colour": "string", "note": "text"}
COLUMNS = {
    "x": [0.0, 1.0, 2.0, 3.0, 4.0, None],
    "y": [5.0, 1.0, 1.0, 2.0, 0.0, 7.0],
    "colour": ["red", "red", "blue", "blue", None, "red"],
    "note": ["a lost card", "a card", None, "你好", "where is it", ""],
}


def made(members, **more):
    transform = FeatureTransform.fit(COLUMNS, TYPES, pieces=4, grams=True)
    torch.manual_seed(1)
    model = TabularModel(Shape.of(transform, 3), Model(hidden=[16, 8], embedding=4, dropout=0.3, members=members, **more))
    return model, {name: torch.from_numpy(array) for name, array in transform.apply(COLUMNS).items()}


@pytest.mark.parametrize("members", [1, 4])
def test_a_row_is_answered_alike_alone_and_among_others(members):
    model, inputs = made(members)
    model.eval()
    together = model(**inputs)
    assert together.shape == (6, 3)
    for row in range(6):
        alone = model(**{name: tensor[row : row + 1] for name, tensor in inputs.items()})
        torch.testing.assert_close(alone[0], together[row])


@pytest.mark.parametrize("members", [1, 4])
def test_every_input_changes_the_answer_and_every_parameter_takes_part(members):
    model, inputs = made(members)
    model.eval()
    before = model(**inputs)
    for name in inputs:
        after = model(**{**inputs, name: inputs[name].roll(1, dims=0)})
        assert not torch.allclose(after, before), name
    model.train()
    model(**inputs).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_an_ensemble_answers_with_the_mean_of_its_members():
    model, inputs = made(4)
    model.eval()
    answer = model(**inputs)
    model.train()
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.eval()
    members = model(**inputs)
    assert members.shape == (6, 4, 3)
    torch.testing.assert_close(members.mean(dim=1), answer)


def test_padding_changes_nothing_in_training_either():
    model, inputs = made(1)
    texts = model.inputs.texts
    texts.dropout.eval()
    wide = torch.cat([inputs["text"], torch.zeros(6, 40, dtype=torch.int64)], dim=1)
    torch.testing.assert_close(texts(wide), texts(inputs["text"]))
    assert not texts(torch.zeros(2, 5, dtype=torch.int64)).any()


def test_an_important_token_weighs_more():
    model, inputs = made(1)
    texts = model.inputs.texts.eval()
    first, second = inputs["text"][0, :2].tolist()
    with torch.no_grad():
        texts.importance.weight[first] = 3.0
    bag = texts(torch.tensor([[first, second]]))[0]
    mean = (np.exp(3.0) * texts.tokens.weight[first] + texts.tokens.weight[second]) / (np.exp(3.0) + 1)
    torch.testing.assert_close(bag, mean.float())


def test_pieces_let_a_model_bend_where_a_tree_would_split(fit):
    x = np.linspace(-1, 1, 200)
    steps = (np.floor(4 * x) % 2).astype(np.float32) - 0.5
    last = {}
    for pieces in (0, 64):
        transform = FeatureTransform.fit({"x": x}, {"x": "number"}, pieces=pieces)
        torch.manual_seed(0)
        model = TabularModel(Shape.of(transform, 1), Model(hidden=[16], dropout=0.0))
        last[pieces] = fit(model, transform.apply({"x": x}), steps, objective=Objective(), steps=100)[-1]
    assert 4 * last[64] < last[0]
