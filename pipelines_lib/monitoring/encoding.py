"""Rows as a profile sees them: every value as its rank in the profile's quantiles, or its place among the frequent categories, in one byte.

What learns from rows here (the domain classifier, the model of losses) learns from these bytes, so that it needs no scaling, an outlier weighs no
more than any large value, and a sample of rows holds no value that somebody gave.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines_lib.features.text import tokens
from pipelines_lib.features.values import Column, as_numbers
from pipelines_lib.monitoring.sketch import NUMERIC, ColumnProfile, DataProfile
from pipelines_lib.monitoring.summaries import Categories, Quantiles
from pipelines_lib.monitoring.text_profile import MAX_WORDS, region_of, shares_of

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.uint8]

MISSING = 255
_RANKS = 254
"""Ranks are codes 0 to 253."""
_PLACES = 20
"""Most frequent categories that have a code of their own; all others share the next."""
_KNOTS = 5
MAX_CODES = 150
"""Columns of codes that are looked at; bounds what learning from them costs."""


@dataclass(frozen=True)
class _Rank:
    quantiles: Quantiles

    width = _KNOTS + 1

    def codes(self, numbers: Floats) -> Codes:
        """The middle of the ranks that a value has among the profile's, NaN as MISSING."""
        there = np.isfinite(numbers)
        values = np.where(there, numbers, 0.0)
        lower = self.quantiles.shares_up_to(np.nextafter(values, -np.inf)) if self.quantiles.n else np.full(len(values), 0.5)
        upper = self.quantiles.shares_up_to(values) if self.quantiles.n else lower
        ranks = np.floor((lower + upper) / 2 * _RANKS).clip(0, _RANKS - 1)
        return np.where(there, ranks, MISSING).astype(np.uint8)

    def spread(self, codes: Codes) -> Floats:
        """Straight lines between knots (hat functions), and whether it is missing [n, width]: what is linear in them bends where it must."""
        out = np.zeros((len(codes), self.width))
        there = codes != MISSING
        position = np.where(there, codes, 0) / (_RANKS - 1) * (_KNOTS - 1)
        hats = 1 - np.abs(position[:, None] - np.arange(_KNOTS))
        out[:, :_KNOTS] = np.where(there[:, None], np.maximum(hats, 0), 0)
        out[~there, _KNOTS] = 1
        return out


@dataclass(frozen=True)
class _Place:
    names: tuple[str, ...]

    @classmethod
    def of(cls, categories: Categories) -> "_Place":
        return cls(tuple(list(categories.counts)[:_PLACES]))

    @property
    def width(self) -> int:
        return len(self.names) + 2

    def codes(self, names: Sequence[str | None]) -> Codes:
        """The category's place, the next one for all others, MISSING for none."""
        place = {name: number for number, name in enumerate(self.names)}
        return np.array([MISSING if name is None else place.get(name, len(place)) for name in names], np.uint8)

    def spread(self, codes: Codes) -> Floats:
        """One column a category, one for all others, one for the missing [n, width]."""
        places = np.where(codes == MISSING, len(self.names) + 1, codes)
        marks: Floats = (places[:, None] == np.arange(self.width)).astype(np.float64)
        return marks


class Encoder:
    """Reads columns as `profile` sees them."""

    def __init__(self, profile: DataProfile, columns: Sequence[str]) -> None:
        """`columns` are those to read, the most telling first; of more than `MAX_CODES` codes the rest is left out."""
        self._parts = [(name, part) for name in columns for part in _parts_of(profile.columns[name])][:MAX_CODES]
        self._types = {name: profile.columns[name].type for name, _ in self._parts}

    @property
    def names(self) -> list[str]:
        """The column that each code is of, [k]."""
        return [name for name, _ in self._parts]

    def encode(self, columns: Mapping[str, Column], n_rows: int) -> Codes:
        """Codes [n_rows, k]; of a column that is not there, MISSING."""
        out = np.full((n_rows, len(self._parts)), MISSING, np.uint8)
        read: dict[str, list[Codes]] = {}
        for place, (name, _) in enumerate(self._parts):
            if name not in columns:
                continue
            if name not in read:
                read[name] = list(self._codes(name, columns[name]))
            out[:, place] = read[name][self.names[:place].count(name)]
        return out

    def spread(self, codes: Codes, kept: Sequence[bool] | None = None) -> Floats:
        """As numbers that a linear model can learn from [n, width]; of the codes that are `kept` [k], where that is given."""
        parts = [part.spread(codes[:, place]) for place, (_, part) in enumerate(self._parts) if kept is None or kept[place]]
        return np.concatenate([np.empty((len(codes), 0)), *parts], axis=1)

    def _codes(self, name: str, column: Column) -> Iterator[Codes]:
        parts = [part for owner, part in self._parts if owner == name]
        kind = self._types[name]
        if kind in NUMERIC:
            views: list[Floats | list[str | None]] = [as_numbers(column)]
        elif kind == "text":
            views = _views_of_texts(column)
        else:
            views = [[None if value is None else _category(value) for value in column]]
        for part, view in zip(parts, views, strict=False):
            yield part.codes(view)  # type: ignore[arg-type] # a rank is given numbers, a place names


def _parts_of(column: ColumnProfile) -> list[_Rank | _Place]:
    ranks: list[_Rank | _Place] = [_Rank(quantiles) for quantiles in column.quantiles.values()]
    places = [_Place.of(categories) for categories in (column.categories, column.clusters) if categories is not None]
    return [*ranks, *places]


def _views_of_texts(column: Column) -> list[Floats | list[str | None]]:
    """Characters, words, and region of the embedding space, as a profile has them."""
    texts = [None if value is None else str(value) for value in column]
    words = [[] if text is None else tokens(text, MAX_WORDS) for text in texts]
    regions: list[str | None] = [None] * len(texts)
    with_words = [place for place, found in enumerate(words) if found]
    shares = np.concatenate([shares for shares, _ in shares_of([words[place] for place in with_words], np.ones(len(with_words), np.int64))])
    for place, region in zip(with_words, region_of(shares), strict=True):
        regions[place] = region
    lengths = [[np.nan if text is None else float(n) for text, n in zip(texts, ns, strict=True)] for ns in
               ([0 if text is None else len(text) for text in texts], [len(found) for found in words])]  # fmt: skip
    return [*(np.array(length, np.float64) for length in lengths), regions]


def _category(value: object) -> str:
    return ("true" if value else "false") if isinstance(value, bool | np.bool_) else str(value)
