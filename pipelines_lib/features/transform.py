"""From the rows of a use case to the arrays of its model: fitted once, on the training rows alone.

Training, evaluation, the server, an edge device and monitoring all read the same JSON. It holds numbers and
words, never code, and needs numpy alone.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from pipelines_lib.errors import DataError
from pipelines_lib.features.fitted import Fitted, fit_steps
from pipelines_lib.features.row_steps import RowStep, after_row_steps, read_numbers, row_steps
from pipelines_lib.features.series import Series
from pipelines_lib.features.text import PADDING, text_grams, token_id, tokens
from pipelines_lib.features.values import Column, Distinct, as_matrix, as_strings, counted_texts, distinct_texts

if TYPE_CHECKING:  # pydantic stays out of an edge device
    from pipelines_lib.use_case import CleaningStep, ColumnType

FORMAT = 4
"""Format 1 had no cleaning steps, format 2 no series, and format 3 neither pieces nor grams; all are read still."""
MAX_SCALED = 10.0
"""A standardised number is moved to within ±this: an outlier must not drown the rest."""
MIN_SEEN = 2
"""How often the training rows must show a category for it to have a number of its own."""
MAX_CATEGORIES = 10_000
MAX_TOKENS = 64
"""Tokens of a text that count."""
MAX_GRAMS = 128
"""Grams of a text that count."""
MAX_BUCKETS = 2**15
_FEW = 64
"""Rows up to which columns are worked on all at once: the work is then less than what each call of numpy costs."""

Arrays = dict[str, NDArray[Any]]
_Value = float | NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A number (or a boolean, as 0 and 1): missing → median, then (x - mean) / deviation."""

    name: str
    type: ColumnType
    median: float
    mean: float
    deviation: float
    edges: tuple[float, ...] = ()
    """Where the pieces of its range begin and end, rising, as `apply` scales; empty where it has none."""

    @classmethod
    def fit(cls, name: str, type_: ColumnType, column: Column, pieces: int = 0) -> Self:
        """Median of the values there are; mean and deviation after the missing are filled in; edges at quantiles, `pieces` of them and one."""
        numbers = read_numbers(type_, column)
        known = numbers[~np.isnan(numbers)]
        if known.size == 0:
            return cls(name=name, type=type_, median=0.0, mean=0.0, deviation=1.0)
        median = float(np.median(known))
        filled = np.where(np.isnan(numbers), median, numbers)
        # A constant column (but for rounding) carries nothing; dividing by its deviation would blow the rounding up.
        deviation = float(filled.std())
        constant = deviation <= 1e-12 * max(1e-300, float(np.abs(filled).max()))
        whole = cls(name=name, type=type_, median=median, mean=float(filled.mean()), deviation=1.0 if constant else deviation)
        return replace(whole, edges=_edges(whole.apply(known), pieces))

    def apply(self, column: Column) -> NDArray[np.float32]:
        """float32 [n] within ±MAX_SCALED."""
        return _scaled(read_numbers(self.type, column), self.median, self.mean, self.deviation)


def _scaled(numbers: NDArray[np.float64], median: _Value, mean: _Value, deviation: _Value) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        scaled = (np.where(np.isnan(numbers), median, numbers) - mean) / deviation
    return np.minimum(np.maximum(scaled, -MAX_SCALED), MAX_SCALED).astype(np.float32)


def _edges(scaled: NDArray[np.float32], pieces: int) -> tuple[float, ...]:
    """Quantiles of the training rows' values, those that differ. One piece alone would say no more than the number does."""
    if not pieces:
        return ()
    # Quantiles that are values: between two of them float32 might not tell an edge from its neighbour.
    edges = np.unique(np.quantile(scaled, np.linspace(0.0, 1.0, pieces + 1), method="closest_observation"))
    return tuple(map(float, edges)) if len(edges) > 2 else ()


@dataclass(frozen=True, kw_only=True)
class Categories:
    """A category: its place in the word list, from 1; 0 is a missing, a rare or an unknown one."""

    name: str
    words: tuple[str, ...]

    @classmethod
    def fit(cls, name: str, column: Column) -> Self:
        """The most frequent categories; rare ones train the place of the unknown."""
        seen = counted_texts(column)
        frequent = sorted((word for word, count in seen.items() if count >= MIN_SEEN), key=lambda word: (-seen[word], word))
        return cls(name=name, words=tuple(sorted(frequent[:MAX_CATEGORIES])))

    @property
    def size(self) -> int:
        """How many indices there are, 0 included."""
        return len(self.words) + 1

    def apply(self, column: Column) -> NDArray[np.int64]:
        """int64 [n], 0 … size - 1."""
        if isinstance(column, Distinct):
            return self.apply(column.values).take(column.places)
        return np.fromiter((self._places.get(value, 0) for value in as_strings(column)), np.int64, len(column))

    @cached_property
    def _places(self) -> dict[str | None, int]:
        return {word: place for place, word in enumerate(self.words, start=1)}


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """A text: the hashed ids of its first `length` tokens, padded with 0."""

    name: str
    length: int
    grams: bool = False
    """Whether pairs of words and runs of three letters are tokens too."""

    def split(self, text: str) -> list[str]:
        """What counts of `text`, at most `length` of it."""
        return text_grams(text, self.length) if self.grams else tokens(text, self.length)

    def apply(self, column: Column, buckets: int) -> NDArray[np.int64]:
        """int64 [n, length], 0 … buckets - 1."""
        if isinstance(column, Distinct):
            return self.apply(column.values, buckets).take(column.places, axis=0)
        known, flat, lengths = _Ids(buckets, self.name), array("q"), array("q")
        for text in as_strings(column):
            found = () if text is None else self.split(text)
            flat.extend(map(known.__getitem__, found))
            lengths.append(len(found))
        ids = np.full((len(column), self.length), PADDING, np.int64)
        ids[np.arange(self.length) < np.asarray(lengths)[:, None]] = np.asarray(flat)
        return ids


class _Ids(dict[str, int]):
    """Token to its id, worked out when it first comes."""

    def __init__(self, buckets: int, salt: str) -> None:
        self._buckets, self._salt = buckets, salt

    def __missing__(self, token: str) -> int:
        self[token] = found = token_id(token, self._buckets, self._salt)
        return found


def _fit_texts(columns: Mapping[str, Column], names: Iterable[str], *, grams: bool) -> tuple[tuple[Tokens, ...], int]:
    """Each text as long as its longest one of the training rows, within MAX_TOKENS or MAX_GRAMS, and how many buckets their tokens need.

    Four buckets a distinct token, as a power of two: at most about a quarter of the tokens then share a bucket.
    """
    distinct: set[str] = set()
    parts = []
    for name in names:
        longest = 1
        any_of_it = Tokens(name=name, length=MAX_GRAMS if grams else MAX_TOKENS, grams=grams)
        for text in distinct_texts(columns[name]):
            found = any_of_it.split(text)
            longest = max(longest, len(found))
            if 4 * len(distinct) <= MAX_BUCKETS:  # there are no more buckets than that
                distinct.update(found)
            elif longest == any_of_it.length:
                break
        parts.append(replace(any_of_it, length=longest))
    return tuple(parts), min(MAX_BUCKETS, max(64, 1 << (4 * len(distinct) - 1).bit_length())) if parts else 2


@dataclass(frozen=True, kw_only=True)
class FeatureTransform:
    """The fitted transform of a use case's features. `from_json(to_json())` is the same transform, bit for bit."""

    columns: dict[str, ColumnType]
    """Feature names and types, in the use case's order."""
    rows: tuple[RowStep, ...] = ()
    """What the cleaning of the training rows did to single values, in order."""
    fitted: tuple[Fitted, ...] = ()
    """Outliers and imputation, in order, after those."""
    numeric: tuple[Scale, ...] = ()
    """The numbers and booleans among the features, then the flags of outliers."""
    categorical: tuple[Categories, ...] = ()
    text: tuple[Tokens, ...] = ()
    buckets: int = 2
    """How many ids the tokens are hashed into."""
    series: tuple[Series, ...] = ()
    """Windows of sensors; their columns are no numbers by themselves."""

    @classmethod
    def fit(
        cls,
        columns: Mapping[str, Column],
        types: Mapping[str, ColumnType],
        steps: Sequence[CleaningStep] = (),
        series: Mapping[str, Sequence[str]] = MappingProxyType({}),
        *,
        pieces: int = 0,
        grams: bool = False,
    ) -> Self:
        """Fit on the training rows. `types` names the features, `steps` are the use case's cleaning steps, `series` its windows of sensors.
        A number's range has `pieces` pieces, and of a text `grams` count or words alone.

        `columns` may read a column when it is asked for it: they are asked for one after the other, and not kept.

        Raises `DataError` where a column is absent or too short.
        """
        _check_there(columns, types)
        rows = row_steps(steps, types)
        fitted = fit_steps(steps, types, _Made(columns, types, rows))
        made = _Made(columns, types, rows, fitted)
        flags: dict[str, ColumnType] = {part.output: "boolean" for part in fitted if part.kind == "flag"}
        text, buckets = _fit_texts(made, _of(types, "text"), grams=grams)
        steps_of = {name for window in series.values() for name in window}
        numbers = {**{name: types[name] for name in _of(types, "integer", "number", "boolean") if name not in steps_of}, **flags}
        return cls(
            columns=dict(types),
            rows=rows,
            fitted=fitted,
            numeric=tuple(Scale.fit(name, type_, made[name], pieces) for name, type_ in numbers.items()),
            categorical=tuple(Categories.fit(name, made[name]) for name in _of(types, "string")),
            text=text,
            buckets=buckets,
            series=tuple(Series.fit(name, window, types, made) for name, window in series.items()),
        )

    def cleaned(self, columns: Mapping[str, Column]) -> dict[str, Column]:
        """The features as the `clean` layer would hold them: lists with None where a value is missing, for the columns that a
        cleaning step of the training rows touched, and the others as they are. Done again it changes nothing.

        Raises `DataError` as `apply` does.
        """
        _length(columns, self.columns)
        after = _Made(columns, self.columns, self.rows)
        touched = {step.name for step in self.rows}
        return {name: _as_list(after[name], self.columns[name]) if name in touched else columns[name] for name in self.columns}

    def apply(self, columns: Mapping[str, Column]) -> Arrays:
        """The model's inputs, those that are not empty: `numeric` float32 [n, d], `categorical` int64 [n, k], `text` int64 [n, L],
        `series` float32 [n, T, 2C]: the values of C sensors, then which of them are there.

        Takes any values; one that can't be read as its column's type counts as missing.
        Raises `DataError` where a column is absent or the columns differ in length.
        """
        n = _length(columns, self.columns)
        made = columns
        if self.rows or self.fitted:
            source = _Made(columns, self.columns, self.rows, self.fitted)
            made = {name: column for feature in self.columns for name, column in source.of(feature).items()}
        arrays: Arrays = {}
        if self.numeric:
            arrays["numeric"] = self._numbers(n, made)
        if self.categorical:
            arrays["categorical"] = np.empty((n, len(self.categorical)), np.int64)
            for place, categories in enumerate(self.categorical):
                arrays["categorical"][:, place] = categories.apply(made[categories.name])
        if self.text:
            arrays["text"] = np.concatenate([part.apply(made[part.name], self.buckets) for part in self.text], axis=1)
        if self.series:
            channels = np.stack([part.apply(made) for part in self.series], axis=3)
            arrays["series"] = channels.reshape(n, channels.shape[1], -1)
        return arrays

    def _numbers(self, n: int, made: Mapping[str, Column]) -> NDArray[np.float32]:
        if n <= _FEW:
            numbers = as_matrix([made[scale.name] for scale in self.numeric], [scale.type == "boolean" for scale in self.numeric])
            return _scaled(numbers, *self._scales)
        numeric = np.empty((n, len(self.numeric)), np.float32)
        for place, scale in enumerate(self.numeric):
            numeric[:, place] = scale.apply(made[scale.name])
        return numeric

    @cached_property
    def _scales(self) -> tuple[NDArray[np.float64], ...]:
        return tuple(np.array([getattr(scale, name) for scale in self.numeric]) for name in ("median", "mean", "deviation"))

    def to_json(self) -> str:
        """Equal transforms give equal text."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises `DataError` where `text` is not what `to_json` writes."""
        try:
            document = json.loads(text)
            if document["format"] not in range(1, FORMAT + 1):
                raise DataError(
                    f"this feature transform has format {document['format']!r}, and formats 1 to {FORMAT} are read here; train again"
                )
            rows, fitted = ([], []) if document["format"] == 1 else (document["rows"], document["fitted"])
            return cls(
                columns=dict(document["columns"]),
                rows=tuple(RowStep(name=part["name"], kind=part["kind"], values=tuple(part["values"])) for part in rows),
                fitted=tuple(Fitted(**part) for part in fitted),
                numeric=tuple(Scale(**{**part, "edges": tuple(part.get("edges", ()))}) for part in document["numeric"]),
                categorical=tuple(Categories(name=part["name"], words=tuple(part["words"])) for part in document["categorical"]),
                text=tuple(Tokens(**part) for part in document["text"]),
                buckets=int(document["buckets"]),
                series=tuple(
                    Series(**{**part, "columns": tuple(part["columns"]), "types": tuple(part["types"])})
                    for part in document.get("series", [])
                ),
            )
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"not a feature transform ({error!r}); train again, or restore the file") from error


def _of(types: Mapping[str, ColumnType], *wanted: ColumnType) -> list[str]:
    return [name for name, type_ in types.items() if type_ in wanted]


class _Made(Mapping[str, Column]):
    """The features after all steps, and the flags. Each is made when it is asked for, so that of many rows one column is in memory at a time."""

    def __init__(
        self, columns: Mapping[str, Column], types: Mapping[str, ColumnType], rows: Sequence[RowStep], fitted: Sequence[Fitted] = ()
    ) -> None:
        self._columns, self._types, self._rows, self._fitted = columns, types, rows, fitted
        self._sources = {name: name for name in types} | {part.output: part.name for part in fitted}
        self._lengths: dict[str, int] = {}

    def __getitem__(self, name: str) -> Column:
        return self.of(self._sources[name])[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)

    def of(self, name: str) -> dict[str, Column]:
        """A feature and its flag, if it has one."""
        column = self._columns[name]
        self._check_length(name, len(column))
        mine = [step for step in self._rows if step.name == name]
        made = {name: after_row_steps(column, self._types[name], mine) if mine else column}
        for step in self._fitted:
            if step.name == name:
                made[step.output] = step.apply(made[name], self._types[name])
        return made

    def _check_length(self, name: str, length: int) -> None:
        self._lengths[name] = length
        if length != next(iter(self._lengths.values())):
            raise DataError(f"the columns differ in length: {self._lengths}; give every feature one value a row")


def _as_list(column: Column, type_: ColumnType) -> list[Any]:
    if type_ in ("string", "text"):
        return list(column)
    kind = bool if type_ == "boolean" else float
    return [None if math.isnan(value) else kind(value) for value in column]


def _check_there(columns: Mapping[str, Column], names: Iterable[str]) -> None:
    for name in names:
        if name not in columns:
            raise DataError(f"feature {name!r} is absent; give every feature a column, with null where a row lacks the value")


def _length(columns: Mapping[str, Column], names: Iterable[str]) -> int:
    _check_there(columns, names)
    lengths = {name: len(columns[name]) for name in names}
    if len(set(lengths.values())) > 1:
        raise DataError(f"the columns differ in length: {lengths}; give every feature one value a row")
    return next(iter(lengths.values()), 0)
