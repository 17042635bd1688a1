"""The settings that docs/training/models.md shows are accepted."""

import re
from pathlib import Path

import pytest
import yaml

from pipelines_lib.use_case import Training

PAGE = Path(__file__).parents[2] / "docs" / "training" / "models.md"
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_accepted(example):
    training = Training.model_validate(yaml.safe_load(example)["training"])
    assert training.model.type == "tabular"


def test_there_are_examples():
    assert len(EXAMPLES) == 2
