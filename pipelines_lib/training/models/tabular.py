"""The model for tables: numbers, embedded categories and averaged word embeddings into a residual MLP.

The shape follows the "ResNet" of Gorishniy et al., Revisiting Deep Learning Models for Tabular Data (2021), with
layer norm in place of batch norm: a row's answer then depends on the row alone, and not on how a batch was shared out.
"""

from collections.abc import Sequence

import torch
from torch import nn

from pipelines_lib.features.text import PADDING
from pipelines_lib.training.models.shape import Shape

TEXT_TIMES = 8
"""A text's embedding is so many times as wide as a category's."""


class TabularModel(nn.Module):
    """Inputs → logits [n, C], or the standardised value [n, 1]."""

    def __init__(self, shape: Shape, hidden: Sequence[int], embedding: int, dropout: float) -> None:
        super().__init__()
        width = shape.n_numeric + embedding * len(shape.categories) + (TEXT_TIMES * embedding if shape.n_texts else 0)
        # One table for all categories: each column looks up its own stretch of it.
        self.categories = nn.Embedding(sum(shape.categories), embedding) if shape.categories else None
        offsets = torch.tensor([0, *shape.categories[:-1]], dtype=torch.int64).cumsum(0)
        self.register_buffer("offsets", offsets, persistent=False)
        self.words = nn.Embedding(shape.buckets, TEXT_TIMES * embedding, padding_idx=PADDING) if shape.n_texts else None
        self.blocks = nn.Sequential(*(Block(a, b, dropout) for a, b in zip([width, *hidden], hidden, strict=False)))
        self.head = nn.Linear(hidden[-1], shape.n_outputs)

    def forward(
        self, numeric: torch.Tensor | None = None, categorical: torch.Tensor | None = None, text: torch.Tensor | None = None
    ) -> torch.Tensor:
        """float32 [n, C]."""
        parts = []
        if numeric is not None:
            parts.append(numeric)
        if self.categories is not None and categorical is not None:
            parts.append(self.categories(categorical + self.offsets).flatten(1))
        if self.words is not None and text is not None:
            parts.append(_mean_of_words(self.words(text), text))
        logits: torch.Tensor = self.head(self.blocks(torch.cat(parts, dim=1)))
        return logits


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


def _mean_of_words(embedded: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Mean over the tokens that are no padding [n, width]; zeros for a row without any."""
    is_word = (text != PADDING).unsqueeze(2).to(embedded.dtype)
    return (embedded * is_word).sum(dim=1) / is_word.sum(dim=1).clamp(min=1.0)
