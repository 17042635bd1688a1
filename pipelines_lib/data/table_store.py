"""How Delta and Arrow reach the store that a table lies in: the way that boto3 takes, so that one connection opens all."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from urllib.parse import urlsplit

import pyarrow.fs as pafs
import pyarrow.parquet as pq
from deltalake.exceptions import DeltaError

from pipelines_lib.errors import ConfigError, Unavailable
from pipelines_lib.s3 import ATTEMPTS, REFUSED, Access, S3Path
from pipelines_lib.store import StorePath

_SECONDS_TO_CONNECT, _SECONDS_TO_ANSWER = 10, 60
_FROM_THE_STORE = ("Generic S3 error", "AWS Error", "Object at location")
"""What errors say that come from a request: Delta's, Arrow's."""
_NO_ACCESS = (*REFUSED, "ACCESS_DENIED", "lacked the necessary privileges", "403 Forbidden", "401 Unauthorized")


def delta_options(table: StorePath) -> dict[str, str] | None:
    """Options that deltalake opens the table with; None for a folder."""
    if not isinstance(table, S3Path):
        return None
    access = table.access
    options = {
        "region": access.region,
        # Of two commits of one version, the second must not overwrite the first: it is refused.
        "conditional_put": "etag",
        "max_retries": str(ATTEMPTS),
        "connect_timeout": f"{_SECONDS_TO_CONNECT}s",
        "timeout": f"{_SECONDS_TO_ANSWER}s",
    }
    if access.endpoint is not None:
        parts = urlsplit(access.endpoint)
        is_virtual = access.style == "virtual"
        host = f"{table.bucket}.{parts.netloc}" if is_virtual else parts.netloc
        options |= {
            "endpoint_url": f"{parts.scheme}://{host}",
            "virtual_hosted_style_request": str(is_virtual).lower(),
            "allow_http": str(parts.scheme == "http").lower(),
        }
    if (keys := access.keys()) is not None:
        key, secret, token = keys
        options |= {"access_key_id": key, "secret_access_key": secret} | ({"session_token": token} if token else {})
    return {f"aws_{name}" if name not in _OF_THE_CLIENT else name: value for name, value in options.items()}


_OF_THE_CLIENT = frozenset({"max_retries", "connect_timeout", "timeout", "allow_http"})


def parquet(path: StorePath, footer: pq.FileMetaData | None = None) -> pq.ParquetFile:
    """The Parquet file at `path`, its pages checked as they are read; `footer` where it is known already."""
    if isinstance(path, S3Path):
        # Pieces of a row group are asked for together: each request takes as long as reading a megabyte.
        source, filesystem = f"{path.bucket}/{path.key}", _filesystem(path.access)
        return pq.ParquetFile(source, metadata=footer, page_checksum_verification=True, filesystem=filesystem, pre_buffer=True)
    return pq.ParquetFile(path, metadata=footer, page_checksum_verification=True)


def footer_of(path: StorePath) -> pq.FileMetaData:
    """The footer of the Parquet file at `path`."""
    if isinstance(path, S3Path):
        return pq.read_metadata(f"{path.bucket}/{path.key}", filesystem=_filesystem(path.access))
    return pq.read_metadata(path)


@contextmanager
def reached(path: StorePath) -> Iterator[None]:
    """What Delta and Arrow say of a store that refuses or does not answer, as errors of ours."""
    try:
        yield
    except (OSError, DeltaError) as error:
        said = str(error)
        if not isinstance(path, S3Path) or isinstance(error, FileNotFoundError) or not any(words in said for words in _FROM_THE_STORE):
            raise
        where = f"{path}{f' (connection {path.access.given.name!r})' if path.access.given else ''}"
        if any(words in said for words in _NO_ACCESS):
            raise ConfigError(
                f"{where}: the store refused access; correct the connection's login and password, or let it list, get, put and delete these objects"
            ) from error
        if "NoSuchBucket" in said:
            raise ConfigError(
                f"{where}: there is no such bucket; make it, or correct the address or the connection's endpoint_url"
            ) from error
        raise Unavailable(f"{where}: the store does not answer ({said.splitlines()[0][:300]}); it is tried again") from error


def _filesystem(access: Access) -> pafs.S3FileSystem:
    return _opened(access.endpoint, access.region, access.style, access.keys())


@lru_cache(maxsize=8)
def _opened(endpoint: str | None, region: str, style: str, keys: tuple[str, str, str | None] | None) -> pafs.S3FileSystem:
    parts = None if endpoint is None else urlsplit(endpoint)
    key, secret, token = keys or (None, None, None)
    return pafs.S3FileSystem(
        access_key=key,
        secret_key=secret,
        session_token=token,
        region=region,
        endpoint_override=None if parts is None else parts.netloc,
        scheme="https" if parts is None else parts.scheme,
        force_virtual_addressing=style == "virtual",
        connect_timeout=_SECONDS_TO_CONNECT,
        request_timeout=_SECONDS_TO_ANSWER,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    )
