"""What the settings of every part share."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints


class Settings(BaseModel):
    """Frozen, no unknown keys, every default checked like a given value."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


ConnectionName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
"""A connection's id in Airflow: lower-case letters, digits and underscores, since it also names an environment variable.

A setting of this type is called `connection`, wherever it stands: by that name the Airflow world finds which ones a stage needs.
"""


def connections_in(part: object) -> Iterator[str]:
    """The names of the connections in a part's settings, at any depth."""
    if isinstance(part, Settings):
        for name in type(part).model_fields:
            value = getattr(part, name)
            if name == "connection" and isinstance(value, str):
                yield value
            yield from connections_in(value)
    elif isinstance(part, list | tuple):
        for item in part:
            yield from connections_in(item)
    elif isinstance(part, dict):
        yield from connections_in(list(part.values()))
