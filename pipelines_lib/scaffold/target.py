"""What the target column asks for: the task, the class of interest, the metric that decides and its floor."""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines_lib.errors import DataError
from pipelines_lib.scaffold.survey import LARGEST, Facts, as_text
from pipelines_lib.use_case import Task

_WORDS = (
    "yes y true t positive pos p malignant m bad default fraud churn churned spam fail failed failure fault abnormal sick disease dead died "
    "late delayed click clicked buy bought purchase 是 有 异常 故障 阳性 恶性 坏 购买 流失"
)
_POSITIVES = frozenset(_WORDS.split())
_MAX_CLASSES = 1000


@dataclass(frozen=True)
class Goal:
    """How the target is to be predicted."""

    task: Task
    facts: Facts
    """The target's column, read as the task needs it."""
    positive: str | None
    metric: str
    floor: float
    why_task: str
    why_floor: str


def find_target(path: Path, columns: list[Facts], wanted: str) -> Facts:
    """The column that `--target` means: a name in the file, or a place from 1 (from the end where negative).

    Raises `DataError` with the names that come closest.
    """
    by_source = {column.source: column for column in columns}
    if wanted in by_source:
        return by_source[wanted]
    folded = [column for column in columns if wanted.casefold() in (column.source.casefold(), column.name)]
    if len(folded) == 1:
        return folded[0]
    if re.fullmatch(r"-?\d{1,9}", wanted) and 1 <= abs(int(wanted)) <= len(columns):
        return columns[int(wanted) - 1 if int(wanted) > 0 else int(wanted)]
    near = difflib.get_close_matches(wanted, [*by_source, *(column.name for column in columns)], n=1, cutoff=0.5)
    raise DataError(
        f"{path}: has no column {wanted!r}; "
        + (f"did you mean {near[0]!r}? " if near else "")
        + f"It has the columns {', '.join(column.source for column in columns)}. Give --target one of these, or a number from 1 to {len(columns)}"
    )


def goal(path: Path, target: Facts) -> Goal:
    """Task, positive class, metric and floor. Raises `DataError` where the column can't be predicted."""
    where = f"{path}: the target {target.source!r}"
    if target.n_distinct < 2:
        raise DataError(
            f"{where} has {'one value in every row' if target.n_distinct else 'no value at all'}, so there is nothing to predict; choose another column"
        )
    if target.type == "timestamp":
        raise DataError(f"{where} is a time, and Sluice predicts classes and numbers; choose another column")
    if target.n_distinct == 2:
        return _binary(as_text(target))
    if target.is_number and (why := _why_number(target)):
        return _regression(where, target, why)
    n_known = target.n_rows - target.n_missing
    if target.n_distinct > _MAX_CLASSES or n_known < 3 * target.n_distinct:
        raise DataError(
            f"{where} has {target.n_distinct} different texts in {n_known} rows, too few rows of each to learn from; "
            "choose a column with classes or numbers"
        )
    return _multiclass(as_text(target))


def _why_number(target: Facts) -> str:
    """Why the target is a quantity and not a class, or nothing."""
    if target.type == "number":
        return "its values are numbers with decimals"
    if target.n_distinct > 20:
        return f"it has {target.n_distinct} different whole numbers"
    counts = [target.counts[text] for text in sorted(target.counts, key=float)]
    peak = int(np.argmax(counts))
    rises, falls = np.diff(counts[: peak + 1]), np.diff(counts[peak:])
    is_bell = 0 < peak < len(counts) - 1 and bool((rises > 0).all()) and bool((falls < 0).all())
    if is_bell and counts[peak] >= 5 * max(counts[0], counts[-1]):
        return f"whole numbers from {min(target.counts, key=float)} to {max(target.counts, key=float)}, frequent in the middle and rare at both ends: a rating, not classes"
    return ""


def _binary(target: Facts) -> Goal:
    positive = _positive(target)
    other = next(text for text in target.counts if text != positive)
    share = target.counts[positive] / sum(target.counts.values())
    return Goal(
        task="binary",
        facts=target,
        positive=positive,
        metric="roc_auc",
        floor=0.6,
        why_task=f"two values; {share:.1%} of the rows are positive",
        why_floor=f"0.5 is a coin, 1 is perfect; the other class is {other!r}",
    )


def _positive(target: Facts) -> str:
    """The class that is meant by its name; 1 against 0; otherwise the rarer one."""
    first, second = target.counts
    by_name = [text for text in (first, second) if text.casefold() in _POSITIVES]
    if len(by_name) == 1:
        return by_name[0]
    values = {text: float(text) for text in (first, second) if re.fullmatch(r"[+-]?\d+(\.\d+)?", text)}
    if sorted(values.values()) in ([0.0, 1.0], [-1.0, 1.0]):
        return next(text for text, value in values.items() if value == 1.0)
    return second


def _multiclass(target: Facts) -> Goal:
    n = sum(target.counts.values())
    majority = max(target.counts.values()) / n
    if majority > 0.6:
        # Accuracy would be high for a model that always says the majority; macro F1 asks for every class.
        always = 2 * majority / (1 + majority) / target.n_distinct
        metric, floor, why = "macro_f1", always + 0.1 * (1 - always), f"always answering the largest class gives {always:.3f}"
    else:
        metric, floor, why = "accuracy", majority + 0.1 * (1 - majority), f"always answering the largest class gives {majority:.3f}"
    return Goal("multiclass", target, None, metric, round(floor, 3), f"{target.n_distinct} different values", why)


def _regression(where: str, target: Facts, why: str) -> Goal:
    if float(np.nanmax(np.abs(target.numbers))) >= LARGEST:
        raise DataError(f"{where} has numbers beyond {LARGEST:g}, whose spread can't be computed; mend them at the source")
    deviation = float(np.nanstd(target.numbers))
    if deviation == 0:
        raise DataError(f"{where} has one value in every row, so there is nothing to predict; choose another column")
    floor = float(f"{0.95 * deviation:.3g}")
    return Goal("regression", target, None, "rmse", floor, why, f"a ceiling: always answering the mean gives {deviation:.3g}")
