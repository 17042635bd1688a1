"""Profile and compare a day of 1,000,000 rows x 30 columns, against Evidently's `DataDriftPreset`; and day 365 against day 1.

Both read the day from a Parquet file. Evidently reads the reference's million rows too, ours its profile, made once, when the model was. Seconds count from
the first byte read to the last verdict, without imports; ours computes on one core, Evidently on as many as its libraries take. Memory is the largest
resident set of a fresh process, imports included. Evidently runs in an environment of its own, since it does not work with this project's pandas.
Day 365 and day 1 are the stages `profile` and `measure` on tables with 1 and with 365 partitions, with the commits of what they find.

    python benchmarks/bench_drift.py [python of an environment with evidently 0.7.23 and pandas < 3.1]
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd  # noqa: F401 # which Arrow imports at its first conversion, and Evidently's side has imported too
import pyarrow as pa
from bench_data import Cost, measure
from made_model import manifest
from pyarrow import parquet
from record import record

from pipelines_lib.config import Profile, Project
from pipelines_lib.contracts import JobSpec, ModelRef
from pipelines_lib.data import table_store
from pipelines_lib.data.tables import Layer, Tables
from pipelines_lib.features.arrow import Features
from pipelines_lib.jobs import measure as measure_stage
from pipelines_lib.jobs import profile as profile_stage
from pipelines_lib.jobs.stage import Stage
from pipelines_lib.monitoring.drift import compare
from pipelines_lib.monitoring.sketch import DataProfile, profile_columns
from pipelines_lib.registry.package import FILES, Package
from pipelines_lib.serving.pointer import Deployment, write_pointer
from pipelines_lib.use_case import ColumnType, UseCase

ROOT = Path(__file__).parents[1]
ROWS = 1_000_000
TYPES: dict[str, ColumnType] = {**{f"n{i}": "number" for i in range(20)}, **{f"c{i}": "string" for i in range(10)}}
STRONG = ("n0", "n1", "n2", "n3", "c0", "c1")
"""Columns of the day that differ from the reference; the others do not."""
EVIDENTLY = ("evidently==0.7.23", "pandas<3.1", "pyarrow")
DAYS, ROWS_A_DAY, FILLER_ROWS = 365, ROWS, 500
RESULTS: tuple[Layer, ...] = ("profiles", "drift", "performance", "health")


def main(python: str | None) -> None:
    """Compare with Evidently, then day 365 with day 1; record."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Each in a process of its own: a child's peak is never less than its parent's resident set was.
        for part in ("reference", "day"):
            measure([sys.executable, __file__, "--generate", str(folder / f"{part}.parquet")])
        measure([sys.executable, __file__, "--profile", str(folder / "reference.parquet"), str(folder / "reference.json")])
        ours = run(folder, [sys.executable, __file__, "--compare", str(folder / "reference.json"), str(folder / "day.parquet")])
        theirs = python or environment(folder / "environment")
        command = [theirs, str(ROOT / "benchmarks" / "drift_evidently.py"), str(folder / "reference.parquet"), str(folder / "day.parquet")]
        default, psi = run(folder, command), run(folder, command, "psi")
        agree = {name: (name in STRONG) == ours[1][name] == default[1][name] == psi[1][name] for name in TYPES}
        first, last = days(folder)
    print(
        f"ours {ours[0]}; Evidently {default[0]}; with PSI {psi[0]}; verdicts that differ: {[n for n, same in agree.items() if not same]}"
    )
    record(
        "drift",
        {
            "seconds": round(ours[0].seconds, 2),
            "peak_mib": round(ours[0].mib),
            "evidently_seconds": round(default[0].seconds, 1),
            "evidently_psi_seconds": round(psi[0].seconds, 1),
            "evidently_peak_mib": round(default[0].mib),
            "columns_judged_alike": sum(agree.values()),
            "day_1_seconds": round(first, 2),
            "day_365_seconds": round(last, 2),
        },
        {
            "speed_vs_evidently": round(default[0].seconds / ours[0].seconds, 1),
            "speed_vs_evidently_psi": round(psi[0].seconds / ours[0].seconds, 1),
            "memory_vs_evidently": round(ours[0].mib / default[0].mib, 3),
            "day_365_vs_day_1": round(last / first, 2),
        },
    )


def run(folder: Path, command: list[str], *arguments: str) -> tuple[Cost, dict[str, bool]]:
    """What a comparison says took, the peak of its process, and whether each column has drifted."""
    out = folder / "verdicts.json"
    peak = measure([*command, str(out), *arguments], {"PYTHONPATH": str(ROOT)} if command[0] == sys.executable else None).mib
    said = json.loads(out.read_text(encoding="utf-8"))
    return Cost(said["seconds"], peak), said["drifted"]


def environment(folder: Path) -> str:
    """An environment with Evidently; returns its Python."""
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", *EVIDENTLY], check=True)
    return python


def rows(n: int, seed: int, *, drifted: bool) -> pa.Table:
    """Numbers of several shapes, categories of 3 to 30 kinds."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {}
    for place, name in enumerate(TYPES):
        moved = drifted and name in STRONG
        if TYPES[name] == "number":
            normal = rng.normal(size=n) + (2.0 if moved else 0.0)
            columns[name] = [normal, np.exp(normal), np.round(normal * 20), np.tanh(normal)][place % 4]
        else:
            shares = 1.0 / np.arange(1, 4 + 3 * (place - 20))
            shares = (shares[::-1] if moved else shares) / shares.sum()
            names = pa.array([f"{name}_{kind}" for kind in range(len(shares))])
            columns[name] = names.take(pa.array(rng.choice(len(shares), n, p=shares)))
    return pa.table(columns)


def profiled(path: str) -> DataProfile:
    """A file's profile, a column in memory at a time."""
    file = table_store.parquet(Path(path), encoded=[name for name, kind in TYPES.items() if kind == "string"])
    return profile_columns(Features(lambda name: file.read([name])[name], file.schema_arrow.names, TYPES), TYPES)


def compared(reference: str, day: str, out: str) -> None:
    """Write the seconds and the columns that have drifted."""
    started = time.perf_counter()
    drifts = compare(DataProfile.from_json(Path(reference).read_text(encoding="utf-8")), profiled(day), 0.2)
    seconds = time.perf_counter() - started
    Path(out).write_text(json.dumps({"seconds": seconds, "drifted": {drift.column: drift.drifted for drift in drifts}}), encoding="utf-8")


def days(folder: Path) -> tuple[float, float]:
    """Seconds of the stages `profile` and `measure` on day 1, and on day 365 with all days before it in the tables."""
    use_case = UseCase.model_validate(
        {
            "name": "bench", "title": "Bench", "owner": "bench", "task": "binary", "start": "2026-01-01", "source": {"path": "{partition}.csv"},
            "columns": {**{name: {"type": kind} for name, kind in TYPES.items()}, "outcome": {"type": "string", "role": "label"}},
            "label": {"column": "outcome", "positive": "yes"}, "gate": {"metric": "roc_auc", "floor": 0.5},
        }
    )  # fmt: skip
    keys = [use_case.shift("2026-01-01", later) for later in range(DAYS)]
    young, old = folder / "young", folder / "old"
    profile = profile_of(rows(ROWS_A_DAY, 0, drifted=False))
    for home, key in ((young, keys[0]), (old, keys[-1])):
        deploy(home / "store" / "bench", profile)
        Tables(home / "store" / "bench").append("predictions", answers(key, ROWS_A_DAY))
    seconds_of(young, use_case, keys[0])
    of_day_1, of_old = Tables(young / "store" / "bench"), Tables(old / "store" / "bench")
    kept = {layer: of_day_1.read(layer, [keys[0]]).drop_columns(["partition_key"]) for layer in RESULTS}
    for key in keys[:-1]:
        of_old.append("predictions", answers(key, FILLER_ROWS))
        for layer, found in kept.items():
            of_old.write(layer, key, found)
    # In turns, so that whatever else the machine does slows both; the first of each warms up.
    runs = [(seconds_of(young, use_case, keys[0]), seconds_of(old, use_case, keys[-1])) for _ in range(8)][1:]
    first, last = (median(seconds) for seconds in zip(*runs, strict=True))
    return first, last


def seconds_of(folder: Path, use_case: UseCase, key: str) -> float:
    """Both stages in this process, of a day that was not monitored before: what they find is written and committed."""
    tables = Tables(folder / "store" / "bench")
    for layer in RESULTS:
        if tables.partitions(layer):
            tables.write(layer, key, tables.read(layer, [key]).slice(0, 0))
    started = time.perf_counter()
    for name, stage in (("profile", profile_stage), ("measure", measure_stage)):
        spec = JobSpec(stage=name, pipeline="monitoring", use_case="bench", partition_key=key, run_id=key, store=str(folder / "store"))
        profile = Profile(name="local", store=str(folder / "store"), tracking_uri="sqlite://")
        stage.main(Stage(spec, use_case, profile, Project(folder, folder, folder, "local")))
    return time.perf_counter() - started


def profile_of(table: pa.Table) -> DataProfile:
    """Of a table's features, and of scores as `answers` has them."""
    score, prediction = scores(table.num_rows)
    return profile_columns(Features(lambda name: table[name], table.column_names, TYPES), TYPES, scores=score, predictions=prediction)


def scores(n: int) -> tuple[np.ndarray, list[str]]:
    """Of `n` answers."""
    score = np.random.default_rng(1).random(n)
    return score, np.where(score > 0.5, "yes", "no").tolist()


def answers(key: str, n: int) -> pa.Table:
    """Rows of `predictions`."""
    score, prediction = scores(n)
    own = {
        "row_id": [f"{key}:{row:09d}" for row in range(n)],
        "partition_key": [key] * n,
        "prediction": prediction,
        "score": score,
        "model_version": np.ones(n, np.int64),
    }
    table = rows(n, int(key.replace("-", "")), drifted=False)
    return pa.table({**own, **{name: table[name] for name in table.column_names}})


def deploy(root: Path, profile: DataProfile) -> None:
    """A package with that profile and nothing that answers; monitoring asks for no more."""
    files = dict.fromkeys(FILES, b"") | {"profile.json": profile.to_json().encode()}
    package = Package.write(root / "packages", "bench", manifest("bench", TYPES), files)
    model = ModelRef(name="bench", version=1, package=str(package.relative_to(root.parent)), run_id="run")
    write_pointer(root, Deployment(model=model, state="serving"))


if __name__ == "__main__":
    mode, *paths = [*sys.argv[1:], ""]
    if mode == "--generate":
        path = Path(paths[0])
        parquet.write_table(rows(ROWS, len(path.stem), drifted=path.stem == "day"), path)
    elif mode == "--profile":
        Path(paths[1]).write_text(profiled(paths[0]).to_json(), encoding="utf-8")
    elif mode == "--compare":
        compared(*paths[:3])
    else:
        main(mode or os.environ.get("EVIDENTLY_PYTHON"))
