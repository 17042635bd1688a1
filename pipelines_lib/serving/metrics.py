"""Counters of a server as Prometheus text (exposition format 0.0.4)."""

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import accumulate

BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Upper bounds of the latency histogram, in seconds."""


class Metrics:
    """Requests by endpoint and status, and how long the answers took."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._buckets = [0] * (len(BUCKETS) + 1)
        """Answers between two bounds."""
        self._seconds = 0.0
        self._answers = 0

    def observe(self, endpoint: str, status: int, seconds: float) -> None:
        """Count one request to an inference endpoint."""
        with self._lock:
            self._requests[endpoint, status] += 1
            self._seconds += seconds
            self._answers += 1
            self._buckets[bisect_left(BUCKETS, seconds)] += 1

    def counts(self) -> Counter[str]:
        """Everything counted, by name: requests by status, answers within each bound of the histogram, seconds in all."""
        with self._lock:
            found: Counter[str] = Counter({f"within_{bound:g}": n for bound, n in self._within() if n})
            for (_, status), n in self._requests.items():
                found[f"status_{status}"] += n
            found["seconds"] = self._seconds  # type: ignore[assignment] # the one count that is not whole
            return found

    def text(self, others: Mapping[str, int]) -> str:
        """Everything counted, and `others` as they are now: counters where the name ends in `_total`, else gauges."""
        with self._lock:
            lines = [*self._lines()]
        for name, value in others.items():
            lines += [f"# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}", f"{name} {value}"]
        return "\n".join(lines) + "\n"

    def _within(self) -> Iterator[tuple[float, int]]:
        """Answers that took no longer than each bound."""
        return zip(BUCKETS, accumulate(self._buckets), strict=False)

    def _lines(self) -> Iterator[str]:
        yield "# TYPE sluice_requests_total counter"
        for (endpoint, status), count in sorted(self._requests.items()):
            yield f'sluice_requests_total{{endpoint="{endpoint}",status="{status}"}} {count}'
        yield "# TYPE sluice_request_errors_total counter"
        errors: Counter[int] = Counter()
        for (_, status), count in self._requests.items():
            if status >= 400:
                errors[status] += count
        for status, count in sorted(errors.items()):
            yield f'sluice_request_errors_total{{status="{status}"}} {count}'
        yield "# TYPE sluice_request_seconds histogram"
        for bound, n in self._within():
            yield f'sluice_request_seconds_bucket{{le="{bound:g}"}} {n}'
        yield f'sluice_request_seconds_bucket{{le="+Inf"}} {self._answers}'
        yield f"sluice_request_seconds_sum {self._seconds:.6f}"
        yield f"sluice_request_seconds_count {self._answers}"
