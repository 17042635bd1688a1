"""Where a partition's rows come from: `source:`."""

from typing import Self

from pydantic import Field, JsonValue, field_validator, model_validator

from pipelines_lib.use_case.base import Settings


class Csv(Settings):
    """How a CSV file is written down. What is not said here is detected."""

    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    """One ASCII character; detected when absent."""
    encoding: str | None = None
    """A Python codec name; UTF-8 (with or without BOM) is tried first, then detected, when absent."""
    header: bool = True
    """Whether the first line names the columns. Without a header columns are called c0, c1, …"""

    @field_validator("delimiter")
    @classmethod
    def _separates_cells(cls, value: str | None) -> str | None:
        if value is not None and (not value.isascii() or value in '"\r\n\0'):
            raise ValueError(
                f"{value!r} can't separate cells: a delimiter is one ASCII character that is no line end and no quote, such as ',', ';' or '\\t'; "
                "write one of these, or leave it out to have it detected"
            )
        return value


class Replay(Settings):
    """One finished file, played back as daily (or hourly) partitions from the use case's `start`."""

    partitions: int = Field(default=14, ge=1)
    """Over how many partitions the file's rows are spread evenly."""
    seed: int | None = 0
    """Seed of the shuffle that decides which row falls on which partition; null keeps the file's order."""


class Source(Settings):
    """Where a partition's rows come from."""

    path: str
    """A file, relative to the project's folder or absolute; `{partition}` and `{home}` (the state folder) are filled in."""
    csv: Csv = Csv()
    replay: Replay | None = None
    """Set where `path` is one finished file rather than one file a partition."""
    land: bool = False
    """Whether `hooks.py` has `land(partition_key, path, params)`, which collects the partition's file before it is read."""
    params: dict[str, JsonValue] = Field(default_factory=dict)
    """Handed to `land`."""

    @model_validator(mode="after")
    def _one_way_to_partition(self) -> Self:
        if self.replay is None and "{partition}" not in self.path:
            raise ValueError(
                "path must contain {partition} (one file a partition), or `replay` must say how one file is spread over partitions"
            )
        if self.replay is not None and "{partition}" in self.path:
            raise ValueError("`replay` spreads one file over partitions, so path must not contain {partition}; remove one of the two")
        return self
