"""Lands the Wisconsin breast-cancer data (569 patients, as scikit-learn ships it) as daily slices. Same seed and day, same bytes.

A round of fourteen days shows every patient once; the next round shows them again in another order, each under the same
patient id. From `drift_from` on the scanner is out of calibration: lengths come out too long and textures too coarse.
"""

import csv
import datetime as dt
import importlib.util
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipelines_lib.store import write_bytes

FIRST_DAY = dt.date(2026, 1, 1)
DAYS_A_ROUND = 14
MEASURES = (
    "radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity", "concave_points", "symmetry", "fractal_dimension",
)  # fmt: skip
COLUMNS = tuple(f"{kind}_{measure}" for kind in ("mean", "error", "worst") for measure in MEASURES)
OUT_OF_CALIBRATION = {"radius": 1.4, "perimeter": 1.4, "area": 1.96, "texture": 1.5}


def land(partition_key: str, path: Path, params: Mapping[str, object]) -> None:
    """Write the examinations of day `partition_key` to `path`.

    Params: `seed`; `drift_from`, the first day of the scanner that is out of calibration (null: never).
    """
    day = dt.date.fromisoformat(partition_key)
    start = params.get("drift_from")
    drifted = start is not None and day >= dt.date.fromisoformat(str(start))
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(("patient_id", "examined_on", "diagnosis", *COLUMNS))
    patients = _patients()
    for number in _of_the_day(len(patients), day, int(str(params.get("seed", 0)))):
        *values, benign = patients[number]
        writer.writerow((f"P{number:04d}", partition_key, "BM"[benign == "0"], *(_measured(values) if drifted else values)))
    write_bytes(path, lines.getvalue().encode("utf-8"))


def _of_the_day(n_patients: int, day: dt.date, seed: int) -> list[int]:
    """Numbers of the patients examined on `day`, in the file's order."""
    turn, slot = divmod((day - FIRST_DAY).days, DAYS_A_ROUND)
    order = np.random.Generator(np.random.PCG64([seed, turn + 10_000])).permutation(n_patients)
    first, last = (n_patients * i // DAYS_A_ROUND for i in (slot, slot + 1))
    return sorted(order[first:last].tolist())


def _measured(values: list[str]) -> list[str]:
    factors = [OUT_OF_CALIBRATION.get(measure, 1.0) for _ in range(3) for measure in MEASURES]
    return [value if factor == 1.0 else f"{float(value) * factor:.6g}" for value, factor in zip(values, factors, strict=True)]


def _patients() -> list[list[str]]:
    """Thirty measurements and the diagnosis (0 malignant, 1 benign) of each patient, as text."""
    package = importlib.util.find_spec("sklearn")  # found, not imported: importing it takes longer than reading the file
    assert package is not None
    assert package.submodule_search_locations is not None
    path = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "breast_cancer.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))[1:]
