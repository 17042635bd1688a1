"""What is done to columns about a person before anything is written: hashed, dropped, cut or generalised, as the use case says.

Every function here is pure and judges a row by itself, so it gives the same however rows are cut into batches. Each leaves its
own result alone. Values are read as `typed` reads them: trimmed, and empty is missing; "A1 " and "A1" are one person.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines_lib.data.pseudonyms import Pseudonyms
from pipelines_lib.data.records import Batch
from pipelines_lib.data.typed import cast
from pipelines_lib.use_case import Column, UseCase

_LETTER = re.compile(r"[A-Za-z]|[^\x00-\x7F]")
_DIGIT = re.compile(r"[0-9]")


def shape(text: str) -> str:
    """What a text looks like and not what it says: letters are x, digits are 9; blanks, delimiters and other ASCII signs stay."""
    return _DIGIT.sub("9", _LETTER.sub("x", text))


def protect_batch(batch: Batch, use_case: UseCase, pseudonyms: Pseudonyms | None) -> Batch:
    """A batch as it may be written. Of a record that can't be read nobody knows which part is whose: only its shape stays."""
    if not use_case.private():
        return batch
    unreadable = tuple(replace(record, text=shape(record.text)) for record in batch.unreadable)
    return replace(batch, rows=protect(batch.rows, use_case, pseudonyms), unreadable=unreadable)


def protect(batch: pa.Table, use_case: UseCase, pseudonyms: Pseudonyms | None) -> pa.Table:
    """Texts under the source's names, as they may be written.

    Where any column is about a person, so may be one that nobody has declared (a name, a telephone number): it is left out (see
    `not_written`). And what is none of its column's type may have slipped there from another column: its shape stays. Where no column
    is about a person, the batch is as it was.
    """
    if not use_case.private():
        return batch
    declared = _by_source(use_case)
    kept = {}
    for source in batch.column_names:
        if (name := declared.get(source.casefold())) is not None:
            kept[source] = protected(batch[source], name, use_case, pseudonyms)
    return pa.table(kept)


def not_written(names: Sequence[str], use_case: UseCase) -> list[str]:
    """Which of a source's columns `protect` leaves out."""
    declared = _by_source(use_case)
    return [name for name in names if name.casefold() not in declared] if use_case.private() else []


def names_for_people(names: Sequence[str], use_case: UseCase) -> str:
    """A source's column names for a message. Where the header is missing its first row stands in its place: only known names are told."""
    unknown = not_written(names, use_case)
    if not unknown:
        return ", ".join(names)
    known = [name for name in names if name not in unknown]
    told = f"{len(unknown)} that are not declared (and not named here, since a row of data may stand where the header should)"
    return ", ".join([*known, told])


def classes_for_people(classes: Sequence[str], use_case: UseCase) -> str:
    """Classes for a message, ten at most. Where rows are about people, a class that the use case does not name may be anything that stood there."""
    if not use_case.private():
        return str(list(classes[:10]))
    named = {use_case.label.positive, *(use_case.label.classes or ())}
    known = [name for name in classes if name in named]
    return f"{known[:10]}" + (f" and {len(classes) - len(known)} that the use case does not name" if len(known) < len(classes) else "")


def protected(texts: pa.Array | pa.ChunkedArray, name: str, use_case: UseCase, pseudonyms: Pseudonyms | None) -> pa.Array:
    """Texts of column `name` as `protect` leaves them, wherever they come from: a source, ground truth, a labelling tool."""
    texts = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    return generalised(texts, use_case.columns[name], pseudonyms, use_case.markers(name))


def generalised(texts: pa.Array, column: Column, pseudonyms: Pseudonyms | None, markers: list[str]) -> pa.Array:
    """Texts of a column as its protection leaves them. `markers` mean "missing", say nothing of anyone, and stay.

    What is no value of the column's type becomes its `shape`, protected or not, since what fell into the wrong column may be a name; it
    goes on to quarantine as what it is, no value. Where the column is dropped there is nothing to ask for.
    """
    done = column.protection
    if done is None:
        return _of_type(texts, column, markers)
    assert not done.drop
    texts = pc.utf8_trim_whitespace(texts)
    texts = pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
    distinct = pc.dictionary_encode(texts)
    words = distinct.dictionary
    if done.hash:
        assert pseudonyms is not None
        changed = pseudonyms.of(words)
    elif done.keep is not None:
        changed = _cut(words, done.keep)
    elif done.bins is not None:
        changed = _binned(words, column, np.array(done.bins), markers)
    else:
        changed = _rounded(words, str(done.round))
    known = pc.is_in(words, value_set=pa.array(markers, pa.string()))
    return pc.if_else(known, words, changed).take(distinct.indices)


def _by_source(use_case: UseCase) -> dict[str, str]:
    """A source's column name, its case folded, to the name of the column that is made of it and written."""
    return {(column.source or name).casefold(): name for name, column in use_case.written.items()}


def _of_type(texts: pa.Array, column: Column, markers: list[str]) -> pa.Array:
    """The texts as they came, but for those that are no value of the column's type: of these their shape."""
    _, failed = cast(texts, column.type, markers)
    return _without_values(texts, failed, [])


def _cut(words: pa.Array, keep: int) -> pa.Array:
    longer = pc.greater(pc.utf8_length(words), keep)
    return pc.if_else(longer, pc.binary_join_element_wise(pc.utf8_slice_codeunits(words, 0, keep), "*", ""), words)


def _binned(words: pa.Array, column: Column, bounds: np.ndarray, markers: list[str]) -> pa.Array:
    values, failed = cast(words, column.type)
    labels = [str(int(bound)) if column.type == "integer" else repr(float(bound)) for bound in bounds.tolist()]
    # A bin without a lower end has no bound to stand for it, and a value below the first is no value of this column.
    labels = [f"<{labels[0]}", *labels]
    # A whole number beyond 2⁵³ is rounded, not refused.
    numbers = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    bins = pa.array(labels, pa.string()).take(pa.array(np.searchsorted(bounds, numbers, side="right"), pa.int64()))
    changed = pc.if_else(pc.is_valid(values), bins, _without_values(words, failed, labels[:1]))
    means_missing = pc.is_in(values, value_set=cast(pa.array(markers, pa.string()), column.type)[0].drop_null())
    return pc.if_else(means_missing, words, changed)


def _rounded(words: pa.Array, unit: str) -> pa.Array:
    values, failed = cast(words, "timestamp")
    start = pc.floor_temporal(values, unit=unit)
    texts = pc.replace_substring(start.cast(pa.timestamp("s")).cast(pa.string()), " ", "T")
    if unit != "hour":
        texts = pc.utf8_slice_codeunits(texts, 0, len("2026-01-31"))
    return pc.if_else(pc.is_valid(values), texts, _without_values(words, failed, []))


def _without_values(words: pa.Array, failed: pa.Array, kept: list[str]) -> pa.Array:
    """The words, those that failed as their shape."""
    failed = pc.and_not(failed, pc.is_in(words, value_set=pa.array(kept, pa.string())))
    if not pc.any(failed).as_py():
        return words
    shapes = pa.array([shape(word) for word in words.filter(failed).to_pylist()], pa.string())
    return pc.replace_with_mask(words, failed, shapes)
