"""The data profile: a small, mergeable, deterministic summary of a partition's columns.

A profile costs one pass over the rows it is made of, never the history; profiles of partitions merge into the
profile of a window. It is stored as JSON, and equal rows give equal bytes.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, Literal, Self, TypeVar

import numpy as np
import numpy.typing as npt

from pipelines_lib.errors import DataError
from pipelines_lib.features.text import tokens
from pipelines_lib.features.values import Column, Distinct
from pipelines_lib.monitoring.summaries import Categories, Quantiles, Tokens
from pipelines_lib.monitoring.summaries import Distinct as DistinctValues
from pipelines_lib.monitoring.text_profile import MAX_WORDS, clusters_of, shares_of, token_shares
from pipelines_lib.use_case import ColumnType

FORMAT = 2
_READABLE = (1, FORMAT)
"""Format 1 knew texts by their lengths alone, and did not count distinct values."""

Kind = Literal["input", "prediction", "joint"]
"""`joint` is all inputs together, which no profile holds but drift is told of."""

Summary = TypeVar("Summary")

NUMERIC: tuple[ColumnType, ...] = ("integer", "number")


@dataclass(frozen=True, eq=False)
class ColumnProfile:
    """One column: how many rows, how many lack a value, and how the values that are there are distributed."""

    type: ColumnType
    kind: Kind
    n_rows: int
    n_missing: int
    """Rows without a value; a number that is not finite counts as none."""
    quantiles: Mapping[str, Quantiles]
    """`value` of a number; `characters` and `words` (counts) of a text; empty for the other types."""
    categories: Categories | None
    """Of a string or a boolean ("true", "false")."""
    distinct: DistinctValues | None = None
    """Of the values that are there; None of a profile that an earlier Sluice wrote, as the next two."""
    tokens: Tokens | None = None
    """Of a text."""
    clusters: Categories | None = None
    """Of a text: rows by the region of the embedding space that the text lies in."""

    @property
    def missing_share(self) -> float:
        """Share of the rows without a value, 0 where there are no rows."""
        return self.n_missing / self.n_rows if self.n_rows else 0.0


@dataclass(frozen=True, eq=False)
class DataProfile:
    """All columns of a set of rows."""

    n_rows: int
    columns: Mapping[str, ColumnProfile]

    def merge(self, other: "DataProfile") -> "DataProfile":
        """Profile of the rows of both. Raises `DataError` where their columns differ."""
        return merge_profiles([self, other])

    def to_json(self) -> str:
        """As a JSON text with sorted keys."""
        columns = {name: _column_to_dict(column) for name, column in self.columns.items()}
        return json.dumps({"format": FORMAT, "n_rows": self.n_rows, "columns": columns}, sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The reverse of `to_json`. Raises `DataError` where `text` is no profile."""
        try:
            document = json.loads(text)
            if document["format"] not in _READABLE:
                raise DataError(
                    f"a data profile of format {document['format']!r}; this version reads up to format {FORMAT}. Make it again: run the stage that wrote it"
                )
            return cls(int(document["n_rows"]), {name: _column_from_dict(column) for name, column in document["columns"].items()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"not a data profile ({type(error).__name__}: {error}); it is damaged. Make it again: run the stage that wrote it"
            ) from error


def profile_columns(
    columns: Mapping[str, Column],
    types: Mapping[str, ColumnType],
    scores: Column | None = None,
    predictions: Column | None = None,
) -> DataProfile:
    """Profile of the rows whose values are `columns[name][row]`; missing is None or NaN.

    Every name in `types` is profiled as an input. `scores` (numbers) become the column `score`, `predictions`
    (classes, where the model predicts classes) the column `prediction`. Raises `DataError` where lengths or types do not fit.
    """
    profiles = {name: _profile(name, columns[name], kind, "input") for name, kind in types.items()}
    if scores is not None:
        profiles["score"] = _profile("score", scores, "number", "prediction")
    if predictions is not None:
        profiles["prediction"] = _profile("prediction", predictions, "string", "prediction")
    lengths = {name: profile.n_rows for name, profile in profiles.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"the columns of a profile must have the same number of rows; found {lengths}")
    return DataProfile(next(iter(lengths.values()), 0), profiles)


def merge_profiles(profiles: Sequence[DataProfile]) -> DataProfile:
    """Profile of the rows of all `profiles` (at least one). Raises `DataError` where their columns differ.

    Merging many at once is more exact than one after the other: the quantiles are compacted once.
    """
    first = profiles[0]
    for other in profiles[1:]:
        ours, theirs = ({(n, c.type, c.kind) for n, c in p.columns.items()} for p in (first, other))
        if ours != theirs:
            raise DataError(
                f"profiles of different columns do not merge: {sorted(ours ^ theirs)} are in one alone; profile both for the same use case"
            )
    merged = {name: _merge_columns([profile.columns[name] for profile in profiles]) for name in first.columns}
    return DataProfile(sum(profile.n_rows for profile in profiles), merged)


def _profile(name: str, values: Column, kind: ColumnType, role: Kind) -> ColumnProfile:
    if kind in NUMERIC:
        array = _array(name, values)
        finite = _finite(name, array)
        distinct = DistinctValues.of_numbers(finite)
        return ColumnProfile(kind, role, len(array), len(array) - len(finite), {"value": Quantiles.of(finite)}, None, distinct)
    found, times = (values.values, values.counts) if isinstance(values, Distinct) else (_array(name, values).tolist(), None)
    present = [not _is_missing(value) for value in found]
    known = list(compress(found, present))
    repeats = np.ones(len(known), np.int64) if times is None else times[np.asarray(present, bool)]
    n_missing = len(values) - int(repeats.sum())
    if kind == "text":
        return _text_profile(role, [str(value) for value in known], repeats, len(values))
    categories = list(map(_category, known))
    counted = Categories.of(categories, repeats.tolist())
    distinct = DistinctValues.of_texts(categories if times is not None else dict.fromkeys(categories))
    return ColumnProfile(kind, role, len(values), n_missing, {}, counted, distinct)


def _text_profile(role: Kind, texts: Sequence[str], repeats: npt.NDArray[np.int64], n_rows: int) -> ColumnProfile:
    """Of texts that stand for as many rows as `repeats` says, and of those without one."""
    words = [tokens(text, MAX_WORDS) for text in texts]
    lengths = {"characters": [len(text) for text in texts], "words": [len(found) for found in words]}
    quantiles = {name: Quantiles.of(np.sort(np.repeat(np.array(n, dtype=np.float64), repeats))) for name, n in lengths.items()}
    pieces = [(Tokens.of(token_shares(shares), weights), clusters_of(shares, weights)) for shares, weights in shares_of(words, repeats)]
    return ColumnProfile(
        "text",
        role,
        n_rows,
        n_rows - int(repeats.sum()),
        quantiles,
        None,
        DistinctValues.of_texts(texts),
        Tokens.merged([piece for piece, _ in pieces]),
        Categories.merged([piece for _, piece in pieces]),
    )


def _array(name: str, values: Column) -> npt.NDArray[Any]:
    values = list(values) if isinstance(values, Distinct) else values
    array = np.asarray(values, dtype=None if isinstance(values, np.ndarray) else object)
    if array.ndim != 1:
        raise DataError(f"column {name!r}: expected one value a row, found an array of shape {list(array.shape)}")
    return array


def _finite(name: str, array: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The finite numbers, ascending."""
    try:
        numbers = array.astype(np.float64)  # a copy, which may be sorted
    except (TypeError, ValueError) as error:
        raise DataError(f"column {name!r}: a number column holds a value that is none ({error}); declare it as string or text") from error
    numbers.sort()  # with NaN behind infinity
    return numbers[slice(*np.searchsorted(numbers, [-np.finfo(np.float64).max, np.inf]))]


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _category(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool | np.bool_) else str(value)


def _merge_columns(columns: Sequence[ColumnProfile]) -> ColumnProfile:
    first = columns[0]
    return ColumnProfile(
        first.type,
        first.kind,
        sum(column.n_rows for column in columns),
        sum(column.n_missing for column in columns),
        {name: Quantiles.merged([column.quantiles[name] for column in columns]) for name in first.quantiles},
        _merged(Categories.merged, [column.categories for column in columns]),
        _merged(DistinctValues.merged, [column.distinct for column in columns]),
        _merged(Tokens.merged, [column.tokens for column in columns]),
        _merged(Categories.merged, [column.clusters for column in columns]),
    )


def _merged(merge: Callable[[Sequence[Summary]], Summary], parts: Sequence[Summary | None]) -> Summary | None:
    """None where a part is: an earlier Sluice did not make it."""
    there = [part for part in parts if part is not None]
    return merge(there) if len(there) == len(parts) else None


def _column_to_dict(column: ColumnProfile) -> dict[str, Any]:
    return {
        "type": column.type,
        "kind": column.kind,
        "n_rows": column.n_rows,
        "n_missing": column.n_missing,
        "quantiles": {name: quantiles.to_dict() for name, quantiles in column.quantiles.items()},
        "categories": None if column.categories is None else column.categories.to_dict(),
        "distinct": None if column.distinct is None else column.distinct.to_json(),
        "tokens": None if column.tokens is None else column.tokens.to_dict(),
        "clusters": None if column.clusters is None else column.clusters.to_dict(),
    }


def _column_from_dict(document: Mapping[str, Any]) -> ColumnProfile:
    return ColumnProfile(
        document["type"],
        document["kind"],
        int(document["n_rows"]),
        int(document["n_missing"]),
        {name: Quantiles.from_dict(quantiles) for name, quantiles in document["quantiles"].items()},
        _read(Categories.from_dict, document["categories"]),
        _read(DistinctValues.from_json, document.get("distinct")),
        _read(Tokens.from_dict, document.get("tokens")),
        _read(Categories.from_dict, document.get("clusters")),
    )


def _read(read: Callable[[Any], Summary], document: Any) -> Summary | None:
    return None if document is None else read(document)
