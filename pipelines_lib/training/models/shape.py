"""What a model takes and gives."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from pipelines_lib.features.transform import FeatureTransform


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the model's first and last layer must fit."""

    numeric: tuple[str, ...]
    """Names of the columns of `numeric`: numbers, booleans and flags of outliers."""
    edges: tuple[tuple[float, ...], ...] = ()
    """Of each of them, where its pieces begin and end, and of one without pieces nothing; empty where none has any."""
    categorical: tuple[str, ...]
    """Names of the columns of `categorical`."""
    categories: tuple[int, ...]
    """Size of each category, its place 0 included."""
    text: tuple[str, ...] = ()
    """Names of the text columns …"""
    lengths: tuple[int, ...] = ()
    """… and how many tokens of a row each has in `text`."""
    buckets: int = 2
    """Ids that the tokens are hashed into."""
    series: tuple[str, ...] = ()
    """Names of the sensors in `series`, which has two channels of each: the values, and which of them are there."""
    n_steps: int = 0
    """Steps of a sensor's window."""
    n_outputs: int
    """Classes; 1 for a regression."""

    @property
    def n_numeric(self) -> int:
        """Numbers a row."""
        return len(self.numeric)

    @property
    def names(self) -> tuple[str, ...]:
        """All columns beside `series`."""
        return (*self.numeric, *self.categorical, *self.text)

    @property
    def n_texts(self) -> int:
        """Tokens a row, all text columns together; 0 without text."""
        return sum(self.lengths)

    @property
    def n_channels(self) -> int:
        """Width of `series`."""
        return 2 * len(self.series)

    @property
    def has_features(self) -> bool:
        """Whether there is anything beside `series`."""
        return bool(self.names)

    def places(self, columns: Collection[str] | None = None) -> tuple[list[int], list[int], list[int]]:
        """Where the features `columns` (all, when None), with the flags of their outliers, stand in `numeric`, `categorical` and `text`."""

        def has(name: str) -> bool:
            return columns is None or name in columns or name.removesuffix("_outlier") in columns

        starts = np.cumsum([0, *self.lengths])
        tokens = [
            place
            for name, start, length in zip(self.text, starts, self.lengths, strict=False)
            if has(name)
            for place in range(int(start), int(start) + length)
        ]
        numeric, categorical = ([place for place, name in enumerate(names) if has(name)] for names in (self.numeric, self.categorical))
        return numeric, categorical, tokens

    @classmethod
    def of(cls, transform: FeatureTransform, n_outputs: int) -> "Shape":
        """The shape that takes what `transform` makes."""
        return cls(
            numeric=tuple(part.name for part in transform.numeric),
            edges=tuple(part.edges for part in transform.numeric),
            categorical=tuple(part.name for part in transform.categorical),
            categories=tuple(part.size for part in transform.categorical),
            text=tuple(part.name for part in transform.text),
            lengths=tuple(part.length for part in transform.text),
            buckets=transform.buckets,
            series=tuple(part.name for part in transform.series),
            n_steps=len(transform.series[0].columns) if transform.series else 0,
            n_outputs=n_outputs,
        )
