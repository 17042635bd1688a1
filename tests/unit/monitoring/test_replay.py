import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines_lib.cli import app
from pipelines_lib.config import Project
from pipelines_lib.contracts import run_dir
from pipelines_lib.cost.usage import Usage
from pipelines_lib.monitoring.governor import Window
from pipelines_lib.monitoring.history import Recorded
from pipelines_lib.monitoring.replay import replay
from pipelines_lib.store import write_json
from pipelines_lib.use_case import Monitoring


def day(number):
    return f"2026-01-{number:02d}"


def windows(drifted, *, version=1):
    return [
        Window(
            partition_key=day(n),
            n_rows=500,
            model_version=version,
            n_inputs=10,
            n_drifted=10 if n in drifted else 0,
            prediction_drifted=False,
        )
        for n in range(1, 15)
    ]


def actions(windows, use_case, settings, recorded=()):
    steps = replay(windows, use_case, settings, {record.partition_key: record for record in recorded}, cost=2.0)
    return {step.window.partition_key: step.decision.action for step in steps if step.decision.action != "hold"}


def test_settings_are_tried_on_history(make_use_case):
    shop, seen = make_use_case(), windows({3, 4, 5, 6, 7, 8, 13})
    assert actions(seen, shop, Monitoring(cooldown=3)) == {day(4): "retrain", day(8): "retrain"}, "a cool-down of three"
    assert actions(seen[::-1], shop, Monitoring(need=1, cooldown=5)) == {day(3): "retrain", day(13): "retrain"}
    assert actions(seen, shop, Monitoring(max_retrainings=1)) == {day(4): "retrain"}
    assert actions(seen, shop, Monitoring(max_cost=3.0)) == {day(4): "retrain"}
    assert actions(seen, shop, Monitoring(need=6, of=6)) == {day(8): "retrain"}


def test_the_champion_is_the_one_of_then(make_use_case):
    record = Recorded(partition_key=day(4), action="hold", reason="", model_version=2, trigger_run_id="", n_known=0)
    seen = windows({3, 4, 5})
    assert actions(seen, make_use_case(), Monitoring(), [record]) == {day(5): "retrain"}, "on day 4 version 2 served, and 1 had answered"


class TestTheCommand:
    @pytest.fixture
    def monitored(self, sandbox, answer, monitor, deploy):
        """Three days, the last two drifted."""
        deploy(sandbox.project.home / "store" / "shop", 1)
        for number, shift in ((5, 0), (6, 2), (7, 2)):
            answer(day(number), shift=shift)
            monitor(day(number))

    @pytest.fixture
    def sluice(self, monitored, sandbox, shop, monkeypatch):
        """Returns `sluice(*arguments)`: (exit code, output, error)."""
        profile = sandbox.stage("decide", shop, day(7)).profile
        monkeypatch.setattr(Project, "use_case", lambda *_: shop)
        monkeypatch.setattr(Project, "profile", lambda *_: profile)

        def run(*arguments):
            result = CliRunner().invoke(app, ["monitor", "replay", "shop", *arguments])
            return result.exit_code, result.output, result.exception

        return run

    def test_shows_what_would_have_been_decided(self, sluice, sandbox):
        root = sandbox.project.home / "store" / "shop"
        before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
        code, output, _ = sluice()
        assert code == 0
        assert [line.split()[-1] for line in output.splitlines()[1:4]][2] == "enough"
        assert "1 retrainings (then: 1); 0 alerts, 2 holds in 3 partitions" in output
        code, output, _ = sluice("--set", "need=3", "--json")
        found = json.loads(output)
        assert ([one["decision"] for one in found["partitions"]], found["retrainings"]) == (["hold"] * 3, 0)
        assert [one["recorded"] for one in found["partitions"]] == ["hold", "hold", "retrain"]
        assert sluice("--set", "psi=100", "--json")[1].count('"retrain"') == 1, "the recorded one alone"
        assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before, "nothing is written"

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ("needs=3", "the names are answers, min_rows"),
            ("need=9", "can never be met"),
            ("psi=0.01", "raise it"),
            ("cooldown=x", "cooldown: Input should be"),
        ],
    )
    def test_says_what_is_wrong_with_a_setting(self, sluice, given, says):
        assert says in str(sluice("--set", given)[2])

    def test_prices_them(self, sluice, monkeypatch):
        project = Project.from_environment()
        real = Project.profile(project)
        prices = {"here": {"currency": "EUR", "cpu_hour": 2, "memory_gib_hour": 0, "gpu_hour": {"default": 0}}}
        priced = type(real).model_validate({**real.model_dump(mode="json"), "prices": prices, "cloud": "here"})
        monkeypatch.setattr(Project, "profile", lambda *_: priced)
        used = Usage(launch="a", attempt=1, rank=0, started=0.0, seconds=3600.0, cpu_seconds=3600.0, memory_gib_seconds=0.0, outcome="done")
        write_json(Path(run_dir(priced.store, "shop", "training", "one")) / "train" / "usage" / "1-0.json", used)
        assert "about 2 EUR at 2 a training" in sluice()[1]
