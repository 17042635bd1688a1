"""Labels made from values, each by itself: the value as it is, a map, a threshold, several classes in one order."""

import pyarrow as pa
import pyarrow.compute as pc

from pipelines_lib.data.typed import class_text
from pipelines_lib.use_case import UseCase, classes_in


def label_type(use_case: UseCase) -> pa.DataType:
    """Of the column `label`: a class, or several, is a string, what a regression predicts a number."""
    return pa.float64() if use_case.task == "regression" else pa.string()


def labels_of(values: pa.Array, use_case: UseCase) -> pa.Array:
    """The label of each value; null where it is missing, or `label.map` does not list it.

    Several classes are sorted, each once, with the separator between them; a missing value is the empty text: no class.
    """
    label = use_case.label
    if use_case.task == "regression":
        return values.cast(pa.float64(), safe=False)  # a whole number beyond 2⁵³ is rounded, not refused
    if (threshold := label.threshold) is not None:
        numbers = values.cast(pa.float64(), safe=False)
        return pc.if_else(pc.greater_equal(numbers, threshold.at), threshold.above, threshold.below)
    classes = class_text(values)
    if label.separator is not None:
        return _several(classes, label.separator)
    if label.map is None:
        return classes
    found = pc.index_in(classes, value_set=pa.array(list(label.map), pa.string()))
    return pa.array(list(label.map.values()), pa.string()).take(found)


def _several(texts: pa.Array, separator: str) -> pa.Array:
    known = pc.fill_null(texts, "").dictionary_encode()
    sorted_out = [separator.join(classes_in(text, separator)) for text in known.dictionary.to_pylist()]
    return pa.array(sorted_out, pa.string()).take(known.indices)
