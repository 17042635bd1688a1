"""Labelling: of every partition that is due, batch by batch, from the clean rows to the layer `labelled`."""

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import JsonValue

from pipelines_lib.data import review
from pipelines_lib.data.labelling import events, truth, votes
from pipelines_lib.data.labelling.due import Marks, Seen, due, inputs, missing, new_truths, window
from pipelines_lib.data.labelling.values import label_type, labels_of
from pipelines_lib.data.splitting import Splitter
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import Unavailable
from pipelines_lib.use_case import UseCase

Figures = dict[str, JsonValue]
Functions = Mapping[str, votes.LabellingFunction]

_ROUNDS = 20


def label_due(use_case: UseCase, partition_key: str, tables: Tables, marks: Marks, functions: Functions) -> dict[str, Figures]:
    """Label the run's own partition, and every other whose labels are due, once they are closed. Returns figures of each.

    Labelling again what has not changed makes no commit.
    """
    done: dict[str, Figures] = {}
    for _ in range(_ROUNDS):
        seen = Seen.now(tables, marks)
        keys = due(use_case, partition_key, seen, marks)
        if not done and partition_key in seen.prepared and not missing(use_case, partition_key, seen):
            # Always the own one: the settings may have changed.
            keys = sorted({*keys, partition_key})
        if not keys:
            return done
        for key in keys:
            now = inputs(use_case, key, seen)
            if key != partition_key and _is_untouched(use_case, key, tables, marks, seen):
                marks.set_labelled_from(key, now)
                continue
            done[key], version = label_partition(use_case, key, tables, seen, functions)
            # Of the version that this run wrote: another may have written a newer one meanwhile, and this must not speak for it.
            _, contents = tables.contents("labelled", version)
            labels = {name: content for name, content in now.items() if not name.startswith("labelled/")}
            marks.set_labelled_from(key, labels | ({f"labelled/{key}": contents[key]} if key in contents else {}), use_case.data_hash())
    raise Unavailable(f"{use_case.name}: other runs kept changing what the labels of {', '.join(keys)} are made from; run prepare again")


def label_partition(use_case: UseCase, key: str, tables: Tables, seen: Seen, functions: Functions) -> tuple[Figures, int]:
    """Write the partition's rows whose label is known, with `label` and `split`. Returns (figures, version of the table)."""
    figures: Figures = {}
    reviews = review.reviews_of(tables, key, seen.versions["reviews"]) if use_case.label.review is not None else {}
    pending = review.Pending(use_case, reviews) if use_case.label.review is not None else None
    splitter = Splitter(use_case, key)
    n_rows = n_reviewed = 0
    with tables.writer("labelled", key) as writer:
        writer.add(_nothing(use_case, tables, seen))
        for batch in _given(use_case, key, tables, seen, functions, figures=figures):
            n_rows += batch.num_rows
            if pending is not None:
                pending.add(batch)
            rows, n = review.with_reviews(batch, reviews, use_case)
            n_reviewed += n
            writer.add(splitter.apply(rows.filter(pc.is_valid(rows["label"]))))
    figures |= {"n_rows": n_rows, "n_labelled": writer.n_rows}
    if pending is not None:
        n_waiting = review.write_tasks(tables.root, key, pending.rows(), use_case)
        figures |= {"n_reviewed": n_reviewed, "n_reviews_outdated": len(reviews) - n_reviewed, "n_for_review": n_waiting}
    return figures, writer.version


def _given(use_case: UseCase, key: str, tables: Tables, seen: Seen, functions: Functions, *, figures: Figures) -> Iterator[pa.Table]:
    """The clean rows with `label`, null where it is not known, and, with rules, `label_confidence`."""
    label, version = use_case.label, seen.version("clean")
    scan = partial(tables.scan, "clean", key, version=version)
    if label.column is not None:
        for rows in scan():
            yield rows.append_column("label", labels_of(rows[label.column].combine_chunks(), use_case))
    elif label.event_within is not None:
        reached = window(use_case, key, use_case.horizon)
        ahead = (tables.scan("clean", other, version=version, columns=events.columns(use_case)) for other in reached)
        known = events.events(chain.from_iterable(ahead), use_case, reached[0], reached[-1])
        figures["n_events"] = len(known.places)
        for rows in scan():
            yield rows.append_column("label", events.follows(rows, use_case, known))
    elif label.join is not None:
        truths = truth.newest(tables, window(use_case, key, use_case.reach), seen.version("ground_truth"), use_case)
        figures["n_truths"] = truths.num_rows
        yield from truth.joined(scan(), truths, use_case)
    else:
        cast_votes = votes.vote(scan(), use_case, functions)
        aggregated = votes.aggregate(cast_votes, use_case)
        figures["functions"] = votes.figures(cast_votes, aggregated, use_case)
        yield from votes.voted(scan(), cast_votes, aggregated)


def _nothing(use_case: UseCase, tables: Tables, seen: Seen) -> pa.Table:
    """No rows, under the columns that labelled ones have: a partition without any is written too."""
    confidence = [pa.field("label_confidence", pa.float64())] if use_case.label.rules is not None else []
    fields = [field for field in tables.schema("clean", seen.version("clean")) if field.name != "partition_key"]
    return pa.schema([*fields, pa.field("label", label_type(use_case)), *confidence, pa.field("split", pa.string())]).empty_table()


def _is_untouched(use_case: UseCase, key: str, tables: Tables, marks: Marks, seen: Seen) -> bool:
    """Whether all that is new is ground truth about rows of other partitions. Reads the key columns alone."""
    arrived = new_truths(marks.labelled_from(key), inputs(use_case, key, seen))
    if use_case.label.join is None or not arrived:
        return False
    keys = list(use_case.label.join.keys)
    truths = tables.read("ground_truth", arrived, version=seen.version("ground_truth"), columns=keys)
    return not truth.touches(tables.scan("clean", key, version=seen.version("clean"), columns=keys), truths, use_case)
