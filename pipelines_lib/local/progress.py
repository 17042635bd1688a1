"""Progress a person can follow: a moving line on a terminal, a line a change in a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status


class Progress:
    """Prints each step when it begins, what it is at, and how long it took."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self.seconds: dict[str, float] = {}
        self._last = ""
        self._last_at = 0.0
        self._status: Status | None = None

    @contextmanager
    def step(self, title: str, key: str) -> Iterator[None]:
        """One step; its duration is kept under `key`."""
        started = time.monotonic()
        self._last = ""
        with self.console.status(f"{title} …") as status:
            self._status = status if self.console.is_terminal else None
            self._title = title
            if self._status is None:
                self._line(f"  … {title}")
            yield
        self.seconds[key] = round(time.monotonic() - started, 1)
        self._line(f"  ✓ {title} [dim]({self.seconds[key]:.0f} s)[/dim]")

    def update(self, text: str) -> None:
        """What the step is at. In a log, a line each time it changed, at most every five seconds."""
        if self._status is not None:
            self._status.update(f"{self._title}: {text}")
        elif text != self._last and time.monotonic() - self._last_at > 5:
            self._line(f"      {text}")
            self._last, self._last_at = text, time.monotonic()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._line(f"      {text}")

    def _line(self, text: str) -> None:
        self.console.print(text)
        sys.stdout.flush()
