"""ingest + validate + prepare of one partition of 1, 5 and 20 million rows: rows per second, peak memory, and how both grow.

Baselines, in the same run and on the same file: `baseline_pandas.py`, the same work by hand, and the same with Great Expectations
run the way its documentation shows; each is a fresh process. The stages run one after another as `sluice up` lets them: through
the launcher, forked from its warm interpreter. `cold_seconds` are those of three fresh processes, as pods are, two thirds of
which at a million rows go into starting and importing. Time is the sum; memory is the largest resident set of any.

    python benchmarks/bench_data.py [MILLIONS …]
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv
from record import record

from pipelines_lib.config import Project
from pipelines_lib.contracts import JobSpec
from pipelines_lib.launcher import Job, warm_socket
from pipelines_lib.store import write_json

ROOT = Path(__file__).parents[1]
KEY = "2026-01-01"
STAGES = ("ingest", "validate", "prepare")
GX_MILLIONS = 1
"""The usual way of Great Expectations is tried on the smallest file: on larger ones it takes minutes a million rows."""

USE_CASE = """
name: bench
title: Bench
owner: bench
task: binary
start: 2026-01-01
source:
  path: "{home}/{partition}.csv"
columns:
  event_id: {type: string, role: key, nullable: false}
  user_id: {type: string, role: entity}
  event_time: {type: timestamp, role: time}
  price: {type: number}
  discount: {type: number}
  hour: {type: integer}
  clicks: {type: integer}
  device: {type: string}
  country: {type: string}
  action: {type: string, role: label}
quality:
  max_quarantined: 0.05
  expectations:
    - expect_column_values_to_match_regex: {column: user_id, regex: '^u\\d{7}$'}
    - expect_column_values_to_be_between: {column: price, min_value: 0.01, max_value: 100000}
    - expect_column_values_to_be_between: {column: discount, min_value: 0, max_value: 1}
    - expect_column_values_to_be_between: {column: hour, min_value: 0, max_value: 23}
    - expect_column_values_to_be_in_set: {column: action, value_set: [view, skip, click, buy]}
    - expect_table_row_count_to_be_between: {min_value: 1000}
clean:
  - deduplicate: [event_id]
  - clip: {price: [0.01, 5000]}
label:
  column: action
  map: {view: passed, skip: passed, click: engaged, buy: engaged}
  positive: engaged
split: {by: entity}
gate: {metric: roc_auc, floor: 0.5}
"""


@dataclass(frozen=True)
class Cost:
    """What a program took."""

    seconds: float
    mib: float

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.seconds + other.seconds, max(self.mib, other.mib))


def main(millions: list[int]) -> None:
    """Measure every size, record."""
    figures: dict[str, float] = {}
    ratios: dict[str, float] = {}
    ours: dict[int, Cost] = {}
    for size in millions:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            source = folder / "home" / f"{KEY}.csv"
            # In a process of its own: a child's peak is never less than its parent's resident set was.
            measure([sys.executable, __file__, "--generate", str(source), str(size * 1_000_000)])
            by_hand = measure([sys.executable, str(ROOT / "benchmarks" / "baseline_pandas.py"), str(source), str(folder / "by_hand")])
            cold = {stage: run_stage(folder, stage) for stage in STAGES}
            shutil.rmtree(folder / "home" / "store")
            stages = run_warm(folder)
            ours[size] = sum(stages.values(), Cost(0, 0))
            if size == GX_MILLIONS:
                usual = measure([sys.executable, str(ROOT / "benchmarks" / "baseline_pandas.py"), str(source), str(folder / "gx"), "--gx"])
                figures[f"gx_seconds_{size}m"] = round(usual.seconds, 1)
                ratios["speed_vs_gx"] = round(usual.seconds / ours[size].seconds, 2)
        print(f"{size} M rows: by hand {by_hand}; {stages}; together {ours[size]}", flush=True)
        figures |= {
            f"rows_per_second_{size}m": round(size * 1_000_000 / ours[size].seconds),
            f"seconds_{size}m": round(ours[size].seconds, 1),
            f"cold_seconds_{size}m": round(sum(cost.seconds for cost in cold.values()), 1),
            f"cold_peak_mib_{size}m": round(max(cost.mib for cost in cold.values())),
            f"peak_mib_{size}m": round(ours[size].mib),
            f"pandas_seconds_{size}m": round(by_hand.seconds, 1),
            f"pandas_peak_mib_{size}m": round(by_hand.mib),
            f"speed_vs_pandas_{size}m": round(by_hand.seconds / ours[size].seconds, 2),
            f"memory_vs_pandas_{size}m": round(ours[size].mib / by_hand.mib, 2),
        }
    ratios["speed_vs_pandas"] = min(figures[f"speed_vs_pandas_{size}m"] for size in millions)
    ratios["memory_vs_pandas"] = max(figures[f"memory_vs_pandas_{size}m"] for size in millions)
    if {1, 20} <= ours.keys():
        ratios["seconds_20m_vs_1m"] = round(ours[20].seconds / ours[1].seconds, 2)
    record("data", figures, ratios)


def run_warm(folder: Path) -> dict[str, Cost]:
    """The stages as a local installation runs them."""
    project = Project(folder=ROOT, home=folder / "home", use_cases=folder / "cases", profile_name="local")
    path = warm_socket(project)
    path.parent.mkdir(parents=True, exist_ok=True)
    server = subprocess.Popen([sys.executable, "-m", "pipelines_lib.warm", str(path)], env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        while not path.exists():
            time.sleep(0.05)
        return {stage: _run_job(spec_of(folder, stage), project, psutil.Process(server.pid)) for stage in STAGES}
    finally:
        server.terminate()
        server.wait()


def _run_job(spec: JobSpec, project: Project, server: psutil.Process) -> Cost:
    """What a job took, and the largest resident set that was seen of it, shared pages included."""
    peaks, done, said = [0.0], threading.Event(), []

    def watch() -> None:
        while not done.wait(0.02):
            for child in server.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    peaks.append(child.memory_info().rss / 2**20)

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    code = Job(spec, project).run(said.append)
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    if code != 0:
        raise SystemExit(f"{spec.stage} ended with {code}:\n" + "\n".join(said[-40:]))
    return Cost(seconds, max(peaks))


def spec_of(folder: Path, stage: str) -> JobSpec:
    """The spec of a stage on the generated file."""
    return JobSpec(stage=stage, pipeline="data", use_case="bench", partition_key=KEY, run_id="bench", store=str(folder / "home" / "store"))


def run_stage(folder: Path, stage: str) -> Cost:
    """A stage as the launcher starts it, without the warm interpreter."""
    case = folder / "cases" / "bench"
    case.mkdir(parents=True, exist_ok=True)
    (case / "use_case.yaml").write_text(USE_CASE, encoding="utf-8")
    spec = spec_of(folder, stage)
    path = Path(spec.stage_dir) / "spec.json"
    write_json(path, spec)
    environment = {"SLUICE_HOME": str(folder / "home"), "SLUICE_USE_CASES": str(case.parent), "PYTHONPATH": str(ROOT)}
    return measure([sys.executable, "-m", f"pipelines_lib.jobs.{stage}", "--spec", str(path)], environment)


def measure(command: list[str], environment: dict[str, str] | None = None) -> Cost:
    """Run to the end. Raises where it fails."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, env={**os.environ, **(environment or {})}, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if status != 0:
            output.seek(0)
            raise SystemExit(f"{command} ended with {process.returncode}:\n{output.read()[-4000:]}")
    return Cost(seconds, usage.ru_maxrss / 1024)


def generate(path: Path, n: int) -> None:
    """`n` events, one in two hundred broken, one in two hundred delivered twice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        for start in range(0, n, 1_000_000):
            rows = min(1_000_000, n - start)
            file.write(_csv(rng, start, rows, header=start == 0))


def _csv(rng: np.random.Generator, start: int, n: int, header: bool) -> bytes:
    ids = np.arange(start, start + n)
    again = rng.random(n) < 0.005
    ids[again] -= rng.integers(1, 1000, int(again.sum()))
    price = pc.cast(pa.array(np.round(rng.lognormal(3, 1, n), 2)), pa.string())
    price = pc.if_else(pa.array(rng.random(n) < 0.0025), pa.scalar("-1"), price)
    hour = pc.cast(pa.array(rng.integers(0, 24, n)), pa.string())
    hour = pc.if_else(pa.array(rng.random(n) < 0.0025), pa.scalar("noon"), hour)
    seconds = pa.array(1_767_225_600 + np.sort(rng.integers(0, 86_400, n)), pa.int64()).cast(pa.timestamp("s"))
    table = pa.table(
        {
            "event_id": pc.binary_join_element_wise("e", pc.cast(pa.array(np.maximum(ids, 0)), pa.string()), ""),
            "user_id": pc.binary_join_element_wise(
                "u", pc.utf8_lpad(pc.cast(pa.array(rng.zipf(1.3, n) % 1_000_000), pa.string()), 7, "0"), ""
            ),
            "event_time": pc.strftime(seconds, "%Y-%m-%d %H:%M:%S"),
            "price": price,
            "discount": np.round(rng.random(n), 3),
            "hour": hour,
            "clicks": rng.poisson(3, n),
            "device": np.array(["phone", "tablet", "desktop"])[rng.integers(0, 3, n)],
            "country": np.array(["DE", "CN", "FR", "US", "BR", "IN"])[rng.integers(0, 6, n)],
            "action": np.array(["view", "skip", "click", "buy"])[rng.choice(4, n, p=[0.6, 0.2, 0.15, 0.05])],
        }
    )
    sink = pa.BufferOutputStream()
    csv.write_csv(table, sink, csv.WriteOptions(include_header=header, quoting_style="none"))
    return sink.getvalue().to_pybytes()


if __name__ == "__main__":
    if "--generate" in sys.argv:
        generate(Path(sys.argv[2]), int(sys.argv[3]))
        sys.exit()
    main([int(argument) for argument in sys.argv[1:]] or [1, 5, 20])
