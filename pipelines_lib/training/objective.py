"""What a task's labels are to a model: how they are encoded, how far an answer is from them, and what an answer means."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from pipelines_lib.evaluation.metrics import several
from pipelines_lib.use_case import Task


@dataclass(frozen=True)
class Objective:
    """The objective of one training."""

    classes: tuple[str, ...] = ()
    """Sorted; empty for a regression."""
    scale: tuple[float, float] = (0.0, 1.0)
    """Mean and deviation of the training labels of a regression."""
    separator: str | None = None
    """What stands between the classes of a label that may have several, each of which is a yes or no of its own; None where it has one."""

    @classmethod
    def of(cls, task: Task, classes: tuple[str, ...], train_labels: Any, separator: str | None = None) -> Self:
        """`train_labels`: the labels of the training rows, as an Arrow column."""
        if task != "regression":
            return cls(classes, separator=separator)
        values = np.asarray(train_labels.to_numpy(), np.float64)
        return cls((), (float(values.mean()), float(values.std()) or 1.0))

    @property
    def n_outputs(self) -> int:
        """Width of the model's last layer."""
        return len(self.classes) or 1

    def encode(self, labels: Any) -> NDArray[Any]:
        """An Arrow column of labels as int64 class places [n], float32 standardised values [n], or, of several classes, float32 1 and 0 [n, C]."""
        if not self.classes:
            mean, deviation = self.scale
            return ((np.asarray(labels.to_numpy(), np.float64) - mean) / deviation).astype(np.float32)
        if self.separator is not None:
            return several(labels, self.classes, self.separator).astype(np.float32)
        places: NDArray[Any] = pc.index_in(labels, value_set=pa.array(self.classes)).to_numpy().astype(np.int64)
        return places

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Of each row [n], in float32. Of several classes the mean of each one's binary cross-entropy; of the members [n, k, C] of an
        ensemble, which learn each by itself, the mean of theirs."""
        if logits.dim() == 3:
            n_members = logits.shape[1]
            each = self.loss(logits.flatten(0, 1), labels.repeat_interleave(n_members, dim=0))
            return each.unflatten(0, (-1, n_members)).mean(dim=1)
        if self.separator is not None:
            each = binary_cross_entropy_with_logits(logits.float(), labels, reduction="none")
            return each.mean(dim=1)
        if self.classes:
            return cross_entropy(logits.float(), labels, reduction="none")
        return mse_loss(logits.float().squeeze(1), labels, reduction="none")

    def scoring(self, model: nn.Module) -> nn.Module:
        """What is exported: inputs by name → scores [n, C]."""
        return ScoringModel(model, None if self.classes else self.scale, independent=self.separator is not None)


class ScoringModel(nn.Module):
    """What is exported: probabilities [n, C], or the value [n, 1] in the label's own units."""

    def __init__(self, model: nn.Module, label_scale: tuple[float, float] | None, *, independent: bool = False) -> None:
        super().__init__()
        self.model = model
        self.independent = independent
        """Whether each class has a probability of its own; else they sum to 1."""
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
            return torch.sigmoid(raw) if self.independent else torch.softmax(raw, dim=1)
        mean, deviation = self.label_scale
        return raw * deviation + mean
