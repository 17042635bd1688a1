"""What is predicted: `label:`."""

from pydantic import Field

from pipelines_lib.use_case.base import Settings


class Label(Settings):
    """What is predicted."""

    column: str
    """The column the label is made from; its role must be `label`."""
    map: dict[str, str] | None = None
    """Value to class. A row whose value is not listed is quarantined."""
    positive: str | None = None
    """The class whose probability is predicted; binary tasks only, and required there."""
    horizon: int = Field(default=0, ge=0)
    """Partitions that must have passed before the label is known."""
