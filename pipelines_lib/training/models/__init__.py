"""The models, each a small module: inputs by name → logits [n, C], or the standardised value [n, 1]."""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from numpy.typing import NDArray
from torch import nn

from pipelines_lib.features.transform import FeatureTransform
from pipelines_lib.training.models.own import own_model
from pipelines_lib.training.models.ranking import RankingModel
from pipelines_lib.training.models.sequence import SequenceModel
from pipelines_lib.training.models.shape import Shape
from pipelines_lib.training.models.tabular import TabularModel
from pipelines_lib.training.models.uplift import UpliftModel
from pipelines_lib.use_case import UseCase


def build(
    use_case: UseCase,
    transform: FeatureTransform,
    n_outputs: int,
    *,
    sample: Mapping[str, NDArray[Any]],
    hooks: Callable[[], ModuleType],
) -> nn.Module:
    """The model that `training.model` asks for, with weights that follow from torch's seed.

    `hooks` imports the use case's `hooks.py`, where the model is the user's own; it is tried on the rows of `sample`.
    """
    settings, shape = use_case.training.model, Shape.of(transform, n_outputs)
    match settings.type:
        case "hooks":
            return own_model(hooks(), shape, settings, sample, private=bool(use_case.private()))
        case "sequence":
            return SequenceModel(shape, settings)
        case "ranking":
            return RankingModel(shape, settings)
        case "uplift":
            treatment = str(use_case.treatment)
            arms = next(part.words for part in transform.categorical if part.name == treatment)
            return UpliftModel(shape, settings, treatment=treatment, arms=arms)
        case "tabular":
            return TabularModel(shape, settings)
