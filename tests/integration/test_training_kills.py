"""Trainings that are killed, ended, moved and starved of disk, as the launcher runs them: they end as if nothing had been."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pytest
import yaml

from pipelines_lib.config import Profile, Project
from pipelines_lib.contracts import ExitCode, JobSpec, Pipeline
from pipelines_lib.data.splitting import with_split
from pipelines_lib.data.tables import Tables
from pipelines_lib.jobs import snapshot
from pipelines_lib.jobs.stage import Stage
from pipelines_lib.launcher import Job
from pipelines_lib.store import read_json, write_json
from pipelines_lib.use_case import UseCase

ROOT = Path(__file__).parents[2]
DAY = "2026-01-01"
MOST_REPEATED = 6
SHOP = {
    "name": "shop",
    "title": "Shop",
    "owner": "tests",
    "task": "binary",
    "start": DAY,
    "source": {"path": "{home}/{partition}.csv"},
    "columns": {"who": {"type": "string", "role": "entity"}, "price": {"type": "number"}, "bought": {"type": "string", "role": "label"}},
    "label": {"column": "bought", "positive": "yes"},
    "split": {"by": "entity"},
    "training": {
        "model": {"type": "hooks"},
        "epochs": 4,
        "patience": 4,
        "batch_size": 40,
        "shares": "equal",
        "checkpoint_steps": MOST_REPEATED,
    },
    "gate": {"metric": "roc_auc", "floor": 0.6},
}

# A model of the user's own, whose training writes down each step, and before it meets with what PLAN has for it, once.
HOOKS = """
import json, os, resource, signal
from pathlib import Path
import torch
from pipelines_lib.training.checkpoints.files import Folder
from pipelines_lib.training.loop import Loop

RANK, NOTES = os.environ.get("RANK", "0"), Path(os.environ["NOTES"])


def meet(do):
    if do == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if do == "lose machine":
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    if do == "take machine":
        os.kill(os.getppid(), signal.SIGTERM)
    if do == "fill disk":
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, resource.RLIM_INFINITY))
    if do == "make room":
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    if do == "kill at manifest":
        write = Folder.write

        def dying(folder, name, pieces):
            if name.endswith("manifest.json"):
                os.kill(os.getpid(), signal.SIGKILL)
            write(folder, name, pieces)

        Folder.write = dying


def watched(update):
    def noted(loop, work, *rest):
        step = loop._progress.epoch * loop._n_steps + work.step
        with (NOTES / f"steps-{RANK}").open("a") as file:
            file.write(f"{step}\\n")
        do = json.loads(os.environ["PLAN"]).get(f"{RANK}@{step}")
        met = NOTES / f"met-{RANK}-{step}"
        if do and not met.exists():
            met.touch()
            meet(do)
        return update(loop, work, *rest)

    noted.watches = True
    return noted


if not hasattr(Loop._update, "watches"):
    Loop._update = watched(Loop._update)


class Own(torch.nn.Module):
    def __init__(self, shape, dropout):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(shape.n_numeric, 33), torch.nn.Tanh(), torch.nn.Dropout(dropout), torch.nn.Linear(33, shape.n_outputs)
        )

    def forward(self, numeric):
        return self.layers(numeric)


def model(shape, settings):
    return Own(shape, settings.dropout)
"""


class Trainings:
    """A project whose stage `train` is run again and again."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **training: object) -> None:
        self._folder, self._monkeypatch = folder, monkeypatch
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        self._project = Project(folder=ROOT, home=folder / "home", use_cases=folder / "cases", profile_name="local")
        self._store = str(folder / "home" / "store")
        self._use_case = UseCase.model_validate(SHOP | {"training": {**SHOP["training"], **training}})  # type: ignore[dict-item]
        (folder / "cases" / "shop").mkdir(parents=True)
        text = yaml.safe_dump(self._use_case.model_dump(mode="json", exclude_none=True))
        (folder / "cases" / "shop" / "use_case.yaml").write_text(text, encoding="utf-8")
        (folder / "cases" / "shop" / "hooks.py").write_text(HOOKS, encoding="utf-8")
        random = np.random.default_rng(1)
        price = random.normal(size=800)
        rows = {
            "row_id": [f"{DAY}:{line:09d}" for line in range(800)],
            "who": [f"u{number}" for number in random.integers(0, 90, 800)],
            "price": price,
            "label": ["yes" if value > 0 else "no" for value in price + random.normal(size=800)],
        }
        Tables(self._stage("train", "").root).write("labelled", DAY, with_split(pa.table(rows), self._use_case))

    def start(self, run_id: str, workers: int, **plan: str) -> int:
        """Run the stage, and return what it ends with. `plan`: what happens at `<rank>@<step>`, once a run."""
        notes = self._folder / run_id
        if not notes.exists():
            notes.mkdir()
            stage = self._stage("snapshot", run_id)
            write_json(stage.folder / "result.json", snapshot.main(stage))
        self._monkeypatch.setenv("NOTES", str(notes))
        self._monkeypatch.setenv("PLAN", json.dumps(plan))
        spec = self._stage("train", run_id).spec.model_copy(update={"workers": workers})
        self.log: list[str] = []
        return Job(spec, self._project).run(self.log.append)

    def left(self, run_id: str, name: str) -> Path:
        """A file that the stage has left."""
        return self._stage("train", run_id).folder / name

    def steps(self, run_id: str, rank: int) -> list[int]:
        """Those that a rank has begun, of all tries."""
        return [int(step) for step in (self._folder / run_id / f"steps-{rank}").read_text().split()]

    def _stage(self, name: str, run_id: str) -> Stage:
        spec = JobSpec(stage=name, pipeline=Pipeline.TRAINING, use_case="shop", partition_key=DAY, run_id=run_id, store=self._store)
        return Stage(spec, self._use_case, Profile(name="local", store=self._store, tracking_uri=""), self._project)


def repeated(steps: Sequence[int]) -> list[int]:
    """How many steps each try did again."""
    return [before - after for before, after in pairwise(steps) if after != before + 1]


@pytest.mark.timeout(600)
def test_a_training_that_everything_happens_to_ends_in_the_bytes_of_one_that_was_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings = Trainings(tmp_path, monkeypatch, model={"type": "hooks", "dropout": 0.2}, workers=2)
    assert trainings.start("calm", 2) == ExitCode.DONE, trainings.log
    n_steps = len(trainings.steps("calm", 0))
    assert trainings.steps("calm", 1) == list(range(n_steps)) == trainings.steps("calm", 0)

    # A rank is killed, then one that writes a checkpoint, before the manifest, and all start again in place; then the machine is lost.
    assert trainings.start("rough", 2, **{"1@2": "kill", "0@13": "kill at manifest", "1@22": "lose machine"}) < 0
    assert sum("all ranks start again" in line for line in trainings.log) == 2
    assert any("it has no manifest, so it was never finished" in line for line in trainings.log)
    # A disk is full for some checkpoints; then the machine is taken away.
    rough = {"0@26": "fill disk", "0@32": "make room", "0@38": "take machine"}
    assert trainings.start("rough", 2, **rough) == ExitCode.INTERRUPTED, trainings.log
    assert any("could not be written, and training goes on without it: worker 0: [Errno 27]" in line for line in trainings.log)
    last = trainings.steps("rough", 0)[-1]
    assert trainings.start("rough", 2) == ExitCode.DONE, trainings.log

    for name in ("model.onnx", "training.json", "transform.json"):
        assert trainings.left("rough", name).read_bytes() == trainings.left("calm", name).read_bytes(), name
    for rank in (0, 1):
        again = repeated(trainings.steps("rough", rank))
        assert len(again) == 3, again
        assert all(number <= MOST_REPEATED for number in again), again
    # Nothing that was done before SIGTERM is done again.
    assert trainings.steps("rough", 0).count(last) == 1


@pytest.mark.timeout(600)
def test_a_training_in_shards_goes_on_with_fewer_workers_and_with_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainings = Trainings(tmp_path, monkeypatch, model={"type": "hooks", "dropout": 0.0}, strategy="fsdp", workers=2)
    assert trainings.start("calm", 1) == ExitCode.DONE, trainings.log
    assert trainings.start("moved", 2, **{"1@14": "lose machine"}) < 0
    assert trainings.start("moved", 1, **{"0@29": "kill"}) < 0
    assert trainings.start("moved", 3) == ExitCode.DONE, trainings.log
    assert all(number <= MOST_REPEATED for number in repeated(trainings.steps("moved", 0)))

    calm, moved = (read_json(trainings.left(run, "training.json")) for run in ("calm", "moved"))
    assert isinstance(calm, dict)
    assert isinstance(moved, dict)
    losses, others = ([epoch["validation_loss"] for epoch in found["history"]] for found in (calm, moved))  # type: ignore[union-attr, index, call-overload]
    assert others == pytest.approx(losses, rel=1e-5)
    for expected, found in zip(weights(trainings, "calm"), weights(trainings, "moved"), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def weights(trainings: Trainings, run_id: str) -> list[np.ndarray]:
    """Of the graph."""
    graph = onnx.load(trainings.left(run_id, "model.onnx")).graph
    return [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("strategy", ["local_sgd", "async"])
def test_strategies_that_only_come_close_go_on_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str) -> None:
    own = {"sync_steps": 3} if strategy == "local_sgd" else {}
    trainings = Trainings(tmp_path, monkeypatch, model={"type": "hooks", "dropout": 0.0}, strategy=strategy, workers=2, **own)
    # Rank 0 may take any step of an `async` training, or none of it.
    assert trainings.start("moved", 2, **{f"{rank}@{step}": "lose machine" for rank in (0, 1) for step in (14, 15, 16)}) < 0
    begun = max(step for rank in (0, 1) for step in trainings.steps("moved", rank))
    assert trainings.start("moved", 3) == ExitCode.DONE, trainings.log
    assert any("resumed from the checkpoint" in line for line in trainings.log)
    again = min(trainings.steps("moved", 2))
    assert begun - again <= MOST_REPEATED
    training = read_json(trainings.left("moved", "training.json"))
    assert isinstance(training, dict)
    losses = [epoch["validation_loss"] for epoch in training["history"]]  # type: ignore[union-attr, index, call-overload]
    assert len(losses) == 4
    assert losses[-1] < losses[0]
