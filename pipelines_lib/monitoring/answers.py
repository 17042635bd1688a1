"""What was answered on a partition, by the service or in the table of scores: each row once, whatever the number of deliveries."""

from collections.abc import Collection, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from pipelines_lib.data.tables import Tables
from pipelines_lib.features.arrow import Features, feature_column
from pipelines_lib.features.values import Column
from pipelines_lib.monitoring.reference import Reference
from pipelines_lib.monitoring.sketch import DataProfile, profile_columns
from pipelines_lib.use_case import ColumnType, UseCase

OWN = ("row_id", "model_version", "prediction", "score")


def answered(
    tables: Tables, use_case: UseCase, partition_key: str, columns: Collection[str], encoded: Collection[str] = ()
) -> pa.Table | None:
    """The partition's answers with what they were given to, one a `row_id`; None where nothing was answered.

    They have the columns `OWN`, and those of `columns` that were kept; columns of strings that are `encoded` may come as dictionaries.
    """
    if use_case.answers == "batch":
        return _scored(tables, partition_key, [name for name in use_case.features() if name in columns], encoded)
    return _served(tables, partition_key, columns, encoded)


def answer_keys(use_case: UseCase) -> list[str]:
    """The columns by which an answer finds its label: a scored row keeps its name, a request brings the use case's keys."""
    return ["row_id"] if use_case.answers == "batch" else use_case.columns_with("key")


def _scored(tables: Tables, partition_key: str, features: Collection[str], encoded: Collection[str]) -> pa.Table | None:
    """Rows of `scored` that have a score, with their features from `clean`."""
    if partition_key not in tables.partitions("scored"):
        return None
    rows = tables.read("scored", [partition_key])
    there = tables.schema("clean").names
    given = tables.read("clean", [partition_key], columns=["row_id", *(name for name in features if name in there)], encoded=encoded)
    places = pc.index_in(rows["row_id"], value_set=given["row_id"])
    # A row that was cleaned away since, or that has no score, is no answer.
    is_answer = pc.and_(pc.is_valid(rows["score"]), pc.is_valid(places))
    rows, given = rows.filter(is_answer), given.take(places.filter(is_answer))
    for name in given.column_names:
        if name not in rows.column_names:
            rows = rows.append_column(name, given[name])
    return rows


def _served(tables: Tables, partition_key: str, columns: Collection[str], encoded: Collection[str]) -> pa.Table | None:
    """Rows of `predictions`.

    A client that asked again under the same id got one more answer; the newest version's counts, and among equals
    always the same one, so the order of the files has no say.
    """
    if partition_key not in tables.partitions("predictions"):
        return None
    wanted = [name for name in tables.schema("predictions").names if name in {*OWN, *columns}]
    rows = tables.read("predictions", [partition_key], columns=wanted, encoded=encoded)  # in the order of their ids
    if rows.num_rows < 2 or pc.all(_firsts(rows)).as_py():
        return rows
    every = tables.read("predictions", [partition_key])
    order = [("row_id", "ascending"), ("model_version", "descending"), ("score", "ascending")]
    others = [(name, "ascending") for name in every.column_names if name not in dict(order)]
    return every.sort_by([*order, *others]).filter(_firsts(every)).select(rows.column_names)


def _firsts(rows: pa.Table) -> pa.Array:
    """Whether a row is the first of its id."""
    ids = rows["row_id"].combine_chunks()
    return pa.concat_arrays([pa.array([True]), pc.not_equal(ids[1:], ids[:-1])])


def columns_of(rows: pa.Table, reference: Reference) -> dict[str, Column]:
    """Those inputs of the reference that `rows` carry."""
    inputs = {name: column.type for name, column in reference.profile.columns.items() if column.kind == "input"}
    return {name: feature_column(rows[name], type_) for name, type_ in inputs.items() if name in rows.column_names}


def answers_of_profile(tables: Tables, use_case: UseCase, partition_key: str) -> pa.Table | None:
    """What `profile_answers` and `versions` look at."""
    # Of texts hardly two are the same, so that a dictionary of them would only be made to be unmade.
    kinds = [name for name, kind in use_case.feature_types.items() if kind == "string"]
    return answered(tables, use_case, partition_key, use_case.feature_types, [*kinds, "prediction"])


def profile_answers(rows: pa.Table | None, use_case: UseCase) -> DataProfile:
    """Profile of the features and of the answers in `rows`. A feature that no request carried is missing in every row."""
    types: Mapping[str, ColumnType] = use_case.feature_types
    n = 0 if rows is None else rows.num_rows
    absent = pa.chunked_array([pa.nulls(n, pa.string())])
    columns = Features(lambda name: absent if rows is None or name not in rows.column_names else rows[name], [*types], types)
    return profile_columns(columns, types, **_said(rows, use_case))


def with_answers_of(profile: DataProfile, rows: pa.Table, use_case: UseCase) -> DataProfile:
    """`profile` with the answers in `rows` alone: one version's, of a partition that several answered. What was asked is the service's, whoever answered."""
    own = profile_columns({}, {}, **_said(rows, use_case))
    return DataProfile(profile.n_rows, {**profile.columns, **own.columns})


def _said(rows: pa.Table | None, use_case: UseCase) -> dict[str, Column]:
    """Scores, and predictions where they are classes, as `profile_columns` takes them."""
    scores: dict[str, Column] = {"scores": [] if rows is None else rows["score"].to_numpy()}
    if use_case.task == "regression":
        return scores
    return {**scores, "predictions": [] if rows is None else feature_column(rows["prediction"], "string")}


def versions(rows: pa.Table | None) -> dict[int, int]:
    """Rows by the model version that answered them."""
    counts = [] if rows is None else pc.value_counts(rows["model_version"]).to_pylist()
    return {found["values"]: found["counts"] for found in sorted(counts, key=lambda found: found["values"])}


def main_version(counts: Mapping[int, int]) -> int | None:
    """The version that answered most of the rows, the newer one of two equals; None where there are no rows."""
    return max(counts, key=lambda version: (counts[version], version), default=None)
