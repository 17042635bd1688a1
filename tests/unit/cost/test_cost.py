"""Prices of records: what was used, or what was reserved; waste apart; and the command that shows them."""

import json
import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib import cost
from pipelines_lib.config import Prices, Project, load
from pipelines_lib.contracts import Pipeline
from pipelines_lib.cost import bill, newest_run, price
from pipelines_lib.cost import cli as cost_cli
from pipelines_lib.cost.usage import Requests, Usage
from pipelines_lib.errors import BadInput, ConfigError
from pipelines_lib.store import write_json

USD = Prices(currency="USD", cpu_hour=0.36, memory_gib_hour=0.036, gpu_hour={"A10": 3.6, "H100": 36, "H100 NVL": 18, "default": 7.2})
NOW = 1_000_000.0


def record(seconds: float = 100.0, **more) -> Usage:
    return Usage(
        **{
            "attempt": 1, "rank": 0, "launch": "a", "started": NOW - seconds, "seconds": seconds,
            "cpu_seconds": seconds, "memory_gib_seconds": 2 * seconds, "outcome": "done", **more,
        }
    )  # fmt: skip


def test_the_price_of_what_was_used():
    # 100 s of one CPU and two GiB: 100/3600 × (0.36 + 2 × 0.036)
    assert price(record(), USD) == pytest.approx(0.012)
    assert price(record(gpu="NVIDIA A10", gpu_seconds=200.0), USD) == pytest.approx(0.012 + 0.2)


def test_what_was_reserved_is_billed_used_or_not():
    assert price(record(requests=Requests(cpus=4, memory_gib=16)), USD) == pytest.approx(100 / 3600 * (4 * 0.36 + 16 * 0.036))


@pytest.mark.parametrize(
    ("name", "hour"),
    [("NVIDIA H100 80GB HBM3", 36), ("NVIDIA H100 NVL", 18), ("NVIDIA A100-SXM4-40GB", 7.2), ("NVIDIA A10", 3.6), ("Tesla-a10", 3.6)],
)
def test_a_gpu_is_priced_by_its_name_as_a_word(name: str, hour: float):
    assert USD.of_gpu(name) == hour


def test_waste_is_the_share_of_a_failed_try_that_no_checkpoint_kept():
    records = [record(100.0, outcome="failed", kept_seconds=75.0), record(50.0, attempt=2)]
    found = bill(records, {"here": USD}, NOW)

    assert found.seconds == 150
    assert found.wasted_seconds == 25
    assert found.cost["here"] == pytest.approx(0.018)
    assert found.wasted["here"] == pytest.approx(0.003)


usages = st.builds(
    record, seconds=st.floats(0, 1e6), attempt=st.integers(1, 5), rank=st.integers(0, 3), kept_seconds=st.floats(0, 1e6),
    outcome=st.sampled_from(["running", "done", "held", "failed"]), gpu=st.sampled_from([None, "NVIDIA A10"]), gpu_seconds=st.floats(0, 1e6),
)  # fmt: skip


@given(st.lists(usages), st.lists(usages))
def test_bills_add_up_and_waste_is_part_of_the_cost(one: list[Usage], other: list[Usage]):
    both = bill(one, {"here": USD}, NOW) + bill(other, {"here": USD}, NOW)

    assert both.cost["here"] == pytest.approx(sum(price(used, USD) for used in [*one, *other]))
    assert -1e-9 <= both.wasted["here"] <= both.cost["here"] * (1 + 1e-9)


def test_a_profile_says_what_is_wrong_with_its_prices(tmp_path: Path):
    from pipelines_lib.config import Profile

    path = tmp_path / "p.yaml"
    given = {"name": "p", "store": "s", "tracking_uri": "t", "cloud": "oss", "prices": {"aws": USD.model_dump()}}
    path.write_text(yaml.safe_dump(given, sort_keys=False), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"p.yaml:4: cloud: 'oss' has no prices; there are those of aws"):
        load(path, Profile)
    given["prices"]["aws"]["gpu_hour"] = {"H100": 3}
    path.write_text(yaml.safe_dump(given, sort_keys=False), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"prices.aws.gpu_hour: there is no `default`, so a GPU that is not named would cost nothing"):
        load(path, Profile)


def test_the_shipped_profile_has_prices_of_several_clouds():
    profile = Project(Path(__file__).parents[3], Path("home"), Path("cases"), "local").profile()

    assert len(profile.prices) >= 3
    assert profile.cloud in profile.prices


@pytest.fixture
def project(tmp_path: Path, make_use_case) -> Project:
    case = tmp_path / "use_cases" / "shop"
    case.mkdir(parents=True)
    settings = make_use_case(budget=5.0).model_dump(mode="json", exclude_unset=True)
    (case / "use_case.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    profiles = tmp_path / "include" / "profiles"
    profiles.mkdir(parents=True)
    profile = {"name": "local", "store": "{home}/store", "tracking_uri": "", "cloud": "here", "prices": {"here": USD.model_dump()}}
    (profiles / "local.yaml").write_text(yaml.safe_dump(profile), encoding="utf-8")
    return Project(tmp_path, tmp_path / "home", tmp_path / "use_cases", "local")


@pytest.fixture
def runs(project: Project) -> Path:
    folder = project.home / "store" / "shop" / "runs" / "training"
    write_json(folder / "old" / "train" / "usage" / "1-0.json", record(7.0))
    write_json(folder / "new" / "snapshot" / "usage" / "1-0.json", record(1.0, started=NOW - 900))
    write_json(folder / "new" / "train" / "usage" / "1-0.json", record(100.0, started=NOW - 800, outcome="failed", kept_seconds=75.0))
    write_json(folder / "new" / "train" / "usage" / "2-0.json", record(50.0, attempt=2, launch="b"))
    os.utime(folder / "old" / "train" / "usage", (1, 1))
    return folder


def test_the_command_shows_the_newest_run_stage_by_stage(project: Project, runs: Path):
    said: list[str] = []
    cost_cli.show(project, "shop", Pipeline.TRAINING, None, as_json=False, echo=said.append)

    assert newest_run(runs.parents[1], Pipeline.TRAINING) == runs / "new"
    assert said[0] == "shop training, run new"
    assert said[1].split() == [
        "stage",
        "seconds",
        "CPU",
        "s",
        "GPU",
        "s",
        "memory",
        "GiB",
        "s",
        "here",
        "USD",
        "wasted",
        "s",
        "wasted",
        "here",
    ]
    assert [line.split()[0] for line in said[2:5]] == ["snapshot", "train", "together"]
    assert said[3].split() == ["train", "150.0", "150.0", "0.0", "300.0", "0.018", "25.0", "0.003"]
    assert said[5] == "budget: 0.01812 of 5 USD (here)"


def test_the_command_as_json_and_a_run_by_its_name(project: Project, runs: Path):
    said: list[str] = []
    cost_cli.show(project, "shop", Pipeline.TRAINING, "old", as_json=True, echo=said.append)
    document = json.loads(said[0])

    assert document["stages"]["train"]["seconds"] == 7.0
    assert document["together"]["cost"] == {"here": pytest.approx(0.00084)}
    with pytest.raises(BadInput, match="nothing is known of the run 'other' of shop's training"):
        cost_cli.show(project, "shop", Pipeline.TRAINING, "other", as_json=False, echo=said.append)


def test_a_run_that_has_not_begun_costs_nothing(tmp_path: Path):
    assert cost.of_run(tmp_path, {"here": USD}) == {}
    assert newest_run(tmp_path, Pipeline.TRAINING) is None
