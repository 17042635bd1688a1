"""JSON whose numbers stay as they are written, whatever their size: read as `Digits`, and written as text again."""

import json
from typing import Any


class _AsItIs(str):
    """Text that is written without quotes."""

    __slots__ = ()


class Digits(_AsItIs):
    """A number as it is written."""

    __slots__ = ()


AS_WRITTEN: dict[str, Any] = {"parse_int": Digits, "parse_float": Digits, "parse_constant": Digits}
"""What a decoder of `json` is told to read numbers as `Digits`."""


def cell(value: Any) -> str | None:
    """A value of JSON as a cell: a text without quotes, null as null, a list or object as JSON."""
    return value if value is None or isinstance(value, str) else written(value)


def written(value: Any) -> str:
    """A value as JSON without blanks. Not by recursion: what `json` has read may be nested deeper than Python's own calls may be."""
    pieces: list[str] = []
    left = [value]
    while left:
        match left.pop():
            case _AsItIs() as piece:
                pieces.append(piece)
            case list() as items:
                left += reversed(_bracketed("[", [[item] for item in items], "]"))
            case dict() as items:
                left += reversed(_bracketed("{", [[key, _COLON, item] for key, item in items.items()], "}"))
            case plain:
                pieces.append(json.dumps(plain, ensure_ascii=False))
    return "".join(pieces)


_COLON, _COMMA = _AsItIs(":"), _AsItIs(",")


def _bracketed(opening: str, members: list[list[Any]], closing: str) -> list[Any]:
    between = [part for member in members for part in (_COMMA, *member)]
    return [_AsItIs(opening), *between[1:], _AsItIs(closing)]
