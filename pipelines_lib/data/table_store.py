"""How Delta and Arrow reach the store that a table lies in: the way that boto3 takes, so that one connection opens all."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import pyarrow.fs as pafs
import pyarrow.parquet as pq
from deltalake.exceptions import DeltaError

from pipelines_lib.errors import Unavailable
from pipelines_lib.s3 import ATTEMPTS, SECONDS_TO_ANSWER, SECONDS_TO_CONNECT, Access, S3Path, of_answer
from pipelines_lib.store import StorePath

_FROM_THE_STORE = ("Generic S3 error", "Object at location", "The operation lacked", "AWS Error")
"""What errors say that come from a request: Delta's, Arrow's."""
_ANSWER = re.compile(r"\b([1-5]\d\d) [A-Z][a-z]+.*?<Code>(\w+)</Code>", re.DOTALL)
"""How Delta quotes a store's answer."""


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
        "connect_timeout": f"{SECONDS_TO_CONNECT}s",
        "timeout": f"{SECONDS_TO_ANSWER}s",
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


def parquet(path: StorePath, footer: pq.FileMetaData | None = None, encoded: Sequence[str] = ()) -> pq.ParquetFile:
    """The Parquet file at `path`, its pages checked as they are read; `footer` where it is known already.

    Columns of strings that are `encoded` come as dictionaries, as the file holds them: a few times as fast, where values repeat.
    """
    asked: dict[str, Any] = {"metadata": footer, "page_checksum_verification": True, "read_dictionary": list(encoded)}
    if isinstance(path, S3Path):
        # Pieces of a row group are asked for together: each request takes as long as reading a megabyte.
        source, filesystem = f"{path.bucket}/{path.key}", _filesystem(path.access)
        return pq.ParquetFile(source, filesystem=filesystem, pre_buffer=True, **asked)
    return pq.ParquetFile(path, **asked)


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
        if "incorrectly configured region" in said:
            raise of_answer(where, "PermanentRedirect", 301) from error
        if (answer := _ANSWER.search(said)) is not None and answer[2] != "NoSuchKey":
            raise of_answer(where, answer[2], int(answer[1])) from error
        # Arrow has seen no reason, or Delta tells none: boto3 is told it, where there is one.
        path.answers()
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
        connect_timeout=SECONDS_TO_CONNECT,
        request_timeout=SECONDS_TO_ANSWER,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    )
