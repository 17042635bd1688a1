"""Where a source's files lie: a folder, or a bucket of S3 or of a store that speaks its language (OSS, COS, MinIO, R2).

Each source names its own connection, whose fields `pipelines_lib/s3.py` lists, so several clouds can stand side by side.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, NoReturn

from pipelines_lib.connections import connection
from pipelines_lib.errors import ConfigError, DataError, Unavailable
from pipelines_lib.s3 import ATTEMPTS, REFUSED, client_of, of_answer, region_in

_CHUNK = 1 << 23
_GLOB = re.compile(r"[*?]")


@dataclass(frozen=True)
class Found:
    """A file that matches."""

    name: str
    """Its path, or its address in the bucket."""
    below: str
    """The part of the name below the pattern's last folder without a wildcard."""
    tag: str = ""
    """What tells this state of an object from another."""


class Folder:
    """Files of this machine."""

    def find(self, pattern: str) -> list[Found]:
        """Those that match, sorted by name; `*` and `?` stay within a folder's level, `**` is any number of levels."""
        base = fixed_part(pattern)
        if base == pattern:
            return [Found(pattern, Path(pattern).name)] if Path(pattern).is_file() else []
        matches = Path(base).glob(pattern[len(base) :].replace("[", "[[]"))
        return [Found(str(path), str(path.relative_to(base))) for path in sorted(matches) if path.is_file()]

    @contextmanager
    def local(self, found: Found) -> Iterator[Path]:
        """The file itself."""
        yield Path(found.name)


class Bucket:
    """Objects of an S3-compatible store. Raises `Unavailable` where it does not answer, `DataError` where it refuses."""

    def __init__(self, connection_name: str | None) -> None:
        self._name = connection_name
        self._client = client_of(None if connection_name is None else connection(connection_name))

    def find(self, pattern: str) -> list[Found]:
        """Those that match, as in a folder; `pattern` is s3://bucket/key."""
        bucket, base, matches = _parts(pattern)
        found = []
        with self._errors(pattern):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=base):
                for each in page.get("Contents", []):
                    key = each["Key"]
                    if matches.fullmatch(key) and not key.endswith("/"):
                        below = key[len(base) :] if base != key else key.rpartition("/")[2]
                        found.append(Found(f"s3://{bucket}/{key}", below, each["ETag"]))
        return sorted(found, key=lambda one: one.name)

    @contextmanager
    def local(self, found: Found) -> Iterator[Path]:
        """A copy on this machine, for as long as it is read."""
        bucket, _, key = found.name.removeprefix("s3://").partition("/")
        with TemporaryDirectory(prefix="sluice-") as folder:
            path = Path(folder) / "object"
            with path.open("wb") as file, self._errors(found.name):
                self._fetch(bucket, key, found.tag, file)
            yield path

    def _fetch(self, bucket: str, key: str, tag: str, file: IO[bytes]) -> None:
        """The object as it was found; where the stream breaks off, the rest is asked for again."""
        from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError  # noqa: PLC0415

        for attempt in range(ATTEMPTS):
            rest = {"Range": f"bytes={file.tell()}-"} if file.tell() else {}
            body = self._client.get_object(Bucket=bucket, Key=key, IfMatch=tag, **rest)["Body"]
            try:
                for chunk in body.iter_chunks(_CHUNK):
                    file.write(chunk)
                return
            except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError):
                if attempt == ATTEMPTS - 1:
                    raise

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, ParamValidationError  # noqa: PLC0415

        where = f"{name}{f' (connection {self._name!r})' if self._name else ''}"
        try:
            yield
        except ClientError as error:
            _explain(where, error)
        except NoCredentialsError as error:
            raise ConfigError(
                f"{where}: there are no credentials; give the connection a login and a password, or the machine a role"
            ) from error
        except ParamValidationError as error:
            raise DataError(f"{where}: is no address that a store can have; correct source.path (s3://bucket/key)") from error
        except BotoCoreError as error:
            raise Unavailable(f"{where}: the store does not answer ({type(error).__name__}); it is tried again") from error


def storage_of(path: str, connection_name: str | None) -> Folder | Bucket:
    """Where a source's `path` lies."""
    return Bucket(connection_name) if path.startswith("s3://") else Folder()


def has_wildcard(path: str) -> bool:
    """Whether `path` stands for any number of files."""
    return bool(_GLOB.search(path))


def fixed_part(pattern: str) -> str:
    """The folders of a pattern that have no wildcard, or the whole of one that has none."""
    wildcard = _GLOB.search(pattern)
    return pattern if wildcard is None else pattern[: pattern.rfind("/", 0, wildcard.start()) + 1]


def _parts(pattern: str) -> tuple[str, str, re.Pattern[str]]:
    """(bucket, the key's part without wildcards, what keys must match)."""
    bucket, _, key = pattern.removeprefix("s3://").partition("/")
    tokens = re.split(r"(\*\*/|\*\*|\*|\?)", key)
    meaning = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return bucket, fixed_part(key), re.compile("".join(meaning.get(token) or re.escape(token) for token in tokens), re.DOTALL)


def _explain(where: str, error: Any) -> NoReturn:
    code, status = str(error.response["Error"].get("Code")), error.response["ResponseMetadata"]["HTTPStatusCode"]
    if code == "NoSuchBucket":
        raise DataError(f"{where}: there is no such bucket; correct source.path, or the connection's endpoint_url") from error
    if code in REFUSED:
        raise DataError(
            f"{where}: the store refused access ({code}); correct the connection's login and password, or let it list and get these objects"
        ) from error
    if status == 412 or code in ("PreconditionFailed", "NoSuchKey"):
        raise Unavailable(f"{where}: it was changed or removed while it was read; it is tried again") from error
    told = of_answer(where, code, status, region_in(error))
    raise told if isinstance(told, Unavailable) else DataError(str(told)) from error
