"""The files of a group, as a device reads them: from a folder or over https.

What arrives is trusted for its signature alone, so what is guarded here is the way: no byte more than was asked for, no waiting without end,
and nobody on the way who reads along.
"""

from __future__ import annotations

import ssl
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipelines_lib.errors import BadInput, DataError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

SILENCE, LONGEST = 30.0, 900.0
"""Seconds that a store may say nothing, and that a file may take."""
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_KEPT = "what is in use stays in use"


def fetch(source: str, name: str, most: int) -> bytes:
    """The file `name` below `source`, of `most` bytes at most.

    Raises `Unavailable` where it can't be read now, `DataError` where it is larger, `BadInput` where `source` is no place to read from.
    """
    address = f"{source.rstrip('/')}/{name}"
    ends = time.monotonic() + LONGEST
    try:
        with _opened(address) if "://" in source else Path(address).open("rb") as file:
            parts, size = [], 0
            while part := file.read1(1 << 16):
                parts.append(part)
                size += len(part)
                if size > most:
                    raise DataError(
                        f"{address} is larger than the {most:,} bytes that it may have; it was not read on, and {_KEPT}. Release it again"
                    )
                if time.monotonic() > ends:
                    raise TimeoutError(f"not read to its end in {LONGEST:g} s")
            if getattr(file, "length", None):  # what HTTP had promised besides
                raise ConnectionError(f"cut off after {size:,} bytes")
            return b"".join(parts)
    except (OSError, HTTPException) as error:
        raise Unavailable(f"{address} can't be read: {_why(error)}; {_KEPT}") from error
    except ValueError as error:
        raise BadInput(f"{address} is no address ({error}); give a folder, or an https:// address") from error


def _opened(address: str) -> Any:
    _require_private(address, BadInput)
    handlers: list[Any] = [urllib.request.HTTPSHandler(context=ssl.create_default_context()), _Redirects]
    if urlsplit(address).hostname in _LOOPBACK:
        handlers.append(urllib.request.ProxyHandler({}))  # the network's proxy can't reach what is on this machine
    return urllib.request.build_opener(*handlers).open(address, timeout=SILENCE)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect to where `source` itself might lead."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:  # noqa: PLR0917 - urllib's
        """Raises `Unavailable` where others could read along."""
        _require_private(newurl, Unavailable)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _require_private(address: str, refusal: Callable[[str], Exception]) -> None:
    """https, or http to this very machine: a tunnel, or a proxy that knows how to ask a bucket."""
    parts = urlsplit(address)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        return
    raise refusal(
        f"{address} is not read, for others could read along; give a folder, an https:// address, or http:// on this very machine"
    )


def _why(error: Exception) -> str:
    """What happened, and what helps."""
    if isinstance(error, urllib.error.HTTPError):
        return f"the store answers {error.code} {error.reason}; see that the address is the group's folder, and its files may be read without a login"
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        now = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        return (
            f"its certificate is not accepted ({reason.verify_message}); set this device's clock if it is wrong (it says {now}), "
            "or name the file of the CA that signed the certificate in SSL_CERT_FILE"
        )
    if isinstance(reason, TimeoutError):
        return f"{reason}; pull again when the network is better"
    return f"{reason}; pull again when the store can be reached"
