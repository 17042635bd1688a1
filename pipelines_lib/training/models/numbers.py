"""Numbers as a model that is smooth by nature can bend at.

Piecewise-linear encoding of Gorishniy, Rubachev and Babenko, On Embeddings for Numerical Features in Tabular Deep Learning (2022):
the range of a number is cut at quantiles of the training rows, and each piece says how much of it lies below the value, from 0 to 1. So one linear
layer can give each piece a slope of its own, which is what trees do with their thresholds.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn


class PiecewiseLinear(nn.Module):
    """Standardised numbers float32 [n, d] → [n, width], each within 0 … 1, beside the numbers themselves."""

    def __init__(self, edges: Sequence[Sequence[float]]) -> None:
        """`edges`: for each number, where its pieces begin and end, rising; none for a number that has no pieces."""
        super().__init__()
        columns = [place for place, mine in enumerate(edges) for _ in mine[1:]]
        low = np.array([edge for mine in edges for edge in mine[:-1]], np.float32)
        high = np.array([edge for mine in edges for edge in mine[1:]], np.float32)
        self.width = len(columns)
        # Constants of the transform, and no part of what is learned.
        self.register_buffer("columns", torch.tensor(columns, dtype=torch.int64), persistent=False)
        self.register_buffer("low", torch.from_numpy(low), persistent=False)
        self.register_buffer("length", torch.from_numpy(high - low), persistent=False)

    def forward(self, numeric: torch.Tensor) -> torch.Tensor:
        """float32 [n, width]."""
        below: torch.Tensor = ((numeric.index_select(1, self.columns) - self.low) / self.length).clamp(0.0, 1.0)
        return below
