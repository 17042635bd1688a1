"""What the columns are: `columns:`."""

from typing import Literal

from pipelines_lib.use_case.base import Settings

ColumnType = Literal["integer", "number", "string", "text", "boolean", "timestamp"]
Role = Literal["feature", "entity", "time", "key", "label", "other"]

RESERVED_COLUMNS = frozenset({"row_id", "partition_key", "label", "split", "reasons", "raw", "score", "prediction", "model_version"})


class Column(Settings):
    """One column of the data, under the name that the rest of the use case uses."""

    type: ColumnType
    """`string` is a category (few values), `text` is language."""
    role: Role = "feature"
    """`entity`: whose row it is (splits keep an entity together); `time`: when it happened; `key`: identifies the row;
    `label`: what the label is made of, never a feature; `other`: kept, not used."""
    source: str | None = None
    """The column's name in the source, where it differs."""
    nullable: bool = True
    """Whether a row may lack the value; a row that lacks it where it may not goes to quarantine."""
