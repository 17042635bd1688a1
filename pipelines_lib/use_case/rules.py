"""The rules between two parts of a use case. A rule within one part stands with that part, in its module."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from croniter import croniter

from pipelines_lib.use_case.base import duration_text
from pipelines_lib.use_case.cleaning import undone
from pipelines_lib.use_case.tuning import tuning_problems

if TYPE_CHECKING:
    from pipelines_lib.use_case.case import UseCase
    from pipelines_lib.use_case.cleaning import CleaningStep


class FieldErrors(ValueError):
    """Several cross-field problems, each at its own field."""

    def __init__(self, problems: list[tuple[tuple[str | int, ...], str]]) -> None:
        super().__init__("; ".join(message for _, message in problems))
        self.problems = problems


def disagreements(use_case: "UseCase") -> Iterator[tuple[tuple[str | int, ...], str]]:  # noqa: PLR0912 - a list of rules
    """Every rule between two parts of a use case, in one place: (field, message)."""
    columns = use_case.columns
    known = ", ".join(columns)

    def unknown(name: str) -> str:
        return f"column {name!r} is not declared; declared are: {known}. Fix the name, or declare it under `columns`"

    if use_case.end is not None and use_case.end < use_case.start:
        yield ("end",), f"the last partition ({use_case.end}) lies before the first ({use_case.start}); swap them"
    once, example = ("one minute of every hour", "5 * * * *") if use_case.partition == "hour" else ("one minute of every day", "0 2 * * *")
    for pipeline, cron in (("data", use_case.schedule.data), ("monitoring", use_case.schedule.monitoring)):
        if cron is not None and not ticks_once(cron, use_case.partition):
            message = (
                f"{cron!r} does not tick exactly once every {use_case.partition}, which skips partitions or takes open ones; "
                f"write {once}, such as {example!r}, or change `partition`"
            )
            yield ("schedule", pipeline), message
    yield from _sources(use_case)
    spellings: dict[str, str] = {}
    for name in columns:
        if (other := spellings.setdefault(name.casefold(), name)) != name:
            yield (
                ("columns", name),
                f"columns {other!r} and {name!r} differ in case alone, which tables can't tell apart; rename one of them",
            )
    yield from _label(use_case, unknown)
    if not use_case.columns_with("feature"):
        yield ("columns",), "no column has `role: feature`, so there is nothing to learn from"
    for name in use_case.features("timestamp"):
        yield (
            ("columns", name, "role"),
            f"column {name!r} is a timestamp, and a model can't learn from one as it is; set `role: time` or `role: other`",
        )
    for role in ("entity", "time", "treatment"):
        if len(named := use_case.columns_with(role)) > 1:
            yield ("columns", named[1], "role"), f"columns {named} are all `role: {role}`; there can be one. Give the others `role: other`"
    yield from _series(use_case)
    yield from _treatment(use_case)
    yield from _towers(use_case)
    yield from _recommending(use_case, unknown)
    yield from _splitting(use_case)
    if use_case.gate.metric not in use_case.metrics:
        yield (
            ("gate", "metric"),
            f"metric {use_case.gate.metric!r} does not fit a {use_case.task} task; use one of {', '.join(use_case.metrics)}",
        )
    yield from _gate(use_case, unknown)
    if use_case.deployment.edge is not None and (private := [name for name in use_case.private() if name in use_case.features()]):
        yield (
            ("deployment", "edge"),
            f"features {', '.join(private)} are protected with a key that no device may hold; leave them out of the features, or remove `edge`",
        )
    if use_case.answers == "batch" and not use_case.deployment.batch:
        yield ("monitoring", "answers"), "there is no table of scores to look at; set `deployment.batch: true`, or write `answers: service`"
    for index, step in enumerate(use_case.clean):
        for name in step.columns():
            if name not in columns:
                yield ("clean", index), unknown(name)
    yield from _cleaning(use_case)
    for index, item in enumerate(use_case.quality.expectations):
        [(expectation, arguments)] = item.items()
        for name in _columns_named_in(arguments):
            if name not in columns:
                yield ("quality", "expectations", index, expectation), unknown(name)
    yield from _protected_away(use_case)
    yield from _strategy(use_case)
    yield from tuning_problems(use_case)


def _gate(use_case: "UseCase", unknown: Callable[[str], str]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What the gates look at is there in the labelled rows, and fits the task."""
    gate = use_case.gate
    asked = {"slices": [part.column for part in gate.slices], "fairness": [part.column for part in gate.fairness]}
    for setting, names in asked.items():
        for index, name in enumerate(names):
            where = ("gate", setting, index, "column")
            if name not in use_case.columns:
                yield where, unknown(name)
            elif name not in use_case.written or use_case.columns[name].role == "label":
                yield where, f"column {name!r} is not among the labelled rows' (it is dropped, or the label); name another"
            elif use_case.columns[name].type == "timestamp":
                yield where, f"column {name!r} is a timestamp, which makes no groups; name a column of another type"
            elif names.index(name) != index:
                yield where, f"column {name!r} stands here twice; say all that is asked of it in one place"
    if gate.fairness and use_case.task != "binary":
        yield ("gate", "fairness"), f"fairness is about a yes or no, and this task is {use_case.task}; remove it"
    if gate.calibration is not None and "calibration_error" not in use_case.metrics:
        yield ("gate", "calibration"), f"a {use_case.task} task answers with no chance of one class; remove `calibration`"


def _series(use_case: "UseCase") -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Windows of sensors: of features that are numbers, all of one length, no column in two places."""
    where, windows = ("training", "model", "series"), use_case.series
    numbers = use_case.features("integer", "number", "boolean")
    for sensor, given in use_case.training.model.series.items():
        if isinstance(given, str) and "{step}" not in given:
            yield (*where, sensor), f"{given!r} has no {{step}} in it; write it like `{sensor}_{{step}}`, or list the columns"
        elif len(windows[sensor]) < 2:
            yield (
                (*where, sensor),
                f"a window has two steps or more, and this one has {len(windows[sensor])}; name columns that are declared, oldest first",
            )
        for name in (name for name in windows[sensor] if name not in numbers):
            yield (*where, sensor), f"{name!r} is no feature of type integer, number or boolean; declare it so, or take it out"
    if len({len(window) for window in windows.values()}) > 1:
        lengths = ", ".join(f"{sensor} {len(window)}" for sensor, window in windows.items())
        yield where, f"the windows differ in length ({lengths}); give every sensor as many steps"
    named = [name for window in windows.values() for name in window]
    if twice := sorted({name for name in named if named.count(name) > 1}):
        yield where, f"column {twice[0]!r} stands in two places; give each step a column of its own"


def _towers(use_case: "UseCase") -> Iterator[tuple[tuple[str | int, ...], str]]:
    """A ranking's towers stand on features, none on the same one, and answer how likely one thing is."""
    model = use_case.training.model
    if model.type == "ranking" and use_case.task != "binary":
        yield ("task",), f"a ranking is by the chance of one class, and this task is {use_case.task}; make it binary"
    for tower, columns in (("user", model.user), ("item", model.item)):
        for index, name in enumerate(columns):
            if name not in use_case.features():
                message = f"column {name!r} is no feature; features are: {', '.join(use_case.features())}. Correct the name"
                yield ("training", "model", tower, index), message
    if both := sorted(set(model.user) & set(model.item)):
        yield ("training", "model", "item"), f"column {both[0]!r} is of the user too; leave it in one of the two"


def _recommending(use_case: "UseCase", unknown: Callable[[str], str]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What is recommended is an item that has a name and features, to a user who has one, in the order of one score."""
    asked, where = use_case.deployment.recommend, ("deployment", "recommend")
    if asked is None:
        return
    if use_case.task not in ("binary", "regression"):
        yield where, f"items are recommended in the order of one score, and this task is {use_case.task}; make it binary or regression"
    if use_case.entity is None:
        yield where, "nobody is there to recommend to: no column has `role: entity`; give it to the column that names the user"
    column = use_case.columns.get(asked.item)
    if column is None:
        yield (*where, "item"), unknown(asked.item)
    elif column.role not in ("feature", "key", "other") or asked.item not in use_case.written:
        yield (*where, "item"), f"column {asked.item!r} can't name an item (it is dropped, or of another role); name one with `role: other`"
    elif column.type not in ("string", "integer"):
        yield (
            (*where, "item"),
            f"column {asked.item!r} is of type {column.type}, and an item's name is a string or an integer; name another",
        )
    if not use_case.item_columns:
        yield (*where, "columns"), "nothing says what an item is; name its features, or set `training.model.item`"
    for name in use_case.item_columns:
        if name not in use_case.features():
            yield (*where, "columns"), f"column {name!r} is no feature; features are: {', '.join(use_case.features())}. Correct the name"
    private = set(use_case.private())
    for name in sorted(private.intersection([asked.item, *use_case.item_columns])):
        yield where, f"column {name!r} is about a person, and the items go into every package; name another, or correct its `privacy`"


def _treatment(use_case: "UseCase") -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Uplift needs a treatment, and the other way round; its outcome is a class or a number."""
    model, column = use_case.training.model, use_case.treatment
    if column is None:
        if model.control is not None:
            yield (
                ("columns",),
                "`control` is an arm of a treatment, and no column has `role: treatment`; give it to the column that names the arms",
            )
        return
    if model.control is None:
        message = (
            f"column {column!r} is a treatment, whose effect is asked for with `type: uplift` and `control`; set both, or `role: feature`"
        )
        yield ("training", "model"), message
    if use_case.columns[column].type != "string":
        yield (
            ("columns", column, "type"),
            f"a treatment is the name of an arm, and this is a {use_case.columns[column].type}; set `type: string`",
        )
    if use_case.task not in ("binary", "regression"):
        message = f"the effect of a treatment is on one number or one class's chance, and this task is {use_case.task}; make it binary or regression"
        yield ("task",), message


def _strategy(use_case: "UseCase") -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Settings that no strategy of the training, or of its tuning, makes use of. Defaults that were written out are left alone."""
    training, space = use_case.training, {} if use_case.tuning is None else use_case.tuning.space
    strategies = space["strategy"].values if "strategy" in space and space["strategy"].values else [training.strategy]
    told = " or ".join(str(strategy) for strategy in strategies)
    for name, owner in (("sync_steps", "local_sgd"), ("staleness", "async")):
        message = f"`{name}` is a setting of `strategy: {owner}`, and this training is {told}; remove it, or change the strategy"
        if owner not in strategies:
            if getattr(training, name) != type(training).model_fields[name].default:
                yield ("training", name), message
            if name in space:
                yield ("tuning", "space", name), message
    if isinstance(training.shares, list) and strategies == ["async"]:
        message = (
            "with `strategy: async` whoever is faster fetches more, so there are no shares to give; remove `shares`, or change the strategy"
        )
        yield ("training", "shares"), message


def _splitting(use_case: "UseCase") -> Iterator[tuple[tuple[str | int, ...], str]]:
    split, columns = use_case.split, use_case.columns
    if split.by == "entity" and use_case.entity is None:
        yield ("split", "by"), "a split by entity needs a column with `role: entity`"
    if split.group is not None and split.group not in columns:
        yield ("split", "group"), f"column {split.group!r} is not declared; declared are: {', '.join(columns)}. Fix the name, or declare it"
    elif split.group is not None and columns[split.group].role == "label":
        yield ("split", "group"), f"column {split.group!r} makes the label, so each side would lack classes; name another column"
    if split.by == "row" and (shares := _shared_labels(use_case)):
        message = f"{shares}, so a row that trains would know the label of one that judges; set `by: entity`, `by: group` or `by: time`"
        yield ("split", "by"), message
    if split.stratify and use_case.task == "regression":
        yield ("split", "stratify"), "a regression has no classes to share out; remove `stratify`"
    if split.validation + split.test >= 0.8:
        yield ("split",), "validation and test together take 80 % of the rows or more, which leaves too few to train on; lower them"
    if split.gap is not None and split.gap < use_case.horizon:
        horizon = use_case.horizon
        message = f"labels are made of the {horizon} partitions after a row, so with a gap of {split.gap} the last training rows know days that judge"
        yield ("split", "gap"), f"{message}; remove `gap`, or raise it to {horizon}"


def _shared_labels(use_case: "UseCase") -> str:
    """Why rows of one entity have their labels in common, or nothing."""
    if use_case.label.event_within is not None:
        return "an event labels every row of its entity within the time before it"
    if use_case.label.join is not None and list(use_case.label.join.keys) == [use_case.entity]:
        return f"one truth labels every row of its {use_case.entity!r}"
    return ""


_TYPES_OF_STEPS: dict[str, tuple[str, ...]] = {
    "clip": ("integer", "number"),
    "outliers": ("integer", "number"),
    "normalise": ("string", "text"),
    "impute": ("integer", "number", "boolean", "string"),
}
"""The types of columns that a step can work on; the others take any."""


def _cleaning(use_case: "UseCase") -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Steps that fit their columns, and each other."""
    row_steps = [index for index, step in enumerate(use_case.clean) if not step.fitted]
    gone: dict[str, int] = {}
    for index, step in enumerate(use_case.clean):
        where = ("clean", index)
        if step.fitted and row_steps and index < row_steps[-1]:
            last = f"clean.{row_steps[-1]} ({use_case.clean[row_steps[-1]].kind})"
            message = f"{step.kind} is fitted on the training rows, which the row steps make, so it can't come before {last}"
            yield where, f"{message}; move it to the end"
        for name in (name for name in step.columns() if name in gone):
            yield where, f"column {name!r} was dropped by clean.{gone[name]}; move that step behind this one"
        gone |= dict.fromkeys(step.drop_columns or [], index)
        for name in (name for name in step.columns() if name in use_case.columns):
            yield from ((where, message) for message in _does_not_fit(use_case, step, name))
        yield from ((where, message) for message in _within_step(use_case, step))
    flagged = [name for step in use_case.clean if step.outliers and step.outliers.action == "flag" for name in step.outliers.columns]
    for name in sorted({name for name in flagged if flagged.count(name) > 1}):
        yield ("clean",), f"outliers of {name!r} are flagged twice, and there is one flag a column; remove one of the two"
    for name in use_case.features():
        for made in undone(use_case.clean, name, use_case.columns[name].type == "integer"):
            again = f"make {'a missing value' if made is None else repr(made)} in column {name!r} and change it when it comes again"
            remedy = "put to_missing before fill and clip, with none of the values that these make, and normalise before all three"
            yield ("clean",), f"the steps {again}, so a served row would not be cleaned as the training rows were; {remedy}"


def _does_not_fit(use_case: "UseCase", step: "CleaningStep", name: str) -> Iterator[str]:
    """Why a step can't be done on one of its columns."""
    column = use_case.columns[name]
    event = use_case.label.event_within
    needed_for = {use_case.split.group: "split.group", event.column if event else None: "label.event_within"}
    if column.type not in _TYPES_OF_STEPS.get(step.kind, (column.type,)):
        yield f"{step.kind} works on {' or '.join(_TYPES_OF_STEPS[step.kind])} columns, and {name!r} is a {column.type}; remove it from the step"
    if step.normalise and name in use_case.hashed():
        yield f"column {name!r} holds hashes, which differ where spellings do; make them alike at the source, or remove the step"
    if step.fitted and column.role == "treatment":
        yield f"{name!r} is a treatment, and what stands in for a missing one would be a treatment that nobody got; remove it from the step"
    elif step.fitted and column.role != "feature":
        yield f"{step.kind} is part of the feature transform, and {name!r} is no feature; remove it, or set `role: feature`"
    if step.drop_columns and (column.role != "other" or name in needed_for):
        reason = needed_for.get(name, f"role: {column.role}")
        yield f"column {name!r} is needed after cleaning ({reason}), so it can't be dropped; remove it from the step"


def _within_step(use_case: "UseCase", step: "CleaningStep") -> Iterator[str]:
    columns = use_case.columns
    for name, statistic in (step.impute or {}).items():
        if statistic != "mode" and name in columns and columns[name].type not in ("integer", "number"):
            yield f"{name!r} is a {columns[name].type}, which has no {statistic}; write `{name}: mode`"
    if step.outliers is not None and step.outliers.action == "flag":
        for name in (f"{name}_outlier" for name in step.outliers.columns if f"{name}_outlier" in columns):
            yield f"the flag would be called {name!r}, as a column is already; rename the column, and put the source's name under `source:`"
    forward = step.fill_forward
    if forward is not None and forward.order in columns and columns[forward.order].type not in ("timestamp", "integer", "number"):
        yield f"{forward.order!r} is a {columns[forward.order].type}, which has no order in time; name a timestamp or a number, or leave `order` out"
    if forward is not None and (both := {forward.by, forward.order} & set(forward.columns)):
        yield f"{sorted(both, key=str)} can't both be filled and say whose row it is, or when; remove it from `columns`"


_HOLD_FOR_HASHES = frozenset(
    {
        "expect_column_pair_values_to_be_equal",
        "expect_column_proportion_of_non_null_values_to_be_between",
        "expect_column_proportion_of_unique_values_to_be_between",
        "expect_column_to_exist",
        "expect_column_unique_value_count_to_be_between",
        "expect_column_values_to_be_null",
        "expect_column_values_to_be_unique",
        "expect_column_values_to_not_be_null",
        "expect_compound_columns_to_be_unique",
        "expect_select_column_values_to_be_unique_within_record",
        "expect_table_columns_to_match_ordered_list",
        "expect_table_columns_to_match_set",
    }
)
"""Expectations that say the same of a hash as of the value it stands for."""


def _protected_away(use_case: "UseCase") -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What asks for a value that is dropped or hashed before anything is written."""
    by_source: dict[str, str] = {}
    for name, column in use_case.columns.items():
        first = by_source.setdefault((column.source or name).casefold(), name)
        if (use_case.columns[first].privacy, use_case.columns[first].protection) != (column.privacy, column.protection):
            message = (
                f"columns {first!r} and {name!r} are made of one column of the source, which is kept once and protected in one way; "
                "give both the same `privacy` and `protect`, or remove one"
            )
            yield ("columns", name), message
    dropped, hashed = set(use_case.columns) - set(use_case.written), set(use_case.hashed())
    for index, step in enumerate(use_case.clean):
        for name in dropped.intersection(step.columns()):
            yield (
                ("clean", index),
                f"column {name!r} is dropped before anything is written, so there is nothing to clean; remove it from the step",
            )
    for index, item in enumerate(use_case.quality.expectations):
        [(expectation, arguments)] = item.items()
        where = ("quality", "expectations", index, expectation)
        for name in _columns_named_in(arguments):
            if name in dropped:
                yield where, f"column {name!r} is dropped before anything is written, so it can't be judged; remove the expectation"
            if name in hashed and expectation not in _HOLD_FOR_HASHES:
                yield (
                    where,
                    (
                        f"column {name!r} holds hashes, of which {expectation} says nothing; "
                        "remove the expectation, or judge what a hash keeps: that it is unique, there, or the same as another column's"
                    ),
                )


def _sources(use_case: "UseCase") -> Iterator[tuple[tuple[str | int, ...], str]]:
    if not use_case.source.by_partition():
        yield ("source",), _NOT_BY_PARTITION[use_case.source.kind]
    elif lacks := use_case.source.lacks(use_case.partition):
        yield (
            ("source", "path"),
            f"several partitions would be given the same files, since the path names no {' and no '.join(lacks)}; add that, or write {{partition}}",
        )
    names = [join.name for join in use_case.joins]
    for index, join in enumerate(use_case.joins):
        if join.name in names[:index]:
            yield ("joins", index, "name"), f"two joins are called {join.name!r}; give each a name of its own"
        if join.asof is not None and join.asof.row is None and not use_case.columns_with("time"):
            yield (
                ("joins", index, "asof"),
                "no column has `role: time`, so a row has no time to compare with; set `row`, or give one the role",
            )
    if (sensors := use_case.source.sensors) is not None:
        made = [*sensors.made, *(name for join in use_case.joins for name in join.columns.values())]
        for name, column in use_case.columns.items():
            if (wanted := column.source or name) not in made:
                yield (
                    ("columns", name),
                    f"the rows made of readings have no column {wanted!r}; they have {', '.join(made)}. List it under source.sensors.columns, or join it",
                )
    placed = [(("source",), use_case.source), *((("joins", index, "source"), join.source) for index, join in enumerate(use_case.joins))]
    for place, source in placed:
        if source.sensors is not None and use_case.partition_step % source.sensors.every:
            yield (
                (*place, "sensors", "every"),
                f"a {use_case.partition} is no whole number of steps of {duration_text(source.sensors.every)}, so steps would not meet; choose one that divides it",
            )


_NOT_BY_PARTITION = {
    "path": "path must contain {partition} (one file a partition), or `replay` must say how one file is spread over partitions",
    "http": "neither url nor params hold {partition}, {start} or another placeholder, so every partition would have the same rows; ask for the partition's",
    "sql": "the query names none of :partition, :start and :end, so every partition would have the same rows; select the partition's with them",
}
"""What is wrong with a source that has the same records for every partition."""


def _label(use_case: "UseCase", unknown: Callable[[str], str]) -> Iterator[tuple[tuple[str | int, ...], str]]:  # noqa: PLR0912 - a list of rules
    """What the label needs of the task and of the columns."""
    columns, label = use_case.columns, use_case.label
    regression = use_case.task == "regression"
    if label.column is not None and label.column not in columns:
        yield ("label", "column"), unknown(label.column)
    elif label.column is not None and columns[label.column].role != "label":
        yield (
            ("columns", label.column, "role"),
            f"column {label.column!r} makes the label, so as a {columns[label.column].role} it would leak it; set `role: label`",
        )
    if use_case.task == "binary" and label.positive is None:
        yield ("label",), "a binary task needs `positive`: the class whose probability is predicted"
    if use_case.task != "binary" and label.positive is not None:
        yield ("label", "positive"), f"`positive` is for binary tasks, and this one is {use_case.task}; remove it"
    for way in ("map", "threshold", "event_within", "rules"):
        if regression and getattr(label, way) is not None:
            yield ("label", way), f"a regression predicts a number, so there are no classes to make; remove `{way}`"
    if label.positive is not None and label.classes is not None and label.positive not in label.classes:
        yield ("label", "positive"), f"class {label.positive!r} is not among the classes of the label: {sorted(label.classes)}"
    if use_case.task == "multilabel" or label.separator is not None:
        yield from _several_classes(use_case)
    numeric = None if label.column not in columns else columns[label.column].type in ("integer", "number")
    if label.column in columns and not numeric and (regression or label.threshold is not None):
        why = "a regression predicts a number" if regression else "a threshold splits numbers"
        yield ("columns", label.column, "type"), f"{why}, and column {label.column!r} is a {columns[label.column].type}; set `type: number`"
    if (event := label.event_within) is not None:
        if event.column not in columns:
            yield ("label", "event_within", "column"), unknown(event.column)
        for role in ("entity", "time"):
            if not use_case.columns_with(role):
                yield (
                    ("label", "event_within"),
                    f"an event follows for the same entity, later in time, and no column has `role: {role}`; give one that role",
                )
        for name in use_case.columns_with("time"):
            if columns[name].type != "timestamp":
                yield (
                    ("columns", name, "type"),
                    f"`event_within` counts time, and column {name!r} is a {columns[name].type}; set `type: timestamp`",
                )
    if (join := label.join) is not None:
        for name in join.keys:
            if name not in columns:
                yield ("label", "join", "on"), unknown(name)
            elif columns[name].type == "text" or columns[name].role == "label":
                yield ("label", "join", "on"), f"column {name!r} can't identify a row: it is the label, or text; name a key column"
        if not join.source.by_partition():
            yield ("label", "join", "source"), _NOT_BY_PARTITION[join.source.kind]
        if join.missing is not None and regression:
            yield ("label", "join", "missing"), "`missing` names a class, and a regression predicts a number; remove it"
    if use_case.split.stratify and (label.join is not None or label.review is not None):
        message = (
            "a row's side follows from the labels before it, and late truth or people's answers change labels, so rows that a model has learned "
            "from would come to judge it; remove `stratify`"
        )
        yield ("split", "stratify"), message
    if label.review is not None and label.classes is None and label.column in columns and columns[label.column].privacy is not None:
        message = f"column {label.column!r} is about a person, so no task shows what stands there; list the classes that people choose from in `map`"
        yield ("label", "review"), message
    if label.review is not None and regression:
        yield ("label", "review"), "people are asked for a class, and a regression predicts a number; remove `review`"


def _several_classes(use_case: "UseCase") -> Iterator[tuple[tuple[str | int, ...], str]]:
    """A value with several classes is text of a column or of ground truth, taken apart and nothing else."""
    label = use_case.label
    if use_case.task != "multilabel":
        yield (
            ("label", "separator"),
            f"`separator` is for multilabel tasks, and this one is {use_case.task}; remove it, or set `task: multilabel`",
        )
        return
    if label.separator is None:
        yield ("label",), "a multilabel task needs `separator`: what stands between the classes of one value, such as ';'"
    for name in ("map", "threshold", "event_within", "rules", "review"):
        if getattr(label, name) is not None:
            yield ("label", name), f"`{name}` gives a row one class, and a multilabel row has any number; remove it"
    if label.join is not None and label.join.missing:
        yield (
            ("label", "join", "missing"),
            "a row for which no truth has come may count as one without a class; write '', or remove `missing`",
        )
    if label.column in use_case.columns and use_case.columns[label.column].type not in ("string", "text"):
        yield (
            ("columns", label.column, "type"),
            f"several classes are text, and this is a {use_case.columns[label.column].type}; set `type: string`",
        )
    if use_case.split.stratify:
        yield ("split", "stratify"), "rows with several classes can't be shared out by class; remove `stratify`"


@cache
def ticks_once(cron: str, partition: str) -> bool:
    """Whether a valid cron expression of five fields ticks exactly once in each hour, or on each day.

    Read off the fields, since no number of ticks tried would show that a month far away is left out.
    """
    fields, _ = croniter.expand(cron)
    every = [field == ["*"] or len(field) == size for field, size in zip(fields, (60, 24, 31, 12, 7), strict=True)]
    once = [field != ["*"] and len(field) == 1 for field in fields]
    return all(every[2:]) and once[0] and (every[1] if partition == "hour" else once[1])


def _columns_named_in(arguments: dict[str, Any]) -> Iterator[str]:
    for key in ("column", "column_A", "column_B"):
        if isinstance(value := arguments.get(key), str):
            yield value
    for key in ("column_list", "column_set"):
        if isinstance(value := arguments.get(key), list):
            yield from (v for v in value if isinstance(v, str))
