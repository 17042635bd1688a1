"""What a model knows of a row, as one vector: its numbers and their pieces, its categories' embeddings, what its texts say."""

from collections.abc import Collection

import torch
from torch import nn

from pipelines_lib.training.models.numbers import PiecewiseLinear
from pipelines_lib.training.models.shape import Shape
from pipelines_lib.training.models.text import reader
from pipelines_lib.use_case import Model

TEXT_TIMES = 8
"""A text's embedding is so many times as wide as a category's."""


class Inputs(nn.Module):
    """Inputs → float32 [n, width]."""

    def __init__(self, shape: Shape, settings: Model, columns: Collection[str] | None = None) -> None:
        """`columns`: of these features alone (and the flags of their outliers); of all, when None."""
        super().__init__()
        numeric, categorical, tokens = shape.places(columns)
        sizes = [shape.categories[place] for place in categorical]
        embedding, text_width = settings.embedding, TEXT_TIMES * settings.embedding
        edges = [shape.edges[place] for place in numeric] if shape.edges else []
        self.pieces = PiecewiseLinear(edges) if any(edges) else None
        n_numbers = len(numeric) + (0 if self.pieces is None else self.pieces.width)
        self.width = n_numbers + embedding * len(sizes) + (text_width if tokens else 0)
        # One table for all categories: each column looks up its own stretch of it.
        self.categories = nn.Embedding(sum(sizes), embedding) if sizes else None
        self.register_buffer("offsets", torch.tensor([0, *sizes[:-1]], dtype=torch.int64).cumsum(0), persistent=False)
        self.texts = reader(shape.buckets, len(tokens), text_width, settings) if tokens else None
        for name, places, n in (
            ("numeric_at", numeric, shape.n_numeric),
            ("categorical_at", categorical, len(shape.categories)),
            ("text_at", tokens, shape.n_texts),
        ):
            self.register_buffer(name, None if len(places) == n else torch.tensor(places, dtype=torch.int64), persistent=False)
        self._takes_numeric = bool(numeric)

    def forward(
        self, numeric: torch.Tensor | None = None, categorical: torch.Tensor | None = None, text: torch.Tensor | None = None
    ) -> torch.Tensor:
        """float32 [n, width]."""
        parts = []
        if self._takes_numeric and numeric is not None:
            mine = _at(numeric, self.numeric_at)
            parts += [mine] if self.pieces is None else [mine, self.pieces(mine)]
        if self.categories is not None and categorical is not None:
            parts.append(self.categories(_at(categorical, self.categorical_at) + self.offsets).flatten(1))
        if self.texts is not None and text is not None:
            parts.append(self.texts(_at(text, self.text_at)))
        return torch.cat(parts, dim=1)


def _at(tensor: torch.Tensor, places: torch.Tensor | None) -> torch.Tensor:
    """The columns at `places`; all, when None."""
    return tensor if places is None else tensor.index_select(1, places)
