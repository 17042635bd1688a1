"""YAML that reads back as what was meant: text stays text, whatever it looks like ("yes", "01", 年龄, quotes)."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml


def scalar(value: Any) -> str:
    """A value as YAML in one line."""
    if value is None or isinstance(value, bool | int):
        return json.dumps(value)
    if isinstance(value, float):
        text = repr(value)
        # YAML 1.1 takes 1e-05 for text; with a point and a sign it is a number.
        mantissa, exponent_sign, exponent = text.partition("e")
        if exponent_sign:
            text = f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent if exponent[0] in '+-' else '+' + exponent}"
        return text
    return _plain(str(value)) or quoted(str(value))


def quoted(text: str) -> str:
    """`text` in double quotes; what can't be printed is escaped."""
    body = json.dumps(text, ensure_ascii=False)[1:-1]
    return '"' + "".join(c if c.isprintable() or c == " " else _escape(c) for c in body) + '"'


def flow(value: Any) -> str:
    """A mapping or a list in one line: `{column: age, min_value: 0}`."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(str(key))}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(flow(item) for item in value) + "]"
    return scalar(value)


def comment(text: str) -> str:
    """`text` behind a number sign, in one line."""
    clean = "".join(c if c.isprintable() else " " for c in text)
    return f"  # {clean}" if clean.strip() else ""


def _plain(text: str) -> str | None:
    """`text` itself, where YAML reads it back as this text: a word that is no number, truth value or null."""
    if not text.replace("_", "a").isalnum():
        return None
    return text if yaml.safe_load(text) == text else None


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
