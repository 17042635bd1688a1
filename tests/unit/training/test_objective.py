"""What labels are to a model, for each kind of task."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from pipelines_lib.training.objective import Objective

SEVERAL = Objective(("a", "b", "c"), separator=";")
LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])


def test_a_class_is_its_place():
    assert Objective(("no", "yes")).encode(pa.array(["yes", "no"])).tolist() == [1, 0]


def test_a_number_is_standardised_and_comes_back_in_its_units():
    objective = Objective.of("regression", (), pa.array([1.0, 3.0]))
    np.testing.assert_allclose(objective.encode(pa.array([1.0, 2.0, 5.0])), [-1, 0, 3])
    assert objective.scoring(nn.Identity()).label_scale == (2.0, 1.0)


def test_several_classes_are_a_yes_or_no_each():
    found = SEVERAL.encode(pa.chunked_array([["c;a"], ["", "b"]]))
    assert found.dtype == np.float32
    assert found.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert SEVERAL.n_outputs == 3


def test_the_loss_of_several_classes_is_the_mean_of_each_ones():
    labels = torch.from_numpy(SEVERAL.encode(pa.array(["a;c", "b"])))
    chances = torch.sigmoid(LOGITS)
    by_hand = -(labels * chances.log() + (1 - labels) * (1 - chances).log()).mean(dim=1)
    assert SEVERAL.loss(LOGITS, labels).tolist() == pytest.approx(by_hand.tolist(), rel=1e-5)


class Given(nn.Module):
    def forward(self, numeric):
        return numeric


def test_probabilities_of_several_classes_stand_by_themselves():
    one, several = (Objective(("a", "b", "c"), separator=separator).scoring(Given())(numeric=LOGITS) for separator in (None, ";"))
    assert one.sum(dim=1).tolist() == pytest.approx([1, 1])
    torch.testing.assert_close(several, torch.sigmoid(LOGITS))


def test_losses_come_row_by_row():
    for objective, labels in (
        (Objective(("a", "b", "c")), torch.tensor([0, 2])),
        (SEVERAL, torch.zeros(2, 3)),
    ):
        both = objective.loss(LOGITS, labels)
        assert both.shape == (2,)
        assert both[1].item() == pytest.approx(objective.loss(LOGITS[1:], labels[1:]).item())
