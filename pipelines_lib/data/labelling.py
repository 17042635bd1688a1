"""Labels: made from one column, once the label's horizon has passed."""

from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc

from pipelines_lib.data.typed import class_text
from pipelines_lib.use_case import UseCase


def labelled(clean: pa.Table, use_case: UseCase) -> pa.Table:
    """The rows whose label is known, with `label`: the class as a string, or, for a regression, the value (float64)."""
    values = clean[use_case.label.column].combine_chunks()
    if use_case.task == "regression":
        labels = values.cast(pa.float64(), safe=False)  # a whole number beyond 2⁵³ is rounded, not refused
    else:
        labels = class_text(values)
        if (mapping := use_case.label.map) is not None:
            found = pc.index_in(labels, value_set=pa.array(list(mapping), pa.string()))
            labels = pa.array(list(mapping.values()), pa.string()).take(found)
    return clean.append_column("label", labels).filter(pc.is_valid(labels))


def due(use_case: UseCase, partition_key: str, clean_partitions: Collection[str], labelled_partitions: Collection[str]) -> list[str]:
    """The partitions to label in the run of `partition_key`, oldest first.

    With horizon h partition p is closed once p + h, or a later one, is clean. Due is every closed partition that has no
    labels yet, and the run's own, whose rows may have changed. So whatever order partitions run in, and whichever are held
    or empty, each that is clean ends up labelled once it is closed.
    """
    horizon = use_case.label.horizon
    if horizon == 0:
        return [partition_key]
    if not clean_partitions:
        return []
    newest_closed = use_case.shift(max(clean_partitions), -horizon)
    waiting = set(clean_partitions) - set(labelled_partitions) | {partition_key}
    return sorted(key for key in waiting if key <= newest_closed)
