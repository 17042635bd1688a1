"""The model for tables: what is known of a row into a residual MLP, or into an ensemble of MLPs that share their weights.

The residual MLP follows the "ResNet" of Gorishniy et al., Revisiting Deep Learning Models for Tabular Data (2021), with
layer norm in place of batch norm: a row's answer then depends on the row alone, and not on how a batch was shared out.
"""

from collections.abc import Sequence

import torch
from torch import nn

from pipelines_lib.training.models.ensemble import EnsembleMLP
from pipelines_lib.training.models.inputs import Inputs
from pipelines_lib.training.models.shape import Shape
from pipelines_lib.use_case import Model


class TabularModel(nn.Module):
    """Inputs → logits [n, C], or the standardised value [n, 1]. An ensemble that is in training gives those of each member, [n, k, C]."""

    def __init__(self, shape: Shape, settings: Model) -> None:
        super().__init__()
        hidden, dropout = settings.hidden, settings.dropout
        self.inputs = Inputs(shape, settings)
        self.answers = (
            nn.Sequential(*residual_mlp(self.inputs.width, hidden, dropout), nn.Linear(hidden[-1], shape.n_outputs))
            if settings.members == 1
            else EnsembleMLP(self.inputs.width, hidden, shape.n_outputs, settings.members, dropout)
        )

    def forward(
        self, numeric: torch.Tensor | None = None, categorical: torch.Tensor | None = None, text: torch.Tensor | None = None
    ) -> torch.Tensor:
        """float32 [n, C], or [n, k, C] in training."""
        answers: torch.Tensor = self.answers(self.inputs(numeric, categorical, text))
        return answers if self.training or answers.dim() == 2 else answers.mean(dim=1)


class Block(nn.Module):
    """norm → linear → ReLU → dropout, beside a shortcut."""

    def __init__(self, width_in: int, width_out: int, dropout: float) -> None:
        super().__init__()
        self.deep = nn.Sequential(nn.LayerNorm(width_in), nn.Linear(width_in, width_out), nn.ReLU(), nn.Dropout(dropout))
        self.shortcut = nn.Identity() if width_in == width_out else nn.Linear(width_in, width_out, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [n, width_in] → [n, width_out]."""
        y: torch.Tensor = self.shortcut(x) + self.deep(x)
        return y


def residual_mlp(width: int, hidden: Sequence[int], dropout: float) -> nn.Sequential:
    """[n, width] → [n, hidden[-1]]."""
    return nn.Sequential(*(Block(a, b, dropout) for a, b in zip([width, *hidden], hidden, strict=False)))
