"""The model for clicks and purchases: a tower for the user, one for the item, and a network that crosses what they say.

Two towers (Covington, Adams and Sargin, Deep Neural Networks for YouTube Recommendations, 2016) say who the user is and what the item
is; their inner product is how well the two go together. Who, what and the context of the row then pass the cross layers of DCN V2 (Wang et al., DCN
V2: Improved Deep & Cross Network, 2021), xᵢ₊₁ = x₀ ⊙ (W xᵢ + b) + xᵢ, each of which makes products of one degree more, beside an MLP.
"""

import torch
from torch import nn

from pipelines_lib.training.models.inputs import Inputs
from pipelines_lib.training.models.shape import Shape
from pipelines_lib.training.models.tabular import residual_mlp
from pipelines_lib.use_case import Model


class RankingModel(nn.Module):
    """Inputs → logits [n, C]."""

    def __init__(self, shape: Shape, settings: Model) -> None:
        super().__init__()
        width = settings.hidden[-1]
        self.user, self.item = (Tower(shape, settings, columns) for columns in (settings.user, settings.item))
        context = [name for name in shape.names if not {name, name.removesuffix("_outlier")} & {*settings.user, *settings.item}]
        self.context = Inputs(shape, settings, context) if context else None
        crossed = 2 * width + 1 + (0 if self.context is None else self.context.width)
        self.norm = nn.LayerNorm(crossed)
        self.cross = nn.ModuleList(nn.Linear(crossed, crossed) for _ in range(settings.crosses))
        self.deep = residual_mlp(crossed, settings.hidden, settings.dropout)
        self.head = nn.Linear(crossed + width, shape.n_outputs)

    def forward(
        self, numeric: torch.Tensor | None = None, categorical: torch.Tensor | None = None, text: torch.Tensor | None = None
    ) -> torch.Tensor:
        """float32 [n, C]."""
        user, item = self.user(numeric, categorical, text), self.item(numeric, categorical, text)
        match = (user * item).sum(dim=1, keepdim=True) / user.shape[1] ** 0.5
        parts = [user, item, match]
        if self.context is not None:
            parts.append(self.context(numeric, categorical, text))
        x = first = self.norm(torch.cat(parts, dim=1))
        for layer in self.cross:
            x = first * layer(x) + x
        logits: torch.Tensor = self.head(torch.cat([x, self.deep(first)], dim=1))
        return logits


class Tower(nn.Module):
    """What is known of a user, or of an item → [n, hidden[-1]]."""

    def __init__(self, shape: Shape, settings: Model, columns: list[str]) -> None:
        super().__init__()
        self.inputs = Inputs(shape, settings, columns)
        self.layers = residual_mlp(self.inputs.width, settings.hidden, settings.dropout)

    def forward(self, numeric: torch.Tensor | None, categorical: torch.Tensor | None, text: torch.Tensor | None) -> torch.Tensor:
        """float32 [n, hidden[-1]]."""
        known: torch.Tensor = self.layers(self.inputs(numeric, categorical, text))
        return known
