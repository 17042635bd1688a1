"""What the service answered on a partition: each row once, whatever the number of deliveries."""

from collections import Counter
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from pipelines_lib.data.tables import Tables
from pipelines_lib.monitoring.sketch import DataProfile, profile_columns
from pipelines_lib.use_case import ColumnType, UseCase


def answered(tables: Tables, partition_key: str) -> pa.Table | None:
    """Rows of `predictions` of the partition, one a `row_id`; None where nothing was answered.

    A client that asked again under the same id got one more answer; the newest version's counts, and among equals
    always the same one, so the order of the files has no say.
    """
    if partition_key not in tables.partitions("predictions"):
        return None
    rows = tables.read("predictions", [partition_key])
    order = [("row_id", "ascending"), ("model_version", "descending"), ("score", "ascending")]
    others = [(name, "ascending") for name in rows.column_names if name not in dict(order)]
    rows = rows.sort_by([*order, *others])
    ids = rows["row_id"].combine_chunks()
    if rows.num_rows < 2:
        return rows
    first = pa.concat_arrays([pa.array([True]), pc.not_equal(ids[1:], ids[:-1])])
    return rows.filter(first)


def profile_answers(rows: pa.Table | None, use_case: UseCase) -> DataProfile:
    """Profile of the features and of the answers in `rows`. A feature that no request carried is missing in every row."""
    types: Mapping[str, ColumnType] = use_case.feature_types
    n = 0 if rows is None else rows.num_rows
    columns = {name: rows[name].to_pylist() if rows is not None and name in rows.column_names else [None] * n for name in types}
    scores = [] if rows is None else rows["score"].to_numpy()
    if use_case.task == "regression":
        return profile_columns(columns, types, scores=scores)
    return profile_columns(columns, types, scores=scores, predictions=[] if rows is None else rows["prediction"].to_pylist())


def versions(rows: pa.Table | None) -> dict[int, int]:
    """Rows by the model version that answered them."""
    return {} if rows is None else dict(sorted(Counter(rows["model_version"].to_pylist()).items()))


def main_version(counts: Mapping[int, int]) -> int | None:
    """The version that answered most of the rows, the newer one of two equals; None where there are no rows."""
    return max(counts, key=lambda version: (counts[version], version), default=None)
