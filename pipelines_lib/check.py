"""`sluice check`: what is wrong with a use case, before Airflow meets it: settings, columns against the data, expectations, hooks."""

import datetime as dt
import difflib
import inspect
import os
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pyarrow as pa

from pipelines_lib.check_cluster import use_case_problems
from pipelines_lib.check_sources import column_problems, made_of_several, truth_problems
from pipelines_lib.config import Project, line_of
from pipelines_lib.connections import connection, variable_of
from pipelines_lib.data.cleaning import clean
from pipelines_lib.data.labelling import votes
from pipelines_lib.data.labelling.values import labels_of
from pipelines_lib.data.privacy import classes_for_people, names_for_people, protect_batch
from pipelines_lib.data.pseudonyms import Pseudonyms
from pipelines_lib.data.quality.judge import problems as expectation_problems
from pipelines_lib.data.quality.upstream import conformed
from pipelines_lib.data.raw import raw_rows
from pipelines_lib.data.sources.files import read_file
from pipelines_lib.data.typed import Typed, typed
from pipelines_lib.errors import BadInput, ConfigError
from pipelines_lib.use_case import SHOWN_ALONE, Source, UseCase
from pipelines_lib.use_case.remote import PLACEHOLDERS

At = Callable[..., str]
"""Makes a line of the report from a message and the setting it is about."""

_SAMPLE = 200
"""Rows that expectations are tried on."""


def check_use_case(project: Project, name: str) -> list[str]:
    """Every problem of the use case as `file:line: field: rule and remedy`; none where it is right.

    Wrong settings are reported alone, since nothing else can be judged with them. Imports `hooks.py`, and reads the source's
    file where it is there already.
    """
    try:
        use_case = project.use_case(name)
    except ConfigError as error:
        return str(error).splitlines()
    settings = project.use_cases / name / "use_case.yaml"

    def at(message: str, *field: str | int) -> str:
        return f"{settings}:{line_of(settings, *field)}: {'.'.join(map(str, field))}: {message}"

    path = _file(project, use_case.source)
    if made_of_several(use_case):
        rows, problems = None, list(column_problems(project, path, use_case, at))
    else:
        rows, problems = (None, []) if path is None else _read(path, use_case, at)
    if path is not None and rows is not None:
        problems += _values(path, use_case, rows, at)
    if use_case.label.join is not None and (truths := _file(project, use_case.label.join.source)) is not None:
        problems += truth_problems(truths, use_case.label.join, at, private=bool(use_case.private()))
    problems += [
        *_prices(project, use_case, at),
        *_signing_key(use_case, at),
        *_loss(use_case, at),
        *use_case_problems(project, use_case, at),
    ]
    return [*problems, *_expectations(use_case, rows, at), *_hooks(settings.with_name("hooks.py"), use_case, rows, at)]


def _prices(project: Project, use_case: UseCase, at: At) -> Iterator[str]:
    """What asks for prices that the profile does not have."""
    asking: list[tuple[str, ...]] = [("budget",)] if use_case.budget is not None else []
    asking += [("monitoring", "max_cost")] if use_case.monitoring.max_cost is not None else []
    asking += [("tuning", "cost")] if use_case.tuning is not None and use_case.tuning.cost is not None else []
    if asking and (profile := project.profile()).cloud is None:
        for field in asking:
            yield at(f"profile {profile.name} names no cloud whose prices count; set its `cloud` and `prices`, or remove this", *field)


def _loss(use_case: UseCase, at: At) -> Iterator[str]:
    """A metric of whose loss no partition can tell."""
    if use_case.monitoring.loss is not None and use_case.gate.metric in SHOWN_ALONE:
        yield at(
            f"{use_case.gate.metric} grows by chance where rows are few, so monitoring shows it, and takes it for no loss: the inputs decide alone. "
            "Say so with `monitoring: {loss: null}`, or judge by another metric and bound this one by gate.calibration",
            *("gate", "metric"),
        )


def _signing_key(use_case: UseCase, at: At) -> Iterator[str]:
    """A key for devices that is none, where this environment has it: connections of Airflow are not seen from here, and the first stage looks."""
    edge = use_case.deployment.edge
    if edge is None or variable_of(edge.connection) not in os.environ:
        return
    from pipelines_lib.edge.release import private_key  # noqa: PLC0415 - slow to import, and most use cases name no devices

    try:
        private_key(connection(edge.connection))
    except ConfigError as error:
        yield at(str(error), "deployment", "edge")


def _read(path: Path, use_case: UseCase, at: At) -> tuple[Typed | None, list[str]]:
    """(rows of the file as the use case declares them, problems); no rows where there are problems, or none in the file."""
    if not path.is_file():
        return None, [at(f"there is no file {path}; put it there, or correct the path", "source", "path")]
    try:
        file = read_file(path, use_case.source, dt.datetime.combine(use_case.start, dt.time()))
    except BadInput as error:
        return None, [at(str(error), "source", "path")]
    problems = list(_missing_columns(path, use_case, file.rows.column_names, at))
    share, allowed = len(file.unreadable) / max(1, len(file.unreadable) + file.rows.num_rows), use_case.quality.max_quarantined
    if share > allowed:
        problems.append(
            at(
                f"{share:.1%} of the records of {path} can't be read as rows ({file.unreadable[0].why}), and quality.max_quarantined allows "
                f"{allowed:.1%}; mend the file, or correct how `source` says it is written",
                *("source", "path"),
            )
        )
    if problems or file.rows.num_rows == 0:
        return None, problems
    # Judged as it will be written: the expectations meet bins and hashes, and the key does not matter to them.
    batch = protect_batch(file, use_case, Pseudonyms.under("check", use_case.name))
    batch = replace(batch, rows=conformed(batch.rows, use_case))
    return typed(raw_rows(batch, "check"), use_case), []


def _file(project: Project, source: Source) -> Path | None:
    """The replayed file; otherwise the newest file of any partition; None where there is none yet, `land` makes it, or there is no file."""
    if not source.path or source.path.startswith("s3://"):
        return None
    path = source.path.replace("{home}", str(project.home))
    if source.replay is not None:
        return project.folder / path
    if source.land:
        return None
    pattern = path.replace("[", "[[]")
    for name in PLACEHOLDERS:
        pattern = pattern.replace(f"{{{name}}}", "*")
    anchor = Path(pattern).anchor
    matches = (Path(anchor) if anchor else project.folder).glob(pattern.removeprefix(anchor))
    return max((path for path in matches if path.is_file()), default=None)


def _missing_columns(path: Path, use_case: UseCase, there: list[str], at: At) -> Iterator[str]:
    found = [column.source or name for name, column in use_case.written.items() if (column.source or name) in there]
    for name, column in use_case.written.items():
        wanted = column.source or name
        if wanted in there or (found and use_case.quality.upstream.lost_columns == "empty"):
            continue
        near = [] if use_case.private() else difflib.get_close_matches(wanted, there, n=1)
        field = ("columns", name, "source") if column.source else ("columns", name)
        yield at(
            f"{path} has no column {wanted!r}; {f'did you mean {near[0]!r}? ' if near else ''}it has: {names_for_people(there, use_case)}. "
            "Put the file's name under `source:`, or remove the column",
            *field,
        )


def _values(path: Path, use_case: UseCase, rows: Typed, at: At) -> Iterator[str]:
    """Columns whose values are mostly not what is declared, and classes that are not the task's."""
    allowed = use_case.quality.max_quarantined
    rejected = Counter(reason for reasons in rows.reasons.values() for reason in reasons)
    for name, column in use_case.columns.items():
        for kind, remedy, key in (
            (f"type: {name} is", f"correct `type: {column.type}`, or mend the source", "type"),
            (f"missing: {name}", "set `nullable: true`, or mend the source", "nullable"),
            (f"label: {name} is", "list the other values under label.map, or mend the source", "role"),
        ):
            share = sum(n for reason, n in rejected.items() if reason == kind or reason.startswith(f"{kind} ")) / rows.rows.num_rows
            if share > allowed:
                yield at(
                    f"{share:.1%} of the rows of {path} would be quarantined ({kind.split(':')[0]}), and quality.max_quarantined allows {allowed:.1%}; {remedy}",
                    *("columns", name, key),
                )
    if use_case.task == "binary" and use_case.source.replay is not None and not rejected and use_case.label.column is not None:
        values = clean(rows.rows, use_case.clean)[0][use_case.label.column]
        yield from _two_classes(path, use_case, labels_of(values.combine_chunks(), use_case).drop_null(), at)


def _two_classes(path: Path, use_case: UseCase, labels: pa.Array, at: At) -> Iterator[str]:
    """A finished file shows both classes of a binary task, and no other."""
    classes = sorted(labels.unique().to_pylist())
    if len(classes) != 2 or use_case.label.positive not in classes:
        yield at(
            f"a binary task has two classes, one of them `positive` ({use_case.label.positive!r}), and {path} has {classes_for_people(classes, use_case)}; "
            "name one of these, group them under label.map, or set `task: multiclass`",
            *("label", "positive"),
        )


def _expectations(use_case: UseCase, rows: Typed | None, at: At) -> Iterator[str]:
    sample = None if rows is None else rows.rows.slice(0, _SAMPLE)
    for index, message in expectation_problems(use_case.quality, sample, use_case.private()):
        [name] = use_case.quality.expectations[index]
        yield at(message, "quality", "expectations", index, name)


def _hooks(path: Path, use_case: UseCase, rows: Typed | None, at: At) -> Iterator[str]:
    if not path.exists():
        if use_case.label.rules is not None:
            yield at(f"there is no {path}; write it, with the functions that this names", "label", "rules", "functions")
        if use_case.training.model.type == "hooks":
            yield at(f"there is no {path}; write it, with a function model(shape, settings)", "training", "model", "type")
        return
    try:
        module = _imported(path, use_case.name)
    except Exception as error:  # noqa: BLE001 - whatever a user's module raises is a finding, and is reported
        place = next((frame for frame in reversed(traceback.extract_tb(error.__traceback__)) if frame.filename == str(path)), None)
        line = place.lineno if place else getattr(error, "lineno", None) or 1
        yield f"{path}:{line}: hooks: can't be imported: {type(error).__name__}: {error}; mend it"
        return
    if use_case.source.land:
        parameters = "(partition_key, path, params)"
        yield from _called(
            path, module, at, name="land", arguments=("2026-01-01", path, {}), parameters=parameters, field=("source", "land")
        )
    if (model := use_case.training.model).type == "hooks":
        parameters, field = "(shape, settings)", ("training", "model", "type")
        yield from _called(path, module, at, name="model", arguments=(None, model), parameters=parameters, field=field)
    if use_case.label.rules is not None:
        yield from _labelling_functions(path, module, use_case, rows, at)


def _labelling_functions(path: Path, module: ModuleType, use_case: UseCase, rows: Typed | None, at: At) -> Iterator[str]:
    """Each is there, takes a table, and votes as it should on some rows of the source, where there are any."""
    assert use_case.label.rules is not None
    sample = None if rows is None else clean(rows.rows, use_case.clean)[0].slice(0, _SAMPLE)
    for index, name in enumerate(use_case.label.rules.functions):
        function = getattr(module, name, None)
        if not callable(function):
            yield at(f"{path} has no function {name}(rows); write it, or take the name out", "label", "rules", "functions", index)
            continue
        try:
            inspect.signature(function).bind(sample)
        except TypeError as error:
            line = inspect.unwrap(function).__code__.co_firstlineno
            yield f"{path}:{line}: {name}: must take (rows), a pyarrow Table ({error}); change its parameters"
            continue
        if sample is not None:
            try:
                votes.votes_of(name, function, sample, use_case.label.rules)
            except ConfigError as error:
                yield str(error)


def _called(
    path: Path, module: ModuleType, at: At, *, name: str, arguments: tuple[object, ...], parameters: str, field: tuple[str, ...]
) -> Iterator[str]:
    """A function that a setting has called is there, and takes what it is given."""
    function = getattr(module, name, None)
    if not callable(function):
        yield at(f"{path} has no function {name}{parameters}; write it, or take the setting out", *field)
        return
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        line = inspect.unwrap(function).__code__.co_firstlineno
        yield f"{path}:{line}: {name}: must take {parameters} ({error}); change its parameters"


def _imported(path: Path, name: str) -> ModuleType:
    spec = spec_from_file_location(f"sluice_hooks_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module
