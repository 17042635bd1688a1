"""The settings that docs/training/*.md show are accepted."""

import re
from pathlib import Path

import pytest
import yaml

from pipelines_lib.config import Profile
from pipelines_lib.use_case import Training, Tuning

PAGES = sorted((Path(__file__).parents[2] / "docs" / "training").glob("*.md"))
EXAMPLES = [
    (page.name, yaml.safe_load(text))
    for page in PAGES
    for text in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
]
NEEDED = {"name": "doc", "store": "store", "tracking_uri": "sqlite:///mlflow.db"}


@pytest.mark.parametrize(("page", "example"), EXAMPLES)
def test_an_example_is_accepted(page, example):
    if "training" in example:
        Training.model_validate(example["training"])
    if "tuning" in example:
        Tuning.model_validate(example["tuning"])
    if example.keys() <= Profile.model_fields.keys():
        Profile.model_validate(NEEDED | example)


def test_the_examples_of_models_are_those_of_tables():
    found = [Training.model_validate(example["training"]) for page, example in EXAMPLES if page == "models.md"]
    assert [training.model.type for training in found] == ["tabular", "tabular"]


def test_there_are_examples_of_each_kind():
    assert {key for _, example in EXAMPLES for key in example} >= {"training", "tuning", "budget", "prices", "checkpoints", "scratch"}
