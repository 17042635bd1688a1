"""Who trains, who stops the training early, who judges: `split:`."""

from typing import Literal

from pydantic import Field

from pipelines_lib.use_case.base import Settings


class Split(Settings):
    """Who trains, who stops the training early, who judges: never the same entity twice."""

    by: Literal["entity", "row", "partition"] = "row"
    """`entity`: all rows of an entity fall on one side; `row`: each row by its own hash; `partition`: the last partitions judge."""
    validation: float = Field(default=0.15, gt=0, lt=0.5)
    test: float = Field(default=0.2, gt=0, lt=0.5)
    seed: int = 0
