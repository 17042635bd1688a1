"""What is true of all columns about a person: `privacy:`."""

from typing import Literal

from pydantic import Field

from pipelines_lib.use_case.base import ConnectionName, Settings


class Privacy(Settings):
    """How identifiers are hashed, and how alike the people in the data must look."""

    connection: ConnectionName = "sluice_privacy"
    """The connection whose password is the secret key of the hashes. On one machine a key is made where there is none."""
    domain: str | None = Field(default=None, pattern=r"^[a-z][a-z0-9_]{0,39}$")
    """Use cases with the same key and domain give the same hash to the same value, so that their rows can be joined; the use case's name where
    nothing is said, so that they can't."""
    min_k: int = Field(default=5, ge=2)
    """How many rows at least should agree in every quasi-identifier; fewer are counted as too telling."""
    action: Literal["report", "hold"] = "report"
    """Whether a partition with such rows is only reported, or held."""
