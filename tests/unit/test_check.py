from pathlib import Path

import pytest

from pipelines_lib.check import check_use_case
from pipelines_lib.config import Project

SETTINGS = """\
name: shop
title: Shop
owner: tests
task: binary
start: 2026-01-01
source:
  path: data.csv
  replay: {partitions: 2}
columns:
  price: {type: number, source: Price}
  colour: {type: string, nullable: false}
  action: {type: string, role: label}
quality:
  expectations:
    - expect_column_values_to_be_between: {column: price, min_value: 0}
    - expect_column_values_to_be_in_set: {column: colour, value_set: [red, blue]}
label:
  column: action
  positive: buy
gate:
  metric: roc_auc
  floor: 0.6
"""
DATA = "Price,colour,action\n" + "1.5,red,buy\n2,blue,view\n" * 20


@pytest.fixture
def project(tmp_path) -> Project:
    return Project(folder=tmp_path, home=tmp_path / "home", use_cases=tmp_path / "use_cases", profile_name="local")


def check(project: Project, settings: str = SETTINGS, data: str | None = DATA, hooks: str | None = None) -> list[str]:
    """The problems, the use case's folder cut off."""
    folder = project.use_cases / "shop"
    folder.mkdir(parents=True)
    (folder / "use_case.yaml").write_text(settings)
    if hooks is not None:
        (folder / "hooks.py").write_text(hooks)
    if data is not None:
        (project.folder / "data.csv").write_text(data)
    return [problem.removeprefix(f"{folder}/") for problem in check_use_case(project, "shop")]


def test_a_right_one_has_no_problems(project):
    assert check(project) == []


def test_checking_leaves_nothing_behind(project):
    check(project, hooks="X = 1\n")

    assert sorted(path.name for path in project.folder.rglob("*")) == ["data.csv", "hooks.py", "shop", "use_case.yaml", "use_cases"]


def test_settings_are_told_alone(project):
    [first, second] = check(
        project, SETTINGS.replace("metric: roc_auc", "metric: rmse").replace("column: action", "column: deed"), data=None
    )

    assert first.startswith("use_case.yaml:18: label.column: ")
    assert second.startswith("use_case.yaml:21: gate.metric: ")


def test_an_unknown_use_case(project):
    [problem] = check_use_case(project, "other")

    assert "no use case 'other'" in problem


def test_a_file_that_is_not_there(project):
    [problem] = check(project, data=None)

    assert problem == f"use_case.yaml:7: source.path: there is no file {project.folder / 'data.csv'}; put it there, or correct the path"


def test_an_empty_file(project):
    [problem] = check(project, data="")

    assert problem.startswith("use_case.yaml:7: source.path: ")
    assert "empty" in problem


def test_every_column_that_the_file_has_not_is_told_with_the_closest(project):
    [price, action] = check(project, data=DATA.replace("Price", "Prize").replace("action", "deed"))

    assert price.startswith("use_case.yaml:10: columns.price.source: ")
    assert "no column 'Price'; did you mean 'Prize'? it has: Prize, colour, deed" in price
    assert action.startswith("use_case.yaml:12: columns.action: ")
    assert "did you mean" not in action


@pytest.mark.parametrize(
    ("settings", "data", "start", "says"),
    [
        (SETTINGS, DATA + "1,red,buy,more\n" * 4, "use_case.yaml:7: source.path: ", "9.1% of the records"),
        (SETTINGS, DATA.replace("1.5,", "cheap,"), "use_case.yaml:10: columns.price.type: ", "50.0% of the rows"),
        (SETTINGS, DATA.replace("red", ""), "use_case.yaml:11: columns.colour.nullable: ", "set `nullable: true`"),
        (
            SETTINGS.replace("  positive: buy", "  map: {buy: yes_, look: no_}\n  positive: yes_"),
            DATA,
            "use_case.yaml:12: columns.action.role: ",
            "list the other values under label.map",
        ),
        (SETTINGS, DATA.replace("buy", "bought"), "use_case.yaml:19: label.positive: ", "has ['bought', 'view']"),
        (SETTINGS, DATA + "3,red,return\n", "use_case.yaml:19: label.positive: ", "set `task: multiclass`"),
    ],
)
def test_values_that_are_not_what_is_declared(project, settings, data, start, says):
    [problem] = check(project, settings, data)

    assert problem.startswith(start)
    assert says in problem


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("expect_column_values_to_be_betwixt: {column: price, min_value: 0}", "did you mean 'expect_column_values_to_be_between'"),
        ("expect_column_values_to_be_between: {column: price, minimum: 0}", "does not take"),
        ("expect_column_values_to_be_between: {column: colour, min_value: 0}", "can't judge"),
    ],
)
def test_expectations_that_great_expectations_does_not_take(project, written, says):
    [problem] = check(project, SETTINGS.replace("expect_column_values_to_be_between: {column: price, min_value: 0}", written))

    assert problem.startswith(f"use_case.yaml:15: quality.expectations.0.{written.partition(':')[0]}: ")
    assert says in problem


def test_a_file_a_partition_is_checked_against_the_newest_there_is(project):
    settings = SETTINGS.replace("data.csv\n  replay: {partitions: 2}", "'{home}/in/{partition}.csv'")
    assert check(project, settings, data=None) == []

    folder = project.home / "in"
    folder.mkdir(parents=True)
    (folder / "2026-01-01.csv").write_text(DATA.replace("colour", "color"))
    assert ["columns.colour: " in problem for problem in check_use_case(project, "shop")] == [True]
    (folder / "2026-01-02.csv").write_text(DATA)
    assert check_use_case(project, "shop") == []


def test_a_folder_that_is_called_like_a_file_is_no_partition(project):
    folder = project.home / "in"
    (folder / "2026-01-02.csv").mkdir(parents=True)
    settings = SETTINGS.replace("data.csv\n  replay: {partitions: 2}", "'{home}/in/{partition}.csv'")
    assert check(project, settings, data=None) == []

    (folder / "2026-01-01.csv").write_text(DATA)
    assert check_use_case(project, "shop") == []


def test_a_column_that_may_be_lost_is_empty(project):
    settings = SETTINGS.replace("quality:\n", "quality:\n  upstream: {lost_columns: empty}\n").replace(
        "{type: number, source: Price}", "{type: number, source: Prize}"
    )

    assert check(project, settings) == []


def test_a_column_that_may_be_lost_and_must_not_be_empty(project):
    settings = SETTINGS.replace("quality:\n", "quality:\n  upstream: {lost_columns: empty}\n")

    [problem] = check(project, settings, data=DATA.replace("colour", "shade"))

    assert problem.startswith("use_case.yaml:11: columns.colour.nullable: 100.0% of the rows")


LAND = SETTINGS.replace("data.csv\n  replay: {partitions: 2}", "'{home}/in/{partition}.csv'\n  land: true")


@pytest.mark.parametrize(
    ("hooks", "start", "says"),
    [
        ("def land(partition_key, path, params):\n    pass\n", None, ""),
        ("import functools\nX = 1\n", "use_case.yaml:8: source.land: ", "has no function land(partition_key, path, params)"),
        ("\ndef land(partition_key):\n    pass\n", "hooks.py:2: land: ", "must take (partition_key, path, params)"),
        ("\nimport no_such_module_\n", "hooks.py:2: hooks: ", "ModuleNotFoundError"),
        ("x = 1\n\ndef land(:\n", "hooks.py:3: hooks: ", "SyntaxError"),
        ("def f():\n    raise RuntimeError('no')\nf()\n", "hooks.py:2: hooks: ", "RuntimeError: no"),
    ],
)
def test_hooks(project, hooks, start, says):
    problems = check(project, LAND, data=None, hooks=hooks)

    assert [problem.startswith(start) for problem in problems] == ([True] if start else [])
    assert all(says in problem for problem in problems)


def test_rows_with_any_number_of_classes(project):
    settings = (
        SETTINGS.replace("task: binary", "task: multilabel").replace("positive: buy", 'separator: ";"').replace("roc_auc", "micro_f1")
    )
    data = "Price,colour,action\n" + "1.5,red,buy;view\n2,blue,\n3,red,view\n" * 20
    assert check(project, settings, data) == []


MODEL = SETTINGS + "training:\n  model: {type: hooks}\n"


@pytest.mark.parametrize(
    ("hooks", "start", "says"),
    [
        ("def model(shape, settings):\n    pass\n", None, ""),
        (None, "use_case.yaml:24: training.model.type: ", "hooks.py; write it, with a function model(shape, settings)"),
        ("X = 1\n", "use_case.yaml:24: training.model.type: ", "has no function model(shape, settings); write it"),
        ("\ndef model(shape):\n    pass\n", "hooks.py:2: model: ", "must take (shape, settings)"),
    ],
)
def test_a_model_of_the_users_own(project, hooks, start, says):
    problems = check(project, MODEL, hooks=hooks)

    assert [problem.startswith(start) for problem in problems] == ([True] if start else [])
    assert all(says in problem for problem in problems)


RULES = SETTINGS.replace("  action: {type: string, role: label}\n", "").replace(
    "  column: action\n  positive: buy\n",
    "  rules:\n    functions: [cheap, red]\n    classes: [buy, view]\n  positive: buy\n",
)
CHEAP = "def cheap(rows):\n    return ['buy'] * rows.num_rows\n"


@pytest.mark.parametrize(
    ("hooks", "start", "says"),
    [
        (CHEAP + "def red(rows):\n    return rows['colour'].to_pylist() and [None] * len(rows)\n", None, ""),
        (CHEAP, "use_case.yaml:18: label.rules.functions.1: ", "has no function red(rows); write it, or take the name out"),
        (CHEAP + "def red():\n    pass\n", "hooks.py:3: red: ", "must take (rows), a pyarrow Table"),
        (CHEAP + "def red(rows):\n    return [None]\n", "hooks.py: labelling function red ", "returned 1 votes for 40 rows"),
        (CHEAP + "def red(rows):\n    return rows['color']\n", "hooks.py:4: labelling function red ", "failed with KeyError"),
        (
            CHEAP + "def red(rows):\n    return rows['colour']\n",
            "hooks.py: labelling function red ",
            "for 40 of 40 rows; the classes are buy, view",
        ),
        (None, "use_case.yaml:18: label.rules.functions: ", "hooks.py; write it, with the functions that this names"),
    ],
)
def test_labelling_functions(project, hooks, start, says):
    problems = check(project, RULES, hooks=hooks)

    assert [problem.startswith(start) for problem in problems] == ([True] if start else [])
    assert all(says in problem for problem in problems)


def test_the_columns_of_ground_truth(project):
    truth = "  join: {source: {path: 'truth/{partition}.csv'}, on: [action], column: outcome}\n"
    settings = SETTINGS.replace("  action: {type: string, role: label}", "  action: {type: string, role: key}").replace(
        "  column: action\n", truth
    )
    assert check(project, settings) == []

    (project.folder / "truth").mkdir()
    (project.folder / "truth" / "2026-01-01.csv").write_text("deed,outcomes\n")
    [key, outcome] = [problem.rpartition("shop/")[2] for problem in check_use_case(project, "shop")]
    assert key.startswith("use_case.yaml:18: label.join.on: ")
    assert "has no column 'outcome'; did you mean 'outcomes'?" in outcome


def test_land_without_hooks_is_told_with_the_settings(project):
    [problem] = check(project, LAND, data=None)

    assert "there is no hooks.py beside it" in problem


def test_the_shipped_use_cases_are_right():
    folder = Path(__file__).resolve().parents[2]
    shipped = Project(folder=folder, home=folder / ".none", use_cases=folder / "include" / "use_cases", profile_name="local")

    assert {name: check_use_case(shipped, name) for name in shipped.use_case_names()} == {"diagnosis": [], "recommendation": []}


def test_trials_that_are_pods_need_a_database(project):
    profiles = project.folder / "include" / "profiles"
    profiles.mkdir(parents=True)
    cluster = "kubernetes: {namespace: sluice, images: {cpu: 'job:1'}}\n"
    (profiles / "local.yaml").write_text(f"name: local\nlauncher: kubernetes\nstore: s3://bucket\ntracking_uri: http://mlflow\n{cluster}")
    [problem] = check(project, SETTINGS + "tuning: {space: {learning_rate: [0.1, 0.2]}}\n")

    assert problem.startswith("use_case.yaml:23: tuning: trials are pods, each of which would have a SQLite file of its own")


@pytest.mark.parametrize(("more", "n_problems"), [("", 1), ("monitoring: {loss: null}\n", 0)])
def test_a_metric_of_whose_loss_monitoring_can_tell_nothing(project, more, n_problems):
    problems = check(project, SETTINGS.replace("metric: roc_auc", "metric: calibration_error") + more)
    assert [problem.split(": ")[1:3] for problem in problems] == [
        ["gate.metric", "calibration_error grows by chance where rows are few, so monitoring shows it, and takes it for no loss"]
    ] * n_problems


def test_a_budget_needs_prices(project):
    profiles = project.folder / "include" / "profiles"
    profiles.mkdir(parents=True)
    profile = (
        "name: local\nstore: s\ntracking_uri: t\nprices: {here: {currency: USD, cpu_hour: 1, memory_gib_hour: 0, gpu_hour: {default: 1}}}\n"
    )
    (profiles / "local.yaml").write_text(profile)
    settings = SETTINGS + "budget: 2\ntuning: {cost: 1, space: {learning_rate: [0.1, 0.2]}}\nmonitoring: {max_cost: 3}\n"
    problems = check(project, settings)

    assert [problem.split(": ")[:2] for problem in problems] == [
        ["use_case.yaml:23", "budget"],
        ["use_case.yaml:25", "monitoring.max_cost"],
        ["use_case.yaml:24", "tuning.cost"],
    ]
    assert "profile local names no cloud whose prices count; set its `cloud` and `prices`, or remove this" in problems[0]
    (profiles / "local.yaml").write_text(profile + "cloud: here\n")
    assert check_use_case(project, "shop") == []


def test_a_signing_key_that_is_none_is_told_without_its_value(project, monkeypatch):
    monkeypatch.setenv("SLUICE_CONN_SIGNING", '{"conn_type": "generic", "password": "short-secret"}')
    [problem] = check(project, SETTINGS + "deployment: {edge: {connection: signing}}\n")
    assert problem.startswith("use_case.yaml:23: deployment.edge: connection 'signing': its password is no ed25519 key")
    assert "short-secret" not in problem
