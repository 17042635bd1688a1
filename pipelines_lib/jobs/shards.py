"""What the stages share that do a partition in shards, each in a process of its own: where a shard leaves what for whom.

Beside a shard's `result.json` lie `shard.json`, which lists the files that it staged and what it counted, and `shard.arrow`.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pipelines_lib.data.shards import Left
from pipelines_lib.data.tables import Layer, Shard, Tables
from pipelines_lib.errors import DataError
from pipelines_lib.jobs.stage import Stage
from pipelines_lib.store import StorePath, read_json, write_bytes, write_json
from pipelines_lib.use_case import UseCase


def shard_of(stage: Stage, tables: Tables, raw_version: int) -> Shard:
    """The part of `raw` that this process does. Removes what an earlier try of it has left staged."""
    assert stage.spec.shard is not None
    path = stage.folder / "shard.json"
    if path.exists():
        for file in _left(stage.folder).staged:
            file.path.unlink(missing_ok=True)
        path.unlink()
    return tables.shards("raw", stage.spec.partition_key, stage.spec.shards, version=raw_version)[stage.spec.shard]


def shard_in_words(stage: Stage) -> str:
    """The shard that this process does, for a person, who counts from 1."""
    assert stage.spec.shard is not None
    return f"shard {stage.spec.shard + 1} of {stage.spec.shards}"


def leave(stage: Stage, raw_version: int, left: Left) -> None:
    """Write down what this shard staged and found."""
    write_bytes(stage.folder / "shard.arrow", left.tables_as_bytes())
    write_json(stage.folder / "shard.json", {"made_of": _made_of(stage, raw_version), **left.document()})


def shards_left(stage: Stage, raw_version: int) -> list[Left]:
    """What the stage's shards left, in order. Raises `DataError` where one is missing or was made of other rows or with other settings."""
    wanted = _made_of(stage, raw_version)
    remedy = f"run all {stage.spec.shards} shards again (in Airflow: clear {stage.spec.stage}_shards)"
    found = []
    for shard in range(stage.spec.shards):
        path = stage.folder_of(stage.spec.stage, shard) / "shard.json"
        if not path.exists():
            raise DataError(f"stage {stage.spec.stage} puts {stage.spec.shards} shards together, and there is no {path}; {remedy}")
        described: Any = read_json(path)
        if described["made_of"] != wanted:
            raise DataError(
                f"{path}: made of {described['made_of']}, where this run has {wanted}: raw or the settings have changed since; {remedy}"
            )
        found.append(_left(path.parent))
    return found


def commit(stage: Stage, tables: Tables, layer: Layer, shards: Sequence[Left], columns: pa.Schema) -> int:
    """Make what the shards staged the partition. Returns the table's version. Raises `DataError` where a staged file is gone."""
    staged = [file for left in shards for file in left.staged]
    try:
        return tables.commit(layer, stage.spec.partition_key, staged, columns)
    except FileNotFoundError as error:
        raise DataError(
            f"{error.filename}: a file that a shard of {stage.spec.stage} staged is gone; run its shards again (in Airflow: clear {stage.spec.stage}_shards)"
        ) from error


def _left(folder: StorePath) -> Left:
    described: Any = read_json(folder / "shard.json")
    return Left.read(described, (folder / "shard.arrow").read_bytes(), folder)


def _made_of(stage: Stage, raw_version: int) -> dict[str, Any]:
    return {"raw_version": raw_version, "settings": _settings(stage.use_case), "shards": stage.spec.shards}


def _settings(use_case: UseCase) -> str:
    """Hash of what decides how rows are judged and cleaned."""
    parts = use_case.model_dump(mode="json", include={"columns", "quality", "privacy", "clean", "label"})
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
