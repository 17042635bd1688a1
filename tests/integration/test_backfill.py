"""What backfills promise: the same bytes whatever ran when, how often, how many at once, and however it ended the first time."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from pipelines_lib.contracts import STAGES, ExitCode, JobSpec, Pipeline
from pipelines_lib.data.tables import Layer, Tables

ROOT = Path(__file__).parents[2]
DAYS = [f"2026-01-{day:02d}" for day in range(1, 31)]
EMPTY, HELD = DAYS[16], DAYS[22]
CORRECTED = DAYS[2]
WRITTEN: dict[str, tuple[Layer, ...]] = {"ingest": ("raw",), "validate": ("quarantine", "quality"), "prepare": ("clean", "labelled")}
LAYERS = tuple(layer for layers in WRITTEN.values() for layer in layers)

SHOP: dict[str, Any] = {
    "name": "shop",
    "title": "Shop",
    "owner": "tests",
    "task": "binary",
    "start": DAYS[0],
    "source": {"path": "{home}/in/{partition}.csv"},
    "columns": {
        "id": {"type": "string", "role": "key", "nullable": False},
        "who": {"type": "string", "role": "entity", "nullable": False},
        "when": {"type": "timestamp", "role": "time"},
        "price": {"type": "number"},
        "count": {"type": "integer"},
        "colour": {"type": "string"},
        "action": {"type": "string", "role": "label"},
    },
    "quality": {
        "max_quarantined": 0.3,
        "expectations": [
            {"expect_column_values_to_be_between": {"column": "price", "min_value": 0, "max_value": 500}},
            {"expect_column_values_to_be_unique": {"column": "id"}},
        ],
    },
    "clean": [{"deduplicate": ["who", "when"]}, {"fill": {"colour": "none"}}, {"fill_forward": {"columns": ["count"], "by": "who"}}],
    "split": {"by": "entity"},
    "gate": {"metric": "roc_auc", "floor": 0.6},
}
LABELS: dict[str, dict[str, Any]] = {
    "column": {"column": "action", "map": {"buy": "yes", "view": "no"}, "positive": "yes", "horizon": 2},
    "event_within": {
        "event_within": {"column": "action", "values": ["buy"], "within": "48h", "follows": "yes", "otherwise": "no"},
        "positive": "yes",
    },
    "join": {
        "join": {"source": {"path": "{home}/truth/{partition}.csv"}, "on": ["id"], "column": "outcome", "missing": "no", "late": 3},
        "horizon": 1,
        "positive": "yes",
    },
}


def source(day: str, edition: int = 1) -> str:
    """The rows of a day, among them every kind of bad one."""
    rng = random.Random(f"{day} {edition}")
    lines = ["id,who,when,price,count,colour,action"]
    if day == EMPTY:
        return lines[0] + "\n"
    for number in range(80):
        row = {
            "id": f"{day}-{number}",
            "who": f"w{rng.randrange(30)}",
            "when": f"{day}T{rng.randrange(24):02d}:{rng.randrange(60):02d}:00",
            "price": f"{rng.uniform(1, 99):.2f}",
            "count": rng.choice(["1", "2", ""]),
            "colour": rng.choice(["red", "grün", ""]),
            "action": rng.choice(["buy", "view", "view", "view"]),
        }
        if number % 20 == 3 or (day == HELD and number % 2):
            row["price"] = rng.choice(["-4", "cheap", "1e9"])
        if number % 30 == 5:
            row["id"] = rng.choice(["", f"{day}-4"])
        if number % 40 == 7:
            row["who"] = ""
        lines.append(",".join(row.values()))
        if number % 25 == 9:
            lines.append(f"{day}-{number}b,w1,{day}T00:00:00")
        if number % 15 == 11:
            lines.append(lines[-1].replace(f"{day}-{number}", f"{day}-{number}c"))
    return "\n".join(lines) + "\n"


def truth(day: str) -> str:
    """What became known on a day of the rows of the two before it."""
    rng = random.Random(f"{day} truth")
    first = DAYS.index(day)
    known = [f"{past}-{number}" for past in DAYS[max(0, first - 2) : first + 1] for number in range(80) if rng.random() < 0.3]
    return "\n".join(["id,outcome", *(f"{row},{rng.choice(['yes', 'no'])}" for row in known)]) + "\n"


class Backfill:
    """Runs of the use case, each in processes of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "SLUICE_PROJECT": str(ROOT),
            "SLUICE_HOME": str(self.home),
            "SLUICE_USE_CASES": str(folder / "use_cases"),
            "SLUICE_PROFILE": "local",
        }
        self._log = folder / "log.txt"
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", Path(__file__).with_name("stage_children.py"), self._log],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        """Let the process end."""
        self._process.communicate()

    def describe(self, label: str) -> None:
        """Write the use case and the files of all days."""
        folder = self.folder / "use_cases" / "shop"
        folder.mkdir(parents=True, exist_ok=True)
        # JSON is YAML.
        (folder / "use_case.yaml").write_text(json.dumps({**SHOP, "label": LABELS[label]}), encoding="utf-8")
        for day in DAYS:
            self.write(day)
            path = self.home / "truth" / f"{day}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(truth(day), encoding="utf-8")

    def write(self, day: str, edition: int = 1) -> None:
        """Write the file of a day."""
        path = self.home / "in" / f"{day}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source(day, edition), encoding="utf-8")

    def spec(self, store: str, stage: str, day: str, run_id: str | None = None) -> dict[str, Any]:
        """What a stage is asked."""
        asked = JobSpec(
            stage=stage,
            pipeline=Pipeline.DATA,
            use_case="shop",
            partition_key=day,
            run_id=run_id or f"backfill__{day}",
            store=str(self.folder / store),
        )
        return asked.model_dump(mode="json")

    def run(self, store: str, days: Sequence[str], *, at_once: int = 1, prefixes: Sequence[str] = ("backfill",)) -> dict[str, int]:
        """Run days in this order, each once under each of the run ids that begin so. Returns the worst exit code of each day."""
        asked = [(day, f"{prefix}__{day}") for day in days for prefix in prefixes]
        runs = [[self.spec(store, stage, day, run_id) for stage in STAGES[Pipeline.DATA]] for day, run_id in asked]
        codes = self._ask(do="backfill", runs=runs, at_once=at_once)
        worst: dict[str, int] = {}
        for (day, _), code in zip(asked, codes, strict=True):
            worst[day] = max(worst.get(day, 0), code, key=abs)
        return worst

    def stage(self, store: str, stage: str, day: str) -> int:
        """Run one stage of a day. Returns its exit code."""
        [code] = self._ask(do="backfill", runs=[[self.spec(store, stage, day)]], at_once=1)
        return int(code)

    def kill(self, store: str, stage: str, day: str, at: int, then: float) -> int | None:
        """Run one stage of a day and kill it `then` seconds after its `at`-th file operation. Returns its exit code; None where it has fewer."""
        code: int | None = self._ask(do="kill", spec=self.spec(store, stage, day), at=at, then=then)
        return code

    def said(self) -> str:
        """The end of what the stages have said."""
        return self._log.read_text(encoding="utf-8")[-3000:]

    def tables(self, store: str) -> Tables:
        """The use case's tables in a store."""
        return Tables(self.folder / store / "shop")

    def files(self, store: str) -> dict[str, str]:
        """Every data file below the tables, in use or not: path to its content's hash."""
        root = self.folder / store / "shop" / "tables"
        return {str(path.relative_to(root)): _sha256(path) for path in root.rglob("*.parquet") if "_delta_log" not in path.parts}

    def active(self, store: str) -> dict[str, str]:
        """The same of the files that the newest versions name."""
        root = self.folder / store / "shop" / "tables"
        paths = [Path(uri.removeprefix("file://")) for layer in sorted(root.iterdir()) for uri in DeltaTable(str(layer)).file_uris()]
        return {str(path.relative_to(root)): _sha256(path) for path in paths}

    def versions(self, store: str) -> dict[str, int]:
        """Layer to its table's newest version."""
        root = self.folder / store / "shop" / "tables"
        return {layer.name: DeltaTable(str(layer)).version() for layer in root.iterdir()}

    def _ask(self, **order: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, self.said()
        return json.loads(answer)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def backfill(tmp_path: Path) -> Iterator[Backfill]:
    backfill = Backfill(tmp_path)
    yield backfill
    backfill.close()


@pytest.mark.parametrize(("label", "n_days"), [("event_within", 30), ("column", 6), ("join", 8)])
def test_days_are_the_same_bytes_in_any_order_and_however_many_run_at_once(backfill, label, n_days):
    backfill.describe(label)
    days = DAYS[-n_days:]
    shuffled = random.Random(7).sample(days, n_days)
    expected = {day: int(ExitCode.HELD) if day in (EMPTY, HELD) else 0 for day in days}
    for store, order, at_once in (("daily", days, 1), ("shuffled", shuffled, 4), ("reversed", days[::-1], 1)):
        assert backfill.run(store, order, at_once=at_once) == expected, backfill.said()
    files = backfill.files("daily")
    assert {path.split("/")[0] for path in files} == {"raw", "quality", "quarantine", "clean", "labelled"} | (
        {"ground_truth"} if label == "join" else set()
    )
    assert backfill.active("daily") == backfill.active("shuffled") == backfill.active("reversed")
    assert len(backfill.tables("daily").partitions("labelled")) > n_days / 2
    if label != "join":  # where truths that come late make another edition of a partition
        assert files == backfill.files("shuffled") == backfill.files("reversed")
    # Again, in another order and side by side.
    files, versions = backfill.files("shuffled"), backfill.versions("shuffled")
    assert backfill.run("shuffled", shuffled[::-1], at_once=4) == expected
    assert backfill.files("shuffled") == files
    assert backfill.versions("shuffled") == versions


@pytest.fixture(scope="module")
def corrected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backfill]:
    """Five days that have run, in store `before`; the file of the third has changed since, and in store `after` that has run, too."""
    backfill = Backfill(tmp_path_factory.mktemp("corrected"))
    backfill.describe("event_within")
    assert set(backfill.run("before", DAYS[:5]).values()) == {0}, backfill.said()
    shutil.copytree(backfill.folder / "before", backfill.folder / "after")
    backfill.write(CORRECTED, edition=2)
    assert backfill.run("after", [CORRECTED]) == {CORRECTED: 0}
    assert backfill.active("after") != backfill.active("before")
    yield backfill
    backfill.close()


def contents(backfill: Backfill, store: str, layers: Sequence[Layer] = LAYERS) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """What a reader finds: layer to partition to rows."""
    tables = backfill.tables(store)
    found: dict[str, dict[str, list[dict[str, Any]]]] = {layer: {day: [] for day in DAYS[:5]} for layer in layers}
    for layer in layers:
        for row in tables.read(layer, DAYS[:5]).to_pylist():
            found[layer][row["partition_key"]].append(row)
    return found


@pytest.mark.parametrize("stage", STAGES[Pipeline.DATA])
def test_a_stage_that_is_killed_leaves_old_or_new_and_running_again_mends_all(corrected, stage):
    """At every file operation of Python, at every other a few moments later: delta-rs, which does its own, works in between."""
    written = WRITTEN[stage]
    before, after = contents(corrected, "before"), contents(corrected, "after")
    stages = STAGES[Pipeline.DATA]
    store = corrected.folder / "killed"
    start = corrected.folder / f"before_{stage}"
    shutil.copytree(corrected.folder / "before", start)
    for earlier in stages[: stages.index(stage)]:
        assert corrected.stage(start.name, earlier, CORRECTED) == 0
    rng = random.Random(11)
    found: set[tuple[str, bool]] = set()
    n_killed = 0
    for at in count(1):
        shutil.copytree(start, store)
        code = corrected.kill(store.name, stage, CORRECTED, at, rng.uniform(0.0005, 0.01) if at % 2 == 0 else 0.0)
        assert code in (None, 0, -signal.SIGKILL), corrected.said()
        n_killed += bool(code)
        for layer, days in contents(corrected, store.name).items():
            for day, rows in days.items():
                assert rows in (before[layer][day], after[layer][day]), (at, layer, day)
                if before[layer][day] != after[layer][day]:
                    found.add((layer, rows == after[layer][day]))
        assert corrected.stage(store.name, stage, CORRECTED) == 0, corrected.said()
        assert {layer: rows[CORRECTED] for layer, rows in contents(corrected, store.name, written).items()} == {
            layer: after[layer][CORRECTED] for layer in written
        }
        if at % 7 == 1:
            for following in stages[stages.index(stage) + 1 :]:
                assert corrected.stage(store.name, following, CORRECTED) == 0, corrected.said()
            assert corrected.active(store.name) == corrected.active("after"), at
        shutil.rmtree(store)
        if code is None:
            break
    assert n_killed > 10
    assert found >= {(layer, whether) for layer in written for whether in (False, True)}


def test_two_runs_of_a_day_at_once_end_as_one_does(corrected):
    for turn in range(6):
        store = f"twice_{turn}"
        if turn % 2:  # else the two make the tables, too
            shutil.copytree(corrected.folder / "before", corrected.folder / store)
        days = [CORRECTED] if turn % 2 else DAYS[:5]
        assert set(corrected.run(store, days, at_once=4, prefixes=("scheduled", "manual")).values()) == {0}, corrected.said()
        assert corrected.active(store) == corrected.active("after")
