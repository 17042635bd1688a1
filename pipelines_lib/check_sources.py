"""The part of `sluice check` about where rows come from: what can be told without asking a database or an API, and what was not."""

import difflib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from pipelines_lib.config import Project
from pipelines_lib.connections import variable_of
from pipelines_lib.data.sources.files import read_file
from pipelines_lib.data.sources.joins import row_time
from pipelines_lib.errors import BadInput
from pipelines_lib.use_case import Join, Source, UseCase
from pipelines_lib.use_case.base import connections_in
from pipelines_lib.use_case.label import Join as TruthJoin

At = Callable[..., str]
Field = tuple[str | int, ...]


def made_of_several(use_case: UseCase) -> bool:
    """Whether the rows are not those of a file as they stand there: something is joined, or they are made of readings."""
    return bool(use_case.joins) or use_case.source.sensors is not None


def column_problems(project: Project, path: Path | None, use_case: UseCase, at: At) -> Iterator[str]:
    """Columns that the source's file `path`, or a joined one's, lacks. `path` is None where there is no file to look at yet."""
    if path is not None:
        yield from _of_the_rows(path, use_case, at)
    for index, join in enumerate(use_case.joins):
        lookup = _file_of_all(project, join.source)
        if lookup is not None:
            yield from _lacks(
                lookup, join.source, _of_a_join(index, join), at, ("joins", index, "source"), private=bool(use_case.private())
            )


def truth_problems(path: Path, join: TruthJoin, at: At, *, private: bool) -> Iterator[str]:
    """Columns that the label's key and outcome need, and the ground truth in `path` lacks."""
    on: Field = ("label", "join", "on")
    needed: list[tuple[str, Field]] = [*((name, on) for name in join.keys.values()), (join.column, ("label", "join", "column"))]
    yield from _lacks(path, join.source, needed, at, ("label", "join", "source"), private=private)


def not_checked(project: Project, name: str) -> list[str]:
    """What `check_use_case` can't know without the outside world, one sentence each; nothing of a use case whose settings are wrong."""
    try:
        use_case = project.use_case(name)
    except BadInput:
        return []
    sources = [("source", use_case.source), *((f"joins.{join.name}", join.source) for join in use_case.joins)]
    if use_case.label.join is not None:
        sources.append(("label.join", use_case.label.join.source))
    made_of = "several sources" if use_case.joins else "readings"
    return [
        *(
            f"{where}: {source.described()} was not asked{_with_what(source)}"
            for where, source in sources
            if source.kind != "path" or source.path.startswith("s3://")
        ),
        *([f"the values of the rows, since they are made of {made_of}"] if made_of_several(use_case) else []),
    ]


def _with_what(source: Source) -> str:
    """Whether a run by hand would find its connections here."""
    parts = []
    for name in dict.fromkeys(connections_in(source)):
        variable = variable_of(name)
        parts.append(
            f"; connection {name!r} is {'set' if os.environ.get(variable) else 'not set'} here ({variable}), and Airflow may have one"
        )
    return "".join(parts)


def _of_the_rows(path: Path, use_case: UseCase, at: At) -> Iterator[str]:
    """What the rows' own file must have: what sensors are made of, or the declared columns that nothing joins; and the keys."""
    source = use_case.source
    needed: list[tuple[str, Field]]
    one_of: list[tuple[str, Field]] = []
    joined = {name for join in use_case.joins for name in join.columns.values()}
    if source.sensors is not None:
        sensors = source.sensors
        own = [sensors.entity, sensors.time, *([sensors.name, sensors.value] if sensors.layout == "long" else sensors.columns)]
        needed = [(str(name), ("source", "sensors")) for name in own]
    else:
        declared: list[tuple[str, Field]] = [(column.source or name, ("columns", name)) for name, column in use_case.written.items()]
        if use_case.quality.upstream.lost_columns == "empty":
            # As ingest has it: they may be lost, but not all of them, and what is joined is there.
            declared, one_of = [], [] if any(name in joined for name, _ in declared) else declared
        told = {name for name, _ in declared}
        keys = [(name, field) for index, join in enumerate(use_case.joins) for name, field in _keys(index, join, use_case)]
        needed = [(name, field) for name, field in [*declared, *(key for key in keys if key[0] not in told)] if name not in joined]
    yield from _lacks(path, source, needed, at, ("source", "path"), private=bool(use_case.private()), one_of=one_of)


def _keys(index: int, join: Join, use_case: UseCase) -> Iterator[tuple[str, Field]]:
    """The rows' columns that records are found by."""
    yield from ((name, ("joins", index, "on")) for name in join.on)
    if join.asof is not None:
        yield row_time(join, use_case), ("joins", index, "asof", *(["row"] if join.asof.row else []))


def _of_a_join(index: int, join: Join) -> list[tuple[str, Field]]:
    times = [] if join.asof is None else [(join.asof.time, ("joins", index, "asof", "time"))]
    needed = [*((name, "on") for name in join.on.values()), *((name, "columns") for name in join.columns)]
    return [*((name, ("joins", index, part)) for name, part in needed), *times]


def _lacks(
    path: Path,
    source: Source,
    needed: Iterable[tuple[str, Field]],
    at: At,
    place: Field,
    *,
    private: bool,
    one_of: Sequence[tuple[str, Field]] = (),
) -> Iterator[str]:
    """The needed columns that the file has not; and those of `one_of`, where it has none of them.

    No name of the file is told where rows are about people: a row may stand where the header should.
    """
    try:
        there = read_file(path, source).rows.column_names
    except BadInput as error:
        yield at(str(error), *place)
        return
    lost = [] if any(name in there for name, _ in one_of) else one_of
    for name, field in [*lost, *needed]:
        if name not in there:
            near = [] if private else difflib.get_close_matches(name, there, n=1)
            yield at(
                f"{path} has no column {name!r}; {f'did you mean {near[0]!r}? ' if near else ''}Correct the name, or the source", *field
            )


def _file_of_all(project: Project, source: Source) -> Path | None:
    """The one file of a joined source that every partition is given, where it is there already."""
    if not source.path or source.path.startswith("s3://") or source.by_partition():
        return None
    path = project.folder / source.path.replace("{home}", str(project.home))
    return path if path.is_file() else None
