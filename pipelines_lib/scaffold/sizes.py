"""Sizes that follow from the number of rows and columns: partitions, model, loop, monitoring."""

from dataclasses import dataclass

from pipelines_lib.use_case import Task

_PARTITIONS = 14
"""Two weeks."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Settings of `source.replay`, `training`, `gate` and `monitoring`."""

    partitions: int
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    hidden: list[int]
    embedding: int
    dropout: float
    patience: int
    gate_min_rows: int
    monitoring_min_rows: int


def sizes(*, n_rows: int, has_text: bool, task: Task) -> Sizes:
    """Found by trying public data sets of 569 to 51,392 rows; see the comments for what decides."""
    # Some 50 to 100 batches an epoch move the weights enough and keep an epoch short.
    batch_size = _power_of_two(n_rows / 100, least=32, most=512)
    # Few rows need many epochs for the same number of steps; `patience` stops what has stopped improving.
    epochs = max(15, min(100, round(600_000 / n_rows)))
    # A model wider than what the rows can fill learns them by heart.
    width = 32 if n_rows < 2000 else 64 if n_rows < 5000 else 128
    hidden, embedding, dropout, learning_rate, weight_decay = [width, width // 2], 8, 0.2 if n_rows < 5000 else 0.1, 1e-3, 1e-4
    if has_text:
        # Thousands of words with a few rows each are learned by heart in some epochs unless much is dropped and decayed.
        hidden, embedding, dropout, learning_rate, weight_decay = [256], 16, 0.5, 3e-3, 0.5
    elif task == "regression":
        # A number is hit by shaping the function finely, and noise in the layers blurs it.
        hidden, dropout, learning_rate = [2 * width, 2 * width, width], 0.0, 2e-3
    rows_a_partition = n_rows / _PARTITIONS
    return Sizes(
        partitions=_PARTITIONS,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        hidden=hidden,
        embedding=embedding,
        dropout=dropout,
        patience=max(3, min(10, round(epochs / 6))),
        gate_min_rows=max(10, min(50, int(0.1 * n_rows))),
        monitoring_min_rows=max(20, min(200, int(0.5 * rows_a_partition))),
    )


def _power_of_two(wanted: float, *, least: int, most: int) -> int:
    return max(least, min(most, 1 << max(0, round(wanted) - 1).bit_length()))
