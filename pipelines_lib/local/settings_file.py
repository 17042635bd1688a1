"""`airflow_settings.yaml`: connections, pools and variables of the local Airflow, in Astronomer's form."""

import json
from pathlib import Path
from typing import Any

from pydantic import Field

from pipelines_lib.config import load
from pipelines_lib.local.airflow_api import AirflowApi
from pipelines_lib.use_case import Settings


class _Connection(Settings):
    conn_id: str
    conn_type: str
    conn_host: str | None = None
    conn_schema: str | None = None
    conn_login: str | None = None
    conn_password: str | None = None
    conn_port: int | None = None
    conn_extra: dict[str, Any] | str | None = None


class _Pool(Settings):
    pool_name: str
    pool_slot: int
    pool_description: str | None = None


class _Variable(Settings):
    variable_name: str
    variable_value: str


class _Airflow(Settings):
    connections: list[_Connection] = Field(default_factory=list)
    pools: list[_Pool] = Field(default_factory=list)
    variables: list[_Variable] = Field(default_factory=list)


class _File(Settings):
    airflow: _Airflow


def load_settings(path: Path, api: AirflowApi) -> int:
    """Create what `path` lists and Airflow lacks. Returns how many; what is there already is left as it is.

    Raises `ConfigError` with file, line and field where the file breaks a rule.
    """
    settings = load(path, _File).airflow
    wanted = (
        [(f"/pools/{p.pool_name}", "/pools", _pool(p)) for p in settings.pools]
        + [(f"/variables/{v.variable_name}", "/variables", {"key": v.variable_name, "value": v.variable_value}) for v in settings.variables]
        + [(f"/connections/{c.conn_id}", "/connections", _connection(c)) for c in settings.connections]
    )
    missing = [(collection, body) for item, collection, body in wanted if not api.exists(item)]
    for collection, body in missing:
        api.post(collection, body)
    return len(missing)


def _pool(pool: _Pool) -> dict[str, Any]:
    return {"name": pool.pool_name, "slots": pool.pool_slot, "description": pool.pool_description or ""}


def _connection(connection: _Connection) -> dict[str, Any]:
    extra = connection.conn_extra
    return {
        "connection_id": connection.conn_id,
        "conn_type": connection.conn_type,
        "host": connection.conn_host,
        "schema": connection.conn_schema,
        "login": connection.conn_login,
        "password": connection.conn_password,
        "port": connection.conn_port,
        "extra": json.dumps(extra) if isinstance(extra, dict) else extra,
    }
