"""A use case's whole way, once with the store in a folder and once in a bucket that is asked over HTTP: what comes out is the same."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from pipelines_lib.connections import Connection
from pipelines_lib.data.tables import Tables
from pipelines_lib.store import StorePath, at, read_json

from .conftest import Shell

DAY = "2026-01-01"
USE_CASE = {
    "name": "shop",
    "title": "Shop",
    "owner": "tests",
    "task": "binary",
    "start": DAY,
    "source": {"path": "{home}/in/{partition}.csv"},
    "columns": {
        "visit": {"type": "string", "role": "key", "nullable": False},
        "who": {"type": "string", "role": "entity"},
        "price": {"type": "number"},
        "town": {"type": "string"},
        "bought": {"type": "string", "role": "label"},
    },
    "quality": {"max_quarantined": 0.05},
    "label": {"column": "bought", "positive": "yes"},
    "split": {"by": "entity"},
    "training": {
        "model": {"type": "hooks"},
        "workers": 1,
        "epochs": 3,
        "patience": 3,
        "batch_size": 25,
        "checkpoint_steps": 6,
        "learning_rate": 0.02,
    },
    "gate": {"metric": "roc_auc", "floor": 0.6, "resamples": 100},
    "monitoring": {"min_rows": 50},
}
# A model whose training is killed once, where it is told to: after some checkpoints.
HOOKS = """
import os, signal
from pathlib import Path
import torch


class Own(torch.nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(shape.n_numeric, 8), torch.nn.Tanh(), torch.nn.Linear(8, shape.n_outputs))
        self.n = 0

    def forward(self, numeric, categorical):
        if self.training and not torch.onnx.is_in_onnx_export():
            self.n += 1
            killed = Path(os.environ.get("KILL_ONCE", "/"))
            if self.n == 30 and not killed.exists():
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return self.layers(numeric)


def model(shape, settings):
    return Own(shape)
"""


class Way:
    """The use case in a store, and the commands that a user gives."""

    def __init__(self, shell: Shell, store: StorePath, scratch: Path) -> None:
        self.shell, self.store, self.scratch = shell, store, scratch
        self.root = store / "shop"

    def go(self) -> None:
        """From the source to the report."""
        self.shell("run", "shop", "data", "--partition", DAY)
        self.train()
        self.shell("replay", "shop", "--partition", DAY)
        self.shell("run", "shop", "monitoring", "--partition", DAY)

    def train(self) -> None:
        """Train until that ends well; whatever a try had of this machine, it leaves nothing there."""
        if "KILL_ONCE" in self.shell.environment:
            self.shell("run", "shop", "training", "--partition", DAY, code=1)
            assert not list(self.scratch.glob("sluice-*"))
        self.shell("run", "shop", "training", "--partition", DAY)
        assert not list(self.scratch.glob("sluice-*"))

    def result(self, pipeline: str, stage: str) -> dict[str, Any]:
        """A stage's result, less what differs from run to run."""
        found: Any = read_json(self.root / "runs" / pipeline / f"by_hand__{DAY}" / stage / "result.json")
        for of_the_run in ("seconds", "usage", "launch", "links"):
            del found[of_the_run]
        found["outputs"].pop("mlflow_run_id", None)
        return dict(found)


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory, cloud: str) -> Iterator[dict[str, Way]]:
    """The way that was gone in a folder, and the one in a bucket, where the training was killed once."""
    folder = tmp_path_factory.mktemp("bucket")
    project, scratch = folder / "project", folder / "tmp"
    scratch.mkdir()
    (project / "include" / "profiles").mkdir(parents=True)
    (project / "pipelines_lib").symlink_to(Path(__file__).parents[2] / "pipelines_lib")
    extra = {"endpoint_url": cloud, "region_name": "us-east-1", "addressing_style": "path"}
    lake = Connection("lake", "aws", login="k", password="s", extra=extra)
    given = json.dumps({"conn_type": "aws", "login": "k", "password": "s", "extra": extra})
    shell = Shell(folder, SLUICE_PROJECT=str(project), SLUICE_CONN_LAKE=given, TMPDIR=str(scratch))
    _write_use_case(shell)
    found = {}
    with shell.warm():
        for name, store in {"folder": at(f"{folder}/store"), "bucket": at("s3://sluice/whole/way", lake)}.items():
            profile = {"name": name, "store": str(store), "tracking_uri": f"sqlite:///{folder}/{name}.db"}
            in_bucket = {"store_connection": "lake"} if name == "bucket" else {}
            (project / "include" / "profiles" / f"{name}.yaml").write_text(yaml.safe_dump(profile | in_bucket), encoding="utf-8")
            environment = {"SLUICE_PROFILE": name} | ({"KILL_ONCE": f"{folder}/killed"} if in_bucket else {})
            found[name] = Way(shell.with_environment(**environment), store, scratch)
            found[name].go()
    yield found
    shell("down")


def _write_use_case(shell: Shell) -> None:
    folder = shell.use_cases / "shop"
    folder.mkdir()
    (folder / "use_case.yaml").write_text(yaml.safe_dump(USE_CASE, sort_keys=False), encoding="utf-8")
    (folder / "hooks.py").write_text(HOOKS, encoding="utf-8")
    rng = random.Random(3)
    lines = ["visit,who,price,town,bought", "x,u1,dear,Bonn,yes"]
    for number in range(600):
        price = rng.gauss(0, 1)
        row = (
            f"v{number}",
            f"u{rng.randrange(200)}",
            f"{price:.4f}",
            rng.choice(["Bonn", "西安", ""]),
            "yes" if rng.gauss(0, 1) < 2 * price else "no",
        )
        lines.append(",".join(row))
    source = shell.home / "in" / f"{DAY}.csv"
    source.parent.mkdir(parents=True)
    source.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_the_tables_are_the_same(ways: dict[str, Way]) -> None:
    for layer in ("raw", "clean", "labelled", "quarantine", "quality", "profiles", "drift"):
        tables = [Tables(way.root).contents(layer) for way in ways.values()]  # type: ignore[arg-type]
        assert tables[0] == tables[1], layer
        assert tables[0][1], layer
    answers = [Tables(way.root).read("predictions").sort_by("row_id") for way in ways.values()]
    assert answers[0].equals(answers[1])
    assert answers[0].num_rows == 600


def test_the_model_is_the_same_though_its_training_was_killed(ways: dict[str, Way]) -> None:
    packages = [next(iter((way.root / "packages").iterdir())) for way in ways.values()]
    manifests: list[Any] = [read_json(package / "manifest.json") for package in packages]
    runs = [manifest.pop("mlflow_run_id").encode() for manifest in manifests]
    names = [sorted(manifest.pop("files")) for manifest in manifests]
    assert (names[0], manifests[0]) == (names[1], manifests[1])
    for name in names[0]:
        assert (packages[0] / name).read_bytes().replace(runs[0], runs[1]) == (packages[1] / name).read_bytes(), name
    of_the_training = ways["bucket"].root / "runs" / "training" / f"by_hand__{DAY}" / "train"
    assert [path.name for path in of_the_training.glob("usage/*")] == ["1-0.json", "2-0.json"]
    assert list(of_the_training.glob("checkpoints/step-*/manifest.json"))
    journal = (of_the_training / "journal.jsonl").read_text(encoding="utf-8")
    assert journal.count('"FINISHED"') == 1


def test_the_stages_say_the_same(ways: dict[str, Way]) -> None:
    stages = {
        "data": ("ingest", "validate", "prepare"),
        "training": ("snapshot", "train", "evaluate", "gate"),
        "monitoring": ("profile", "measure", "decide", "report"),
    }
    for pipeline, names in stages.items():
        for name in names:
            folder, bucket = (way.result(pipeline, name) for way in ways.values())
            assert folder == bucket, name
    reports = [(way.root / "reports" / f"{DAY}.html").read_bytes() for way in ways.values()]
    assert reports[0] == reports[1]


def test_the_commands_find_what_lies_in_the_bucket(ways: dict[str, Way]) -> None:
    shell = ways["bucket"].shell
    status = json.loads(shell("status", "--json"))
    deployment = status["use_cases"]["shop"]["deployment"]
    assert deployment["model_version"] == 1
    assert status["use_cases"]["shop"]["monitoring"]["decision"] == "hold"
    assert httpx.get(f"{deployment['url']}/v2/health/ready", timeout=10).status_code == httpx.codes.OK
    assert f"{DAY}: 1 rows" in shell("quarantine", "list", "shop")
    assert "dear" in shell("quarantine", "show", "shop", "--partition", DAY)
    assert "train" in shell("cost", "shop")
    assert "would remove 0 files" in shell("vacuum", "shop", "--dry-run")
