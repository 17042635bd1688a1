"""What a source is opened for: a partition of a use case in a project."""

import datetime as dt
from dataclasses import dataclass

from pipelines_lib.config import Project
from pipelines_lib.errors import DataError
from pipelines_lib.use_case import UseCase


@dataclass(frozen=True)
class SourceContext:
    """The partition whose rows are asked for. Raises `ConfigError` where the key is none of the use case's."""

    project: Project
    use_case: UseCase
    partition_key: str

    def __post_init__(self) -> None:
        if self.start.date() < self.use_case.start:
            raise DataError(
                f"partition {self.partition_key} lies before {self.use_case.start}, the first of {self.use_case.name}; "
                "run a later one, or move `start` back"
            )

    @property
    def start(self) -> dt.datetime:
        """Start of the partition (naive, UTC)."""
        return self.use_case.partition_time(self.partition_key)

    @property
    def end(self) -> dt.datetime:
        """Its end, which belongs to the next."""
        return self.start + self.use_case.partition_step

    def fill(self, text: str) -> str:
        """`text` with the placeholders of the partition and of `{home}`, the state folder, filled in."""
        values = {
            "partition": self.partition_key,
            "year": self.start.strftime("%Y"),
            "month": self.start.strftime("%m"),
            "day": self.start.strftime("%d"),
            "hour": self.start.strftime("%H"),
            "home": str(self.project.home),
        }
        for name, value in values.items():
            text = text.replace(f"{{{name}}}", value)
        return text
