"""What a server counted, day by day, for monitoring: `<root>/health/<partition>/<server>.json`, sums since the server began that day.

Each server writes files of its own, so any number of them, and their restarts, add up. Requests are counted under the day they came in; unlike an answer, a
refused request has no partition of its own.
"""

import logging
import secrets
import socket
import threading
from collections import Counter
from collections.abc import Callable

from pipelines_lib.store import StorePath, write_json

log = logging.getLogger("sluice.serving")

FOLDER = "health"
SECONDS = 30.0


class HealthLog:
    """The thread that writes them. What the store does not take is written with the next try."""

    def __init__(
        self, root: StorePath, counts: Callable[[], Counter[str]], partition_now: Callable[[], str | None], seconds: float = SECONDS
    ) -> None:
        """`counts` gives everything counted since the server began; `partition_now` None as long as no model says how days are named."""
        self._folder = root / FOLDER
        self._counts, self._partition_now, self._seconds = counts, partition_now, seconds
        self._name = f"{socket.gethostname()}-{secrets.token_hex(8)}.json"
        self._key: str | None = None
        self._before: Counter[str] = Counter()
        self._written: Counter[str] = Counter()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="health-log", daemon=True)

    def start(self) -> None:
        """Start writing."""
        self._thread.start()

    def close(self) -> None:
        """Write the last figures, then stop."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        self.write()

    def write(self) -> None:
        """Write what the day has come to, where there is something new. What was counted since the last look is the day's that was then."""
        total = self._counts()
        key = self._key or self._partition_now()
        day = total - self._before
        if key is None or day == self._written:
            self._turn(total)
            return
        try:
            write_json(self._folder / key / self._name, dict(day))
        except Exception:  # whatever the store says, the service goes on answering
            log.exception("what the server counted could not be written; it is tried again")
            return
        self._written = day
        self._turn(total)

    def _turn(self, total: Counter[str]) -> None:
        """Begin another day where one has begun."""
        now = self._partition_now()
        if now != self._key:
            if self._key is not None:
                self._before, self._written = total, Counter()
            self._key = now

    def _work(self) -> None:
        while not self._closing.wait(self._seconds):
            self.write()
