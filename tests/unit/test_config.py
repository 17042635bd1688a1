import re
import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.config import Profile, Project, line_of, load, load_use_case
from pipelines_lib.errors import ConfigError
from pipelines_lib.use_case import Settings

GOOD = """\
name: shop
title: Shop
owner: tests
task: binary
start: 2026-01-01
source:
  path: data/{partition}.csv
columns:
  price: {type: number}
  action:
    type: string
    role: label
label:
  column: action
  positive: buy
gate:
  metric: roc_auc
  floor: 0.6
"""
LOCAL = 'name: local\nstore: "{home}/store"\ntracking_uri: "sqlite:///{home}/mlflow.db"\nairflow_url: http://127.0.0.1:8080\n'


@pytest.fixture
def project(tmp_path) -> Project:
    profiles = tmp_path / "include" / "profiles"
    profiles.mkdir(parents=True)
    (profiles / "local.yaml").write_text(LOCAL)
    return Project(folder=tmp_path, home=tmp_path / "home", use_cases=tmp_path / "use_cases", profile_name="local")


def write(project: Project, text: str | bytes, name: str = "shop") -> Path:
    path = project.use_cases / name / "use_case.yaml"
    path.parent.mkdir(parents=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def errors(project: Project, text: str | bytes) -> list[str]:
    """What is said about `text`, the path cut off."""
    path = write(project, text)
    with pytest.raises(ConfigError) as caught:
        project.use_case("shop")
    lines = str(caught.value).splitlines()
    assert all(line.startswith(str(path)) for line in lines)
    shutil.rmtree(path.parent)
    return [line.removeprefix(f"{path}:").strip() for line in lines]


def test_a_right_one_loads(project):
    write(project, GOOD)

    assert project.use_case("shop").label.positive == "buy"


# (text, what is said: line, field, rule and remedy)
WRONG = [
    (GOOD + "nmae: x\n", "19: nmae: unknown key; known here are: name, title", "Fix the spelling or remove it"),
    (
        GOOD.replace("price: {type: number}", "price: {type: number, rolle: other}"),
        "9: columns.price.rolle: unknown key; known here are: type, role",
        "",
    ),
    (GOOD.replace("  floor: 0.6", "  floor: high"), "18: gate.floor: ", "found 'high'); change the value"),
    (GOOD.replace("    type: string", "    type: word"), "11: columns.action.type: ", "found 'word'); change the value"),
    (GOOD.replace("  metric: roc_auc\n", ""), "16: gate.metric: required, and missing; add it", ""),
    (
        GOOD + "schedule:\n  data: daily\n",
        "20: schedule.data: 'daily' is not a schedule; write a cron expression of five fields",
        "or null",
    ),
    (GOOD.replace("metric: roc_auc", "metric: rmse"), "17: gate.metric: metric 'rmse' does not fit a binary task; use one of roc_auc", ""),
    (
        GOOD.replace("  column: action", "  column: deed"),
        "14: label.column: column 'deed' is not declared; declared are: price, action",
        "Fix the name",
    ),
    (GOOD + "clean:\n  - deduplicate: [price]\n  - deduplicate: [cost]\n", "21: clean.1: column 'cost' is not declared", ""),
    (GOOD + "title: Again\n", "19: key 'title' is written twice; remove one", ""),
    (GOOD.replace("    role: label", "    role: label\n    role: other"), "13: key 'role' is written twice; remove one", ""),
    (GOOD + "a: [1, 2\n", "20: not valid YAML: ", "check indentation, colons and quotes near this line"),
    (GOOD + "a: !!python/object/apply:os.getcwd []\n", "19: could not determine a constructor", ""),
    (GOOD.replace("start: 2026-01-01", "start: soon"), "5: start: ", "found 'soon'); change the value"),
    (
        GOOD.replace("  path: data/{partition}.csv", "  path: data/{partition}.csv\n  params: {drift_from: 2026-01-16}"),
        "8: source.params.drift_from: ",
        "(found datetime.date(2026, 1, 16)); put it in quotes, or YAML reads a date",
    ),
    (GOOD.encode() + "name: Größe".encode("latin-1"), "not UTF-8 text", "save it as UTF-8"),
    ("", "1: expected settings as `key: value` lines, found nothing", ""),
    ("- a\n", "1: expected settings as `key: value` lines", ""),
    (GOOD.replace("name: shop", "name: shopp"), "1: name: 'shopp' differs from its folder's name 'shop'", "rename one"),
    (
        GOOD.replace("  path: data/{partition}.csv", "  path: data/{partition}.csv\n  land: true"),
        "source.land: there is no hooks.py",
        "or remove `land`",
    ),
    (GOOD.replace("source:\n  path: data/{partition}.csv", "source: {path: data.csv}"), "6: source: path must contain {partition}", ""),
]


@pytest.mark.parametrize(("text", "start", "end"), WRONG, ids=[start.strip()[:30] for _, start, _ in WRONG])
def test_a_mistake_is_told_with_file_line_field_rule_and_remedy(project, text, start, end):
    [said] = errors(project, text)

    assert said.startswith(start)
    assert said.endswith(end) or end in said


def test_every_mistake_is_told(project):
    text = (
        GOOD.replace("roc_auc\n", "roc_auc\n  foor: 1\n").replace("task: binary", "task: guess").replace("positive: buy", "positive: [buy]")
    )

    assert sorted(int(line.split(":")[0]) for line in errors(project, text)) == [4, 15, 18]


def test_one_that_is_wrong_never_hides_the_others(project):
    for name in ("one", "two", "three"):
        write(project, GOOD.replace("name: shop", f"name: {name}"), name)
    for name, text in {"unknown": GOOD + "x: 1\n", "bytes": b"\xff\xfe\xff", "empty": "", "yaml": "a: [", "misnamed": GOOD}.items():
        write(project, text, name)
    (project.use_cases / "no_settings").mkdir()

    good, broken = project.use_cases_or_errors()

    assert [use_case.name for use_case in good] == ["one", "three", "two"]
    assert set(broken) == {"unknown", "bytes", "empty", "yaml", "misnamed"}
    assert all(str(project.use_cases / name) in str(error) for name, error in broken.items())


def test_the_folder_is_looked_through_once_however_many_there_are(project, monkeypatch):
    for name in ("one", "two", "three"):
        write(project, GOOD.replace("name: shop", f"name: {name}"), name)
    looks = []
    monkeypatch.setattr(Path, "glob", lambda folder, pattern, glob=Path.glob: looks.append(folder) or glob(folder, pattern))

    assert len(project.use_cases_or_errors()[0]) == 3
    assert looks == [project.use_cases]


def test_an_unknown_use_case_is_told_with_those_there_are(project):
    write(project, GOOD)
    with pytest.raises(ConfigError, match=r"no use case 'shpo' .*there are: shop. `sluice new` makes one"):
        project.use_case("shpo")
    with pytest.raises(ConfigError, match="no use case"):
        project.use_case("../shop")


@given(st.text(max_size=200))
def test_any_text_is_settings_or_a_config_error(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("any") / "shop"
    folder.mkdir()
    (folder / "use_case.yaml").write_text(text, encoding="utf-8", newline="")
    with pytest.raises(ConfigError):
        load_use_case(folder)


def leaves(node: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    if isinstance(node, dict):
        return [leaf for key, value in node.items() for leaf in leaves(value, (*path, key))]
    return [path]


@pytest.mark.parametrize("location", leaves(yaml.safe_load(GOOD)), ids=".".join)
def test_any_setting_replaced_by_nonsense_is_told_at_its_line(project, location):
    document = yaml.safe_load(GOOD)
    parent = document
    for key in location[:-1]:
        parent = parent[key]
    parent[location[-1]] = {"nonsense": ["?"]}
    text = yaml.safe_dump(document, sort_keys=False)

    said = errors(project, text)

    path = write(project, text)
    assert any(line.startswith(f"{line_of(path, *location)}: {'.'.join(location)}: ") for line in said)


# --- profiles and the project -----------------------------------------------------------------------------------------


def test_a_profile_fills_in_the_home_and_takes_addresses_from_the_environment(project, monkeypatch):
    monkeypatch.delenv("SLUICE_MLFLOW_URL", raising=False)
    monkeypatch.setenv("SLUICE_AIRFLOW_URL", "http://127.0.0.1:9999/")
    profile = project.profile()

    assert profile.store == f"{project.home}/store"
    assert profile.tracking_uri == f"sqlite:///{project.home}/mlflow.db"
    assert (profile.airflow_url, profile.mlflow_url) == ("http://127.0.0.1:9999", None)


def test_a_store_in_a_bucket_is_opened_by_a_connection_in_every_stage(project):
    path = project.folder / "include" / "profiles" / "local.yaml"
    path.write_text(LOCAL.replace("{home}/store", "s3://models/sluice") + "store_connection: oss\n")
    profile = project.profile()
    assert profile.store == "s3://models/sluice"
    assert profile.connections("ingest") == profile.connections("train") == profile.connections("decide") == ["oss"]

    path.write_text(LOCAL + "store_connection: oss\n")
    with pytest.raises(
        ConfigError, match=r"local.yaml:5: store_connection: it opens a bucket, and `store` is the folder .*/store; remove it"
    ):
        project.profile()
    path.write_text(LOCAL.replace("{home}/store", "gs://models"))
    with pytest.raises(ConfigError, match=r"local.yaml:2: store: .*'gs://models' is neither a folder nor s3://bucket/prefix"):
        project.profile()
    path.write_text(LOCAL.replace("{home}/store", "s3:///prefix"))
    with pytest.raises(ConfigError, match=r"local.yaml:2: store: .*'s3:///prefix' names no bucket; write s3://bucket/prefix"):
        project.profile()


def test_a_profile_says_where_checkpoints_are_kept_and_what_opens_it(project):
    path = project.folder / "include" / "profiles" / "local.yaml"
    path.write_text(LOCAL + "checkpoints: {path: 's3://models/sluice/', connection: oss}\n")
    profile = project.profile()
    assert profile.checkpoints.of("shop/runs/training/1/train") == "s3://models/sluice/shop/runs/training/1/train"
    assert (profile.connections("train"), profile.connections("evaluate")) == (["oss"], [])
    # Trials keep theirs there, too.
    assert profile.connections("tune") == ["oss"]

    path.write_text(LOCAL + "checkpoints: {path: '{home}/kept'}\n")
    assert project.profile().checkpoints.path == f"{project.home}/kept"
    path.write_text(LOCAL + "checkpoints: {path: /kept, connection: oss}\n")
    with pytest.raises(ConfigError, match="`connection` opens a bucket, and /kept is a folder; remove it"):
        project.profile()


@pytest.mark.parametrize(
    ("name", "says"), [("cloud", r"set SLUICE_PROFILE to one of \['local'\]"), ("../local", "a name holds"), ("A", "a name holds")]
)
def test_a_profile_that_is_none_is_told_with_those_there_are(project, name, says):
    with pytest.raises(ConfigError, match=says):
        project.profile(name)


def test_a_profile_with_an_unknown_key_is_told_with_its_line(project):
    path = project.folder / "include" / "profiles" / "local.yaml"
    path.write_text(LOCAL + "stroe: here\n")
    with pytest.raises(ConfigError, match=r"local.yaml:5: stroe: unknown key; known here are: name, store"):
        load(path, Profile)


@pytest.mark.parametrize(
    ("alert", "says"),
    [
        ("{to: mail, connection: post}", "mail needs an `address`; add it, such as [ops@example.com]"),
        ("{to: slack, connection: chat, address: [me]}", "`address` is for mail, and this goes to slack; remove it"),
    ],
)
def test_mail_alone_has_an_address(project, alert, says):
    with (project.folder / "include" / "profiles" / "local.yaml").open("a", encoding="utf-8") as file:
        file.write(f"alerts: [{alert}]\n")
    with pytest.raises(ConfigError, match=re.escape(says)):
        project.profile()


def test_the_project_is_where_the_environment_says(monkeypatch, tmp_path):
    for key in ("SLUICE_HOME", "SLUICE_USE_CASES", "SLUICE_PROFILE"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("SLUICE_PROJECT", str(tmp_path))
    assert Project.from_environment() == Project(tmp_path, tmp_path / ".sluice", tmp_path / "include" / "use_cases", "local")

    monkeypatch.setenv("SLUICE_HOME", str(tmp_path / "h"))
    monkeypatch.setenv("SLUICE_USE_CASES", str(tmp_path / "u"))
    monkeypatch.setenv("SLUICE_PROFILE", "cluster")
    assert Project.from_environment() == Project(tmp_path, tmp_path / "h", tmp_path / "u", "cluster")


def test_the_keys_on_off_yes_and_no_are_words(tmp_path):
    class Words(Settings):
        on: dict[str, str]
        value: bool

    (tmp_path / "x.yaml").write_text("on: {yes: a, No: b, off: c}\nvalue: yes\n")

    assert load(tmp_path / "x.yaml", Words) == Words(on={"yes": "a", "No": "b", "off": "c"}, value=True)


SHIPPED = sorted(path.stem for path in (Path(__file__).parents[2] / "include" / "profiles").glob("*.yaml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_profile_is_right(name, tmp_path):
    profile = Project(Path(__file__).parents[2], tmp_path / "home", tmp_path / "cases", name).profile()
    assert profile.name == name
    assert (profile.kubernetes is not None) == (profile.launcher == "kubernetes")
