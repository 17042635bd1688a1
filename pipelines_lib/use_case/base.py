"""What the settings of every part share."""

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, StringConstraints


class Settings(BaseModel):
    """Frozen, no unknown keys, every default checked like a given value."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


ConnectionName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
"""A connection's id in Airflow: lower-case letters, digits and underscores, since it also names an environment variable.

A setting of this type is called `connection`, wherever it stands: by that name the Airflow world finds which ones a stage needs.
"""


_UNITS = {"s": "seconds", "min": "minutes", "h": "hours", "d": "days"}


def _duration(value: object) -> object:
    if isinstance(value, str) and (match := re.fullmatch(r"([1-9]\d{0,5})\s*(s|min|h|d)", value)):
        return timedelta(**{_UNITS[match[2]]: int(match[1])})
    if isinstance(value, timedelta) and value > timedelta(0):
        return value
    raise ValueError(f"{value!r} is not a length of time; write a whole number and its unit (s, min, h, d), such as 10min or 7d")


def duration_text(value: timedelta) -> str:
    """A length of time as the settings write it, in the longest unit that is exact."""
    seconds = int(value.total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


Duration = Annotated[timedelta, BeforeValidator(_duration), PlainSerializer(duration_text, return_type=str)]
"""A length of time, written as a whole number and its unit: `30s`, `10min`, `24h`, `7d`."""


def _range(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        return (value, value)
    if isinstance(value, str) and (match := re.fullmatch(r"([1-9]\d{0,3})\s*\.\.\s*([1-9]\d{0,3})", value)):
        low, high = int(match[1]), int(match[2])
        if low > high:
            raise ValueError(f"{value!r} goes from more to fewer; write {high}..{low}")
        return (low, high)
    if isinstance(value, tuple):
        return value
    raise ValueError(f"{value!r} is no number and no range; write one number, such as 2, or the least and the most, such as 2..4")


def _range_text(value: tuple[int, int]) -> int | str:
    low, high = value
    return low if low == high else f"{low}..{high}"


Positive = Annotated[int, Field(ge=1)]
Range = Annotated[tuple[Positive, Positive], BeforeValidator(_range), PlainSerializer(_range_text, return_type=int | str)]
"""The least and the most of something: written `2`, or `2..4`."""


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
