import json
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.connections import Connection, connection, variable_of
from pipelines_lib.errors import ConfigError
from pipelines_lib.use_case import ConnectionName, Settings
from pipelines_lib.use_case.base import connections_in

SECRET = "p@ss/w:rd?#%2F é"


@pytest.fixture
def export(monkeypatch: pytest.MonkeyPatch):
    """Puts a connection into the environment, as the Airflow world or a person does."""
    return lambda name, value: monkeypatch.setenv(variable_of(name), value if isinstance(value, str) else json.dumps(value))


def test_airflows_json_form(export):
    export(
        "shop_db",
        {
            "conn_type": "postgres",
            "host": "db",
            "port": 5432,
            "login": "reader",
            "password": SECRET,
            "schema": "shop",
            "extra": {"sslmode": "require"},
        },
    )

    found = connection("shop_db")

    assert found == Connection("shop_db", "postgres", "db", 5432, "reader", SECRET, "shop", {"sslmode": "require"})
    assert found.url().render_as_string(hide_password=False).startswith("postgresql+psycopg://reader:")
    assert found.url().password == SECRET
    assert found.url().query == {"sslmode": "require"}


@pytest.mark.parametrize("extra", ['{"a": "b"}', {"a": "b"}])
def test_extra_may_be_text(export, extra):
    export("x", {"conn_type": "aws", "extra": extra})

    assert connection("x").extra == {"a": "b"}


def test_what_airflow_hands_out_is_what_a_job_reads(export):
    from airflow.sdk import Connection as AirflowConnection

    made = AirflowConnection(
        conn_id="x", conn_type="postgres", host="db", port=5433, login="l", password=SECRET, schema="s", extra='{"a": "b", "n": 1}'
    )
    for form in (made.as_json(), made.get_uri()):
        export("x", form)
        found = connection("x")
        assert (found.host, found.port, found.login, found.password, found.schema) == ("db", 5433, "l", SECRET, "s")
        assert found.extra == {"a": "b", "n": 1}
        assert found.url().drivername == "postgresql+psycopg"


@given(
    login=st.text(min_size=1),
    password=st.text(min_size=1),
    schema=st.text(min_size=1),
    host=st.from_regex(r"[A-Za-z0-9.-]{1,20}", fullmatch=True),
    port=st.none() | st.integers(1, 65535),
)
def test_a_url_is_read_as_it_was_written(login, password, schema, host, port):
    from urllib.parse import quote

    text = f"my-type://{quote(login, safe='')}:{quote(password, safe='')}@{host}{f':{port}' if port else ''}/{quote(schema, safe='')}?a=b"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(variable_of("x"), text)
        found = connection("x")

    assert found == Connection("x", "my_type", host, port, login, password, schema, {"a": "b"})


@pytest.mark.parametrize(
    ("form", "url"),
    [
        ("sqlite:////data/shop.db", "sqlite:////data/shop.db"),
        ({"conn_type": "sqlite", "host": "/data/shop.db"}, "sqlite:////data/shop.db"),
        ("mysql+pymysql://u@h/d?charset=utf8mb4", "mysql+pymysql://u@h/d?charset=utf8mb4"),
        ({"conn_type": "mysql", "host": "h", "extra": {"sqlalchemy_scheme": "mysql+pymysql"}}, "mysql+pymysql://h"),
        ({"conn_type": "postgres", "host": "h", "extra": {"cursor": "x", "sqlalchemy_query": {"a": "b"}}}, "postgresql+psycopg://h?a=b"),
        ("postgresql://h/d", "postgresql+psycopg://h/d"),
    ],
)
def test_the_url_of_a_database(export, form, url):
    export("x", form)

    assert connection("x").url().render_as_string() == url


def test_printing_shows_no_secret(export):
    export("x", {"conn_type": "postgres", "login": "who-secret", "password": "pw-secret", "host": "db", "extra": {"token": "extra-secret"}})
    found = connection("x")

    printed = f"{found} {found!r} {[found]} {found.url()} {found.url()!r}"

    assert "pw-secret" not in printed
    assert "extra-secret" not in repr(found)
    assert "who-secret" not in repr(found)


def test_a_missing_one_is_told_with_both_remedies(monkeypatch):
    monkeypatch.delenv("SLUICE_CONN_SHOP_DB", raising=False)

    with pytest.raises(ConfigError, match=r"'shop_db': there is none.*airflow connections add shop_db.*export SLUICE_CONN_SHOP_DB"):
        connection("shop_db")


@pytest.mark.parametrize(
    "value",
    [
        "s3cret",
        "{s3cret",
        '{"conn_type": 5, "password": "s3cret"}',
        '{"conn_type": "x", "port": "s3cret"}',
        '{"conn_type": "x", "extra": "s3cret"}',
        '{"conn_type": "x", "extra": ["s3cret"]}',
        "x://h:s3cret/d",
        "x://u:s3cret@[h/d",
        "x://h?__extra__=s3cret",
        "x://h?__extra__=%5B%22s3cret%22%5D",
    ],
)
def test_a_broken_one_is_told_without_its_value(export, value):
    export("x", value)

    with pytest.raises(ConfigError, match="SLUICE_CONN_X is neither a URL") as raised:
        connection("x")
    assert "s3cret" not in "".join(traceback.format_exception(raised.value))


def test_the_connections_of_settings_are_found_at_any_depth():
    class Inner(Settings):
        connection: ConnectionName | None = None

    class Outer(Settings):
        one: Inner
        several: list[Inner]
        named: dict[str, Inner]
        other: str = "connection"

    given = Outer.model_validate(
        {
            "one": {"connection": "a"},
            "several": [{"connection": "b"}, {}],
            "named": {"connection": {"connection": "c"}},
        }
    )

    assert list(connections_in(given)) == ["a", "b", "c"]
    for wrong in ("A", "a-b", "", "a b", "1a"):
        with pytest.raises(ValueError, match="pattern"):
            Inner(connection=wrong)
