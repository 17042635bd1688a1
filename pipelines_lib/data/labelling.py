"""Labels: made from one column, once the label's horizon has passed."""

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


def due(use_case: UseCase, partition_key: str, clean_partitions: list[str]) -> list[str]:
    """The partitions to label in the run of `partition_key`: those whose horizon has passed and whose rows may have changed.

    With horizon h the run of partition p closes p - h; where p + h has come already (a backfill, or p runs again), p itself
    is due too. So whatever order partitions run in, each ends up labelled once its horizon has passed.
    """
    horizon = use_case.label.horizon
    if horizon == 0:
        return [partition_key]
    newest = max(clean_partitions)
    candidates = (use_case.shift(partition_key, -horizon), partition_key)
    return [key for key in candidates if key in clean_partitions and use_case.shift(key, horizon) <= newest]
