"""`land` of a use case's hooks.py: it collects a partition's file before it is read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from pipelines_lib.errors import DataError
from pipelines_lib.use_case import UseCase


class Land(Protocol):
    """Write the partition's file, whole, to `path`. Same key and params, same bytes."""

    def __call__(self, partition_key: str, path: Path, params: Mapping[str, object]) -> None: ...  # noqa: D102


def land(hook: Land, partition_key: str, path: Path, use_case: UseCase) -> None:
    """Let the hook collect the partition's file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    hook(partition_key, path, use_case.source.params)
    if not path.exists():
        raise DataError(f"land() of {use_case.name} returned and left no {path}; have it write the file, or raise and say why it can't")
