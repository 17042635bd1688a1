"""The model for windows of sensors: an encoder over the steps, and the row's other features beside what it says.

`gru`: a gated recurrent unit (Cho et al., Learning Phrase Representations using RNN Encoder-Decoder, 2014), whose state after
the last step is the window's. `transformer`: an encoder with its norms first (Xiong et al., On Layer Normalization in the
Transformer Architecture, 2020) and a learned embedding of each step's place, whose mean over the steps is the window's.
"""

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from pipelines_lib.training.models.inputs import Inputs
from pipelines_lib.training.models.shape import Shape
from pipelines_lib.training.models.tabular import residual_mlp
from pipelines_lib.use_case import Model


class SequenceModel(nn.Module):
    """Inputs → logits [n, C], or the standardised value [n, 1]."""

    def __init__(self, shape: Shape, settings: Model) -> None:
        super().__init__()
        width = settings.hidden[0]
        encoder = Recurrent if settings.encoder == "gru" else Transformer
        self.encoder = encoder(shape, width, settings)
        self.inputs = Inputs(shape, settings) if shape.has_features else None
        rest = 0 if self.inputs is None else self.inputs.width
        self.blocks = residual_mlp(width + rest, settings.hidden, settings.dropout)
        self.head = nn.Linear(settings.hidden[-1], shape.n_outputs)

    def forward(
        self,
        series: torch.Tensor,
        numeric: torch.Tensor | None = None,
        categorical: torch.Tensor | None = None,
        text: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """float32 [n, C]; `series` float32 [n, T, channels]."""
        known = self.encoder(series)
        if self.inputs is not None:
            known = torch.cat([known, self.inputs(numeric, categorical, text)], dim=1)
        logits: torch.Tensor = self.head(self.blocks(known))
        return logits


class Recurrent(nn.Module):
    """[n, T, channels] → [n, width]."""

    def __init__(self, shape: Shape, width: int, settings: Model) -> None:
        super().__init__()
        between = settings.dropout if settings.layers > 1 else 0.0
        self.gru = nn.GRU(shape.n_channels, width, settings.layers, batch_first=True, dropout=between)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        """The state after the last step."""
        states, _ = self.gru(series)
        last: torch.Tensor = states[:, -1]
        return last


class Transformer(nn.Module):
    """[n, T, channels] → [n, width]."""

    def __init__(self, shape: Shape, width: int, settings: Model) -> None:
        super().__init__()
        self.project = nn.Linear(shape.n_channels, width)
        self.places = nn.Parameter(torch.randn(shape.n_steps, width) * 0.02)
        self.layers = nn.ModuleList(Layer(width, settings.heads, settings.dropout) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        """The mean over the steps."""
        x = self.project(series) + self.places
        for layer in self.layers:
            x = layer(x)
        mean: torch.Tensor = self.norm(x).mean(dim=1)
        return mean


class Layer(nn.Module):
    """Attention, then a step by itself, each beside a shortcut."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self._heads = heads
        self.before_attention, self.before_step = nn.LayerNorm(width), nn.LayerNorm(width)
        # Without a bias: that of the keys has no part in the answer, and the optimizer would make steps of its rounding errors.
        self.project, self.join = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.step = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, T, width] → [n, T, width]."""
        x = x + self.dropout(self._attention(self.before_attention(x)))
        y: torch.Tensor = x + self.dropout(self.step(self.before_step(x)))
        return y

    def _attention(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.project(x).unflatten(2, (3, self._heads, -1)).permute(2, 0, 3, 1, 4)  # [3, n, heads, T, width / heads]
        seen = scaled_dot_product_attention(parts[0], parts[1], parts[2])
        joined: torch.Tensor = self.join(seen.transpose(1, 2).flatten(2))
        return joined
