"""What a task's labels are to a model: how they are encoded, how far an answer is from them, and what an answer means."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from pipelines_lib.use_case import Task


@dataclass(frozen=True)
class Objective:
    """The objective of one training."""

    classes: tuple[str, ...] = ()
    """Sorted; empty for a regression."""
    scale: tuple[float, float] = (0.0, 1.0)
    """Mean and deviation of the training labels of a regression."""

    @classmethod
    def of(cls, task: Task, classes: tuple[str, ...], train_labels: Any) -> Self:
        """`train_labels`: the labels of the training rows, as an Arrow column."""
        if task != "regression":
            return cls(classes)
        values = np.asarray(train_labels.to_numpy(), np.float64)
        return cls((), (float(values.mean()), float(values.std()) or 1.0))

    @property
    def n_outputs(self) -> int:
        """Width of the model's last layer."""
        return len(self.classes) or 1

    def encode(self, labels: Any) -> NDArray[Any]:
        """An Arrow column of labels as int64 class places [n], or float32 standardised values [n]."""
        if not self.classes:
            mean, deviation = self.scale
            return ((np.asarray(labels.to_numpy(), np.float64) - mean) / deviation).astype(np.float32)
        places: NDArray[Any] = pc.index_in(labels, value_set=pa.array(self.classes)).to_numpy().astype(np.int64)
        return places

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Of each row [n], in float32."""
        if self.classes:
            return cross_entropy(logits.float(), labels, reduction="none")
        return mse_loss(logits.float().squeeze(1), labels, reduction="none")

    def scoring(self, model: nn.Module) -> nn.Module:
        """What is exported: inputs by name → scores [n, C]."""
        return ScoringModel(model, None if self.classes else self.scale)


class ScoringModel(nn.Module):
    """What is exported: probabilities [n, C], or the value [n, 1] in the label's own units."""

    def __init__(self, model: nn.Module, label_scale: tuple[float, float] | None) -> None:
        super().__init__()
        self.model = model
        self.label_scale = label_scale
        """Mean and deviation of the training labels of a regression; None for a classification."""

    def forward(
        self,
        numeric: torch.Tensor | None = None,
        categorical: torch.Tensor | None = None,
        text: torch.Tensor | None = None,
        series: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """float32 [n, C]."""
        given = {"numeric": numeric, "categorical": categorical, "text": text, "series": series}
        raw: torch.Tensor = self.model(**{name: tensor for name, tensor in given.items() if tensor is not None}).float()
        if self.label_scale is None:
            return torch.softmax(raw, dim=1)
        mean, deviation = self.label_scale
        return raw * deviation + mean
