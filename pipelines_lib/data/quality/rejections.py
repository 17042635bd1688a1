"""Which rows of a partition must not pass, and why."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines_lib.data.quality.judge import MASK, Check, Example
from pipelines_lib.data.raw import raw_name
from pipelines_lib.use_case import UseCase

_SHOWN_ROWS, _SHOWN_CHARACTERS = 3, 40
_OF_TYPING = re.compile(r"(?:type|label): (\w+) is ")


@dataclass(frozen=True)
class Reason:
    """Why some rows must not pass."""

    name: str
    n_rows: int
    examples: tuple[Example, ...]
    """The first of them."""


class Rejections:
    """How many rows must not pass, and why; filled as the partition goes by. It keeps counts and examples, never the rows."""

    def __init__(self, use_case: UseCase) -> None:
        self.n_rows = 0
        """Rows that must not pass."""
        self._private = frozenset(use_case.private())
        self._raw_names = {name: raw_name(column.source or name) for name, column in use_case.columns.items()}
        self._counts: dict[str, int] = {}
        self._examples: dict[str, list[Example]] = {}

    def add(self, reasons: dict[str, set[str]], raw: pa.Table | None = None, *, n_known: int = 0) -> None:
        """Take in further rows, each with all its reasons; `raw` are the rows as they came, to show what stood there.

        `n_known` of the rows were taken in before, with reasons of their own.
        """
        self.n_rows += len(reasons) - n_known
        for row, found in reasons.items():
            for reason in found:
                self._counts[reason] = self._counts.get(reason, 0) + 1
                if self._is_shown(reason, row):
                    self._show(reason, Example(row, self._text(raw, row, reason)))

    def state(self) -> dict[str, Any]:
        """What was taken in, as JSON for `take_in`."""
        examples = {reason: [[example.row_id, example.value] for example in found] for reason, found in self._examples.items()}
        return {"n_rows": self.n_rows, "counts": self._counts, "examples": examples}

    def take_in(self, state: dict[str, Any]) -> None:
        """The rejections of other rows."""
        self.n_rows += state["n_rows"]
        for reason, n_rows in state["counts"].items():
            self._counts[reason] = self._counts.get(reason, 0) + n_rows
            for row, value in state["examples"][reason]:
                if self._is_shown(reason, row):
                    self._show(reason, Example(row, value))

    def _is_shown(self, reason: str, row: str) -> bool:
        """Whether the row is one of the first that have the reason, by their names, so that it does not matter which came first."""
        shown = self._examples.get(reason, [])
        return len(shown) < _SHOWN_ROWS or row < shown[-1].row_id

    def _show(self, reason: str, example: Example) -> None:
        shown = sorted([*self._examples.get(reason, []), example], key=lambda one: one.row_id)
        self._examples[reason] = shown[:_SHOWN_ROWS]

    def by_reason(self, checks: Iterable[Check] = ()) -> list[Reason]:
        """The reasons, the most frequent first. What an expectation judged is shown as it judged it."""
        judged = {check.name: check.examples[:_SHOWN_ROWS] for check in checks if check.of_rows and check.examples}
        found = [Reason(name, n, judged.get(name) or tuple(self._examples[name])) for name, n in self._counts.items()]
        return sorted(found, key=lambda reason: (-reason.n_rows, reason.name))

    def _text(self, raw: pa.Table | None, row: str, reason: str) -> str | None:
        """What stood in the column that the reason is about; nothing where it is about none, or about a value that is missing."""
        found = _OF_TYPING.match(reason)
        if raw is None or found is None:
            return None
        if found[1] in self._private:
            return MASK
        wanted = self._raw_names[found[1]].casefold()
        column = next(name for name in raw.column_names if name.casefold() == wanted)
        text: str | None = raw[column][pc.index(raw["row_id"], row).as_py()].as_py()
        return text


def such_as(examples: Iterable[Example]) -> str:
    """Rows and what stood in them, in a sentence."""
    return ", ".join(
        example.row_id if example.value is None else f"{example.row_id} ({_short(example.value)})"
        for example in list(examples)[:_SHOWN_ROWS]
    )


def _short(value: object) -> str:
    if value == MASK:
        return MASK
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
