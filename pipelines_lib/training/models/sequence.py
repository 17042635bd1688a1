"""The model for windows of sensors: an encoder over the steps, and the row's other features beside what it says.

`gru`: a gated recurrent unit (Cho et al., Learning Phrase Representations using RNN Encoder-Decoder, 2014), whose state after
the last step is the window's. `transformer`: an encoder with its norms first (`attention`) and a learned embedding of each step's place, whose mean over the steps is the window's.
"""

import torch
from torch import nn

from pipelines_lib.training.models.attention import Layer
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
