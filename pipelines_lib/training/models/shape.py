"""What a model takes and gives."""

from dataclasses import dataclass

from pipelines_lib.features.transform import FeatureTransform


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the model's first and last layer must fit."""

    numeric: tuple[str, ...]
    """Names of the columns of `numeric`: numbers, booleans and flags of outliers."""
    categorical: tuple[str, ...]
    """Names of the columns of `categorical`."""
    categories: tuple[int, ...]
    """Size of each category, its place 0 included."""
    n_texts: int
    """Tokens a row, all text columns together; 0 without text."""
    buckets: int
    """Ids that the tokens are hashed into."""
    n_outputs: int
    """Classes; 1 for a regression."""

    @property
    def n_numeric(self) -> int:
        """Numbers a row."""
        return len(self.numeric)

    @classmethod
    def of(cls, transform: FeatureTransform, n_outputs: int) -> "Shape":
        """The shape that takes what `transform` makes."""
        return cls(
            numeric=tuple(part.name for part in transform.numeric),
            categorical=tuple(part.name for part in transform.categorical),
            categories=tuple(part.size for part in transform.categorical),
            n_texts=sum(part.length for part in transform.text),
            buckets=transform.buckets,
            n_outputs=n_outputs,
        )
