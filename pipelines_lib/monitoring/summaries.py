"""Mergeable summaries of one column: quantiles of numbers, counts of categories, tokens of texts, how many values are distinct.

All are deterministic, so a stage that runs again writes the same bytes. (The KLL sketches of the datasketches
library toss an unseedable coin at each compaction and differ from run to run; datasketches-cpp issue 361.)
"""

import base64
import itertools
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pipelines_lib.errors import DataError

Floats = npt.NDArray[np.float64]

MAX_POINTS = 256
MAX_CATEGORIES = 1000
KEPT_HASHES = 128
"""Of a count of distinct values, which is off by about 1 / sqrt(KEPT_HASHES - 2), 9 %, where there are more."""
_PIECE = 1 << 14


@dataclass(frozen=True, eq=False)
class Quantiles:
    """Up to `MAX_POINTS` weighted points that stand for a column of finite numbers.

    With no more distinct values than that it is exact. Otherwise the points are the values at evenly spaced ranks, the
    summary of Manku, Rajagopalan and Lindsay (SIGMOD 1998) with all rows at hand: a rank is off by at most
    1 / (2 MAX_POINTS), about 0.2 %, after the first compaction, and each merge adds at most as much again. `merged`
    compacts once however many parts there are, so a window merged at once is off by no more than 0.4 %.
    (A KLL sketch with k = 200, of about the same size, is off by up to 1.3 %.)
    """

    n: int
    """Numbers summarised."""
    low: float
    high: float
    """Smallest and largest, exact; 0 where there are none."""
    values: Floats
    """Ascending and distinct, shape [p]."""
    weights: Floats
    """How many numbers each value stands for, shape [p]; they sum to `n`."""

    @classmethod
    def of(cls, ordered: Floats) -> Self:
        """Summary of finite numbers, ascending, shape [n]."""
        if not len(ordered):
            return cls(0, 0.0, 0.0, np.empty(0), np.empty(0))
        n, low, high = len(ordered), float(ordered[0]) + 0.0, float(ordered[-1]) + 0.0  # -0.0 and 0.0 are one value
        changes = ordered[1:] != ordered[:-1]
        if np.count_nonzero(changes) >= MAX_POINTS:  # what `_compacted` would make of them, without a weight for each
            points = ordered[np.ceil(_middle_ranks(n)).astype(np.int64) - 1] + 0.0
            values, counts = np.unique(points, return_counts=True)
            return cls(n, low, high, values, counts.astype(np.float64) * (n / MAX_POINTS))
        starts = np.concatenate(([0], np.flatnonzero(changes) + 1))
        return cls(n, low, high, ordered[starts] + 0.0, np.diff(np.append(starts, n)).astype(np.float64))

    @classmethod
    def merged(cls, parts: Sequence["Quantiles"]) -> Self:
        """Summary of everything that `parts` summarise."""
        parts = [part for part in parts if part.n]
        if not parts:
            return cls.of(np.empty(0))
        values, inverse = np.unique(np.concatenate([part.values for part in parts]), return_inverse=True)
        weights = np.bincount(inverse, np.concatenate([part.weights for part in parts])).astype(np.float64)
        return cls._compacted(
            values, weights, sum(part.n for part in parts), min(part.low for part in parts), max(part.high for part in parts)
        )

    @classmethod
    def _compacted(cls, values: Floats, weights: Floats, n: int, low: float, high: float) -> Self:
        if len(values) > MAX_POINTS:
            at = np.minimum(np.searchsorted(np.cumsum(weights), _middle_ranks(n)), len(values) - 1)
            kept, counts = np.unique(at, return_counts=True)
            values, weights = values[kept], counts.astype(np.float64) * (n / MAX_POINTS)
        return cls(n, low, high, values, weights)

    def quantile(self, rank: float) -> float:
        """The smallest value that at least the share `rank` of the numbers does not exceed. There must be numbers."""
        assert self.n, "an empty column has no quantiles"
        at = int(np.searchsorted(np.cumsum(self.weights), rank * self.n - 1e-9 * self.n))
        return float(self.values[min(at, len(self.values) - 1)])

    def counts(self, edges: Sequence[float]) -> Floats:
        """How many numbers fall into `(-inf, e0], (e0, e1], …, (ek, inf)`, shape [len(edges) + 1]."""
        below = np.concatenate(([0.0], np.cumsum(self.weights)))[np.searchsorted(self.values, np.asarray(edges), side="right")]
        return np.diff(np.concatenate(([0.0], below, [float(self.n)])))

    def shares_up_to(self, points: Floats) -> Floats:
        """Share of the numbers that are at most each of `points`, shape [k]. There must be numbers."""
        below = np.concatenate(([0.0], np.cumsum(self.weights)))
        found: Floats = below[np.searchsorted(self.values, points, side="right")] / self.n
        return found

    @property
    def deviation(self) -> float:
        """Standard deviation of the points; 0 where there are no numbers."""
        if not self.n:
            return 0.0
        mean = float(self.values @ self.weights) / self.n
        return float(np.sqrt((self.values - mean) ** 2 @ self.weights / self.n))

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"n": self.n, "low": self.low, "high": self.high, "values": _encode(self.values), "weights": _encode(self.weights)}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """The reverse of `to_dict`. Raises `DataError`."""
        values, weights = _decode(document["values"]), _decode(document["weights"])
        if len(values) != len(weights):
            raise DataError(
                f"a quantile summary has {len(values)} values and {len(weights)} weights; the profile is damaged, make it again"
            )
        return cls(int(document["n"]), float(document["low"]), float(document["high"]), values, weights)


@dataclass(frozen=True, eq=False)
class Categories:
    """How often each category occurs: exact up to `MAX_CATEGORIES`, then the most frequent and the sum of the rest."""

    counts: Mapping[str, int]
    n_other: int
    """Rows of categories that are not in `counts`."""

    @classmethod
    def of(cls, values: Iterable[str], repeats: Iterable[int] = itertools.repeat(1)) -> Self:
        """Counts of `values`, each of which stands for as many rows as `repeats` says."""
        counts: Counter[str] = Counter()
        for value, times in zip(values, repeats, strict=False):
            counts[value] += times
        return cls._compacted(counts, 0)

    @classmethod
    def merged(cls, parts: Sequence["Categories"]) -> Self:
        """Counts of everything that `parts` count."""
        total: Counter[str] = Counter()
        for part in parts:
            total.update(part.counts)
        return cls._compacted(total, sum(part.n_other for part in parts))

    @classmethod
    def _compacted(cls, counts: Mapping[str, int], n_other: int) -> Self:
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return cls(dict(ranked[:MAX_CATEGORIES]), n_other + sum(count for _, count in ranked[MAX_CATEGORIES:]))

    @property
    def n(self) -> int:
        """Rows counted."""
        return sum(self.counts.values()) + self.n_other

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"counts": dict(self.counts), "n_other": self.n_other}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """The reverse of `to_dict`."""
        return cls._compacted({str(k): int(v) for k, v in document["counts"].items()}, int(document["n_other"]))


@dataclass(frozen=True, eq=False)
class Tokens:
    """What a column of texts is made of: shares of tokens, which are hashed into as many buckets as `sums` has.

    Hashing keeps the summary small, however many words a language has, and holds no word that somebody wrote (a count-min
    sketch of one row, after Cormode and Muthukrishnan 2005). Each text counts once, whatever its length. Sums merge without a loss.
    """

    n: int
    """Texts with a token."""
    sums: Floats
    """Sum over the texts of the share that each bucket has of a text's tokens, shape [buckets]; they sum to about `n`."""
    squares: Floats
    """Sum of the squares of these shares: a text's words come together, so shares of tokens vary in another way than shares of rows."""

    @classmethod
    def of(cls, shares: Floats, repeats: Floats) -> Self:
        """Summary of texts with tokens, whose `shares` are [n, buckets] and each of which stands for as many rows as `repeats` [n] says."""
        return cls(int(repeats.sum()), repeats @ _in_steps(shares), repeats @ _in_steps(shares**2))

    @classmethod
    def merged(cls, parts: Sequence["Tokens"]) -> Self:
        """Summary of everything that `parts` (at least one) summarise."""
        return cls(sum(part.n for part in parts), np.sum([p.sums for p in parts], axis=0), np.sum([p.squares for p in parts], axis=0))

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"n": self.n, "sums": _encode(self.sums), "squares": _encode(self.squares)}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """The reverse of `to_dict`."""
        return cls(int(document["n"]), _decode(document["sums"]), _decode(document["squares"]))


@dataclass(frozen=True, eq=False)
class Distinct:
    """How many distinct values there are: the smallest hashes of them (Bar-Yossef et al. 2002, "Counting distinct elements in a data stream").

    Exact up to `KEPT_HASHES` values. Of a merge it keeps what all rows together would have kept.
    """

    hashes: npt.NDArray[np.uint64]
    """Ascending, shape [up to KEPT_HASHES]."""

    @classmethod
    def of_numbers(cls, numbers: Floats) -> Self:
        """Of finite `numbers`, shape [n]; in ascending order repeated ones cost next to nothing."""
        changes = numbers[1:] != numbers[:-1]
        if np.count_nonzero(changes) < len(changes) // 2:
            numbers = np.append(numbers[:1], numbers[1:][changes])
        return cls._smallest((numbers + 0.0).view(np.uint64))  # -0.0 and 0.0 are one value

    @classmethod
    def of_texts(cls, texts: Iterable[str]) -> Self:
        """Of texts; a repeated one costs time and changes nothing."""
        codes = (zlib.crc32(text.encode("utf-8", "surrogatepass")) for text in texts)
        return cls._smallest(np.fromiter(codes, np.uint64))

    @classmethod
    def merged(cls, parts: Sequence["Distinct"]) -> Self:
        """Of everything that `parts` (at least one) saw."""
        return cls(np.unique(np.concatenate([part.hashes for part in parts]))[:KEPT_HASHES])

    @classmethod
    def _smallest(cls, bits: npt.NDArray[np.uint64]) -> Self:
        kept = np.empty(0, np.uint64)
        # A piece at a time: it stays in the processor's cache while it is mixed, and hardly any hash of a later one is among the smallest.
        for start in range(0, len(bits), _PIECE):
            hashes = _mixed(bits[start : start + _PIECE])
            if len(kept) == KEPT_HASHES:
                hashes = hashes[hashes < kept[-1]]
            kept = np.unique(np.append(kept, hashes))[:KEPT_HASHES]
        return cls(kept)

    @property
    def n(self) -> int:
        """Estimated number of distinct values."""
        if len(self.hashes) < KEPT_HASHES:
            return len(self.hashes)
        return round((KEPT_HASHES - 1) * 2.0**64 / float(self.hashes[-1]))

    def to_json(self) -> str:
        """As text."""
        return base64.b64encode(self.hashes.astype("<u8").tobytes()).decode("ascii")

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The reverse of `to_json`."""
        return cls(np.frombuffer(base64.b64decode(text, validate=True), dtype="<u8").astype(np.uint64))


def _in_steps(shares: Floats) -> Floats:
    """Rounded to multiples of 2⁻²⁰, whose sums are exact in whatever order they are made."""
    return np.rint(shares * 2.0**20) / 2.0**20


def _middle_ranks(n: int) -> Floats:
    """The rank in the middle of each of `MAX_POINTS` equal parts of `n` numbers."""
    middles = np.arange(MAX_POINTS, dtype=np.float64) + 0.5
    return middles * (n / MAX_POINTS)


def _mixed(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Evenly spread over 64 bits: the finaliser of SplitMix64 (Steele et al. 2014)."""
    mixed = bits + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed ^= mixed >> np.uint64(shift)
        mixed *= np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def _encode(array: Floats) -> str:
    return base64.b64encode(array.astype("<f8").tobytes()).decode("ascii")


def _decode(text: str) -> Floats:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f8").astype(np.float64)
