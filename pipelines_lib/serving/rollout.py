"""A server's part in a roll-out: which requests the challenger is given beside the champion, and how each of the two fares.

Canary: the challenger's answer goes out; where it fails, the champion answers instead. Shadow: the champion's answer goes out, and the challenger
is asked the same afterwards on a thread of its own. Either way no request fails, or waits, because of the challenger.
"""

import hashlib
import logging
import math
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import Field

from pipelines_lib.contracts import Contract
from pipelines_lib.serving.pointer import Traffic
from pipelines_lib.serving.rows import RequestError

log = logging.getLogger("sluice.serving")

Document = dict[str, Any]
Served = TypeVar("Served")

MAX_WAITING = 256
"""Requests that wait for the challenger's shadow answer."""
MAX_WAITING_BYTES = 16 * 1024 * 1024
"""Of their bodies."""
_FINEST = 1e-5
"""Seconds; times are counted in steps of a quarter of an octave above it, so that a quantile is within 10 % of the true one."""


class Counts(Contract):
    """What one version did with the requests it was given, since the roll-out began. Those that a client got wrong count for nobody."""

    requests: int = 0
    """Answered, and failed."""
    errors: int = 0
    times: dict[int, int] = Field(default_factory=dict)
    """Step of the time that an answer took of a processor, to how many took so long."""

    def plus(self, other: "Counts") -> "Counts":
        """Those of two servers together."""
        times = Counter(self.times) + Counter(other.times)
        return Counts(requests=self.requests + other.requests, errors=self.errors + other.errors, times=dict(times))

    def milliseconds(self, rank: float) -> float | None:
        """The time that a share `rank` of the answers took at most; None where there were none."""
        n_before, n = 0, sum(self.times.values())
        for step, count in sorted(self.times.items()):
            n_before += count
            if n_before >= rank * n:
                return float(1000 * _FINEST * 2 ** (step / 4))
        return None


class Tally:
    """Counts in the making, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests = self._errors = 0
        self._times: Counter[int] = Counter()

    def answered(self, seconds: float) -> None:
        """Count an answer."""
        step = max(0, round(4 * math.log2(max(seconds, _FINEST) / _FINEST)))
        with self._lock:
            self._requests += 1
            self._times[step] += 1

    def failed(self) -> None:
        """Count a failure."""
        with self._lock:
            self._requests += 1
            self._errors += 1

    def counts(self) -> Counts:
        """As it is now."""
        with self._lock:
            return Counts(requests=self._requests, errors=self._errors, times=dict(self._times))


class Disagreement(Contract):
    """How the shadow answers differ from those that went out."""

    rows: int = 0
    """Rows compared; of recommendations, items."""
    other_predictions: int = 0
    """Of those, predicted as another class; or items that the champion does not recommend."""
    score_difference: float = 0.0
    """Sum over the rows of the difference of the scores, in size."""

    def plus(self, other: "Disagreement") -> "Disagreement":
        """Both together."""
        return Disagreement(
            rows=self.rows + other.rows,
            other_predictions=self.other_predictions + other.other_predictions,
            score_difference=self.score_difference + other.score_difference,
        )


class Report(Contract):
    """What a server says of its part."""

    version: int
    """The challenger's."""
    mode: str
    share: float
    champion: Counts = Counts()
    challenger: Counts = Counts()
    disagreement: Disagreement = Disagreement()
    dropped: int = 0
    """Shadow answers that were not made because too many requests waited."""
    error: str | None = None
    """Why the challenger can't be opened here."""
    last_failure: str | None = None
    """What the challenger last failed with; no value of a request is in it."""

    def plus(self, other: "Report") -> "Report":
        """Those of two servers together."""
        return Report(
            version=self.version,
            mode=self.mode,
            share=self.share,
            champion=self.champion.plus(other.champion),
            challenger=self.challenger.plus(other.challenger),
            disagreement=self.disagreement.plus(other.disagreement),
            dropped=self.dropped + other.dropped,
            error=self.error or other.error,
            last_failure=self.last_failure or other.last_failure,
        )


class Rollout(Generic[Served]):
    """One roll-out in one server. `Served` is an opened version."""

    def __init__(
        self, version: int, traffic: Traffic, challenger: Served | None = None, *, error: str | None = None, candidate: bool = False
    ) -> None:
        """`challenger` is None where it answers in servers of its own; `candidate` says that this is one of them."""
        self.version = version
        self.traffic = traffic
        self.error = error
        self.challenger = challenger
        self._champions, self._challengers = Tally(), Tally()
        self._own = self._challengers if candidate else self._champions
        self._last_failure: str | None = None
        self._disagreement = Disagreement()
        self._dropped = 0
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._closing = False
        if challenger is not None and traffic.mode == "shadow":
            threading.Thread(target=self._work, name="shadow", daemon=True).start()

    def answer(
        self, served: Served, request_id: str, way: Callable[[Served], Document], shadow: Callable[[Served], Document], size: int
    ) -> Document:
        """Answer a request of `size` bytes by `way`, which `served` or the challenger is given to; `shadow` is the same for an answer that nobody gets."""
        challenger = self.challenger
        if challenger is None or not self.takes(request_id):
            return _counted(self._own, lambda: way(served))
        if self.traffic.mode == "shadow":
            answer = _counted(self._own, lambda: way(served))
            self._offer(size, lambda: self._compare(answer, lambda: shadow(challenger)))
            return answer
        started = time.thread_time()
        try:
            answer = way(challenger)
        except Exception as error:  # noqa: BLE001 - whatever the challenger fails with, the champion answers
            # Where the champion refuses the request, too, the client got it wrong, and that counts for nobody.
            answer = way(served)
            self._failed(error)
            return answer
        self._challengers.answered(time.thread_time() - started)
        return answer

    def takes(self, request_id: str) -> bool:
        """Whether the challenger is given the request: for the same id always the same, in every server, as long as the roll-out lasts."""
        if time.time() > self.traffic.until:
            return False
        place = int.from_bytes(hashlib.blake2b(f"{self.version}:{request_id}".encode("utf-8", "replace"), digest_size=8).digest())
        return place < self.traffic.share * 2**64

    def report(self) -> Report:
        """What there is to say now."""
        with self._changed:
            disagreement, dropped = self._disagreement, self._dropped
        return Report(
            version=self.version,
            mode=self.traffic.mode,
            share=self.traffic.share,
            champion=self._champions.counts(),
            challenger=self._challengers.counts(),
            disagreement=disagreement,
            dropped=dropped,
            error=self.error,
            last_failure=self._last_failure,
        )

    def lines(self) -> Iterator[str]:
        """Prometheus text."""
        report = self.report()
        sides = {"champion": report.champion, "challenger": report.challenger}
        for name in ("requests", "errors"):
            yield f"# TYPE sluice_rollout_{name}_total counter"
            for side, counts in sides.items():
                yield f'sluice_rollout_{name}_total{{side="{side}",challenger="{self.version}"}} {getattr(counts, name)}'
        yield "# TYPE sluice_rollout_processor_seconds summary"
        for side, counts in sides.items():
            for rank in (0.5, 0.95):
                if (milliseconds := counts.milliseconds(rank)) is not None:
                    labels = f'side="{side}",challenger="{self.version}",quantile="{rank:g}"'
                    yield f"sluice_rollout_processor_seconds{{{labels}}} {milliseconds / 1000:.6g}"
        yield "# TYPE sluice_rollout_shadows_dropped_total counter"
        yield f'sluice_rollout_shadows_dropped_total{{challenger="{self.version}"}} {report.dropped}'

    def close(self) -> None:
        """Make no more shadow answers."""
        with self._changed:
            self._closing = True
            self._waiting.clear()
            self._changed.notify()

    def _failed(self, error: Exception) -> None:
        self._challengers.failed()
        told = _without_values(error)
        if told != self._last_failure:
            self._last_failure = told
            log.warning("version %d failed where the champion answers: %s", self.version, told)

    def _offer(self, size: int, work: Callable[[], None]) -> None:
        with self._changed:
            if self._closing or len(self._waiting) >= MAX_WAITING or self._waiting_bytes + size > MAX_WAITING_BYTES:
                self._dropped += 1
                return
            self._waiting.append((size, work))
            self._waiting_bytes += size
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if self._closing:
                    return
                size, work = self._waiting.popleft()
                self._waiting_bytes -= size
            work()

    def _compare(self, answer: Document, shadow: Callable[[], Document]) -> None:
        started = time.thread_time()
        try:
            other = shadow()
        except Exception as error:  # noqa: BLE001 - the champion has answered, and the thread must go on
            self._failed(error)
            return
        self._challengers.answered(time.thread_time() - started)
        found = compared(answer, other)
        with self._changed:
            self._disagreement = self._disagreement.plus(found)


def compared(answer: Document, other: Document) -> Disagreement:
    """How two answers to the same request differ."""
    if "items" in answer:
        mine = {item["item"] for item in answer["items"]}
        theirs = [item["item"] for item in other["items"]]
        return Disagreement(rows=len(theirs), other_predictions=sum(item not in mine for item in theirs))
    (predictions, scores), (other_predictions, other_scores) = _told(answer), _told(other)
    pairs = zip(scores, other_scores, strict=True)
    return Disagreement(
        rows=len(predictions) or len(scores),
        # Two numbers are hardly ever equal; of a regression the difference of the scores says more.
        other_predictions=sum(
            isinstance(mine, str) and mine != theirs for mine, theirs in zip(predictions, other_predictions, strict=True)
        ),
        score_difference=float(sum(abs(mine - theirs) for mine, theirs in pairs)),
    )


def _without_values(error: Exception) -> str:
    """What went wrong, and where. A refusal's rule names columns; what was found there, and other errors' words, may be a person's."""
    if isinstance(error, RequestError):
        return f"{error.parts['where']}: {error.parts['rule']}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(last.filename).name}, line {last.lineno}"


def _told(answer: Document) -> tuple[list[Any], list[float]]:
    """Predictions and scores of an answer, those that were asked for."""
    if "predictions" in answer:
        return [row["prediction"] for row in answer["predictions"]], [row["score"] for row in answer["predictions"]]
    outputs = {output["name"]: output["data"] for output in answer["outputs"]}
    return outputs.get("prediction", []), outputs.get("score", [])


def _counted(tally: Tally, answer: Callable[[], Document]) -> Document:
    started = time.thread_time()
    try:
        found = answer()
    except RequestError as error:
        if error.status >= 500:
            tally.failed()
        raise
    except Exception:
        tally.failed()
        raise
    tally.answered(time.thread_time() - started)
    return found
