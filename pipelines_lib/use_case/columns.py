"""What the columns are, and which of them are about a person: `columns:`."""

import math
from itertools import pairwise
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipelines_lib.use_case.base import Settings

ColumnType = Literal["integer", "number", "string", "text", "boolean", "timestamp"]
Role = Literal["feature", "treatment", "entity", "time", "key", "label", "other"]
PrivacyRole = Literal["identifier", "quasi_identifier", "sensitive"]

RESERVED_COLUMNS = frozenset(
    {"row_id", "partition_key", "label", "label_confidence", "split", "reasons", "raw", "score", "scores", "prediction", "model_version"}
)


class Protect(Settings):
    """What is done to a column's values before anything is written; exactly one of the fields is set.

    Each leaves its own result alone, so what was protected once may pass again (a replayed row, an export that comes back).
    """

    hash: Literal[True] | None = None
    """`protect: hash`: a keyed hash stands for the value, the same one wherever the value occurs in the use case."""
    drop: Literal[True] | None = None
    """`protect: drop`: the column is not written at all."""
    keep: int | None = Field(default=None, ge=0)
    """The first so many characters stay, and one star stands for the rest, however long it is."""
    bins: list[float] | None = Field(default=None, min_length=1)
    """Lower bounds of bins, ascending: a number becomes the bound of its bin, which ends before the next one (the last never ends)."""
    round: Literal["hour", "day", "month", "year"] | None = None
    """A time becomes the start of its hour, day, month or year."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> Any:
        if isinstance(given, str):
            if given not in ("hash", "drop"):
                raise ValueError(
                    f"{given!r} is no way to protect a column; write hash, drop, {{keep: 2}}, {{bins: [0, 18, 65]}} or {{round: day}}"
                )
            return {given: True}
        return given

    @field_validator("bins")
    @classmethod
    def _ascending(cls, value: list[float] | None) -> list[float] | None:
        if value is not None and not (all(map(math.isfinite, value)) and all(low < high for low, high in pairwise(value))):
            raise ValueError("bins are lower bounds, finite and each above the one before it; write them like [0, 18, 40, 65]")
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a column is protected in one way, and this names {given or 'none'}; keep one of them")
        return self

    @property
    def fits(self) -> tuple[ColumnType, ...] | None:
        """The types of column it can be done to; None where the type does not matter."""
        if self.drop:
            return None
        if self.bins is not None:
            return ("integer", "number")
        return ("timestamp",) if self.round is not None else ("string",)


class Column(Settings):
    """One column of the data, under the name that the rest of the use case uses."""

    type: ColumnType
    """`string` is a category (few values), `text` is language."""
    role: Role = "feature"
    """`treatment`: a feature that somebody decides on, and whose effect is asked for (`training.model.type: uplift`);
    `entity`: whose row it is (splits keep an entity together); `time`: when it happened; `key`: identifies the row;
    `label`: what the label is made of, never a feature; `other`: kept, not used."""
    source: str | None = None
    """The column's name in the source, where it differs."""
    nullable: bool = True
    """Whether a row may lack the value; a row that lacks it where it may not goes to quarantine."""
    privacy: PrivacyRole | None = None
    """`identifier`: names a person (a number, an address), and is never kept as it is; `quasi_identifier`: tells who it is together with others
    (age, postcode); `sensitive`: what nobody else should learn about the person. Values of such a column are in no log, error or page."""
    protect: Protect | None = None
    """How its values are made less telling before anything is written; an identifier is hashed where nothing is said."""

    @model_validator(mode="after")
    def _protects_what_it_can(self) -> Self:
        done = self.protection
        if done is None:
            return self
        if self.privacy is None:
            raise ValueError(
                "`protect` is for a column that is about a person; say which way with `privacy`: identifier, quasi_identifier or sensitive"
            )
        if self.privacy == "identifier" and not (done.hash or done.drop):
            raise ValueError(
                "part of an identifier can still name a person, so an identifier is hashed or dropped; set `protect: hash` or `protect: drop`, "
                "or, where the part is not one, `privacy: quasi_identifier`"
            )
        if done.fits is not None and self.type not in done.fits:
            how = next(name for name in Protect.model_fields if getattr(done, name) is not None)
            raise ValueError(
                f"{how} is for columns of type {' or '.join(done.fits)}, and this one is {self.type}; set `type: {done.fits[0]}`, or protect it otherwise"
            )
        if done.bins is not None and self.type == "integer" and any(bound != int(bound) for bound in done.bins):
            raise ValueError("the bounds of whole numbers are whole; round `bins`, or set `type: number`")
        if self.role in ("feature", "treatment") and (self.privacy == "identifier" or done.hash):
            raise ValueError(
                "a model would learn identifiers by heart, and a hash says nothing about anyone else; set `role:` to entity, key or other"
            )
        if done.hash and self.role == "label":
            raise ValueError("a hash is nothing to predict; set another `role`, or protect the column otherwise")
        if done.drop and self.role != "other":
            raise ValueError(f"a dropped column is not there to be a {self.role}; set `role: other`, or hash or generalise it instead")
        return self

    @property
    def protection(self) -> Protect | None:
        """What is done to its values: what `protect` says, and a hash for an identifier that says nothing."""
        return self.protect or (Protect(hash=True) if self.privacy == "identifier" else None)
