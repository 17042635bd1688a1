"""The gate between `raw` and `clean`: `quality:`."""

import re
from typing import Any

from pydantic import Field, field_validator

from pipelines_lib.use_case.base import Settings


class Quality(Settings):
    """The gate between `raw` and `clean`."""

    max_quarantined: float = Field(default=0.05, ge=0, le=1)
    """Share of a partition's rows that may be quarantined before the partition is held."""
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
