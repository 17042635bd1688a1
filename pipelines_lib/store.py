"""The object store: JSON documents and artefacts beside the Delta tables, in a folder or in a bucket.

Every write lands whole: a reader sees the old file or the new one. A path below the store is a `Path` or an `S3Path`, which has the same
verbs; what a bucket needs is imported when one is opened.
"""

import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from pydantic import BaseModel, JsonValue

from pipelines_lib.config import Profile, Project
from pipelines_lib.connections import Connection, connection
from pipelines_lib.errors import DataError
from pipelines_lib.s3 import PREFIX, S3Path

StorePath: TypeAlias = Path | S3Path
"""A place in a store."""


def at(address: str, given: Connection | None = None) -> StorePath:
    """The place at `address`, a folder or s3://bucket/prefix, which the connection opens. Raises `ConfigError` where that is no place."""
    return S3Path.at(address, given) if address.startswith(PREFIX) else Path(address)


def store_of(profile: Profile, environment: Mapping[str, str] = os.environ) -> StorePath:
    """The profile's store; its connection is looked for in `environment`. Raises `ConfigError`."""
    return at(profile.store, way_in(profile, environment))


def opened(address: str, project: Project, profile: str | None = None, environment: Mapping[str, str] = os.environ) -> StorePath:
    """The place at `address`; a bucket is opened as that profile of the project (the one in force) opens its store. Raises `ConfigError`."""
    return at(address, way_in(project.profile(profile), environment)) if address.startswith(PREFIX) else Path(address)


def beside(path: StorePath, address: str) -> StorePath:
    """The place at `address`, reached in the way that `path` is."""
    return S3Path.at(address, path.access.given) if isinstance(path, S3Path) else Path(address)


def way_in(profile: Profile, environment: Mapping[str, str] = os.environ) -> Connection | None:
    """The connection that opens the profile's store; None for a folder, and where boto3 finds the way itself. Raises `ConfigError`."""
    return None if profile.store_connection is None else connection(profile.store_connection, environment)


def contains(store: StorePath, path: StorePath) -> bool:
    """Whether `path` lies in the store, wherever its text leads."""
    return path.resolve().is_relative_to(store.resolve())  # type: ignore[arg-type]


def below(store: StorePath, path: StorePath) -> str:
    """Where `path` lies below the store, as results, links and references have it."""
    return path.relative_to(store).as_posix()  # type: ignore[arg-type]


def in_order(paths: Iterable[StorePath]) -> list[StorePath]:
    """Sorted by name."""
    return sorted(paths, key=str)


def read_json(path: StorePath) -> JsonValue:
    """The document at `path`. Raises `FileNotFoundError`, or `DataError` where it is not JSON."""
    return _parsed(path, path.read_text(encoding="utf-8"))


def write_json(path: StorePath, document: JsonValue | BaseModel) -> None:
    """Write `document` whole, keys sorted, so that equal documents are equal bytes."""
    write_text(path, as_text(document))


def write_text(path: StorePath, text: str) -> None:
    """Write `text` whole."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: StorePath, data: bytes) -> None:
    """Write `data` whole: to a file beside the target, renamed over it; a file that holds these bytes already is left alone (and its time stamp)."""
    if isinstance(path, S3Path):
        path.write_bytes(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size == len(data) and path.read_bytes() == data:
        return
    temporary = new_file(path.parent, f".{path.name}.")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def create_json(path: StorePath, document: JsonValue | BaseModel) -> None:
    """Write a new document. Raises `FileExistsError` where there is one: of several that create it at once, one does."""
    data = as_text(document).encode("utf-8")
    if isinstance(path, S3Path):
        if not path.replace(data, None):
            raise FileExistsError(str(path))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(exist_ok=False)
    write_bytes(path, data)


def update_json(path: StorePath, change: Callable[[JsonValue], JsonValue]) -> bool:
    """Replace the document at `path` by what `change` makes of it (of None where there is none), and of what nobody else writes meanwhile.

    None leaves it as it is. Returns whether it was written.
    """
    if isinstance(path, S3Path):
        return _update_object(path, change)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / f".{path.stem}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        changed = change(read_json(path) if path.exists() else None)
        if changed is not None:
            write_json(path, changed)
    return changed is not None


def move(source: StorePath, target: StorePath) -> None:
    """Give the file at `source` its place: renamed in a folder, sent into a bucket, or copied within one."""
    if isinstance(target, Path):
        assert isinstance(source, Path)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)
        return
    if isinstance(source, S3Path):
        source.copy_to(target)
    else:
        with source.open("rb") as file:
            target.write(iter(lambda: file.read(1 << 20), b""))
    source.unlink(missing_ok=True)


def remove_tree(path: StorePath) -> None:
    """Remove all that lies below `path`; nothing where there is nothing."""
    if isinstance(path, Path):
        shutil.rmtree(path, ignore_errors=True)
        return
    for each in path.objects():
        each.unlink(missing_ok=True)


@contextmanager
def local(path: StorePath) -> Iterator[Path]:
    """The file on this machine, for as long as it is read. Raises `FileNotFoundError`."""
    if isinstance(path, Path):
        yield path
        return
    with path.local() as copy:
        yield copy


def new_file(folder: Path, prefix: str, suffix: str = "") -> Path:
    """An empty file of a name that no other has. Who may read it follows from the process's umask, as of any file: a store may be private."""
    path = folder / f"{prefix}{secrets.token_hex(8)}{suffix}"
    path.touch(0o666, exist_ok=False)
    return path


def as_text(document: JsonValue | BaseModel) -> str:
    """What `write_json` writes."""
    value = document.model_dump(mode="json") if isinstance(document, BaseModel) else document
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def _parsed(path: StorePath, text: str) -> JsonValue:
    try:
        document: JsonValue = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}). Delete the file and run the stage again.") from error
    return document


def _update_object(path: S3Path, change: Callable[[JsonValue], JsonValue]) -> bool:
    while True:
        try:
            data, tag = path.read()
        except FileNotFoundError:
            data, tag = b"", None
        changed = change(_parsed(path, data.decode("utf-8")) if tag is not None else None)
        if changed is None:
            return False
        if path.replace(as_text(changed).encode("utf-8"), tag):
            return True
