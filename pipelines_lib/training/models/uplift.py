"""The model for treatments: one trunk that all rows share, and a head for each arm.

TARNet of Shalit, Johansson and Sontag, Estimating individual treatment effect: generalization bounds and algorithms (2017), for two arms
or more. A row is answered by the head of its own arm, so a model of this kind is trained, judged and served like any other; who wants the effect
of a treatment asks twice, under the treatment and under the control.
"""

from collections.abc import Sequence

import torch
from torch import nn

from pipelines_lib.training.models.inputs import Inputs
from pipelines_lib.training.models.shape import Shape
from pipelines_lib.training.models.tabular import residual_mlp
from pipelines_lib.use_case import Model


class UpliftModel(nn.Module):
    """Inputs → logits [n, C], or the standardised value [n, 1], under each row's own arm."""

    def __init__(self, shape: Shape, settings: Model, *, treatment: str, arms: Sequence[str]) -> None:
        """`treatment`: the column that names the arm, `arms` its categories, in the order of their places, from 1."""
        super().__init__()
        assert settings.control in arms
        features = [name for name in shape.names if name != treatment]
        self.inputs = Inputs(shape, settings, features)
        self.trunk = residual_mlp(self.inputs.width, settings.hidden, settings.dropout)
        self.heads = nn.ModuleList(_head(settings.hidden[-1], shape.n_outputs) for _ in arms)
        self._treatment = shape.categorical.index(treatment)
        # Place 0 is an arm that is missing, or that no training row had: nobody can say more of it than that it is not a known treatment.
        heads = [arms.index(settings.control), *range(len(arms))]
        self.register_buffer("head_of_place", torch.tensor(heads, dtype=torch.int64), persistent=False)

    def forward(self, categorical: torch.Tensor, numeric: torch.Tensor | None = None, text: torch.Tensor | None = None) -> torch.Tensor:
        """float32 [n, C]."""
        shared = self.trunk(self.inputs(numeric, categorical, text))
        by_arm = torch.stack([head(shared) for head in self.heads], dim=1)
        arm = self.head_of_place[categorical[:, self._treatment]]
        own: torch.Tensor = by_arm.gather(1, arm[:, None, None].expand(-1, 1, by_arm.shape[2])).squeeze(1)
        return own


def _head(width: int, n_outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, n_outputs))
