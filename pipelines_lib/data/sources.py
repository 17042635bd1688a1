"""A partition's rows at their source: which file holds them, and which of its records are the partition's."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from pipelines_lib.config import Project
from pipelines_lib.data.csvfile import CsvFile, Unreadable, read
from pipelines_lib.errors import DataError
from pipelines_lib.use_case import Replay, UseCase


class Land(Protocol):
    """`land` of a use case's hooks.py: write the partition's file, whole, to `path`. Same key and params, same bytes."""

    def __call__(self, partition_key: str, path: Path, params: Mapping[str, object]) -> None: ...  # noqa: D102


def source_path(project: Project, use_case: UseCase, partition_key: str) -> Path:
    """The file that holds the partition's rows. Raises `DataError` where the partition lies before the first."""
    if use_case.partition_time(partition_key).date() < use_case.start:
        raise DataError(
            f"partition {partition_key} lies before {use_case.start}, the first of {use_case.name}; run a later one, or move `start` back"
        )
    path = use_case.source.path.replace("{partition}", partition_key).replace("{home}", str(project.home))
    return project.folder / path


def land(hook: Land, partition_key: str, path: Path, use_case: UseCase) -> None:
    """Let the hook collect the partition's file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    hook(partition_key, path, use_case.source.params)
    if not path.exists():
        raise DataError(f"land() of {use_case.name} returned and left no {path}; have it write the file, or raise and say why it can't")


def read_source(path: Path, use_case: UseCase, partition_key: str) -> CsvFile:
    """The partition's records. Raises `DataError` where the file is missing, unreadable or lacks a declared column."""
    if not path.is_file():
        raise DataError(f"partition {partition_key} of {use_case.name}: there is no file {path}; {_remedy(use_case)}")
    source = use_case.source
    file = read(path, source.csv)
    _check_columns(path, file.rows.column_names, use_case)
    if source.replay is None:
        return file
    return replayed(file, source.replay, _replay_index(use_case, source.replay, partition_key))


def replayed(file: CsvFile, replay: Replay, index: int) -> CsvFile:
    """The records that fall on partition `index` (from 0): an equal slice of the shuffled file, back in the file's order."""
    numbers = np.sort(np.array([*file.numbers, *(record.number for record in file.unreadable)], dtype=np.int64))
    if replay.seed is not None:
        numbers = np.random.Generator(np.random.PCG64(replay.seed)).permutation(numbers)
    first, last = (len(numbers) * i // replay.partitions for i in (index, index + 1))
    mine = set(numbers[first:last].tolist())
    kept = [position for position, number in enumerate(file.numbers) if number in mine]
    unreadable: list[Unreadable] = [record for record in file.unreadable if record.number in mine]
    return CsvFile(file.rows.take(pa.array(kept, pa.int64())), [file.numbers[i] for i in kept], unreadable, file.csv)


def row_id(partition_key: str, number: int) -> str:
    """Names a source record for good; sorts as the records stand in the file."""
    return f"{partition_key}:{number:09d}"


# Columns that Sluice adds to the raw layer.
_TAKEN = ("row_id", "partition_key")


def raw_name(source_name: str) -> str:
    """A source column's name in the raw layer: one that Sluice adds itself gets an underscore behind it.

    So does one with underscores behind it already, which keeps `row_id` and `row_id_` apart.
    """
    return f"{source_name}_" if source_name.casefold().rstrip("_") in _TAKEN else source_name


def raw_rows(file: CsvFile, partition_key: str) -> pa.Table:
    """The readable records as rows of the raw layer."""
    rows = file.rows.rename_columns([raw_name(name) for name in file.rows.column_names])
    return rows.add_column(0, "row_id", pa.array([row_id(partition_key, number) for number in file.numbers], pa.string()))


def _remedy(use_case: UseCase) -> str:
    source = use_case.source
    if source.land:
        return "its hooks.py should land it"
    if source.replay is not None:
        return "put it there, or correct source.path"
    return "wait for it and clear the task, or correct source.path"


def _check_columns(path: Path, found: list[str], use_case: UseCase) -> None:
    for name, column in use_case.columns.items():
        wanted = column.source or name
        if wanted in found:
            continue
        near = difflib.get_close_matches(wanted, found, n=1, cutoff=0.6)
        raise DataError(
            f"{path}: has no column {wanted!r}, which use case {use_case.name} declares as columns.{name}; it has: {', '.join(found)}. "
            + (f"Did you mean {near[0]!r}? " if near else "")
            + f"Set columns.{name}.source to the name in the file, or remove the column"
        )


def _replay_index(use_case: UseCase, replay: Replay, partition_key: str) -> int:
    first = use_case.start.strftime(use_case.key_format)
    index = int((use_case.partition_time(partition_key) - use_case.partition_time(first)) / use_case.partition_step)
    if index >= replay.partitions:
        last = use_case.shift(first, replay.partitions - 1)
        raise DataError(
            f"partition {partition_key} of {use_case.name}: its file is replayed over the partitions {first} to {last} and no further; "
            "run one of these, or raise source.replay.partitions"
        )
    return index
