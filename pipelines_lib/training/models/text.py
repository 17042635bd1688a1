"""Language: the ids of a row's tokens as one vector."""

import torch
from torch import nn

from pipelines_lib.features.text import PADDING
from pipelines_lib.training.models.attention import Layer
from pipelines_lib.use_case import Model


def reader(buckets: int, length: int, width: int, settings: Model) -> nn.Module:
    """What `training.model.text` asks for: token ids [n, length] → [n, width]."""
    if settings.text == "transformer":
        return Transformer(buckets, length, width, settings)
    return Bag(buckets, width, settings.dropout)


class Bag(nn.Module):
    """Token ids [n, L] → the weighted mean of their embeddings [n, width]; zeros for a row without any.

    The bag of Joulin et al., Bag of Tricks for Efficient Text Classification (2016), with a weight for each token that is learned too: what
    an inverse document frequency would say, but of the task.
    """

    def __init__(self, buckets: int, width: int, dropout: float) -> None:
        super().__init__()
        self.tokens = nn.Embedding(buckets, width, padding_idx=PADDING)
        self.importance = nn.Embedding(buckets, 1, padding_idx=PADDING)
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            self.tokens.weight.mul_(0.1)  # as wide as the mean of some tens of them should be, beside standardised numbers
            self.importance.weight.zero_()

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        """float32 [n, width]."""
        text = _trimmed(text) if self.training else text
        is_token = text != PADDING
        # Nothing weighs more than e⁸ times another, so that a row of padding alone divides 0 by 1 and nothing overflows.
        weight = (self.importance(text).squeeze(2).clamp(-4.0, 4.0).exp() * is_token).unsqueeze(1)
        mean = torch.matmul(weight, self.tokens(text)).squeeze(1) / weight.sum(dim=2).clamp(min=1e-3)
        bag: torch.Tensor = self.dropout(mean)
        return bag


class Transformer(nn.Module):
    """Token ids [n, L] → the mean over the tokens of what attention makes of them [n, width]; zeros for a row without any."""

    def __init__(self, buckets: int, length: int, width: int, settings: Model) -> None:
        super().__init__()
        self.tokens = nn.Embedding(buckets, width, padding_idx=PADDING)
        self.places = nn.Parameter(torch.randn(length, width) * 0.02)
        self.layers = nn.ModuleList(Layer(width, settings.heads, settings.dropout) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        """float32 [n, width]."""
        is_token = text != PADDING
        # A row without a token has to look somewhere; nothing comes of it, since no token is there to be counted.
        seen = is_token | (torch.arange(text.shape[1], device=text.device) == 0)
        x = self.dropout(self.tokens(text) + self.places)
        for layer in self.layers:
            x = layer(x, seen)
        weight = is_token.unsqueeze(2).to(x.dtype)
        mean: torch.Tensor = self.dropout((self.norm(x) * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1.0))
        return mean


def _trimmed(text: torch.Tensor) -> torch.Tensor:
    """Without the columns that are padding in every row. Only where looking costs nothing: a GPU would wait for it, and a compiled
    model would be compiled anew for each length."""
    if text.device.type != "cpu" or torch.compiler.is_compiling():
        return text
    used = (text != PADDING).any(dim=0)
    used[0] = True
    return text[:, used]
