"""The examples of docs/data/files.md are right."""

import re
from pathlib import Path

import pytest

from pipelines_lib.config import load
from pipelines_lib.use_case import Settings, Source

PAGE = Path(__file__).parents[2] / "docs" / "data" / "files.md"
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


class Example(Settings):
    source: Source


@pytest.mark.parametrize("text", EXAMPLES)
def test_an_example(tmp_path, text):
    (tmp_path / "example.yaml").write_text(text, encoding="utf-8")

    assert load(tmp_path / "example.yaml", Example).source.lacks("day") == []


def test_every_kind_has_one():
    assert len(EXAMPLES) == 5
