"""A user's own model: what is refused at the start, and that a good one is left as it was."""

from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from pipelines_lib.errors import ConfigError
from pipelines_lib.training.models.own import own_model
from pipelines_lib.training.models.shape import Shape
from pipelines_lib.use_case import Model

SHAPE = Shape(numeric=("x", "y", "z"), categorical=(), categories=(), n_outputs=2)
SAMPLE = {"numeric": np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)}
SETTINGS = Model(type="hooks", options={"width": 4})


def hooks_with(function) -> ModuleType:
    hooks = ModuleType("hooks")
    hooks.__file__ = "use_cases/shop/hooks.py"
    if function is not None:
        hooks.model = function
    return hooks


class Net(nn.Module):
    def __init__(self, width: int = 4, n_outputs: int = 2) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, n_outputs))

    def forward(self, numeric):
        return self.layers(numeric)


def test_a_good_one_is_handed_its_options_and_comes_out_as_it_was_made():
    torch.manual_seed(1)
    expected = Net(4)
    after = torch.rand(3)
    torch.manual_seed(1)
    model = own_model(hooks_with(lambda shape, settings: Net(settings.options["width"], shape.n_outputs)), SHAPE, SETTINGS, SAMPLE)

    assert [parameter.grad for parameter in model.parameters()] == [None] * 4
    assert all(torch.equal(mine, other) for mine, other in zip(model.parameters(), expected.parameters(), strict=True))
    assert torch.equal(torch.rand(3), after), "the trial drew from the training's generator"
    assert model.training


class Idle(Net):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(1, 1)


class Batchwise(Net):
    def forward(self, numeric):
        return self.layers(numeric - numeric.mean(dim=0))


class Fixed(Net):
    def forward(self, numeric):
        return torch.zeros(len(numeric), 2)


class Rooted(Net):
    def forward(self, numeric):
        return self.layers(numeric) + (self.layers[0].weight.sum() * 0).sqrt()


class Flat(Net):
    def forward(self, numeric):
        return self.layers(numeric).argmax(dim=1)


class Wild(Net):
    def forward(self, numeric):
        return self.layers(numeric) / 0


def normed(shape, settings):
    net = Net()
    net.layers[1] = nn.BatchNorm1d(4)
    return net


def frozen(shape, settings):
    return Net().requires_grad_(False)


def failing(shape, settings):
    raise ValueError("no width")


class Other(Net):
    def forward(self, x):
        return self.layers(x)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (None, "has no function model(shape, settings)"),
        (failing, "failed with ValueError: no width ("),
        (lambda shape, settings: 3, "returned a int; return a torch.nn.Module"),
        (lambda shape, settings: Other(), "as it was given numeric [20, 3] float32; give forward a parameter for each"),
        (lambda shape, settings: Net(4, 3), "answers 20 rows with [20, 3] of torch.float32; return float logits [n, 2]"),
        (lambda shape, settings: Flat(), "answers 20 rows with [20] of torch.int64"),
        (lambda shape, settings: Wild(), "logits that are not finite"),
        (lambda shape, settings: Fixed(), "logits that no parameter had a part in"),
        (lambda shape, settings: Idle(), "take no part in the answer (spare.weight, spare.bias)"),
        (lambda shape, settings: Rooted(), "has gradients that are not finite (layers.0.weight)"),
        (lambda shape, settings: Batchwise(), "answers a row that comes alone otherwise"),
        (normed, "changes its buffer 'layers.1.running_mean' as it trains"),
        (frozen, "without a parameter to train"),
    ],
)
def test_what_could_not_be_trained_or_served_is_refused(function, says):
    with pytest.raises(ConfigError) as told:
        own_model(hooks_with(function), SHAPE, SETTINGS, SAMPLE)

    assert str(told.value).startswith("use_cases/shop/hooks.py")
    assert says in str(told.value)


class Telling(Net):
    def forward(self, numeric):
        raise ValueError(f"{numeric[0, 0].item()}")


def test_a_value_about_a_person_is_not_quoted():
    with pytest.raises(ConfigError) as told:
        own_model(hooks_with(lambda shape, settings: Telling()), SHAPE, SETTINGS, SAMPLE, private=True)

    assert f"{SAMPLE['numeric'][0, 0]:.4f}"[:-1] not in str(told.value)
    assert "ValueError" in str(told.value)
    assert told.value.__cause__ is None
    assert told.value.__suppress_context__ or told.value.__context__ is None
