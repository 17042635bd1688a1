"""A layer of a transformer's encoder, its norms first (Xiong et al., On Layer Normalization in the Transformer Architecture, 2020)."""

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention


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

    def forward(self, x: torch.Tensor, seen: torch.Tensor | None = None) -> torch.Tensor:
        """[n, T, width] → [n, T, width]. `seen` bool [n, T]: the steps to look at, one of each row at least; all, when None."""
        x = x + self.dropout(self._attention(self.before_attention(x), seen))
        y: torch.Tensor = x + self.dropout(self.step(self.before_step(x)))
        return y

    def _attention(self, x: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
        parts = self.project(x).unflatten(2, (3, self._heads, -1)).permute(2, 0, 3, 1, 4)  # [3, n, heads, T, width / heads]
        mask = None if seen is None else seen[:, None, None, :]
        found = scaled_dot_product_attention(parts[0], parts[1], parts[2], attn_mask=mask)
        joined: torch.Tensor = self.join(found.transpose(1, 2).flatten(2))
        return joined
