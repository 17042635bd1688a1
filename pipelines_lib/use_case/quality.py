"""The gate between `raw` and `clean`: `quality:`."""

import re
from typing import Any, Literal

from pydantic import Field, field_validator

from pipelines_lib.use_case.base import Settings


class Upstream(Settings):
    """What is done where the source's columns are not those that the use case declares."""

    new_columns: Literal["keep", "ignore", "hold"] = "keep"
    """A column that is not declared is kept in `raw`, left out of it, or holds the partition."""
    lost_columns: Literal["hold", "empty"] = "hold"
    """A declared column that the source lacks stops the partition, or counts as empty in every row."""
    changed_types: Literal["hold", "quarantine"] = "hold"
    """Whether a column whose type has changed holds the partition, or costs the rows alone (of which `max_quarantined` may be too many)."""
    changed_share: float = Field(default=0.5, gt=0, lt=1)
    """A column's type has changed where a larger share of its values can't be read as the declared type."""


class Quality(Settings):
    """The gate between `raw` and `clean`."""

    max_quarantined: float = Field(default=0.05, ge=0, le=1)
    """Share of a partition's rows that may be quarantined before the partition is held."""
    upstream: Upstream = Upstream()
    """What is done where the source's columns change."""
    expectations: list[dict[str, dict[str, Any]]] = Field(default_factory=list)
    """Great Expectations by their own names and arguments, one a list item: `- expect_column_values_to_be_between: {column: price, min_value: 0}`."""

    @field_validator("expectations")
    @classmethod
    def _one_each(cls, value: list[dict[str, dict[str, Any]]]) -> list[dict[str, dict[str, Any]]]:
        for item in value:
            if len(item) != 1 or not re.fullmatch(r"expect_[a-z0-9_]+", next(iter(item))):
                raise ValueError(
                    f"{sorted(item)} is not one expectation; write `- expect_…: {{column: …}}` with the name Great Expectations gives it"
                )
        return value
