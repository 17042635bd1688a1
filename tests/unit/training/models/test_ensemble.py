"""An ensemble whose members share their weights."""

import torch

from pipelines_lib.training.models.ensemble import EnsembleMLP, SharedLinear
from pipelines_lib.training.objective import Objective


def test_a_shared_layer_is_a_linear_layer_for_each_member():
    torch.manual_seed(0)
    layer = SharedLinear(5, 3, members=4, signs=True)
    torch.nn.init.normal_(layer.of_outputs)
    x = torch.randn(7, 4, 5)
    for member in range(4):
        weight = layer.weight * layer.of_inputs[member] * layer.of_outputs[member].unsqueeze(1)
        expected = x[:, member] @ weight.T + layer.bias[member]
        torch.testing.assert_close(layer(x)[:, member], expected)


def test_members_differ_from_the_start_and_follow_from_the_seed():
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(EnsembleMLP(6, [8, 4], 2, members=5, dropout=0.0))
    x = torch.randn(9, 6)
    first, second = (model(x) for model in models)
    assert first.shape == (9, 5, 2)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert torch.pdist(first[0]).min() > 1e-4


def test_a_member_learns_from_its_own_answers_alone():
    torch.manual_seed(0)
    model = EnsembleMLP(6, [4], 3, members=3, dropout=0.0)
    answers = model(torch.randn(5, 6))
    Objective(("a", "b", "c")).loss(answers[:, :2], torch.tensor([0, 1, 2, 0, 1])).sum().backward()
    assert not model.head.weight.grad[2].any()
    assert not model.layers[0].bias.grad[2].any()
    assert model.head.weight.grad[:2].any()


def test_the_loss_of_an_ensemble_is_the_mean_of_its_members_losses():
    answers = torch.randn(4, 3, 2)
    objective, labels = Objective(("no", "yes")), torch.tensor([0, 1, 1, 0])
    each = torch.stack([objective.loss(answers[:, member], labels) for member in range(3)])
    torch.testing.assert_close(objective.loss(answers, labels), each.mean(dim=0))
    values = torch.randn(4)
    each = torch.stack([Objective().loss(answers[:, member, :1], values) for member in range(3)])
    torch.testing.assert_close(Objective().loss(answers[:, :, :1], values), each.mean(dim=0))
