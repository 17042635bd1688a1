"""Where checkpoints lie: a folder that every worker sees, or a bucket of S3 or of a store that speaks its language.

A file is written whole and to stay: whoever lists it after `write` has returned finds it after a power cut too. So a manifest
that is written last never stands for parts that are not there.
"""

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from pipelines_lib.connections import connection
from pipelines_lib.s3 import PREFIX, S3Path

Piece = bytes | memoryview

_NEW = ".new"
"""What a file's name ends with until it is whole."""


class Place(Protocol):
    """Files by name, with `/` between folder and file. What goes wrong is an `OSError` or one of `errors`."""

    def files(self) -> dict[str, int]:
        """Every whole file and its size in bytes."""

    def write(self, name: str, pieces: Iterable[Piece]) -> None:
        """Write a file whole, over another of the name; durable when this returns."""

    def opened(self, name: str) -> AbstractContextManager[Path]:
        """The file on this machine, for as long as it is read. Raises `FileNotFoundError`."""

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, in this order; one that is not there is no error."""

    def sweep(self) -> None:
        """Remove what a write that was cut off has left. Nothing may be written meanwhile."""


class Folder:
    """A folder, and one level of folders in it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def files(self) -> dict[str, int]:
        """Every whole file and its size in bytes."""
        whole = (path for path in self._path.glob("*/*") if path.suffix != _NEW)
        return {path.relative_to(self._path).as_posix(): path.stat().st_size for path in sorted(whole)}

    def write(self, name: str, pieces: Iterable[Piece]) -> None:
        """To a file beside it, to the disk, renamed, and the folder's list of names to the disk too."""
        target = self._path / name
        if not target.parent.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            _to_disk(self._path)
        new = target.with_name(target.name + _NEW)
        try:
            with new.open("wb") as file:
                for piece in pieces:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, target)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        _to_disk(target.parent)

    @contextmanager
    def opened(self, name: str) -> Iterator[Path]:
        """The file itself."""
        path = self._path / name
        path.stat()
        yield path

    def remove(self, names: Iterable[str]) -> None:
        """And a folder that is empty then."""
        for name in names:
            path = self._path / name
            path.unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                if not any(path.parent.iterdir()):
                    path.parent.rmdir()

    def sweep(self) -> None:
        """Files without their last name."""
        self.remove([path.relative_to(self._path).as_posix() for path in self._path.glob(f"*/*{_NEW}")])
        for folder in self._path.glob("*/"):
            if not any(folder.iterdir()):
                folder.rmdir()

    def __str__(self) -> str:
        return str(self._path)


class Bucket:
    """Objects below s3://bucket/prefix. `pipelines_lib/s3.py` lists the connection's fields."""

    def __init__(self, address: str, connection_name: str | None) -> None:
        self._path = S3Path.at(address, None if connection_name is None else connection(connection_name))

    def files(self) -> dict[str, int]:
        """Every object below the prefix and its size in bytes."""
        return {path.relative_to(self._path).as_posix(): path.stat().st_size for path in self._path.objects()}

    def write(self, name: str, pieces: Iterable[Piece]) -> None:
        """In one request, or in several where it is big. Nobody sees the object before it is whole."""
        (self._path / name).write(pieces)

    def opened(self, name: str) -> AbstractContextManager[Path]:
        """A copy, in a temporary folder."""
        return (self._path / name).local()

    def remove(self, names: Iterable[str]) -> None:
        """One by one: stores other than Amazon's differ in how they take a list."""
        for name in names:
            (self._path / name).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Uploads that were begun and never ended: nobody sees them, and their bytes are paid for."""
        self._path.abort_uploads()

    def __str__(self) -> str:
        return str(self._path)


def place_of(address: str, connection_name: str | None = None) -> Place:
    """Where checkpoints at `address` lie: s3://bucket/prefix, or a folder."""
    return Bucket(address, connection_name) if address.startswith(PREFIX) else Folder(Path(address))


def _to_disk(folder: Path) -> None:
    """Have the names in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # File systems over an object store have no such list to write.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
