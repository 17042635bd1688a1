"""64-bit hashes of many values at once: the same everywhere, from value and seed alone.

For sides of rows and for finding rows that may be equal, where Python's own hashes, one call a value, take minutes for a
partition of millions. Words of eight bytes are mixed into a state one after the other by the finaliser of SplitMix64
(Steele, Lea and Flood, OOPSLA 2014), which changes every output bit with every input bit. Not for keeping secrets.
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines_lib.data.texts import bytes_of

Hashes = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_NULL = np.uint64(0x2545F4914F6CDD1D)
_PIECE = 1 << 16
"""Rows hashed at a time: what is needed on the way stays within the processor's cache."""


def hash_rows(columns: Sequence[pa.Array], seed: int = 0) -> Hashes:
    """One hash a row [n] of all `columns`. Equal rows are alike: nulls are equal, so are -0.0 and 0.0, and every NaN."""
    n = len(columns[0])
    hashes = np.empty(n, np.uint64)
    for start in range(0, n, _PIECE):
        state = np.full(min(_PIECE, n - start), seed % 2**64, np.uint64)
        for column in columns:
            state = _absorbed(state, column.slice(start, _PIECE))
        hashes[start : start + _PIECE] = state
    return hashes


def _absorbed(state: Hashes, column: pa.Array) -> Hashes:
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        state = _with_texts(state, column)
    else:
        state = _mixed(state ^ _words(column))
    if column.null_count:
        nulls = column.is_null().to_numpy(zero_copy_only=False)
        state[nulls] = _mixed(state[nulls] ^ _NULL)
    return state


def _words(column: pa.Array) -> Hashes:
    """The values as 64 bits each [n]; 0 for a null."""
    if pa.types.is_floating(column.type):
        numbers = column.cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False) + 0.0  # -0.0 + 0.0 is 0.0
        return np.where(np.isnan(numbers), np.nan, numbers).view(np.uint64)
    if pa.types.is_temporal(column.type):
        column = column.cast(pa.int64())
    whole: NDArray[Any] = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    return whole.view(np.uint64)


def _with_texts(state: Hashes, column: pa.Array) -> Hashes:
    """`state` after length and bytes of each text, eight at a time; a null is an empty text."""
    assert sys.byteorder == "little", "the words are read as they lie in memory"
    starts, data = bytes_of(column)
    starts = starts.astype(np.int64)
    lengths = np.diff(starts)
    if column.null_count:
        lengths = np.where(column.is_valid().to_numpy(zero_copy_only=False), lengths, 0)
    state = _mixed(state ^ (lengths.astype(np.uint64) * _GOLDEN))
    first, last = int(starts[0]), int(starts[-1])
    if first == last:
        return state
    # Behind the last byte seven zeros, so that a word may be read from every place.
    text = np.concatenate((data[first:last], np.zeros(7, np.uint8)))
    words = np.ndarray((last - first,), np.uint64, text, strides=(1,))
    active = np.flatnonzero(lengths > 0)
    at = starts[:-1] - first
    for done in range(0, int(lengths.max()), 8):
        left = lengths[active] - done
        active, left = active[left > 0], left[left > 0]
        word = words[at[active] + done] & (~np.uint64(0) >> ((8 - np.minimum(left, 8)) * 8).astype(np.uint64))
        state[active] = _mixed(state[active] ^ word)
    return state


def _mixed(state: Hashes) -> Hashes:
    state = state + _GOLDEN
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
