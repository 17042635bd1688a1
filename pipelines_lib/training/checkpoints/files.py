"""Where checkpoints lie: a folder that every worker sees, or a bucket of S3 or of a store that speaks its language.

A file is written whole and to stay: whoever lists it after `write` has returned finds it after a power cut too. So a manifest
that is written last never stands for parts that are not there.
"""

import contextlib
import errno
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, Protocol

from pipelines_lib.connections import connection
from pipelines_lib.errors import ConfigError, Unavailable
from pipelines_lib.s3 import REFUSED, client_of

Piece = bytes | memoryview

_NEW = ".new"
"""What a file's name ends with until it is whole."""
_PIECE_OF_UPLOAD = 1 << 26
"""Bytes of one request of a multipart upload; a store takes 10,000 of them."""


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
        self._address = address.rstrip("/")
        self._bucket, _, prefix = self._address.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._connection = connection_name
        self._client = client_of(None if connection_name is None else connection(connection_name))

    def files(self) -> dict[str, int]:
        """Every object below the prefix and its size in bytes."""
        found: dict[str, int] = {}
        with self._errors(""):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix):
                found |= {each["Key"].removeprefix(self._prefix): each["Size"] for each in page.get("Contents", [])}
        return found

    def write(self, name: str, pieces: Iterable[Piece]) -> None:
        """In one request, or in several where it is big. Nobody sees the object before it is whole."""
        from boto3.s3.transfer import TransferConfig  # noqa: PLC0415 - half a second that only buckets need

        config = TransferConfig(multipart_threshold=_PIECE_OF_UPLOAD, multipart_chunksize=_PIECE_OF_UPLOAD, max_concurrency=4)
        stream = io.BufferedReader(_Stream(pieces), 1 << 20)
        with self._errors(name):
            self._client.upload_fileobj(stream, self._bucket, self._prefix + name, Config=config)

    @contextmanager
    def opened(self, name: str) -> Iterator[Path]:
        """A copy, in a temporary folder."""
        with TemporaryDirectory(prefix="sluice-") as folder:
            path = Path(folder) / "object"
            with path.open("wb") as file, self._errors(name):
                self._fetch(name, file)
            yield path

    def remove(self, names: Iterable[str]) -> None:
        """One by one: stores other than Amazon's differ in how they take a list."""
        for name in names:
            with self._errors(name):
                self._client.delete_object(Bucket=self._bucket, Key=self._prefix + name)

    def sweep(self) -> None:
        """Uploads that were begun and never ended: nobody sees them, and their bytes are paid for."""
        with self._errors(""):
            for page in self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=self._prefix):
                for upload in page.get("Uploads", []):
                    self._client.abort_multipart_upload(Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"])

    def __str__(self) -> str:
        return self._address

    def _fetch(self, name: str, file: IO[bytes]) -> None:
        self._client.download_fileobj(self._bucket, self._prefix + name, file)

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, ParamValidationError  # noqa: PLC0415

        where = f"{self._address}/{name}{f' (connection {self._connection!r})' if self._connection else ''}"
        try:
            yield
        except ClientError as error:
            raise _explained(where, error) from error
        except NoCredentialsError as error:
            raise ConfigError(
                f"{where}: there are no credentials; give the connection a login and a password, or the machine a role"
            ) from error
        except ParamValidationError as error:
            raise ConfigError(f"{where}: is no address that a store can have; write s3://bucket/prefix") from error
        except BotoCoreError as error:
            raise Unavailable(f"{where}: the store does not answer ({type(error).__name__}); try again when it does") from error


def place_of(address: str, connection_name: str | None = None) -> Place:
    """Where checkpoints at `address` lie: s3://bucket/prefix, or a folder."""
    return Bucket(address, connection_name) if address.startswith("s3://") else Folder(Path(address))


def _explained(where: str, error: Any) -> Exception:
    code, status = str(error.response["Error"].get("Code")), error.response["ResponseMetadata"]["HTTPStatusCode"]
    if code == "NoSuchBucket":
        return ConfigError(f"{where}: there is no such bucket; make it, or correct the address of the checkpoints")
    if code in REFUSED or status in (401, 403):
        return ConfigError(
            f"{where}: the store refused access ({code}); correct the connection's login and password, "
            "or let it list, get, put and delete these objects"
        )
    if status == 404:
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), where)
    return Unavailable(f"{where}: the store does not take the request ({code}, status {status}); try again when it does")


class _Stream(io.RawIOBase):
    """Pieces as a file to read from."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        n = min(len(buffer), len(self._rest))
        buffer[:n] = self._rest[:n]
        self._rest = self._rest[n:]
        return n


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
