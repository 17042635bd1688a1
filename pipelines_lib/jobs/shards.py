"""What the stages share that do a partition in shards: what a shard leaves for the task that puts the shards together.

A shard writes its rows as files that no version of the table names yet, and beside its `result.json` a `shard.json` that lists
them with what it counted. One commit then makes the files of all shards the partition.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines_lib.data.partition_writer import PartitionWriter, StagedFile
from pipelines_lib.data.tables import Layer, Shard, Tables
from pipelines_lib.errors import DataError
from pipelines_lib.jobs.stage import Stage
from pipelines_lib.store import read_json, write_bytes, write_json
from pipelines_lib.use_case import UseCase


@dataclass(frozen=True)
class Left:
    """What one shard left."""

    folder: Path
    staged: list[StagedFile]
    columns: list[tuple[str, str]]
    """Name and Arrow type of each column of its rows, where it saw any."""
    found: dict[str, Any]
    """What it counted."""


def shard_of(stage: Stage, tables: Tables, raw_version: int) -> Shard:
    """The part of `raw` that this process does. Removes what an earlier try of it has left staged."""
    assert stage.spec.shard is not None
    path = stage.folder / "shard.json"
    if path.exists():
        for file in _left(stage.folder).staged:
            Path(file.path).unlink(missing_ok=True)
        path.unlink()
    return tables.shards("raw", stage.spec.partition_key, stage.spec.shards, version=raw_version)[stage.spec.shard]


def leave(stage: Stage, raw_version: int, rows: PartitionWriter, found: dict[str, Any]) -> None:
    """Write down what this shard staged and found."""
    described: dict[str, Any] = {
        "made_of": _made_of(stage, raw_version),
        "staged": [asdict(file) for file in rows.staged],
        "columns": [[field.name, str(field.type)] for field in rows.columns],
        "found": found,
    }
    write_json(stage.folder / "shard.json", described)


def shards_left(stage: Stage, raw_version: int) -> list[Left]:
    """What the stage's shards left, in order. Raises `DataError` where one is missing or was made of other rows or with other settings."""
    wanted = _made_of(stage, raw_version)
    remedy = f"run all {stage.spec.shards} shards again (in Airflow: clear {stage.spec.stage}_shards)"
    found = []
    for shard in range(stage.spec.shards):
        folder = Path(stage.spec.shard_dir(stage.spec.stage, shard))
        if not (folder / "shard.json").exists():
            raise DataError(
                f"stage {stage.spec.stage} puts {stage.spec.shards} shards together, and there is no {folder / 'shard.json'}; {remedy}"
            )
        described: Any = read_json(folder / "shard.json")
        if described["made_of"] != wanted:
            raise DataError(
                f"{folder / 'shard.json'}: made of {described['made_of']}, where this run has {wanted}: raw or the settings have changed since; {remedy}"
            )
        found.append(_left(folder))
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


def columns_of(shards: Sequence[Left]) -> pa.Schema:
    """Every column of the shards' rows."""
    return pa.unify_schemas([pa.schema([(name, pa.type_for_alias(kind)) for name, kind in left.columns]) for left in shards])


def staged_rows(shards: Sequence[Left]) -> Iterator[pa.Table]:
    """The rows of the shards, in order, a row group at a time."""
    for left in shards:
        for file in left.staged:
            parquet = pq.ParquetFile(file.path)
            for group in range(parquet.num_row_groups):
                yield parquet.read_row_group(group)


def write_tables(path: Path, tables: Sequence[pa.Table]) -> None:
    """Tables of counts, too large for JSON, one behind the other."""
    sink = pa.BufferOutputStream()
    for table in tables:
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    write_bytes(path, sink.getvalue().to_pybytes())


def read_tables(path: Path) -> list[pa.Table]:
    """What `write_tables` wrote."""
    source, tables = pa.BufferReader(path.read_bytes()), []
    while source.tell() < source.size():
        tables.append(pa.ipc.open_stream(source).read_all())
    return tables


def _left(folder: Path) -> Left:
    described: Any = read_json(folder / "shard.json")
    files = [StagedFile(file["path"], file["n_rows"], file["sha256"], tuple(map(tuple, file["columns"]))) for file in described["staged"]]
    return Left(folder, files, [(name, kind) for name, kind in described["columns"]], described["found"])


def _made_of(stage: Stage, raw_version: int) -> dict[str, Any]:
    return {"raw_version": raw_version, "settings": _settings(stage.use_case), "shards": stage.spec.shards}


def _settings(use_case: UseCase) -> str:
    """Hash of what decides how rows are judged and cleaned."""
    parts = use_case.model_dump(mode="json", include={"columns", "quality", "privacy", "clean", "label"})
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
