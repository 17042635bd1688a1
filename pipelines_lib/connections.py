"""The addresses and secrets of the outside world, by name: a use case names a connection, and never holds what is in it.

A job finds connection `shop_db` in the environment variable SLUICE_CONN_SHOP_DB, in Airflow's JSON form or as a URL. The
Airflow world puts it there, for the child process alone; whoever runs a stage by hand exports the same variable. What such
a variable holds is never printed, and an error names the variable alone.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from pipelines_lib.errors import ConfigError

if TYPE_CHECKING:
    from sqlalchemy import URL

# Airflow's names of database types to SQLAlchemy's names of dialect and driver, where they differ.
_DRIVERS = {"postgres": "postgresql+psycopg", "postgresql": "postgresql+psycopg"}


@dataclass(frozen=True)
class Connection:
    """One connection, with Airflow's fields. Printing it shows no secret."""

    name: str
    type: str
    """Airflow's connection type or a URL's scheme: `postgres`, `mysql`, `sqlite`, `http`, `aws`, …"""
    host: str | None = None
    port: int | None = None
    login: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    schema: str | None = None
    """A database's name; `http` or `https` of an HTTP API."""
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def url(self) -> "URL":
        """The database's URL, which hides its password when printed.

        Airflow's extras `sqlalchemy_scheme` (dialect and driver) and `sqlalchemy_query` (the URL's query) are honoured; without the
        latter the other extras that are plain values are the query (`sslmode`, …).
        """
        from sqlalchemy import URL  # noqa: PLC0415 - a third of a second that only SQL sources need

        scheme = str(self.extra.get("sqlalchemy_scheme") or _DRIVERS.get(self.type, self.type))
        query = self.extra.get("sqlalchemy_query")
        if not isinstance(query, Mapping):
            query = {key: value for key, value in self.extra.items() if key != "sqlalchemy_scheme"}
        plain = {key: str(value) for key, value in query.items() if isinstance(value, str | int | float)}
        if scheme.partition("+")[0] == "sqlite":  # a file: Airflow keeps it as the host, a URL as the path
            return URL.create(scheme, database=self.host or self.schema, query=plain)
        return URL.create(scheme, self.login, self.password, self.host, self.port, self.schema, plain)


def variable_of(name: str) -> str:
    """The environment variable that holds connection `name`."""
    return f"SLUICE_CONN_{name.upper()}"


def connection(name: str, environment: Mapping[str, str] = os.environ) -> Connection:
    """The connection `name` of `environment`. Raises `ConfigError` where there is none, or where it can't be read."""
    variable = variable_of(name)
    text = environment.get(variable, "").strip()
    if not text:
        raise ConfigError(
            f"connection {name!r}: there is none. In Airflow, make it under Admin → Connections (or `airflow connections add {name} …`); "
            f"for a run by hand, export {variable} with its URL or with Airflow's JSON"
        )
    # What went wrong in the parsers is not passed on: their messages quote the secret.
    try:
        found = _from_json(name, text) if text.startswith("{") else _from_url(name, text)
    except (ValueError, TypeError):
        found = None
    if found is None:
        raise ConfigError(
            f"connection {name!r}: {variable} is neither a URL (type://login:password@host:port/schema, with % signs for special characters) "
            'nor Airflow\'s JSON ({"conn_type": …, "host": …}); correct it (its value is not shown here, since it may hold a secret)'
        )
    return found


def _from_json(name: str, text: str) -> Connection | None:
    """Airflow's JSON form; `extra` is an object, or JSON text of one."""
    given = json.loads(text)
    extra = given.get("extra") or {}
    extra = json.loads(extra) if isinstance(extra, str) else extra
    port = given.get("port")
    if not isinstance(extra, dict) or not isinstance(kind := given.get("conn_type"), str) or not kind:
        return None
    texts = {key: None if (value := given.get(key)) is None else str(value) for key in ("host", "login", "password", "schema")}
    return Connection(name=name, type=kind.lower().replace("-", "_"), port=int(port) if port else None, extra=extra, **texts)


def _from_url(name: str, text: str) -> Connection | None:
    """Airflow's URL form, which SQLAlchemy's URLs have too."""
    parts = urlsplit(text)
    if not parts.scheme or "://" not in text:
        return None
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    extra = json.loads(packed) if (packed := query.pop("__extra__", None)) else {}
    if not isinstance(extra, dict):
        return None
    return Connection(
        name=name,
        type=parts.scheme.replace("-", "_"),
        host=unquote(_host(parts.netloc)) or None,
        port=parts.port,
        login=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
        schema=unquote(parts.path.removeprefix("/")) or None,
        extra={**query, **extra},
    )


def _host(netloc: str) -> str:
    """The host as it was written: `SplitResult.hostname` lowers its case, and the host may be a path."""
    host = netloc.rpartition("@")[2]
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
