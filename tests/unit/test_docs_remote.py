"""The examples of docs/data/remote.md are right."""

import re
from pathlib import Path

import pytest

from pipelines_lib.config import load
from pipelines_lib.use_case import Join, Settings, Source

PAGE = Path(__file__).parents[2] / "docs" / "data" / "remote.md"
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


class Example(Settings):
    source: Source
    joins: list[Join] = []  # noqa: RUF012 - pydantic copies it


@pytest.mark.parametrize("text", EXAMPLES)
def test_an_example(tmp_path, text):
    (tmp_path / "example.yaml").write_text(text, encoding="utf-8")

    given = load(tmp_path / "example.yaml", Example)

    assert given.source.by_partition()
    assert [join.source.by_partition() for join in given.joins] in ([], [False, True])


def test_every_kind_has_one():
    assert len(EXAMPLES) == 4
