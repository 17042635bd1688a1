"""What monitoring has found and decided so far: the table `drift`, and one decision a partition below `decisions/`.

Beside a decision lies the mark of the training that was fired for it. A decision alone starts nothing: `sluice run` decides
without triggering, and a trigger may fail.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Literal

import pyarrow as pa
from pydantic import Field, JsonValue, ValidationError

from pipelines_lib.contracts import TRIGGERED, Contract
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import DataError
from pipelines_lib.monitoring.drift import ColumnDrift
from pipelines_lib.monitoring.governor import Fired, Window
from pipelines_lib.store import StorePath, read_json
from pipelines_lib.use_case import Monitoring, UseCase

DRIFT = pa.schema(
    {
        "row_id": pa.string(),
        "kind": pa.string(),
        "type": pa.string(),
        "model_version": pa.int64(),
        "n_rows": pa.int64(),
        "n_reference": pa.int64(),
        "psi": pa.float64(),
        "js": pa.float64(),
        "noise_floor": pa.float64(),
        "effect": pa.float64(),
        "effect_lower": pa.float64(),
        "effect_upper": pa.float64(),
        "wasserstein": pa.float64(),
        "wasserstein_noise": pa.float64(),
        "part": pa.string(),
        "weight": pa.float64(),
        "missing_reference": pa.float64(),
        "missing_now": pa.float64(),
        "new_share": pa.float64(),
        "new_categories": pa.list_(pa.string()),
        "lost_categories": pa.list_(pa.string()),
        "drifted": pa.bool_(),
    }
)
"""The table `drift`: one row a column, whose name is the `row_id`."""


class Recorded(Contract):
    """A decision as it is kept."""

    partition_key: str
    action: Literal["retrain", "hold"]
    reason: str
    figures: dict[str, JsonValue] = Field(default_factory=dict)
    model_version: int | None
    """The champion of that moment, whose answers were judged."""
    trigger_run_id: str
    evidence: str
    """Hash of the measured windows, the settings and the champion: a decision stands as long as what it rests on."""


def drift_rows(drifts: Sequence[ColumnDrift], model_version: int) -> pa.Table:
    """As rows of the table `drift`."""
    rows = [
        {**asdict(drift), "row_id": drift.column, "model_version": model_version, "n_rows": drift.n_now, "new_categories": list(drift.new_categories),
         "lost_categories": list(drift.lost_categories)}
        for drift in drifts
    ]  # fmt: skip
    return pa.Table.from_pylist([{name: row[name] for name in DRIFT.names} for row in rows], schema=DRIFT)


def drifts_of(rows: pa.Table) -> list[ColumnDrift]:
    """The reverse of `drift_rows`, by column name."""
    return [
        ColumnDrift(
            **{
                name: row[name]
                for name in DRIFT.names
                if name not in ("row_id", "model_version", "n_rows", "new_categories", "lost_categories")
            },
            column=row["row_id"],
            n_now=row["n_rows"],
            new_categories=tuple(row["new_categories"]),
            lost_categories=tuple(row["lost_categories"]),
        )
        for row in rows.to_pylist()
    ]


def windows(tables: Tables, use_case: UseCase, partition_key: str) -> list[Window]:
    """The measured ones of the last `monitoring.of` partitions up to `partition_key`, oldest first."""
    wanted = [use_case.shift(partition_key, -back) for back in range(use_case.monitoring.of - 1, -1, -1)]
    there = set(tables.partitions("drift"))
    return [window(key, tables.read("drift", [key])) for key in wanted if key in there]


def window(partition_key: str, rows: pa.Table) -> Window:
    """The window that the drift rows of one partition make; there is at least one row."""
    drifts = drifts_of(rows)
    inputs = [drift for drift in drifts if drift.kind == "input"]
    return Window(
        partition_key=partition_key,
        n_rows=max(drift.n_now for drift in drifts),
        model_version=rows["model_version"][0].as_py(),
        n_inputs=len(inputs),
        n_drifted=sum(drift.drifted for drift in inputs),
        prediction_drifted=any(drift.drifted for drift in drifts if drift.kind == "prediction"),
    )


def evidence(history: Sequence[Window], settings: Monitoring, champion: int | None) -> str:
    """Hash of what a decision rests on, beside the trainings under way or fired at that moment."""
    parts = [[asdict(window) for window in history], settings.model_dump(mode="json"), champion]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def decision_path(root: StorePath, partition_key: str) -> StorePath:
    """Where the decision on a partition is kept."""
    return root / "decisions" / f"{partition_key}.json"


def recorded(root: StorePath, partition_key: str) -> Recorded | None:
    """The decision on a partition, or None where there is none yet."""
    path = decision_path(root, partition_key)
    try:
        return Recorded.model_validate(read_json(path))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise DataError(f"{path} is not a decision: {error}. Delete it and run the decide stage again") from error


def is_fired(root: StorePath, partition_key: str) -> bool:
    """Whether a training was triggered for the partition."""
    return (root / "decisions" / f"{partition_key}{TRIGGERED}").exists()


def fired(root: StorePath, use_case: UseCase, partition_key: str) -> tuple[Fired, ...]:
    """Retrainings that were triggered for other partitions than this, oldest first."""
    here = use_case.partition_time(partition_key)
    keys = sorted(path.name.removesuffix(TRIGGERED) for path in (root / "decisions").glob(f"*{TRIGGERED}"))
    moments = {key: use_case.partition_time(key) for key in keys if key != partition_key}
    return tuple(
        Fired(partition_key=key, partitions_away=(moment - here) // use_case.partition_step, moment=moment)
        for key, moment in moments.items()
    )
