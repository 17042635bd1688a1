"""A snapshot's rows as tensors, and the order in which an epoch sees them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pipelines_lib.data.sides import TRAIN, VALIDATION
from pipelines_lib.data.snapshot import Snapshot
from pipelines_lib.features.arrow import feature_columns
from pipelines_lib.features.transform import FeatureTransform
from pipelines_lib.training.objective import Objective
from pipelines_lib.use_case import UseCase

Inputs = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Rows:
    """One side of a snapshot."""

    inputs: Inputs
    """`numeric` float32 [n, d], `categorical` int64 [n, k], `text` int64 [n, L], `series` float32 [n, T, 2C]; those that are not empty."""
    labels: torch.Tensor
    """Class places int64 [n], or values float32 [n]."""
    row_ids: pa.ChunkedArray

    def __len__(self) -> int:
        return len(self.labels)

    def ids(self, places: NDArray[np.int64]) -> list[str]:
        """The row ids at `places`."""
        return list(self.row_ids.take(pa.array(places)).to_pylist())

    def take(self, places: NDArray[np.int64]) -> tuple[Inputs, torch.Tensor]:
        """Inputs and labels of the rows at `places`."""
        index = torch.from_numpy(places)
        return {name: tensor[index] for name, tensor in self.inputs.items()}, self.labels[index]


def rows_of(arrays: Mapping[str, NDArray[Any]], labels: NDArray[Any], row_ids: pa.ChunkedArray) -> Rows:
    """Tensors over the memory of `arrays` and `labels`."""
    return Rows({name: torch.from_numpy(array) for name, array in arrays.items()}, torch.from_numpy(labels), row_ids)


def order(n_rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The permutation of an epoch: a function of seed and epoch alone, so that every rank and every resume agree on it."""
    return np.random.default_rng([seed, epoch]).permutation(n_rows)


def prefetch(rows: Rows, places: Iterable[NDArray[np.int64]], device: torch.device) -> Iterator[tuple[Inputs, torch.Tensor]]:
    """Inputs and labels of each of `places`, in order, on `device`."""
    for some in places:
        inputs, labels = rows.take(some)
        yield {name: tensor.to(device, non_blocking=True) for name, tensor in inputs.items()}, labels.to(device, non_blocking=True)


@dataclass(frozen=True)
class Prepared:
    """Everything that training needs to know of a snapshot. Every rank makes the same."""

    transform: FeatureTransform
    train: Rows
    validation: Rows
    objective: Objective
    sample: dict[str, NDArray[Any]]
    """Inputs of a few rows, at least two, to try an export on."""


def prepare(snapshot: Snapshot, use_case: UseCase) -> Prepared:
    """Fit the transform on the training rows alone, and encode the labels."""
    types = {name: use_case.columns[name].type for name in use_case.features()}
    sides = {side: snapshot.side(side) for side in (TRAIN, VALIDATION)}
    columns = {side: feature_columns(rows, types) for side, rows in sides.items()}
    transform = FeatureTransform.fit(columns[TRAIN], types, use_case.clean, use_case.series)
    arrays = {side: transform.apply(columns[side]) for side in sides}
    classes = () if use_case.task == "regression" else tuple(snapshot.classes())
    objective = Objective.of(use_case.task, classes, sides[TRAIN]["label"])
    sample = {name: np.concatenate([arrays[TRAIN][name][:64], arrays[VALIDATION][name][:64]]) for name in arrays[TRAIN]}
    train, validation = (rows_of(arrays[side], objective.encode(rows["label"]), rows["row_id"]) for side, rows in sides.items())
    return Prepared(transform, train, validation, objective, sample)
