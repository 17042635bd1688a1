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
    clip_norm: float
    hidden: list[int]
    embedding: int
    dropout: float
    pieces: int
    members: int
    patience: int
    gate_min_rows: int
    monitoring_min_rows: int


def sizes(*, n_rows: int, n_numbers: int, has_text: bool, task: Task) -> Sizes:
    """Found by trying public data sets of 569 to 51,392 rows; see the comments for what decides."""
    # Some 50 to 100 batches an epoch move the weights enough and keep an epoch short.
    batch_size = _power_of_two(n_rows / 100, least=32, most=512)
    # Few rows need many epochs for the same number of steps. The learning rate falls with them, so more would only take longer; `patience` stops
    # what has stopped improving.
    passes = {"text": 200_000, "value": 600_000, "class": 300_000}["text" if has_text else "value" if task == "regression" else "class"]
    epochs = max(12, min(60 if task == "regression" else 30, round(passes / n_rows)))
    # A model wider than what the rows can fill learns them by heart; an ensemble does so later than one model, and costs what its members do.
    width, members = (64 if n_rows < 2000 else 128), 8
    hidden, embedding, dropout, learning_rate, weight_decay = [width, width], 8, 0.2 if n_rows < 5000 else 0.1, 2e-3, 1e-3
    # As many pieces as leave each enough rows to say something, and all numbers together no more than a layer takes in quickly.
    rows_a_piece = 80 if task == "regression" else 200
    pieces = _power_of_two(min(n_rows / rows_a_piece, 1200 / max(1, n_numbers)), least=16, most=256)
    if has_text:
        # Thousands of tokens with a few rows each are learned by heart in some epochs unless much is dropped and decayed.
        hidden, embedding, dropout, learning_rate, weight_decay, members = [256], 16, 0.3, 3e-3, 0.1, 4
        batch_size = min(128, batch_size)
    elif task == "regression":
        # A number is hit by shaping the function finely, which noise in the layers blurs.
        hidden, dropout, learning_rate = [2 * width, 2 * width], 0.0, 4e-3
    rows_a_partition = n_rows / _PARTITIONS
    return Sizes(
        partitions=_PARTITIONS,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        clip_norm=1.0,
        hidden=hidden,
        embedding=embedding,
        dropout=dropout,
        pieces=pieces,
        members=members,
        patience=max(4, min(10, round(epochs / 4))),
        gate_min_rows=max(10, min(50, int(0.1 * n_rows))),
        monitoring_min_rows=max(20, min(200, int(0.5 * rows_a_partition))),
    )


def _power_of_two(wanted: float, *, least: int, most: int) -> int:
    return max(least, min(most, 1 << max(0, round(wanted) - 1).bit_length()))
