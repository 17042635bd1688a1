"""Objects of S3, and of stores that speak its language (OSS, COS, MinIO, R2), as paths with the verbs of `pathlib.Path`.

A connection has Airflow's `aws` fields: login and password are key and secret (without them boto3 looks where it always does:
environment, profile, the machine's role); extras are `endpoint_url`, `region_name`, `addressing_style` and `aws_session_token`.
Each setting names its own connection, so several clouds can stand side by side. boto3 is imported when an address is opened.
"""

import errno
import io
import json
import os
import posixpath
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import IO, Any

from pipelines_lib.connections import Connection, connection
from pipelines_lib.errors import ConfigError, SluiceError, Unavailable

PREFIX = "s3://"
"""What the address of a bucket begins with."""
ATTEMPTS = 5
"""Of each request; between them boto3 waits longer and longer."""
SECONDS_TO_CONNECT, SECONDS_TO_ANSWER = 10, 60
"""How long a store may take before it is asked again."""
REFUSED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "403", "401")
"""A store's words for: your keys do not open this."""
_PASSING = ("SlowDown", "RequestTimeout", "Throttling", "429", "BadDigest", "IncompleteBody")
"""Its words for: not now."""

_SKEWED = ("RequestTimeTooSkewed", "RequestExpired")
_NO_BUCKET = "there is no such bucket; make it, or correct the address or the connection's endpoint_url"
_NO_ACCESS = (
    "the store refused access ({code}); correct the connection's login and password, or let it list, get, put and delete these objects"
)
_EXPIRED = (
    "the token has expired ({code}); renew the connection's login, password and aws_session_token, or leave them out and give the machine or the "
    "pod a role, whose tokens are renewed by themselves"
)
_ELSEWHERE = (
    "the bucket is in {region} ({code}, status {status}); set the connection's region_name (AWS_DEFAULT_REGION where there is none), and its "
    "endpoint_url where it names a region"
)
_LACKS = (
    "the store lacks what is asked of it ({code}, status {status}); it needs conditional writes (If-None-Match and If-Match of PutObject), which "
    "Amazon S3, MinIO and R2 have, and OSS and COS do not: docs/store.md says what to do"
)
_RULES: dict[str | int, str] = {
    "NoSuchBucket": _NO_BUCKET,
    **dict.fromkeys((*REFUSED, 401, 403), _NO_ACCESS),
    **dict.fromkeys(("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"), _EXPIRED),
    **dict.fromkeys(("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", 301, 307), _ELSEWHERE),
    **dict.fromkeys(("NotImplemented", 501), _LACKS),
}
"""Code or status of an answer to what is wrong and what to do about it."""
_CHUNK = 1 << 23
_PIECE = 1 << 26
"""Bytes of one request of a multipart upload; a store takes 10,000 of them."""
_WILDCARD = re.compile(r"[*?]")
_MEANING = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


@dataclass(frozen=True)
class Stat:
    """What a store tells of an object. The names are those of `os.stat_result`."""

    st_size: int
    st_mtime: float
    etag: str
    """What tells this state of the object from another."""


class S3Path:
    """An object of a bucket, or whatever lies below a prefix, as a folder.

    An object is there whole or not at all. As with a file, one that is not there raises `FileNotFoundError`. `ConfigError` is raised where
    the store refuses access or knows no such bucket, `Unavailable` where it does not answer, after some tries. Folders need not be made.
    `..` in a path is followed as text, so that `is_relative_to` can be asked of a path that somebody else wrote.
    """

    def __init__(self, access: "Access", bucket: str, key: str, stat: Stat | None = None) -> None:
        self.access = access
        self.bucket = bucket
        self.key = posixpath.normpath(f"/{key}").lstrip("/")
        """The object's key; empty for the bucket itself."""
        self._stat = stat

    @classmethod
    def at(cls, address: str, given: Connection | None = None) -> "S3Path":
        """The place s3://bucket/prefix that the connection `given` opens; boto3 finds its own way without. Raises `ConfigError`."""
        bucket, _, key = address.removeprefix(PREFIX).partition("/")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}", bucket):
            raise ConfigError(f"{address}: {bucket!r} is no name of a bucket; write s3://bucket/prefix")
        return cls(access_of(given), bucket, key)

    def __truediv__(self, other: str | PurePosixPath) -> "S3Path":
        return self._at(posixpath.join(f"/{self.key}", str(other)))

    def __str__(self) -> str:
        return f"{PREFIX}{self.bucket}/{self.key}".rstrip("/")

    def __repr__(self) -> str:
        return f"S3Path({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, S3Path) and (self.access, self.bucket, self.key) == (other.access, other.bucket, other.key)

    def __hash__(self) -> int:
        return hash((self.bucket, self.key))

    def __lt__(self, other: "S3Path") -> bool:
        return str(self) < str(other)

    def __reduce__(self) -> tuple[Any, ...]:
        # For Spark's tasks: keys do not travel with them, the executors have the connection in their own environment.
        return _again, (str(self), None if self.access.given is None else self.access.given.name)

    @property
    def name(self) -> str:
        """The last part."""
        return posixpath.basename(self.key)

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.key).stem

    @property
    def suffix(self) -> str:
        """What follows the last dot of the name, with it."""
        return PurePosixPath(self.key).suffix

    @property
    def parent(self) -> "S3Path":
        """The folder that it lies in."""
        return self._at(posixpath.dirname(self.key))

    def with_name(self, name: str) -> "S3Path":
        """Another name in the same folder."""
        return self.parent / name

    def resolve(self) -> "S3Path":
        """As it is: a bucket has no links."""
        return self

    def as_uri(self) -> str:
        """Its address."""
        return str(self)

    def relative_to(self, other: "S3Path") -> PurePosixPath:
        """The rest of the path below `other`. Raises `ValueError` where it lies elsewhere."""
        if not self.is_relative_to(other):
            raise ValueError(f"{self} is not below {other}")
        return PurePosixPath(self.key[len(other.key) :].lstrip("/"))

    def is_relative_to(self, other: "S3Path") -> bool:
        """Whether it is `other`, or lies below."""
        return self.bucket == other.bucket and (self.key == other.key or self.key.startswith(other._below))

    def exists(self) -> bool:
        """Whether there is such an object, or one below."""
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        """Whether there is such an object."""
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """Whether there is an object below."""
        with self._errors():
            found = self.access.client.list_objects_v2(Bucket=self.bucket, Prefix=self._below, MaxKeys=1)
        return bool(found.get("Contents"))

    def stat(self) -> Stat:
        """Size, time and tag; for a path that a listing has found, as they were then."""
        if self._stat is not None:
            return self._stat
        with self._errors():
            head = self.access.client.head_object(Bucket=self.bucket, Key=self.key)
        return Stat(head["ContentLength"], head["LastModified"].timestamp(), head["ETag"])

    def iterdir(self) -> Iterator["S3Path"]:
        """What lies directly below."""
        return self.glob("*")

    def glob(self, pattern: str) -> Iterator["S3Path"]:
        """Objects and folders below that match; `*` and `?` stay within a level, `**` is any number of levels."""
        tokens = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
        matches = re.compile("".join(_MEANING.get(token) or re.escape(token) for token in tokens), re.DOTALL)
        wildcard = _WILDCARD.search(pattern)
        fixed = pattern if wildcard is None else pattern[: wildcard.start()]
        # One level is asked for as one: below the folders there may be any number of objects.
        flat = "/" not in pattern[len(fixed) :]
        folders: set[str] = set()
        for name, stat in self._listed(fixed, delimiter="/" if flat else ""):
            if stat is not None and matches.fullmatch(name):
                yield self._at(f"{self._below}{name}", stat)
            above = [name.rstrip("/")] if stat is None else map(str, PurePosixPath(name).parents)
            for folder in above:
                if folder not in folders and folder != "." and matches.fullmatch(folder):
                    yield self._at(f"{self._below}{folder}")
                folders.add(folder)

    def objects(self) -> Iterator["S3Path"]:
        """Every object below, at any depth, in the order of their keys."""
        return (self._at(f"{self._below}{name}", stat) for name, stat in self._listed("", delimiter=""))

    def read_bytes(self) -> bytes:
        """The object's content."""
        return self.read()[0]

    def read(self) -> tuple[bytes, str]:
        """The object's content, and the tag that tells it from another."""
        content = io.BytesIO()
        tag = self.fetch(content)
        return content.getvalue(), tag

    def fetch(self, file: IO[bytes], tag: str | None = None) -> str:
        """Write the object's content into `file`, which is empty; where the stream breaks off, the rest is asked for again. Returns its tag.

        With `tag` the object must still be that one. Raises `Unavailable` where it was changed meanwhile.
        """
        from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError  # noqa: PLC0415

        with self._errors():
            for attempt in range(ATTEMPTS):
                wanted = {"Range": f"bytes={file.tell()}-"} if file.tell() else {}
                wanted |= {"IfMatch": tag} if tag else {}
                answer = self.access.client.get_object(Bucket=self.bucket, Key=self.key, **wanted)
                tag = str(answer["ETag"])
                try:
                    for chunk in answer["Body"].iter_chunks(_CHUNK):
                        file.write(chunk)
                except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError):
                    if attempt == ATTEMPTS - 1:
                        raise
                else:
                    return tag
        raise AssertionError("unreachable")

    def read_text(self, encoding: str = "utf-8") -> str:
        """The object's content as text."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, data: bytes) -> None:
        """Make `data` the object's content."""
        self.write([data])

    def write(self, pieces: Iterable[bytes | memoryview]) -> None:
        """The same, piece by piece, in several requests where it is big."""
        from boto3.s3.transfer import TransferConfig

        config = TransferConfig(multipart_threshold=_PIECE, multipart_chunksize=_PIECE, max_concurrency=4)
        stream = io.BufferedReader(_Stream(pieces), 1 << 20)
        with self._errors():
            self.access.client.upload_fileobj(stream, self.bucket, self.key, Config=config)

    def replace(self, data: bytes, tag: str | None) -> bool:
        """Make `data` the content where the object is still the one that `tag` names (None: where there is none). Returns whether it did."""
        from botocore.exceptions import ClientError  # noqa: PLC0415

        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        with self._errors():
            try:
                self.access.client.put_object(Bucket=self.bucket, Key=self.key, Body=data, **condition)
            except ClientError as error:
                about = error.response["ResponseMetadata"]
                # 409: somebody else is at it at this very moment.
                if about["HTTPStatusCode"] not in (409, 412) and error.response["Error"].get("Code") != "NoSuchKey":
                    raise
                # Where the answer to a first try was lost, what stands in the way of the second may be what the first has written.
                return bool(about.get("RetryAttempts")) and self._holds(data)
        return True

    def copy_to(self, target: "S3Path") -> None:
        """Copy the object to another place of the same store; its bytes do not leave the store."""
        with self._errors():
            self.access.client.copy({"Bucket": self.bucket, "Key": self.key}, target.bucket, target.key)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object."""
        if not missing_ok:
            self.stat()
        with self._errors():
            self.access.client.delete_object(Bucket=self.bucket, Key=self.key)

    def abort_uploads(self) -> None:
        """End the uploads in pieces below this path that somebody has begun and not ended."""
        pages = self.access.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=self._below)
        with self._errors():
            for page in pages:
                for upload in page.get("Uploads", []):
                    self.access.client.abort_multipart_upload(Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"])

    @contextmanager
    def local(self) -> Iterator[Path]:
        """A copy of the object on this machine, for as long as it is read."""
        with TemporaryDirectory(prefix="sluice-") as folder:
            path = Path(folder) / (self.name or "object")
            with path.open("wb") as file:
                self.fetch(file)
            yield path

    def require_conditional_writes(self) -> None:
        """Try, with an object of a name that nobody has, that the store writes one on condition. Raises `ConfigError` where it does not.

        A store that passes over the condition would let one of two commits that meet overwrite the other, and nobody would be told.
        """
        probe = self / f"_{secrets.token_hex(8)}.tried"
        try:
            is_new = probe.replace(b"one", None)
            is_deaf = is_new and (probe.replace(b"two", None) or probe.replace(b"two", f'"{"0" * 32}"'))
        finally:
            probe.unlink(missing_ok=True)
        if is_deaf or not is_new:
            raise ConfigError(f"{self}: {_LACKS.format(code='condition passed over', status=200)}")

    def answers(self) -> None:
        """Ask the store for what lies at or below this path. Raises as any request does."""
        with explained(str(self), self.access.given):
            self._ask()

    def _ask(self) -> None:
        self.access.client.list_objects_v2(Bucket=self.bucket, Prefix=self.key, MaxKeys=1)

    def _holds(self, data: bytes) -> bool:
        try:
            return self.read_bytes() == data
        except FileNotFoundError:
            return False

    @property
    def _below(self) -> str:
        """What the keys of the objects below begin with."""
        return f"{self.key}/" if self.key else ""

    def _at(self, key: str, stat: Stat | None = None) -> "S3Path":
        return S3Path(self.access, self.bucket, key, stat)

    def _listed(self, prefix: str, delimiter: str) -> Iterator[tuple[str, Stat | None]]:
        """(name below this path, what is known of it; None of a folder)."""
        start = f"{self._below}{prefix}"
        pages = self.access.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=start, Delimiter=delimiter)
        with self._errors():
            for page in pages:
                for folder in page.get("CommonPrefixes", []):
                    yield folder["Prefix"][len(self._below) :], None
                for each in page.get("Contents", []):
                    if not each["Key"].endswith("/"):
                        name = each["Key"][len(self._below) :]
                        yield name, Stat(each["Size"], each["LastModified"].timestamp(), each["ETag"])

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from botocore.exceptions import ClientError  # noqa: PLC0415

        with explained(str(self), self.access.given):
            try:
                yield
            except ClientError as error:
                if str(error.response["Error"].get("Code")).isdigit():
                    # The answer to HEAD has no body that says why: without this, an object of no bucket would only be missing.
                    self._ask()
                raise


class Access:
    """A way into a store: boto3's client, and what others need to take the same way. Thread-safe."""

    def __init__(self, given: Connection | None) -> None:
        self.given = given
        self.client, self._session = _client_and_session(given)

    @property
    def style(self) -> str:
        """How a bucket is named in a request: `auto`, `path` or `virtual`."""
        return str((self.given.extra if self.given else {}).get("addressing_style", "auto"))

    @property
    def endpoint(self) -> str | None:
        """The store's address, where it is not Amazon's."""
        found = str(self.client.meta.endpoint_url)
        return None if re.fullmatch(r"https://s3[a-z0-9.-]*\.amazonaws\.com(\.cn)?", found) else found

    @property
    def region(self) -> str:
        """The store's region."""
        return str(self.client.meta.region_name)

    def keys(self) -> tuple[str, str, str | None] | None:
        """Key, secret and token of this moment: those of a role change. None where there are none."""
        found = self._session.get_credentials()
        frozen = None if found is None else found.get_frozen_credentials()
        return None if frozen is None else (frozen.access_key, frozen.secret_key, frozen.token)


def access_of(given: Connection | None) -> Access:
    """The way in that a connection names; Amazon's, with the machine's own credentials, for None. One for each in a process."""
    return _access(None if given is None else json.dumps({**asdict(given), "extra": dict(given.extra)}, sort_keys=True))


@lru_cache(maxsize=16)
def _access(described: str | None) -> Access:
    return Access(None if described is None else Connection(**json.loads(described)))


def _again(address: str, connection_name: str | None) -> S3Path:
    return S3Path.at(address, None if connection_name is None else connection(connection_name))


def client_of(given: Connection | None) -> Any:
    """boto3's client of the store that a connection names; of Amazon's, with the machine's own credentials, for None."""
    return access_of(given).client


def _client_and_session(given: Connection | None) -> tuple[Any, Any]:
    import boto3
    from botocore.config import Config  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415

    extra: Mapping[str, Any] = {} if given is None else given.extra
    keys = {}
    if given is not None and given.login:
        keys = {
            "aws_access_key_id": given.login,
            "aws_secret_access_key": given.password,
            "aws_session_token": extra.get("aws_session_token"),
        }
    try:
        config = Config(
            # Newer clients send and ask for checksums that stores other than Amazon's don't know.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            connect_timeout=SECONDS_TO_CONNECT,
            read_timeout=SECONDS_TO_ANSWER,
            s3={"addressing_style": extra.get("addressing_style", "auto")},
        )
        session = boto3.Session(region_name=extra.get("region_name"), **keys)
        # boto3 looks whether a region's name and a pair of keys can be right only where the client is given them.
        given_twice = {"region_name": extra.get("region_name"), **keys}
        return session.client("s3", endpoint_url=extra.get("endpoint_url"), config=config, **given_twice), session
    except (ValueError, BotoCoreError) as error:
        raise ConfigError(_no_client(given, str(error).rstrip("."))) from error


def _no_client(given: Connection | None, why: str) -> str:
    if given is None:
        return (
            f"the environment of the job is no way to a store: {why}; correct AWS_PROFILE and what else boto3 reads there, "
            "or set source.connection, or the profile's store_connection or checkpoints.connection, whichever this is for"
        )
    return (
        f"connection {given.name!r}: {why}; correct its login and password, or its extras endpoint_url "
        "(such as https://oss-cn-beijing.aliyuncs.com), region_name and addressing_style (auto, path or virtual)"
    )


@contextmanager
def explained(address: str, given: Connection | None = None) -> Iterator[None]:
    """Whatever boto3 raises about `address`, as an error of ours: what, where, and the remedy; `FileNotFoundError` where it is not there."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, ParamValidationError  # noqa: PLC0415

    where = f"{address}{f' (connection {given.name!r})' if given else ''}"
    try:
        yield
    except ClientError as error:
        code, status = str(error.response["Error"].get("Code")), error.response["ResponseMetadata"]["HTTPStatusCode"]
        raise of_answer(where, code, status, region_in(error)) from error
    except NoCredentialsError as error:
        raise ConfigError(
            f"{where}: there are no credentials; give the connection a login and a password, or the machine a role"
        ) from error
    except ParamValidationError as error:
        raise ConfigError(f"{where}: is no address that a store can have; write s3://bucket/prefix") from error
    except BotoCoreError as error:
        raise Unavailable(f"{where}: the store does not answer ({type(error).__name__}); it is tried again") from error


def region_in(error: Any) -> str | None:
    """The bucket's region, where boto3's `ClientError` names it."""
    headers = error.response["ResponseMetadata"].get("HTTPHeaders", {})
    named = headers.get("x-amz-bucket-region") or error.response["Error"].get("Region")
    return None if named is None else str(named)


def of_answer(where: str, code: str, status: int, region: str | None = None) -> SluiceError | OSError:
    """What a store's answer means that was none: its code and status, and the region that it names, about the place `where`."""
    rule = _RULES.get(code) or _RULES.get(status)
    if rule is not None and code not in _SKEWED:
        return ConfigError(
            f"{where}: {rule.format(code=code, status=status, region=f'the region {region}' if region else 'another region')}"
        )
    if status == 404:
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), where)
    if code in _SKEWED:
        return Unavailable(f"{where}: the store finds this machine's clock wrong ({code}); have it set (NTP), it is tried again")
    if status in (409, 412):
        return Unavailable(f"{where}: it was changed or removed meanwhile; it is tried again")
    if status >= 500 or code in _PASSING:
        return Unavailable(f"{where}: the store does not answer ({code}, status {status}); it is tried again")
    return ConfigError(f"{where}: the store refused the request ({code}, status {status}); correct the address or the connection")


class _Stream(io.RawIOBase):
    """Pieces as a file to read from."""

    def __init__(self, pieces: Iterable[bytes | memoryview]) -> None:
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
