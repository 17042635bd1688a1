"""Rows that people are asked about, and what they said: tasks for Label Studio, its export, the layer `reviews`.

A task shows a row's features, never a column that is about a person. It names the row by `row_id`, which holds as long as the
source's file does, and carries a fingerprint of the row: an answer is taken for the row that was shown, or not at all.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines_lib.data.hashing import hash_rows
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import ConfigError, DataError
from pipelines_lib.store import StorePath, in_order, write_text
from pipelines_lib.use_case import UseCase

REVIEWS = pa.schema(
    {
        "row_id": pa.string(),
        "fingerprint": pa.string(),
        "label": pa.string(),
        "agreement": pa.float64(),
        "n_people": pa.int64(),
    }
)
"""The layer `reviews`: one row a reviewed row; `agreement` is the share of the people who said `label`."""


_SAMPLE_SEED = 0x5EED
"""Of the hash that decides whose turn it is: another than the splits', or people would see rows of one side first."""


# --- which rows people are asked about ----------------------------------------------------------------------------


# No column of a use case has a blank in its name.
_CERTAIN, _TURN = "how certain", "whose turn"
_ORDER = [(_CERTAIN, "ascending"), (_TURN, "ascending"), ("row_id", "ascending")]


class Pending:
    """Picks the rows to ask about while they pass by, at most `review.per_partition` of them."""

    def __init__(self, use_case: UseCase, reviewed: Mapping[str, Any]) -> None:
        assert use_case.label.review is not None
        self._use_case = use_case
        self._review = use_case.label.review
        self._reviewed = pa.array(sorted(reviewed), pa.string())
        self._picked: pa.Table | None = None

    def add(self, rows: pa.Table) -> None:
        """Look at labelled rows, those without a label included."""
        open_ = pc.invert(pc.is_in(rows["row_id"], value_set=self._reviewed))
        if self._review.below is not None:
            # Without a label nothing is certain, whatever the functions that spoke agreed on.
            certain = pc.if_else(pc.is_valid(rows["label"]), pc.fill_null(rows["label_confidence"], -1.0), -1.0)
            open_ = pc.and_(open_, pc.less(certain, self._review.below))
        else:
            certain = pa.chunked_array([np.zeros(rows.num_rows)])
        rows = rows.append_column(_CERTAIN, certain).filter(open_)
        rows = rows.append_column(_TURN, pa.array(hash_rows([rows["row_id"].combine_chunks()], _SAMPLE_SEED)))
        picked = rows if self._picked is None else pa.concat_tables([self._picked, rows])
        if picked.num_rows > self._review.per_partition:
            picked = picked.take(pc.select_k_unstable(picked, k=self._review.per_partition, sort_keys=_ORDER))
        self._picked = picked

    def rows(self) -> pa.Table | None:
        """What was picked, in the order to ask; None where no row passed by."""
        if self._picked is None:
            return None
        return self._picked.sort_by(_ORDER).drop_columns([_CERTAIN, _TURN])


# --- tasks --------------------------------------------------------------------------------------------------------


def shown_columns(use_case: UseCase) -> list[str]:
    """The features a person may be shown: those that are not about a person."""
    return [name for name in use_case.features() if use_case.columns[name].privacy is None]


def fingerprints(rows: pa.Table, use_case: UseCase) -> list[str]:
    """Of each row: its key where it has one that may leave the house, otherwise what people are shown of it."""
    keys = [name for name in use_case.columns_with("key") if use_case.columns[name].privacy is None]
    values = rows.select(keys or shown_columns(use_case)).to_pylist()
    return [hashlib.blake2b(_json(row).encode(), digest_size=12).hexdigest() for row in values]


def tasks(rows: pa.Table, partition_key: str, use_case: UseCase) -> list[dict[str, Any]]:
    """The rows as tasks that Label Studio imports; what the label is taken to be is shown as a prediction, unless it is about a person."""
    shown = rows.select(shown_columns(use_case)).to_pylist()
    told = use_case.label.column is None or use_case.columns[use_case.label.column].privacy is None
    ids, labels = rows["row_id"].to_pylist(), rows["label"].to_pylist()
    scores = rows["label_confidence"].to_pylist() if "label_confidence" in rows.column_names else [None] * len(ids)
    made = []
    for row, row_id, fingerprint, label, score in zip(shown, ids, fingerprints(rows, use_case), labels, scores, strict=True):
        data = {"item": row, "use_case": use_case.name, "partition_key": partition_key, "row_id": row_id, "fingerprint": fingerprint}
        task: dict[str, Any] = {"data": json.loads(_json(data))}
        if label is not None and told:
            choice = {"from_name": "label", "to_name": "item", "type": "choices", "value": {"choices": [label]}}
            task["predictions"] = [{"model_version": "label", **({} if score is None else {"score": round(score, 6)}), "result": [choice]}]
        made.append(task)
    return made


def label_config(classes: Sequence[str]) -> str:
    """Label Studio's labelling configuration: the row as a table, the classes as choices."""
    choices = "".join(f"    <Choice value={quoteattr(name)}/>\n" for name in classes)
    return (
        '<View>\n  <Table name="item" value="$item"/>\n  <Choices name="label" toName="item" choice="single" required="true">\n'
        f"{choices}  </Choices>\n</View>\n"
    )


def tasks_path(root: StorePath, partition_key: str) -> StorePath:
    """Where the tasks of a partition wait, below the use case's folder in the store."""
    return root / "review" / "tasks" / f"{partition_key}.json"


def inbox(root: StorePath) -> StorePath:
    """Where exports of Label Studio may be put for the data pipeline to take in."""
    return root / "review" / "answers"


def write_tasks(root: StorePath, partition_key: str, rows: pa.Table | None, use_case: UseCase) -> int:
    """Leave the tasks of a partition for whoever fetches them. Returns how many."""
    made = [] if rows is None else tasks(rows, partition_key, use_case)
    path = tasks_path(root, partition_key)
    if made or path.exists():
        write_text(path, _json(made, indent=1))
    return len(made)


def export(root: StorePath, use_case: UseCase, partitions: Sequence[str] | None, out: Path) -> tuple[int, Path]:
    """Write the waiting tasks (of these partitions, or all) to `out`, and the labelling configuration beside it.

    Returns the number of tasks and the configuration's path. Raises `DataError` where nothing waits.
    """
    folder = tasks_path(root, "x").parent
    found = [folder / f"{key}.json" for key in partitions] if partitions else in_order(folder.glob("*.json"))
    waiting: list[dict[str, Any]] = [task for path in found if path.exists() for task in json.loads(path.read_text(encoding="utf-8"))]
    if not waiting:
        raise DataError(
            f"no row of {use_case.name}{' in ' + ', '.join(partitions) if partitions else ''} waits for review; "
            "set label.review, and run the data pipeline for a partition whose label horizon has closed"
        )
    predicted = {str(p["result"][0]["value"]["choices"][0]) for task in waiting for p in task.get("predictions", [])}
    config = out.with_name("label_config.xml")
    write_text(out, _json(waiting, indent=1))
    write_text(config, label_config(use_case.label.classes or sorted(predicted)))
    return len(waiting), config


# --- answers ------------------------------------------------------------------------------------------------------


def deliver(answers: Path, root: StorePath, use_case: UseCase) -> list[str]:
    """Put an export of Label Studio where the data pipeline takes it in. Returns the partitions that it is about.

    Raises `DataError` where it holds no answer that can be taken.
    """
    good, problems = read_answers(answers, use_case)
    if not good:
        raise DataError("\n".join(problems) or f"{answers}: holds no task; export the project as JSON in Label Studio")
    write_text(inbox(root) / f"{hashlib.sha256(answers.read_bytes()).hexdigest()[:16]}.json", answers.read_text(encoding="utf-8-sig"))
    return sorted({answer.partition_key for answer in good})


@dataclass(frozen=True)
class Answer:
    """What people said about a row, all together."""

    partition_key: str
    row_id: str
    fingerprint: str
    label: str
    agreement: float
    n_people: int


def read_answers(path: StorePath, use_case: UseCase) -> tuple[list[Answer], list[str]]:
    """(answers, problems) of a file that Label Studio exported as JSON. A task that can't be taken is a problem, and the others count.

    Of several people's answers the one that most gave counts. Raises `DataError` where the file is no such export.
    """
    try:
        exported = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: can't be read as JSON ({error}); export the project as JSON in Label Studio") from error
    if not isinstance(exported, list):
        raise DataError(f"{path}: is no list of tasks; export the project as JSON in Label Studio (not JSON-MIN or CSV)")
    said: dict[tuple[str, str, str], list[str]] = {}
    problems = []
    for index, task in enumerate(exported):
        try:
            row, choices = _row_of(task, use_case), list(_choices(task, use_case))
            said.setdefault(row, []).extend(choices)
        except _Malformed as error:
            problems.append(f"{path}: task {index}: {error}")
    answers = []
    for row, choices in said.items():
        label, agreement = _majority(choices)
        if label is None:
            problems.append(f"{path}: row {row[1]}: {len(choices)} answers and no majority; ask one more person")
        else:
            answers.append(Answer(*row, label, agreement, len(choices)))
    return answers, problems


class _Malformed(Exception):
    """Says why a task can't be taken."""


def _row_of(task: Any, use_case: UseCase) -> tuple[str, str, str]:
    data = task.get("data") if isinstance(task, dict) else None
    if not isinstance(data, dict):
        raise _Malformed("has no `data`; export with the task's data")
    names = ("partition_key", "row_id", "fingerprint")
    if not all(_is_text(data.get(name)) for name in names):
        raise _Malformed(f"its data lacks {', '.join(names)}, so it is none of Sluice's; import the tasks of `sluice label export`")
    if data.get("use_case") != use_case.name:
        raise _Malformed(f"is not a task of use case {use_case.name}; import it there")
    if not data["row_id"].startswith(f"{data['partition_key']}:"):
        raise _Malformed("its row_id is none of its partition; leave the task's data as it was exported")
    try:
        use_case.partition_time(data["partition_key"])
    except ConfigError as error:
        raise _Malformed(str(error)) from error
    return data["partition_key"], data["row_id"], data["fingerprint"]


def _choices(task: dict[str, Any], use_case: UseCase) -> Iterator[str]:
    annotations = [a for a in task.get("annotations") or [] if isinstance(a, dict) and not a.get("was_cancelled")]
    if not annotations:
        raise _Malformed("nobody has answered it; answer it, or leave it out of the export")
    for annotation in annotations:
        found = [
            choice
            for result in annotation.get("result") or []
            if isinstance(result, dict) and result.get("type") == "choices" and isinstance(result.get("value"), dict)
            for choice in result["value"].get("choices") or []
        ]
        if len(found) != 1 or not _is_text(found[0]) or not found[0]:
            raise _Malformed(f"an answer has {len(found)} choices; it must have one")
        if (classes := use_case.label.classes) is not None and found[0] not in classes:
            raise _Malformed(f"an answer is none of the classes {', '.join(classes)}; use the labelling configuration of the export")
        yield found[0]


def _is_text(value: Any) -> bool:
    """Whether a table can hold it as a text: JSON can spell half of a surrogate pair, which none can."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _majority(choices: Sequence[str]) -> tuple[str | None, float]:
    """(the choice that was made most often, its share); no choice where two were made as often."""
    [(first, n_first), *others] = Counter(sorted(choices)).most_common(2)
    return (None if others and others[0][1] == n_first else first), n_first / len(choices)


def keep_answers(tables: Tables, answers: Iterable[Answer], use_case: UseCase) -> tuple[list[str], list[str]]:
    """Add the answers to the layer `reviews`; a row's new answer stands for its old one. Returns (partitions changed, problems).

    An answer about a row that is not there any more, or no longer what was shown, is a problem.
    """
    by_partition: dict[str, list[Answer]] = {}
    problems = []
    for answer in answers:
        by_partition.setdefault(answer.partition_key, []).append(answer)
    for key, given in sorted(by_partition.items()):
        shown = _fingerprints_now(tables, key, [answer.row_id for answer in given], use_case)
        good = [answer for answer in given if shown.get(answer.row_id) == answer.fingerprint]
        problems += [
            f"row {answer.row_id}: {'has changed since it was exported' if answer.row_id in shown else 'is not there any more'}; export again"
            for answer in given
            if shown.get(answer.row_id) != answer.fingerprint
        ]
        kept = {row["row_id"]: row for row in _reviews(tables, key).to_pylist()}
        kept |= {a.row_id: {name: getattr(a, name) for name in REVIEWS.names} for a in good}
        tables.write("reviews", key, pa.Table.from_pylist([kept[row] for row in sorted(kept)], REVIEWS))
    return sorted(by_partition), problems


def reviews_of(tables: Tables, partition_key: str, version: int | None = None) -> dict[str, dict[str, Any]]:
    """`row_id` to the review of each reviewed row of the partition."""
    return {row["row_id"]: row for row in _reviews(tables, partition_key, version).to_pylist()}


def with_reviews(rows: pa.Table, reviews: Mapping[str, dict[str, Any]], use_case: UseCase) -> tuple[pa.Table, int]:
    """`rows` with what people said in place of the label, and how many rows that concerns. A row that has changed keeps its label."""
    if not reviews:
        return rows, 0
    mine = rows.filter(pc.is_in(rows["row_id"], value_set=pa.array(sorted(reviews), pa.string())))
    valid = {
        row_id: reviews[row_id]
        for row_id, fingerprint in zip(mine["row_id"].to_pylist(), fingerprints(mine, use_case), strict=True)
        if reviews[row_id]["fingerprint"] == fingerprint
    }
    place = pc.index_in(rows["row_id"], value_set=pa.array(list(valid), pa.string()))
    for column, name in (("label", "label"), ("label_confidence", "agreement")):
        if column in rows.column_names:
            field = rows.schema.field(column)
            said = pa.array([review[name] for review in valid.values()], field.type).take(place.combine_chunks())
            rows = rows.set_column(rows.column_names.index(column), field, pc.coalesce(said, rows[column]))
    return rows, len(valid)


def _reviews(tables: Tables, partition_key: str, version: int | None = None) -> pa.Table:
    if partition_key not in tables.partitions("reviews", version):
        return REVIEWS.empty_table()
    return tables.read("reviews", [partition_key], version=version, columns=REVIEWS.names).select(REVIEWS.names)


def _fingerprints_now(tables: Tables, partition_key: str, row_ids: Sequence[str], use_case: UseCase) -> dict[str, str]:
    wanted = pa.array(sorted(set(row_ids)), pa.string())
    found: dict[str, str] = {}
    if partition_key in tables.partitions("clean"):
        for rows in tables.scan("clean", partition_key):
            mine = rows.filter(pc.is_in(rows["row_id"], value_set=wanted))
            found |= dict(zip(mine["row_id"].to_pylist(), fingerprints(mine, use_case), strict=True))
    return found


def _json(value: Any, indent: int | None = None) -> str:
    """The same text for the same value: keys sorted, times written out."""
    return json.dumps(value, indent=indent, sort_keys=True, ensure_ascii=False, default=str)
