"""A model on a device in each number format: its bytes, how long an answer takes, and how far it is from the server's.

The model is what `sluice new` proposes for a week of the simulated shop (`include/use_cases/recommendation`), trained here, released and pulled as
users do it, and judged on its whole hold-out. Where `../shared/data` is, a text model is measured too, since what a format saves follows from
what a graph holds. One thread; the formats take turns, and of a format's turns the best counts, for what else the machine does makes one
slower, never faster.

    python benchmarks/bench_edge.py
"""

import csv
import datetime as dt
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import quality_models
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray
from quality_models import Case
from record import record

from pipelines_lib.config import load_use_case
from pipelines_lib.data.sides import TEST, TRAIN
from pipelines_lib.data.snapshot import Snapshot
from pipelines_lib.edge import device
from pipelines_lib.edge.parity import parity
from pipelines_lib.edge.precision import Precision, calibration, in_precision
from pipelines_lib.edge.release import release
from pipelines_lib.evaluation import metrics
from pipelines_lib.evaluation.holdout import features_of, sample, truth_of
from pipelines_lib.features.transform import Arrays
from pipelines_lib.graph import open_graph
from pipelines_lib.monitoring.sketch import profile_columns
from pipelines_lib.registry.package import MODEL, Feature, Holdout, Manifest, Package
from pipelines_lib.training.export import to_onnx
from pipelines_lib.use_case import HIGHER_IS_BETTER, UseCase

ROOT = Path(__file__).parents[1]
SHOP, DAYS = "shop", 7
SEED, TURNS, CALLS = 101, 15, {1: 200, 64: 50}
"""Calls of a turn by their rows."""
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
DEVICE_ROWS = 10_000
ALONE = """
import re, sys
from pathlib import Path
from pipelines_lib.edge.__main__ import main
code = main(sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1], file=sys.stderr)
sys.exit(code)
"""


@dataclass(frozen=True)
class Model:
    """What was trained, and what it is judged on."""

    package: Package
    snapshot: Snapshot
    use_case: UseCase

    @property
    def test(self) -> pa.Table:
        """The hold-out."""
        return self.snapshot.side(TEST)


def main() -> None:
    """Measure and record."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shop = trained(folder, Case("Simulated shop", "outcome", "roc_auc", "–", simulated))
        figures = {**of_model(shop), **on_a_device(shop, folder), "installed_mib": installed_mib()}
        ratios = {
            f"{what}_{precision}_vs_fp32": round(figures[f"{key}_{precision}"] / figures[f"{key}_fp32"], 3)
            for what, key in {"size": "graph_bytes", "latency": "p50_ms_1", "latency_64": "p50_ms_64"}.items()
            for precision in PRECISIONS[1:]
        }
        ratios |= {f"metric_lost_{precision}": figures[f"metric_lost_{precision}"] for precision in PRECISIONS[1:]}
        if quality_models.DATA.exists():
            text = of_model(trained(folder, quality_models.CASES["banking77"]))
            figures |= {f"text_{key}": value for key, value in text.items()}
    record("edge", figures, ratios)


def simulated(folder: Path) -> Path:
    """A quiet week of the shop in one file: what was shown to whom, and whether it engaged him."""
    at = ROOT / "include" / "use_cases" / "recommendation"
    use_case, spec = load_use_case(at), importlib.util.spec_from_file_location(SHOP, at / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    path = folder / f"{SHOP}.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*use_case.features(), "outcome"])
        for day in (str(use_case.start + dt.timedelta(days=number)) for number in range(DAYS)):
            hooks.land(day, folder / f"{day}.csv", {**use_case.source.params, "broken_share": 0})
            with (folder / f"{day}.csv").open(encoding="utf-8") as lines:
                rows = csv.DictReader(lines)
                writer.writerows([*(row[name] for name in use_case.features()), use_case.label.map[row["action"]]] for row in rows)
    return path


def trained(folder: Path, case: Case) -> Model:
    """The model of its rows, as a package below `folder`."""
    use_case, snapshot = quality_models.opened(SHOP, case, SEED)
    scoring, data = quality_models.trained(use_case, snapshot, SEED)
    test = snapshot.side(TEST)
    features = features_of(use_case, test)
    classes = data.objective.classes
    manifest = Manifest(
        use_case=use_case.name,
        task=use_case.task,
        classes=classes,
        positive=use_case.label.positive,
        features=tuple(Feature(name=name, type=kind) for name, kind in use_case.feature_types.items()),
        metrics={},
        snapshot=snapshot.ref,
        mlflow_run_id="run",
    )
    files = {
        MODEL: to_onnx(scoring, {name: array[:8] for name, array in data.transform.apply(features).items()}),
        "transform.json": data.transform.to_json().encode(),
        "profile.json": profile_columns(features, use_case.feature_types).to_json().encode(),
        "holdout.json": Holdout(row_ids=(), columns={}, scores=()).model_dump_json().encode(),
        "card.md": b"# Card\n",
    }
    packages = folder / use_case.name / "packages"
    first = Package.open(packages / Path(str(Package.write(packages, "unscored", manifest, files))).name)
    files["holdout.json"] = sample(use_case, test, first).model_dump_json().encode()
    return Model(Package.open(packages / Path(str(Package.write(packages, "v1", manifest, files))).name), snapshot, use_case)


def of_model(model: Model) -> dict[str, Any]:
    """Bytes, parity on the whole hold-out, metric lost (in `gate.metric`) and latencies of the graph in each format."""
    package, use_case, test = model.package, model.use_case, model.test
    arrays = package.transform.apply(features_of(use_case, test))
    learned = calibration(model.snapshot, package.transform)
    graph = (package.folder / MODEL).read_bytes()
    graphs = {precision: in_precision(graph, precision, learned) for precision in PRECISIONS}
    runs = {precision: open_graph(data, precision, "").run for precision, data in graphs.items()}
    expected = runs["fp32"](["scores"], arrays)[0]
    truth, metric = truth_of(use_case, test, package.manifest.classes), use_case.gate.metric
    sign = 1 if HIGHER_IS_BETTER[metric] else -1
    server = metrics.value(metric, truth, expected)
    figures: dict[str, Any] = {"holdout_rows": test.num_rows, "metric": metric, "metric_server": round(server, 5)}
    for precision in PRECISIONS:
        scores = runs[precision](["scores"], arrays)[0]
        lost = sign * (server - metrics.value(metric, truth, scores))
        found = {"graph_bytes": len(graphs[precision]), "metric_lost": lost, **parity(scores, expected, package.manifest.decision)}
        figures |= {f"{key}_{precision}": float(f"{value:.3g}") if isinstance(value, float) else value for key, value in found.items()}
    return {**figures, **latencies(runs, arrays)}


def latencies(runs: dict[Precision, Callable[..., Any]], arrays: Arrays) -> dict[str, float]:
    """Milliseconds of calls with one row and with 64, median and 99th percentile: the best of turns."""
    best: dict[str, float] = {}
    for _ in range(TURNS):
        for n_rows, n_calls in CALLS.items():
            starts = [place % (len(next(iter(arrays.values()))) - n_rows) for place in range(n_calls)]
            asked = [{name: array[start : start + n_rows] for name, array in arrays.items()} for start in starts]
            for precision, run in runs.items():
                seconds = timed(partial(run, ["scores"]), asked)
                for key, share in (("p50", 0.5), ("p99", 0.99)):
                    name = f"{key}_ms_{n_rows}_{precision}"
                    best[name] = min(best.get(name, np.inf), round(1000 * float(np.quantile(seconds, share)), 5))
    return best


def timed(call: Callable[[Arrays], Any], asked: list[Arrays]) -> NDArray[np.float64]:
    """Seconds of each call."""
    call(asked[0])
    seconds = np.empty(len(asked))
    for place, arrays in enumerate(asked):
        started = time.perf_counter()
        call(arrays)
        seconds[place] = time.perf_counter() - started
    return seconds


def on_a_device(model: Model, folder: Path) -> dict[str, Any]:
    """Of the released bundles: their bytes, and of a process that pulls and of one that predicts DEVICE_ROWS rows of JSON its time and memory."""
    figures: dict[str, Any] = {}
    learned = calibration(model.snapshot, model.package.transform)
    (folder / "public").write_text(KEY.public_key().public_bytes_raw().hex())
    with (folder / "rows").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows_of(model, DEVICE_ROWS))
    for precision in PRECISIONS:
        group, here = folder / SHOP / "edge" / precision, folder / "devices" / precision
        name, _ = release(model.package, group, KEY, version=1, precision=precision, share=1, bound=1, calibration=learned)
        device.pull(str(group), here, "d1", [KEY.public_key()])
        figures[f"bundle_bytes_{precision}"] = sum(path.stat().st_size for path in (group / name).iterdir())
        seconds, mib = alone("predict", str(folder / "rows"), "--folder", str(here), "--key", str(folder / "public"))
        figures |= {f"predict_seconds_{precision}": seconds, f"predict_peak_mib_{precision}": mib}
    figures["predict_rows"] = DEVICE_ROWS
    return figures


def rows_of(model: Model, n_rows: int) -> Iterator[dict[str, Any]]:
    """As a device is given them."""
    rows = model.snapshot.side(TRAIN).select(list(model.use_case.features())).slice(0, n_rows)
    yield from rows.to_pylist()


def alone(*arguments: str) -> tuple[float, int]:
    """Seconds and peak memory (MiB) of `sluice edge` as a device runs it, from its start to its end."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", ALONE, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(done.stderr)
    return round(seconds, 2), round(int(done.stderr.split()[-1]) / 1024)


def installed_mib() -> int:
    """What the packages of `docker/requirements/edge.txt` take where they are installed, as a device has them."""
    lines = (ROOT / "docker" / "requirements" / "edge.txt").read_text(encoding="utf-8").splitlines()
    names = {re.split("[=; ]", line)[0] for line in lines}
    files = [file.locate() for name in names for file in distribution(name).files or ()]
    return round(sum(Path(str(file)).stat().st_size for file in files if Path(str(file)).exists()) / 2**20)


if __name__ == "__main__":
    main()
