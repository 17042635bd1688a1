"""Many networks for the price of little more than one, whose mean is answered with.

TabM of Gorishniy, Kotelnikov and Babenko, TabM: Advancing Tabular Deep Learning with Parameter-Efficient Ensembling (2024), on the
BatchEnsemble of Wen, Tran and Ba (2020): the members share each layer's weights, and differ in a factor for each of its inputs and
outputs, in its bias, and in the last layer. Each learns by itself; what one of them learns by heart the others don't.
"""

from collections.abc import Sequence

import torch
from torch import nn


class EnsembleMLP(nn.Module):
    """[n, width] → [n, members, n_outputs]."""

    def __init__(self, width: int, hidden: Sequence[int], n_outputs: int, members: int, dropout: float) -> None:
        super().__init__()
        widths = [width, *hidden]
        # Members are told apart by the signs with which they first look at the inputs; after that they may all begin alike.
        self.layers = nn.ModuleList(
            SharedLinear(a, b, members, signs=place == 0) for place, (a, b) in enumerate(zip(widths, hidden, strict=False))
        )
        self.between = nn.Sequential(nn.ReLU(), nn.Dropout(dropout))
        self.head = OwnLinear(hidden[-1], n_outputs, members)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [n, members, n_outputs]."""
        x = x.unsqueeze(1)
        for layer in self.layers:
            x = self.between(layer(x))
        y: torch.Tensor = self.head(x)
        return y


class SharedLinear(nn.Module):
    """A linear layer whose weights all members share, with factors and a bias for each: [n, members or 1, a] → [n, members, b]."""

    def __init__(self, width_in: int, width_out: int, members: int, *, signs: bool) -> None:
        super().__init__()
        bound = width_in**-0.5
        self.weight = nn.Parameter(torch.empty(width_out, width_in).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(width_out).uniform_(-bound, bound).repeat(members, 1))
        ones = torch.ones(members, width_in)
        self.of_inputs = nn.Parameter(torch.randint(0, 2, (members, width_in)) * 2.0 - 1.0 if signs else ones)
        self.of_outputs = nn.Parameter(torch.ones(members, width_out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [n, members, width_out]."""
        return nn.functional.linear(x * self.of_inputs, self.weight) * self.of_outputs + self.bias


class OwnLinear(nn.Module):
    """A linear layer of its own for each member: [n, members, a] → [n, members, b]."""

    def __init__(self, width_in: int, width_out: int, members: int) -> None:
        super().__init__()
        bound = width_in**-0.5
        self.weight = nn.Parameter(torch.empty(members, width_in, width_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, width_out).uniform_(-bound, bound))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [n, members, width_out]."""
        return torch.einsum("nka,kab->nkb", x, self.weight) + self.bias
