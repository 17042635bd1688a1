"""A use case to evaluate."""

from collections.abc import Callable
from typing import Any

import pytest

from pipelines_lib.use_case import UseCase

CREDIT: dict[str, Any] = {
    "name": "credit",
    "title": "Credit",
    "owner": "tests",
    "task": "binary",
    "start": "2026-01-01",
    "source": {"path": "{home}/in/{partition}.csv"},
    "columns": {
        "who": {"type": "string", "role": "entity"},
        "income": {"type": "number"},
        "age": {"type": "integer"},
        "member": {"type": "boolean"},
        "town": {"type": "string"},
        "outcome": {"type": "string", "role": "label"},
    },
    "label": {"column": "outcome", "positive": "bad"},
    "gate": {"metric": "roc_auc", "floor": 0.6, "resamples": 100},
}


@pytest.fixture
def make_credit() -> Callable[..., UseCase]:
    """`credit`: the use case with whole settings replaced."""
    return lambda **changes: UseCase.model_validate({**CREDIT, **changes})
