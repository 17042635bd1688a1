"""How the service fared on a partition, and whether the partition is as large and as fresh as others: nothing to do with the model, and often why it looks bad."""

from collections import Counter
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import pyarrow as pa

from pipelines_lib.data.tables import Layer, Tables
from pipelines_lib.errors import DataError
from pipelines_lib.serving.health import FOLDER
from pipelines_lib.serving.metrics import BUCKETS
from pipelines_lib.store import StorePath, read_json
from pipelines_lib.use_case import UseCase

HEALTH = pa.schema(
    {
        "row_id": pa.string(),
        "n_requests": pa.int64(),
        "n_errors": pa.int64(),
        "n_rejected": pa.int64(),
        "mean_seconds": pa.float64(),
        "p50_seconds": pa.float64(),
        "p95_seconds": pa.float64(),
        "p99_seconds": pa.float64(),
        "rows_lost": pa.int64(),
        "n_rows": pa.int64(),
        "usual_rows": pa.float64(),
        "clean_behind": pa.int64(),
        "labelled_behind": pa.int64(),
    }
)
"""The table `health`: one row a partition."""

_OF_SERVICE = HEALTH.names[1 : HEALTH.names.index("n_rows")]
_USUAL = 7
"""Earlier partitions whose median is the usual number of rows."""
_FAR = 400
"""Partitions after which a layer is no longer looked for."""


@dataclass(frozen=True, kw_only=True)
class Health:
    """Of one partition. The service's figures are None where its servers told nothing of the day."""

    n_requests: int | None = None
    """To the endpoints that answer with predictions."""
    n_errors: int | None = None
    """Answered with a status from 500 on."""
    n_rejected: int | None = None
    """Refused because of what they held (statuses 400 to 498, without 401)."""
    mean_seconds: float | None = None
    p50_seconds: float | None = None
    p95_seconds: float | None = None
    p99_seconds: float | None = None
    """Quantiles of the time to an answer: upper bounds, as the histogram of `/metrics` has them; None beyond its last."""
    rows_lost: int | None = None
    """Answers that did not get into the prediction log."""
    n_rows: int
    """Answers of the partition."""
    usual_rows: float | None
    """Median of the last seven partitions before it that had answers."""
    clean_behind: int | None
    labelled_behind: int | None
    """Partitions between this one and the newest up to it that the layer has; 0 is up to date, None is none within 400."""

    def row(self) -> pa.Table:
        """As the row of the table `health`."""
        return pa.Table.from_pylist([{"row_id": "health", **asdict(self)}], schema=HEALTH)


def health(tables: Tables, use_case: UseCase, partition_key: str, n_rows: int) -> Health:
    """Health of a partition with `n_rows` answers."""
    earlier = [use_case.shift(partition_key, -back) for back in range(1, _USUAL + 1)]
    there = sorted({*earlier} & {*tables.partitions("profiles")})
    sizes = [n for n in tables.read("profiles", there, columns=["n_rows"])["n_rows"].to_pylist() if n] if there else []
    return Health(
        **(_service(tables.root, partition_key) or _kept(tables, partition_key)),
        n_rows=n_rows,
        usual_rows=float(median(sizes)) if sizes else None,
        clean_behind=_behind(tables, use_case, partition_key, "clean"),
        labelled_behind=_behind(tables, use_case, partition_key, "labelled"),
    )


def _service(root: StorePath, partition_key: str) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    folder = root / FOLDER / partition_key
    files: list[StorePath] = sorted(folder.glob("*.json"), key=lambda path: path.name)
    if not files:
        return {}
    for path in files:
        document = read_json(path)
        if not isinstance(document, dict) or not all(isinstance(count, int | float) for count in document.values()):
            raise DataError(f"{path} does not hold what a server counted; delete it, and clear `measure`")
        counts.update(document)
    status = {int(name.removeprefix("status_")): int(n) for name, n in counts.items() if name.startswith("status_")}
    n = sum(status.values())
    return {
        "n_requests": n,
        "n_errors": sum(count for code, count in status.items() if code >= 500),
        "n_rejected": sum(count for code, count in status.items() if 400 <= code < 499 and code != 401),
        "mean_seconds": counts["seconds"] / n if n else None,
        **{f"p{rank}_seconds": _quantile(counts, n, rank / 100) for rank in (50, 95, 99)},
        "rows_lost": int(counts["rows_lost"]),
    }


def _kept(tables: Tables, partition_key: str) -> dict[str, Any]:
    """What was found of a partition while its files were there: `sluice vacuum` removes old ones."""
    if partition_key not in tables.partitions("health"):
        return {}
    [row] = tables.read("health", [partition_key]).to_pylist()
    return {name: row[name] for name in _OF_SERVICE}


def _quantile(counts: Counter[str], n: int, rank: float) -> float | None:
    return next((bound for bound in BUCKETS if n and counts[f"within_{bound:g}"] >= rank * n), None)


def _behind(tables: Tables, use_case: UseCase, partition_key: str, layer: Layer) -> int | None:
    there = set(tables.partitions(layer))
    return next((back for back in range(_FAR) if use_case.shift(partition_key, -back) in there), None) if there else None
