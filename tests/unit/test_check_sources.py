from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines_lib.check import check_use_case
from pipelines_lib.check_sources import not_checked
from pipelines_lib.cli import app
from pipelines_lib.config import Project

SETTINGS = """\
name: shop
title: Shop
owner: tests
task: binary
start: 2026-01-01
source:
  SOURCE
columns:
  price: {type: number}
  age: {type: integer}
  action: {type: string, role: label}
label:
  column: action
  positive: buy
gate:
  metric: roc_auc
  floor: 0.6
"""
JOINED = """\
joins:
  - name: customers
    source: {path: customers.csv}
    on: {who: customer}
    columns: [age]
"""
SQL = "sql: {connection: shop_db, query: 'SELECT * FROM t WHERE day = :partition', order_by: [id]}"
CSV = "path: 'in/{partition}.csv'"
SENSORS = """path: 'in/{partition}.csv'
  sensors: {layout: wide, entity: who, time: at, every: 1h, columns: {price: mean, action: last}}"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(folder=tmp_path, home=tmp_path / "home", use_cases=tmp_path / "use_cases", profile_name="local")


def write(project: Project, settings: str, **files: str) -> None:
    (project.use_cases / "shop").mkdir(parents=True)
    (project.use_cases / "shop" / "use_case.yaml").write_text(settings)
    (project.folder / "in").mkdir()
    for name, text in files.items():
        (project.folder / f"{name.replace('in_', 'in/2026-01-')}.csv").write_text(text)


def check(project: Project) -> list[str]:
    return [problem.removeprefix(f"{project.use_cases / 'shop'}/") for problem in check_use_case(project, "shop")]


def test_a_query_is_not_asked_and_that_is_said(project, monkeypatch):
    write(project, SETTINGS.replace("SOURCE", SQL))
    monkeypatch.delenv("SLUICE_CONN_SHOP_DB", raising=False)

    assert check(project) == []
    [said] = not_checked(project, "shop")
    assert said.startswith(
        "source: the query through connection 'shop_db' was not asked; connection 'shop_db' is not set here (SLUICE_CONN_SHOP_DB)"
    )
    monkeypatch.setenv("SLUICE_CONN_SHOP_DB", "sqlite:///s3cret")
    [said] = not_checked(project, "shop")
    assert "is set here" in said
    assert "s3cret" not in said


def test_the_command_says_it(project, monkeypatch):
    write(project, SETTINGS.replace("SOURCE", "http: {url: 'https://api.example.com/{partition}'}"))
    profile = project.folder / "include" / "profiles" / "local.yaml"
    profile.parent.mkdir(parents=True)
    profile.write_text('name: local\nstore: "{home}/store"\ntracking_uri: "sqlite:///{home}/mlflow.db"\n', encoding="utf-8")
    for name, value in (("PROJECT", project.folder), ("HOME", project.home), ("USE_CASES", project.use_cases)):
        monkeypatch.setenv(f"SLUICE_{name}", str(value))

    result = CliRunner().invoke(app, ["check", "shop"])

    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == ["✓ shop", "    not checked: source: https://api.example.com/{partition} was not asked"]


def test_a_file_has_everything_checked(project):
    write(project, SETTINGS.replace("SOURCE", CSV), in_01="price,age,action\n1,2,buy\n3,4,view\n")

    assert check(project) == []
    assert not_checked(project, "shop") == []


def test_joined_columns_are_looked_for_where_they_come_from(project):
    write(project, JOINED + SETTINGS.replace("SOURCE", CSV), in_01="price,who,action\n1,c,buy\n", customers="customer,age\nc,3\n")

    assert check(project) == []
    assert not_checked(project, "shop") == ["the values of the rows, since they are made of several sources"]


def test_what_joined_files_lack(project):
    write(project, JOINED + SETTINGS.replace("SOURCE", CSV), in_01="prize,action\n1,buy\n", customers="client,years\nc,3\n")

    price, key, customer, age = check(project)

    assert price.startswith("use_case.yaml:14: columns.price: ")
    assert "did you mean 'prize'" in price
    assert key.startswith("use_case.yaml:4: joins.0.on: ")
    assert "has no column 'who'" in key
    assert customer.startswith("use_case.yaml:4: joins.0.on: ")
    assert "customers.csv has no column 'customer'" in customer
    assert age.startswith("use_case.yaml:5: joins.0.columns: ")


LOST = "quality:\n  upstream: {lost_columns: empty}\n"


def test_a_column_that_may_be_lost_is_not_missed_and_a_key_is(project):
    write(project, JOINED + LOST + SETTINGS.replace("SOURCE", CSV), in_01="who\nc\n", customers="customer,age\nc,3\n")
    assert check(project) == []

    (project.folder / "in" / "2026-01-01.csv").write_text("price,action\n1,buy\n")
    [key] = check(project)
    assert key.startswith("use_case.yaml:4: joins.0.on: ")


def test_all_columns_may_not_be_lost_at_once(project):
    joined = JOINED.replace("[age]", "[note]")
    write(project, joined + LOST + SETTINGS.replace("SOURCE", CSV), in_01="who\nc\n", customers="customer,note\nc,x\n")

    assert [problem.partition(": ")[2].partition(": ")[0] for problem in check(project)] == [
        "columns.price",
        "columns.age",
        "columns.action",
    ]


@pytest.mark.parametrize(("row", "column"), [("", "at"), ("row: then, ", "then")])
def test_the_time_that_a_join_compares_may_not_be_lost(project, row, column):
    joined = JOINED + "    asof: {time: since, " + row + "within: 1d}\n"
    settings = SETTINGS.replace("SOURCE", CSV).replace("  action:", "  at: {type: timestamp, role: time}\n  action:")
    write(project, joined + LOST + settings, in_01="price,who,action\n1,c,buy\n", customers="customer,age,since\nc,3,2026-01-01\n")

    [problem] = check(project)

    assert problem.startswith("use_case.yaml:6: joins.0.asof")
    assert f"has no column {column!r}" in problem


def test_an_unreadable_lookup(project):
    write(project, JOINED + SETTINGS.replace("SOURCE", CSV), customers="")

    [problem] = check(project)

    assert problem.startswith("use_case.yaml:3: joins.0.source: ")


def test_sensors_need_their_own_columns(project):
    without_age = SETTINGS.replace("  age: {type: integer}\n", "").replace("SOURCE", SENSORS)
    write(project, without_age, in_01="who,price,action\nm,1,buy\n")

    [problem] = check(project)

    assert problem.startswith("use_case.yaml:8: source.sensors: ")
    assert "has no column 'at'" in problem
    assert not_checked(project, "shop") == ["the values of the rows, since they are made of readings"]


def test_wrong_settings_are_told_alone(project):
    write(project, SETTINGS.replace("SOURCE", "{}"))

    assert len(check(project)) == 1
    assert not_checked(project, "shop") == []
