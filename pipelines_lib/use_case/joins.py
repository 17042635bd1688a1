"""Further sources whose columns are added to the rows: `joins:`."""

from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from pipelines_lib.use_case.base import Duration, Settings
from pipelines_lib.use_case.source import Source


class AsOf(Settings):
    """Which of several records of a key a row gets: the last one that was there at the row's time. No row sees a later one."""

    time: str
    """The joined source's column with the time from which its record holds."""
    row: str | None = None
    """The rows' column, by its name in the source, that is compared with it; the column with `role: time` where nothing is said."""
    within: Duration
    """How old the record may be. Of a source that has records a partition, as many earlier partitions are read, back to the use case's first."""


class Join(Settings):
    """One joined source. Each row gets the columns of the one record with its key; the rows stay as many as they were."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")
    """What messages and the run's figures call it."""
    source: Source
    """Where its records come from: the partition's own, or the same for every partition. They are held in memory."""
    on: dict[str, str] = Field(min_length=1)
    """The rows' column to the joined source's, both by their names in the sources; a list where they are the same."""
    columns: dict[str, str] = Field(min_length=1)
    """The joined source's columns that are added, to the name they are given; a list where it stays."""
    required: bool = False
    """Whether a row without a record goes to quarantine; otherwise it lacks the values."""
    asof: AsOf | None = None
    """Set where a key has records of several times."""

    @field_validator("on", "columns", mode="before")
    @classmethod
    def _same_names(cls, value: Any) -> Any:
        return {name: name for name in value} if isinstance(value, list) and all(isinstance(name, str) for name in value) else value

    @model_validator(mode="after")
    def _can_be_joined(self) -> Self:
        if self.source.replay is not None or self.source.land:
            raise ValueError(
                "`replay` and `land` are for the rows' own source; give a joined one's path, with {partition} where each partition has its own file"
            )
        if len(folded := {name.casefold() for name in self.columns.values()}) != len(self.columns):
            raise ValueError(f"{sorted(self.columns.values())} gives {len(self.columns)} columns {len(folded)} names; each needs its own")
        return self
