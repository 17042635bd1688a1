"""The hold-out: rows, their truth, a recorded sample, and the champion's answers to the same rows."""

import hashlib
import heapq
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines_lib.data.sides import TEST, TRAIN, VALIDATION, sides_of_partitions
from pipelines_lib.data.snapshot import Snapshot
from pipelines_lib.data.splitting import with_split
from pipelines_lib.errors import DataError
from pipelines_lib.evaluation.compare import Comparison, compare
from pipelines_lib.evaluation.metrics import Truth, aligned, several
from pipelines_lib.features.arrow import feature_columns
from pipelines_lib.registry.package import Holdout, Manifest, Package, Scorer
from pipelines_lib.use_case import ColumnType, Split, UseCase

SAMPLE_ROWS = 200
_PIECE_ROWS = 1 << 16


def features_of(use_case: UseCase, rows: pa.Table) -> dict[str, Any]:
    """The use case's feature columns of `rows`, as a transform and a profile take them."""
    return feature_columns(rows, use_case.feature_types)


def scores_of(scorer: Scorer, rows: pa.Table, types: Mapping[str, ColumnType]) -> NDArray[np.float32]:
    """The scorer's answers to `rows` [n, C], whose features `types` go through its transform some rows at a time."""
    starts = range(0, max(1, rows.num_rows), _PIECE_ROWS)
    return np.concatenate([scorer.predict(feature_columns(rows.slice(start, _PIECE_ROWS), types)) for start in starts])


def truth_of(use_case: UseCase, rows: pa.Table, classes: tuple[str, ...]) -> Truth:
    """The labels of `rows`, in terms of `classes`."""
    if use_case.task == "regression":
        return Truth(pc.cast(rows["label"], pa.float64(), safe=False).to_numpy(), ())
    if use_case.label.separator is not None:
        return Truth(several(rows["label"], classes, use_case.label.separator), classes)
    places = {name: place for place, name in enumerate(classes)}
    found = pc.index_in(rows["label"], value_set=pa.array(classes, pa.string()))
    assert not found.null_count, "the classes are those of the snapshot that the rows are of"
    labels = found.to_numpy().astype(np.int64)
    positive = use_case.label.positive
    return Truth(labels, classes, None if positive is None else places[positive], lists_of(use_case, rows), use_case.gate.k)


def lists_of(use_case: UseCase, rows: pa.Table) -> NDArray[np.int64] | None:
    """Place of the list that each row is of [n], 0 … L - 1: what one entity was offered; None where no order within lists counts."""
    return _places(rows, [use_case.entity]) if use_case.ranks_lists and use_case.entity is not None else None


def items_of(use_case: UseCase, rows: pa.Table) -> NDArray[np.int64]:
    """Place of the item that each row offers [n]: items are told apart by `training.model.item`."""
    return _places(rows, use_case.training.model.item)


def _places(rows: pa.Table, columns: Sequence[str]) -> NDArray[np.int64]:
    """Place of each row's values of `columns` [n], equal where they are."""
    places = np.zeros(rows.num_rows, np.int64)
    for name in columns:
        own = rows[name].combine_chunks().dictionary_encode(null_encoding="encode")
        places = np.unique(places * max(1, len(own.dictionary)) + np.asarray(own.indices, np.int64), return_inverse=True)[1]
    return places


def compare_with(
    champion: Package,
    use_case: UseCase,
    test: pa.Table,
    classes: tuple[str, ...],
    scores: NDArray[np.float32],
    *,
    operating_point: float | None = None,
) -> Comparison:
    """Score `champion` on the rows of `test` and compare the challenger's `scores` [n, C], C in the order of `classes`, with it.

    Rows that the champion learned from are left out. Raises `DataError` where too few others are left, and where the champion
    answers another question, or from columns that there are no more.
    """
    theirs = champion.manifest
    if (theirs.task, theirs.positive) != (use_case.task, use_case.label.positive):
        raise DataError(f"it was trained for another task ({theirs.task}, positive {theirs.positive!r})")
    if absent := sorted(feature.name for feature in theirs.features if feature.name not in use_case.features()):
        raise DataError(f"it reads columns that the use case no longer has: {', '.join(absent)}")
    fair = new_to(theirs, use_case, test)
    n_fair, gate = int(fair.sum()), use_case.gate
    if n_fair < min(gate.min_rows, test.num_rows):
        raise DataError(
            f"it learned from {test.num_rows - n_fair} of the hold-out's {test.num_rows} rows, and the other {n_fair} are fewer than "
            f"{gate.min_rows} (gate.min_rows)"
        )
    test, scores = test.filter(pa.array(fair)), scores[fair]
    types = {feature.name: feature.type for feature in theirs.features}
    their_scores = scores_of(champion, test, types)
    if use_case.task != "regression":
        # A class that one of the two has never seen has chance 0 in its answer.
        union = tuple(sorted({*classes, *theirs.classes}))
        scores, their_scores = (aligned(s, c, union) for s, c in ((scores, classes), (their_scores, theirs.classes)))
        classes = union
    found = compare(
        gate.metric,
        truth_of(use_case, test, classes),
        scores,
        their_scores,
        confidence=gate.confidence,
        resamples=gate.resamples,
        seed=use_case.training.seed,
        groups=entities_of(use_case, test),
        operating_points=(operating_point, theirs.decision.operating_point),
    )
    if not math.isfinite(found.difference):
        raise DataError(f"{gate.metric} is undefined on the {n_fair} rows of the hold-out that it did not learn from")
    return found


def known_rows(use_case: UseCase, snapshot: Snapshot) -> int:
    """How many rows of the hold-out belong to an owner (entity, group, or the row itself) of training or validation rows: there should be none."""
    columns = [name for name in ("row_id", use_case.owner_column) if name is not None]
    judges = _names(use_case, snapshot.select(columns, TEST))
    unknown = pc.unique(judges)
    for rows in snapshot.batches([*columns, "split"]):
        learned = _names(use_case, rows.filter(pc.is_in(rows["split"], pa.array([TRAIN, VALIDATION]))))
        unknown = unknown.filter(pc.invert(pc.is_in(unknown, value_set=pc.unique(learned))))
    return len(judges) - int(pc.sum(pc.is_in(judges, value_set=unknown)).as_py() or 0)


def _names(use_case: UseCase, rows: pa.Table | pa.RecordBatch) -> pa.Array | pa.ChunkedArray:
    """Whose each row is, as the split sees it: a row without an owner stands for itself."""
    owner = use_case.owner_column
    return rows["row_id"] if owner is None else pc.coalesce(pc.cast(rows[owner], pa.string()), rows["row_id"])


def new_to(champion: Manifest, use_case: UseCase, test: pa.Table) -> NDArray[np.bool_]:
    """Which rows of `test` [n] the champion learned nothing from, neither to train nor to stop by.

    Under the champion's own settings: by entity, group or row they are those it would be judged by itself, whatever the seed
    and shares are now; by time, those outside its training and validation partitions, and outside the days that their labels
    were made of. A stratified side depends on rows that may have changed since, so there only partitions count that the
    champion never saw. Raises `DataError` where the split goes by something else now: then its rows are new to it, but not
    the entities, or the days, that they belong to.
    """
    split = champion.split
    if split is None:
        raise DataError(
            "its package does not say which rows it learned from: some were prepared under other `split` settings, "
            f"or an earlier Sluice wrote it. Run {use_case.name}__data again for the partitions of the window, so that the next package says it"
        )
    theirs, ours = (_owner(*pair) for pair in ((split, champion.entity), (use_case.split, use_case.entity)))
    if theirs != ours:
        raise DataError(f"its rows were split by {theirs}, now they are by {ours} (split.by), so it may know part of this hold-out")
    if split.by == "time" or split.stratify:
        return ~np.asarray(pc.is_in(test["partition_key"], pa.array(_known_partitions(champion, split, use_case), pa.string())), bool)
    return np.asarray(pc.equal(sides_under(use_case, split, test), TEST), bool)


def _known_partitions(champion: Manifest, split: Split, use_case: UseCase) -> list[str]:
    """Partitions that the champion may have learned from, be it by their labels alone."""
    if split.stratify:
        return list(champion.snapshot.partitions)
    gap = use_case.model_copy(update={"split": split}).gap
    sides = sides_of_partitions(champion.snapshot.partitions, split, gap)
    learned = [key for key, side in sides.items() if side in (TRAIN, VALIDATION)]
    return sorted({use_case.shift(key, later) for key in learned for later in range(gap + 1)})


def known_split(use_case: UseCase, rows: pa.Table) -> Split | None:
    """The settings that the sides of `rows` follow from; None where they do not follow from the use case's as they are now.

    That is so after somebody changed them, until the partitions of the window are prepared again.
    """
    split = use_case.split
    return split if split.by == "time" or sides_under(use_case, split, rows).equals(rows["split"]) else None


def sides_under(use_case: UseCase, split: Split, rows: pa.Table) -> pa.ChunkedArray:
    """The side of each row under the settings `split`, by entity, group or row; of whole partitions where it is stratified."""
    use_case = use_case.model_copy(update={"split": split})
    stratified = ("partition_key", "label") if split.stratify else ()
    columns = [name for name in ("row_id", use_case.owner_column, *stratified) if name is not None]
    return with_split(rows.select(columns), use_case)["split"]


def _owner(split: Split, entity: str | None) -> str:
    owner = {"entity": entity, "group": split.group}.get(split.by)
    return split.by if owner is None else f"{split.by} ({owner})"


def sample(use_case: UseCase, test: pa.Table, scorer: Scorer) -> Holdout:
    """Up to SAMPLE_ROWS rows, chosen by a hash of their id: the same ones each time, from all over the hold-out.

    They leave the tables with the package, so of columns about a person they hold stand-ins, and the scores are those of the stand-ins.
    """
    ids = test["row_id"].to_pylist()
    chosen = heapq.nsmallest(SAMPLE_ROWS, range(len(ids)), key=lambda place: hashlib.sha256(ids[place].encode()).digest())
    rows = test.take(chosen)
    for name in set(use_case.private()).intersection(use_case.features()):
        stands_in = _stand_ins(test[name], rows[name], name, use_case.privacy.min_k)
        rows = rows.set_column(rows.column_names.index(name), name, stands_in)
    scores = scorer.predict(features_of(use_case, rows))
    return Holdout(
        row_ids=tuple(rows["row_id"].to_pylist()),
        columns={name: tuple(_json_value(value) for value in rows[name].to_pylist()) for name in use_case.features()},
        scores=tuple(tuple(row) for row in scores.astype(float).tolist()),
    )


def _stand_ins(column: pa.ChunkedArray, chosen: pa.ChunkedArray, name: str, min_k: int) -> pa.Array:
    """Values like those in `chosen`, of nobody: no word that fewer than `min_k` rows share, no number to more than two digits, in other rows."""
    kind = column.type
    if pa.types.is_string(kind):
        counts = pc.value_counts(column.drop_null())
        frequent = counts.field("values").filter(pc.greater_equal(counts.field("counts"), min_k))
        chosen = pc.if_else(pc.or_(pc.is_null(chosen), pc.is_in(chosen, value_set=frequent)), chosen, "rare")
    elif not pa.types.is_boolean(kind):
        coarse = [None if value is None or not math.isfinite(value) else float(f"{value:.2g}") for value in chosen.to_pylist()]
        chosen = pa.array(coarse, pa.float64()).cast(kind, safe=False)
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
    return chosen.take(pa.array(np.random.Generator(np.random.PCG64(seed)).permutation(len(chosen))))


def entities_of(use_case: UseCase, rows: pa.Table) -> NDArray[np.int64] | None:
    """Place of each row's group or entity, where it has one: rows of one are alike however they were split, and count together."""
    owner = use_case.owner_column or use_case.entity
    if owner is None:
        return None
    places, alone = _places(rows, [owner]), np.asarray(pc.is_null(rows[owner]), bool)
    places[alone] = len(places) + np.arange(alone.sum())  # a row without an owner stands for itself
    return np.unique(places, return_inverse=True)[1]


def n_owners(use_case: UseCase, rows: pa.Table) -> int | None:
    """How many groups or entities `rows` belong to; None where each row stands for itself."""
    owners = entities_of(use_case, rows)
    return None if owners is None else len(np.unique(owners))


def _json_value(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
