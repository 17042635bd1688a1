"""`sluice new`: from a data file to a use case's folder with settings that a person can read, run and change."""

import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from pipelines_lib.config import Project, load_use_case
from pipelines_lib.errors import BadInput
from pipelines_lib.scaffold.plan import plan
from pipelines_lib.scaffold.readme import readme
from pipelines_lib.scaffold.settings_text import settings_text
from pipelines_lib.scaffold.survey import survey
from pipelines_lib.use_case.remote import PLACEHOLDERS


def scaffold(project: Project, name: str, data: Path, target: str, say: Callable[[str], None] = lambda _: None) -> Path:
    """Write `<use cases>/<name>` with use_case.yaml and README.md, and return it. Same file, same text.

    `target` is a column's name, or its place from 1 (from the end where negative). What a person should look at goes to `say`.
    Raises `BadInput` where the name is taken or is none, the file can't be read, or the target can't be predicted.
    """
    folder = _free_folder(project, name)
    path = _stored_path(project, data)
    planned = plan(data, survey(data, target), target)
    title = name.replace("_", " ").capitalize()
    _write_whole(
        folder,
        {
            "use_case.yaml": settings_text(planned, name=name, title=title, data=path),
            "README.md": readme(planned, name=name, title=title, data=path),
        },
    )
    for note in planned.notes:
        say(f"note: {note}")
    return folder


def _free_folder(project: Project, name: str) -> Path:
    if not re.fullmatch(r"[a-z]([a-z0-9_]{0,38}[a-z0-9])?", name):
        raise BadInput(
            f"use case {name!r}: a name is up to 40 lower-case letters, digits and underscores, starts with a letter and does not end with an underscore; "
            f"try {_valid_name(name)!r}"
        )
    folder = project.use_cases / name
    if folder.exists():
        raise BadInput(f"{folder} exists already and is left as it is; choose another name, or remove the folder first")
    return folder


def _valid_name(name: str) -> str:
    text = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return (text if re.match(r"[a-z]", text) else f"use_case_{text}")[:40].rstrip("_")


def _stored_path(project: Project, data: Path) -> str:
    """The file as seen from the project's folder where it lies in it or beside it; otherwise its full path."""
    file, folder = data.resolve(), project.folder.resolve()
    if taken := [sign for sign in (*(f"{{{name}}}" for name in (*PLACEHOLDERS, "home")), "*", "?") if sign in str(file)]:
        raise BadInput(f"{file}: a use case's path gives {' and '.join(taken)} a meaning, so a file can't have that in its name; rename it")
    if file.is_relative_to(folder):
        return file.relative_to(folder).as_posix()
    if file.is_relative_to(folder.parent) and folder.parent != Path(folder.anchor):
        return f"../{file.relative_to(folder.parent).as_posix()}"
    return file.as_posix()


def _write_whole(folder: Path, files: dict[str, str]) -> None:
    """The folder appears with all its files, read back once, or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
    try:
        draft = temporary / folder.name
        draft.mkdir()
        for name, text in files.items():
            (draft / name).write_text(text, encoding="utf-8", newline="\n")
        load_use_case(draft)
        draft.rename(folder)
    finally:
        shutil.rmtree(temporary)
