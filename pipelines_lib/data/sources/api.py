"""Requests to an HTTP API that answers in JSON: rate limit, retries, redirects, and a secret that goes to its own host alone."""

import base64
import datetime as dt
import email.utils
import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urljoin, urlsplit

import requests

from pipelines_lib import connections
from pipelines_lib.data.sources.jsontext import AS_WRITTEN
from pipelines_lib.errors import ConfigError, DataError, Unavailable
from pipelines_lib.use_case import Http

_CONNECT_SECONDS = 10
_REDIRECTS = {301, 302, 303, 307, 308}
_MOST_REDIRECTS = 5
_MOST_BYTES = 1 << 28
"""Of an unpacked page, which is held in memory: beyond that it is no page, or a small packed one that would fill the memory."""
_WORTH_A_RETRY = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Answer:
    """One page."""

    body: Any
    """The JSON, its numbers as `Digits`."""
    content: bytes
    next_link: str | None
    """Address of the next page by the header `Link`."""


class Api:
    """The API of one source; to be closed."""

    def __init__(self, settings: Http) -> None:
        self._http = settings
        self._connection = connections.connection(settings.connection) if settings.connection else None
        self.url = _address(settings, self._connection)
        self._session = requests.Session()
        self._session.auth = _as_it_is  # or a .netrc would take the place of the token
        self._secrets = _secret_headers(settings, self._connection)
        self._next_slot = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._session.close()

    def get(self, url: str, params: Mapping[str, str]) -> Answer:
        """The answer to one request. Raises `DataError` where asking again can't help, `Unavailable` after the last attempt."""
        retry, waited = self._http.retry, 0.0
        for attempt in range(1, retry.attempts + 1):
            try:
                with self._follow(url, params) as response:
                    if response.ok:
                        return self._answer(response)
                    problem, least = self._problem(response), _retry_after(response)
            except requests.RequestException as error:
                # Its message quotes the address, whose parameters may be secret.
                problem, least = f"the connection failed ({type(error).__name__})", 0.0
            except json.JSONDecodeError as error:
                problem, least = f"the answer is broken JSON (at character {error.pos})", 0.0
            except (UnicodeDecodeError, RecursionError) as error:
                problem, least = f"the answer can't be read as JSON ({type(error).__name__})", 0.0
            wait = max(retry.first_wait * 2 ** (attempt - 1), least)
            if attempt == retry.attempts or waited + wait > retry.longest.total_seconds():
                break
            time.sleep(wait)
            waited += wait
        raise Unavailable(
            f"{_without_query(url)}: {problem}, after {attempt} attempt{'s' if attempt > 1 else ''} in which {waited:.0f} s were waited"
            + (f" (it asks for {least:.0f} s more)" if least else "")
            + "; a later retry may help, or raise source.http.retry"
        )

    def _follow(self, url: str, params: Mapping[str, str]) -> requests.Response:
        """The response behind redirects. The secret stays with the host that it is for."""
        at, query = url, dict(params)
        for _ in range(_MOST_REDIRECTS + 1):
            self._take_turn()
            headers = {"Accept": "application/json", **self._http.headers, **(self._secrets if _origin(at) == _origin(self.url) else {})}
            response = self._session.get(
                at,
                params=query,
                headers=headers,
                timeout=(_CONNECT_SECONDS, self._http.timeout.total_seconds()),
                allow_redirects=False,
                stream=True,
            )
            target = response.headers.get("Location")
            if response.status_code not in _REDIRECTS or target is None:
                return response
            response.close()
            following, query = urljoin(response.url, target), {}
            if _origin(at)[0] == "https" and _origin(following)[0] != "https":
                raise DataError(f"{_without_query(at)}: leads to {_without_query(following)}, away from https; correct source.http.url")
            at = following
        raise DataError(
            f"{_without_query(url)}: more than {_MOST_REDIRECTS} redirects, the last to {_without_query(at)}; correct source.http.url"
        )

    def _take_turn(self) -> None:
        if self._http.rate is not None:
            time.sleep(max(0.0, self._next_slot - time.monotonic()))
            self._next_slot = time.monotonic() + 1 / self._http.rate

    def _answer(self, response: requests.Response) -> Answer:
        kind = response.headers.get("Content-Type", "application/json")
        if "json" not in kind.casefold():
            raise DataError(f"{_without_query(response.url)}: answers in {kind}, not in JSON; correct source.http.url or its params")
        content = _content(response)
        body = json.loads(content, **AS_WRITTEN)
        link = response.links.get("next", {}).get("url")
        return Answer(body, content, None if link is None else urljoin(response.url, link))

    def _problem(self, response: requests.Response) -> str:
        """What kept an answer from being one, where asking again may help. Raises `DataError` where it can't."""
        status = response.status_code
        phrase = f"HTTP {status} {http.client.responses.get(status, '')}".rstrip()
        if status in _WORTH_A_RETRY:
            return phrase
        if status in (401, 403):
            whose = f"the login or token in connection {self._http.connection!r}" if self._connection else "source.http.connection"
            remedy = f"check {whose}, and what it is allowed to"
        else:
            remedy = "correct source.http.url or its params"
        raise DataError(f"{_without_query(response.url)}: {phrase}; {remedy}")

    def own(self, address: str) -> str:
        """The address of a next page, as the API gave it. Raises `DataError` where another host, port or scheme would be asked."""
        target = urljoin(self.url, address)
        if _origin(target) != _origin(self.url):
            raise DataError(
                f"{_without_query(self.url)}: says that its next page is at {_without_query(target)}, which is another host, port or scheme; set "
                "source.http.url to that one, or page by number, offset or mark"
            )
        return target


def _content(response: requests.Response) -> bytes:
    """The answer's body, unpacked. Raises `DataError` where it is too long to be a page."""
    content = bytearray()
    for piece in response.iter_content(1 << 20):
        content += piece
        if len(content) > _MOST_BYTES:
            raise DataError(
                f"{_without_query(response.url)}: one answer has more than {_MOST_BYTES >> 20} MiB; ask for pages (source.http.pages.size) or for less"
            )
    return bytes(content)


def _address(settings: Http, connection: connections.Connection | None) -> str:
    """The address, its host from the connection where it begins at `/`."""
    base = None if connection is None or not connection.host else _base(connection)
    if settings.url.startswith("/"):
        if base is None:
            raise ConfigError(
                f"connection {settings.connection!r} has no host, and source.http.url has none either; write it into one of them"
            )
        return base + settings.url
    if base is not None and _origin(base) != _origin(settings.url):
        raise ConfigError(
            f"source.http.url is at {_without_query(settings.url)}, and connection {settings.connection!r} is for {base}; its secret goes nowhere else. "
            "Write the url from its / on, or correct the connection"
        )
    return settings.url


def _base(connection: connections.Connection) -> str:
    """Airflow keeps the scheme as the schema or before the host; a URL's path is a folder that all addresses begin with."""
    host, schema = str(connection.host).rstrip("/"), connection.schema or ""
    if "://" in host:
        return host
    scheme, folder = (schema, "") if schema in ("http", "https") else (connection.type, schema)
    port = f":{connection.port}" if connection.port else ""
    return f"{scheme if scheme in ('http', 'https') else 'https'}://{host}{port}{f'/{folder}' if folder else ''}"


def _secret_headers(settings: Http, connection: connections.Connection | None) -> dict[str, str]:
    if connection is None:
        return {}
    more = connection.extra.get("headers")
    headers = {str(name): str(value) for name, value in more.items()} if isinstance(more, Mapping) else {}
    if connection.login is not None:
        pair = f"{connection.login}:{connection.password or ''}".encode()
        headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
    elif connection.password:
        bearer = settings.auth_header.casefold() == "authorization"
        headers[settings.auth_header] = f"Bearer {connection.password}" if bearer else connection.password
    return headers


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def _without_query(url: str) -> str:
    """Parameters may be secret, and so may what stands before the host."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _retry_after(response: requests.Response) -> float:
    """Seconds that the API asks to be left alone: `Retry-After` as a number or as a date."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    now = dt.datetime.now(dt.UTC)
    return max(0.0, (moment.replace(tzinfo=moment.tzinfo or dt.UTC) - now).total_seconds())
