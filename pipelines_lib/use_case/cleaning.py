"""The steps from accepted rows to clean ones: `clean:`."""

from typing import Self

from pydantic import model_validator

from pipelines_lib.use_case.base import Settings


class CleaningStep(Settings):
    """One step, done in the order written; exactly one of the fields is set."""

    deduplicate: list[str] | None = None
    """Keep the first of the rows that agree on these columns."""
    fill: dict[str, str | float | int] | None = None
    """Column to the constant that stands in for a missing value."""
    clip: dict[str, tuple[float, float]] | None = None
    """Column to the lower and upper bound its values are moved to."""
    drop_missing: list[str] | None = None
    """Drop the rows that lack any of these columns."""
    to_missing: dict[str, list[str | float | int]] | None = None
    """Column to the values that mean "missing" in it (zeros, "****")."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a cleaning step does one thing, this one names {given or 'none'}; write one list item a step")
        return self

    def columns(self) -> list[str]:
        """The columns the step names."""
        [value] = [v for name in type(self).model_fields if (v := getattr(self, name)) is not None]
        return list(value)
