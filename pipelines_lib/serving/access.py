"""Who may ask a service: whoever reaches it, or, where the use case names a token, whoever has that (a bearer token, RFC 6750)."""

import hmac
import os
from collections.abc import Iterable, Mapping

from pipelines_lib.connections import connection, variable_of
from pipelines_lib.errors import ConfigError
from pipelines_lib.use_case import Token

MIN_LENGTH = 16
"""Characters a token has at least."""


def token_of(named: Token | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """The token that a use case names; None where it names none. Raises `ConfigError`, which does not quote it."""
    if named is None:
        return None
    name = named.connection
    token = connection(name, environment).password or ""
    if len(token) < MIN_LENGTH or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            f"connection {name!r} ({variable_of(name)}): its password is the token that requests must carry, {MIN_LENGTH} or more letters, digits and "
            "signs of ASCII without blanks; make one with `python -c 'import secrets; print(secrets.token_urlsafe(32))'`"
        )
    return token


def bearer(token: str | None) -> dict[str, str]:
    """The header that a request needs."""
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def carries(headers: Iterable[tuple[bytes, bytes]], token: bytes) -> bool:
    """Whether the headers of a request (ASGI) carry `token`. Takes as long for a wrong token as for the right one."""
    given = next((value for name, value in headers if name == b"authorization"), b"")
    scheme, _, credentials = given.partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(credentials.strip(), token)
