"""A use case with labelled partitions, trained once, for the stages of the training pipeline."""

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from pipelines_lib.config import Profile, Project
from pipelines_lib.contracts import JobResult, JobSpec, ModelRef
from pipelines_lib.errors import Held
from pipelines_lib.jobs.stage import Stage
from pipelines_lib.store import write_json
from pipelines_lib.use_case import UseCase
from tests.credit import LOANS

DAYS = ("2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04")

CREDIT: dict[str, Any] = LOANS | {
    "split": {"by": "entity"},
    "training": {"epochs": 2, "model": {"hidden": [8]}, "batch_size": 64, "learning_rate": 0.02, "workers": 1},
    "gate": {"metric": "roc_auc", "floor": 0.6, "resamples": 100, "margin": 0.05},
}


@dataclass(frozen=True)
class House:
    """A store below `home`, and the use case whose data it holds."""

    home: Path
    use_case: UseCase
    tracked: bool = False
    """Whether trainings have their tracker, a process that takes seconds to import MLflow."""
    server: str | None = None
    """MLflow's address; a database below `home` where None."""

    @property
    def root(self) -> Path:
        """The use case's folder in the store."""
        return self.home / "store" / self.use_case.name

    def stage(self, name: str, *, key: str = DAYS[-1], run_id: str = "run", use_case: UseCase | None = None, **params: Any) -> Stage:
        """What the stage's main() is given."""
        use_case = use_case or self.use_case
        store = str(self.home / "store")
        spec = JobSpec(
            stage=name, pipeline="training", use_case=use_case.name, partition_key=key, run_id=run_id, store=store, params=params
        )
        profile = Profile(
            name="local", store=store, tracking_uri=self.server or f"sqlite:///{self.home}/mlflow.db", mlflow_url="http://mlflow"
        )
        return Stage(spec, use_case, profile, Project(self.home, self.home, self.home, "local"))

    def run(self, *names: str, **given: Any) -> JobResult:
        """Run stages in this process, each leaving its result as `run_stage` does; returns the last one's. `Held` is raised on."""
        from importlib import import_module

        for name in names:
            stage = self.stage(name, **given)
            module = import_module(f"pipelines_lib.jobs.{name}")
            without_tracker = patch.object(module, "_reporter", lambda _: nullcontext())
            try:
                with without_tracker if name == "train" and not self.tracked else nullcontext():
                    result = module.main(stage)
            except Held as held:
                write_json(stage.folder / "result.json", JobResult(stage=name, status="held", reason=held.reason, figures=held.figures))
                raise
            write_json(stage.folder / "result.json", result)
        return result

    def promote(self, **given: Any) -> ModelRef:
        """Evaluate, judge and register the run called "run", and make its model the champion."""
        from pipelines_lib.registry import tracking
        from pipelines_lib.registry.models import ModelRegistry

        model = ModelRef.model_validate(self.run("evaluate", "gate", "register", **given).outputs["model"])
        return ModelRegistry(tracking.connect(self.stage("register").profile.tracking_uri), self.use_case.name).promote(model.version)


def credit(**changes: Any) -> UseCase:
    return UseCase.model_validate({**CREDIT, **changes})


def write_labelled(
    root: Path, day: str, n_rows: int = 160, *, sharp: float = 2.0, only: str | None = None, side: str | None = None
) -> None:
    """Rows whose outcome follows the income, the more so the larger `sharp` is."""
    import numpy as np
    import pyarrow as pa

    from pipelines_lib.data.splitting import with_split
    from pipelines_lib.data.tables import Tables

    random = np.random.default_rng(int(day[-2:]))
    income = random.normal(size=n_rows)
    bad = income * sharp + random.normal(size=n_rows) < 0
    who = random.integers(0, 300, n_rows)
    outcome = [only or ("bad" if b else "good") for b in bad]
    rows = {
        "row_id": [f"{day}:{line:09d}" for line in range(1, n_rows + 1)],
        "who": [f"u{w}" for w in who],
        "income": [None if i % 17 == 0 else float(v) for i, v in enumerate(income)],
        "age": random.integers(18, 80, n_rows).tolist(),
        "member": [None if i % 11 == 0 else bool(i % 2) for i in range(n_rows)],
        "town": random.choice(["Bonn", "Köln", "西安"], n_rows).tolist(),
        "label": outcome,
    }
    table = pa.table(rows)
    labelled = with_split(table, credit()) if side is None else table.append_column("split", pa.array([side] * n_rows))
    Tables(root).write("labelled", day, labelled)


@pytest.fixture
def house(tmp_path: Path) -> House:
    """Four labelled days, nothing trained."""
    made = House(tmp_path, credit())
    for day in DAYS:
        write_labelled(made.root, day)
    return made


@pytest.fixture(scope="session")
def _trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = House(tmp_path_factory.mktemp("trained"), credit())
    for day in DAYS:
        write_labelled(made.root, day)
    made.run("snapshot", "train")
    # MLflow takes two seconds to make its database.
    from pipelines_lib.registry import tracking

    tracking.connect(made.stage("evaluate").profile.tracking_uri)
    return made.home


@pytest.fixture
def database(house: House, _trained_once: Path) -> str:
    """The address of a database of MLflow's below `house.home`, with nothing in it."""
    shutil.copy(_trained_once / "mlflow.db", house.home)
    return f"sqlite:///{house.home}/mlflow.db"


@pytest.fixture
def trained(tmp_path: Path, _trained_once: Path) -> House:
    """The same after the stages snapshot and train of the run called "run"."""
    shutil.copytree(_trained_once, tmp_path, dirs_exist_ok=True)
    return House(tmp_path, credit())


@pytest.fixture
def write_day() -> Callable[..., None]:
    """`write_labelled`."""
    return write_labelled


@pytest.fixture
def make_credit() -> Callable[..., UseCase]:
    """`credit`: the use case with whole settings replaced."""
    return credit
