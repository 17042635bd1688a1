"""A use case to evaluate."""

from collections.abc import Callable
from typing import Any

import pytest

from pipelines_lib.use_case import UseCase
from tests.credit import LOANS

CREDIT: dict[str, Any] = LOANS | {"gate": {"metric": "roc_auc", "floor": 0.6, "resamples": 100}}


@pytest.fixture
def make_credit() -> Callable[..., UseCase]:
    """`credit`: the use case with whole settings replaced."""
    return lambda **changes: UseCase.model_validate({**CREDIT, **changes})
