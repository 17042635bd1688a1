"""The models, each a small module: inputs by name → logits [n, C], or the standardised value [n, 1]."""

from torch import nn

from pipelines_lib.features.transform import FeatureTransform
from pipelines_lib.training.models.shape import Shape
from pipelines_lib.training.models.tabular import TabularModel
from pipelines_lib.use_case import UseCase


def build(use_case: UseCase, transform: FeatureTransform, n_outputs: int) -> nn.Module:
    """The model that `training.model` asks for, with weights that follow from torch's seed."""
    settings = use_case.training.model
    return TabularModel(Shape.of(transform, n_outputs), settings.hidden, settings.embedding, settings.dropout)
