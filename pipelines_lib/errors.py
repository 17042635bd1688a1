"""Everything a user can cause is raised from one tree.

SluiceError
├── BadInput            the input, not the attempt, is wrong: exit code 2, never retried
│   ├── ConfigError     a use case or a profile breaks a rule (file, line, field, rule, remedy)
│   └── DataError       a source, a table or a request breaks a rule
├── Held                a gate said no: exit code 3, never retried, carries the figures
├── Interrupted         a signal asked the stage to end, and it has kept what it did: exit code 75, retried
└── Unavailable         the outside world did not answer: exit code 1, retried

Anything else that escapes a stage is a defect of ours or a passing fault; it exits with 1 and is retried.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # pydantic stays out of an edge device
    from pydantic import JsonValue


class SluiceError(Exception):
    """The root of the tree. The message says what, where, which rule, and the remedy."""


class BadInput(SluiceError):
    """The input is wrong, and trying again with the same input cannot help."""


class ConfigError(BadInput):
    """A use case or a profile breaks a rule."""


class DataError(BadInput):
    """Data from outside breaks a rule."""


class Held(SluiceError):
    """A gate held the data or the model back.

    `figures` are the numbers behind the verdict and `links` the pages that show them; both reach the task's result.
    """

    def __init__(self, reason: str, figures: Mapping[str, JsonValue] | None = None, links: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.figures = dict(figures or {})
        self.links = dict(links or {})


class Interrupted(SluiceError):
    """A signal asked the stage to end; what it had done is kept, and a retry goes on from there."""


class Unavailable(SluiceError):
    """A part of the outside world did not answer; a retry may help."""
