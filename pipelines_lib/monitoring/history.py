"""What monitoring has found and decided so far.

The tables `drift` (one row a column) and `performance` (one row a source), what the data pipeline's gate said (`quality`), one
decision a partition below `decisions/`, and the ledger of the retrainings that were fired. A decision alone fires nothing:
`sluice run` decides without triggering, and a trigger may fail.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, JsonValue, ValidationError

from pipelines_lib import cost
from pipelines_lib.config import Profile
from pipelines_lib.contracts import LEDGER, Contract, Ledger, Pipeline, safe_name
from pipelines_lib.data.tables import Layer, Tables
from pipelines_lib.errors import ConfigError, DataError
from pipelines_lib.monitoring.drift import ColumnDrift
from pipelines_lib.monitoring.governor import Action, Fired, Loss, Window
from pipelines_lib.store import StorePath, read_json
from pipelines_lib.use_case import HIGHER_IS_BETTER, SHOWN_ALONE, UseCase

_LOOK_BACK = 60
"""Partitions whose late labels are waited for, at least."""
_Z995 = 2.576
"""Of the hold-out's figure 99 % are allowed for, and 95 % of a partition's: all partitions of a champion are held against the same one."""

_BY_CHANCE = 1e-6
"""How rarely a column of few rows may be taken for a broken one."""

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
        "auc": pa.float64(),
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


PERFORMANCE = pa.schema(
    {
        "row_id": pa.string(),
        "metric": pa.string(),
        "value": pa.float64(),
        "low": pa.float64(),
        "high": pa.float64(),
        "reference": pa.float64(),
        "reference_error": pa.float64(),
        "n_rows": pa.int64(),
        "model_version": pa.int64(),
        "labels": pa.string(),
    }
)
"""The table `performance`: the gate's metric once `realised` and once `estimated` (the `row_id`), the ends of its 95 % interval, and the
same metric of the champion's hold-out with its standard error. `labels` names the content of the labels that a realised figure was made with."""


DECISIONS = pa.schema(
    {
        "row_id": pa.string(),
        "action": pa.string(),
        "reason": pa.string(),
        "objections": pa.list_(pa.string()),
        "model_version": pa.int64(),
        "n_rows": pa.int64(),
        "n_inputs": pa.int64(),
        "n_drifted": pa.int64(),
        "drifted_share": pa.float64(),
        "prediction_drifted": pa.bool_(),
        "loss": pa.float64(),
        "loss_source": pa.string(),
        "fired": pa.bool_(),
    }
)
"""The table `decisions`: one row a partition, what was decided and on what, and whether a retraining was fired."""


class Recorded(Contract):
    """A decision as it is kept."""

    partition_key: str
    action: Action
    reason: str
    objections: dict[str, str] = Field(default_factory=dict)
    """Every rule that spoke against a retraining, and what it said."""
    figures: dict[str, JsonValue] = Field(default_factory=dict)
    model_version: int | None
    """The champion of that moment, whose answers were judged."""
    trigger_run_id: str
    """Of the training that follows from it: the same for the same use case, champion and partition."""
    n_known: int
    """Retrainings in the ledger when it was made: it fires nothing once there are more."""
    labels_until: str | None = None
    """The newest partition whose labels it went by, empty where there was none; None of an earlier Sluice's."""


@dataclass(frozen=True, kw_only=True)
class Day:
    """One partition of the past, as the page shows it."""

    partition_key: str
    drifted_share: float | None
    prediction_effect: float | None
    """The larger one of the score's and the prediction's."""
    performance: Mapping[str, tuple[float, float | None, float | None]]
    """`realised` and `estimated`, where known: the gate's metric, and the ends of its interval."""
    reference: float | None
    """The champion's, on its hold-out."""
    action: Action | None
    """What was decided, where it was."""
    fired: bool
    """Whether a retraining was fired for it, which another one may have forestalled."""


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


def performance_row(
    source: Literal["realised", "estimated"],
    metric: str,
    *,
    value: float | None,
    low: float | None,
    high: float | None,
    reference: float | None,
    n_rows: int,
    model_version: int,
    reference_error: float | None = None,
    labels: str | None = None,
) -> dict[str, object]:
    """One row of the table `performance`."""
    return {
        "row_id": source, "metric": metric, "value": value, "low": low, "high": high, "reference": reference,
        "reference_error": reference_error, "n_rows": n_rows, "model_version": model_version, "labels": labels,
    }  # fmt: skip


def decision_rows(record: Recorded, window: Window | None, known: Ledger) -> pa.Table:
    """As the partition's row of the table `decisions`; `window` is None where nothing was answered, `known` are the retrainings fired by now."""
    loss = None if window is None else window.loss
    row = {
        "row_id": "decision", "action": record.action, "reason": record.reason, "objections": list(record.objections),
        "model_version": record.model_version, "n_rows": window.n_rows if window else 0, "n_inputs": window.n_inputs if window else 0,
        "n_drifted": window.n_drifted if window else 0, "drifted_share": window.drifted_share if window else None,
        "prediction_drifted": window.prediction_drifted if window else None, "loss": None if loss is None else loss.share,
        "loss_source": None if loss is None else loss.source, "fired": known.of(record.partition_key) is not None,
    }  # fmt: skip
    return pa.Table.from_pylist([row], schema=DECISIONS)


def past(tables: Tables, use_case: UseCase, partition_key: str, n: int, known: Ledger) -> list[Day]:
    """Of the last `n` partitions up to `partition_key` those from the first that was decided on, oldest first.

    The figures of one that was not measured are None.
    """
    keys = [use_case.shift(partition_key, -back) for back in reversed(range(n))]
    drift = _by_partition(tables, "drift", keys)
    performance = _by_partition(tables, "performance", keys)
    decisions = _by_partition(tables, "decisions", keys)
    first = min([partition_key, *decisions])
    return [
        _day(use_case, key, drift.get(key), performance.get(key), decisions.get(key), fired=known.of(key) is not None)
        for key in keys
        if key >= first
    ]


def _day(
    use_case: UseCase,
    partition_key: str,
    drift: pa.Table | None,
    performance: pa.Table | None,
    decision: pa.Table | None,
    *,
    fired: bool,
) -> Day:
    answers = (
        [] if drift is None else [row["effect"] for row in drift.to_pylist() if row["kind"] == "prediction" and row["effect"] is not None]
    )
    figures = [] if performance is None else performance.to_pylist()
    return Day(
        partition_key=partition_key,
        drifted_share=None if drift is None else window(partition_key, drift, use_case.monitoring.psi).drifted_share,
        prediction_effect=max(answers, default=None),
        performance={row["row_id"]: (row["value"], row["low"], row["high"]) for row in figures if row["value"] is not None},
        reference=next((row["reference"] for row in figures), None),
        action=None if decision is None else decision["action"][0].as_py(),
        fired=fired,
    )


def windows(tables: Tables, use_case: UseCase, partition_keys: Sequence[str]) -> list[Window]:
    """Those of the partitions that were measured, oldest first."""
    drift = _by_partition(tables, "drift", partition_keys)
    performance = _by_partition(tables, "performance", partition_keys)
    quality = _by_partition(tables, "quality", partition_keys)
    return [measured_window(use_case, key, rows, performance.get(key), quality.get(key)) for key, rows in sorted(drift.items())]


def last_windows(tables: Tables, use_case: UseCase, partition_key: str) -> list[Window]:
    """The measured ones of the last `monitoring.of` partitions up to `partition_key`, oldest first."""
    return windows(tables, use_case, [use_case.shift(partition_key, -back) for back in range(use_case.monitoring.of)])


def window(partition_key: str, rows: pa.Table, psi: float = 0.0) -> Window:
    """The window that the drift rows of one partition make; there is at least one row. A `psi` above that of the measuring counts fewer columns."""
    drifts = drifts_of(rows)
    drifted = [drift for drift in drifts if drift.drifted and (drift.effect or 0.0) >= psi]
    inputs = [drift for drift in drifts if drift.kind == "input"]
    empty = sorted(drift.column for drift in inputs if _is_broken(drift))
    return Window(
        partition_key=partition_key,
        n_rows=max(drift.n_now for drift in drifts),
        model_version=rows["model_version"][0].as_py(),
        n_inputs=len(inputs),
        n_drifted=sum(drift.kind == "input" for drift in drifted),
        drifted_weight=None if any(drift.weight is None for drift in inputs) else sum(drift.weight or 0.0 for drift in drifted),
        joint_drifted=any(drift.kind == "joint" for drift in drifted),
        prediction_drifted=any(drift.kind == "prediction" for drift in drifted),
        bad_data=f"no row has a value of {', '.join(empty)}" if empty else "",
    )


def _is_broken(drift: ColumnDrift) -> bool:
    """Whether nobody sent the feature, and chance does not explain it in so few rows: a model trained on it would learn to do without."""
    usual = max(drift.missing_reference, 1 / max(drift.n_reference, 1))
    return drift.missing_now == 1 and usual < 0.5 and usual**drift.n_now < _BY_CHANCE


def look_back(use_case: UseCase) -> int:
    """Partitions whose late labels are waited for: as many as the use case lets pass until nothing changes a label any more."""
    return max(_LOOK_BACK, use_case.reach)


def labelled_windows(tables: Tables, use_case: UseCase, partition_key: str, model_version: int) -> list[Window]:
    """The newest `monitoring.of` partitions up to `partition_key`, of the last `look_back`, whose labels have come, the newest first.

    None before the time of the version: labels of another one's answers end the search.
    """
    of, found = use_case.monitoring.of, list[Window]()
    _, labels = tables.contents("labelled")
    recent = {use_case.shift(partition_key, -back) for back in range(look_back(use_case) + 1)} & labels.keys()
    keys = sorted(recent & set(tables.partitions("drift")), reverse=True) if recent else []
    while keys and len(found) < of:
        newest, keys = keys[:of], keys[of:]
        for window in reversed(windows(tables, use_case, newest)):
            if window.model_version != model_version:
                return found
            if window.has_truth and not window.bad_data:
                found.append(window)
    return found


def measured_window(
    use_case: UseCase, partition_key: str, drift: pa.Table, performance: pa.Table | None, quality: pa.Table | None
) -> Window:
    """The window that one partition's rows of the tables `drift`, `performance` and `quality` make."""
    found = window(partition_key, drift, use_case.monitoring.psi)
    held = [] if quality is None else [row["observed"] for row in quality.to_pylist() if row["kind"] == "partition" and not row["success"]]
    return replace(
        found,
        loss=None if performance is None else _loss(use_case, performance, found.model_version),
        bad_data=f"its data was held ({held[0]})" if held else found.bad_data,
    )


def _loss(use_case: UseCase, performance: pa.Table, model_version: int) -> Loss | None:
    """What was realised, where labels have come for as many rows as count; else what is estimated.

    None of a metric that a partition says nothing of: a calibration error is the larger by chance the fewer the rows are.
    """
    rows = {row["row_id"]: row for row in performance.to_pylist() if row["model_version"] == model_version}
    enough = {"realised": use_case.monitoring.min_rows, "estimated": 0}
    for source, least in enough.items():
        row = rows.get(source)
        if (
            row is None
            or row["metric"] in SHOWN_ALONE
            or row["n_rows"] < least
            or None in (row["value"], row["low"], row["high"])
            or not row["reference"]
        ):
            continue
        sign, scale = (1 if HIGHER_IS_BETTER[row["metric"]] else -1), abs(row["reference"])
        share, *ends = (sign * (row["reference"] - row[name]) / scale for name in ("value", "low", "high"))
        # The champion's figure is no better known than its hold-out is large. An estimate was calibrated on the same rows, and errs with it.
        unsure = _Z995 * (row.get("reference_error") or 0.0) / scale if source == "realised" else 0.0
        low, high = share - math.hypot(share - min(ends), unsure), share + math.hypot(max(ends) - share, unsure)
        return Loss(metric=row["metric"], source=source, share=share, low=low, high=high)  # type: ignore[arg-type]
    return None


def _by_partition(tables: Tables, layer: Layer, partition_keys: Sequence[str]) -> dict[str, pa.Table]:
    there = sorted({*partition_keys} & {*tables.partitions(layer)})
    if not there:
        return {}
    rows = tables.read(layer, there)  # one partition after the other
    found, start = {}, 0
    for partition in pc.value_counts(rows["partition_key"]).to_pylist():
        found[partition["values"]] = rows.slice(start, partition["counts"])
        start += partition["counts"]
    return found


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


def ledger(root: StorePath) -> Ledger:
    """The retrainings that were fired so far."""
    path = root / LEDGER
    try:
        return Ledger.model_validate(read_json(path))
    except FileNotFoundError:
        return Ledger()
    except ValidationError as error:
        raise DataError(
            f"{path} is no ledger of retrainings: {error}. Restore it from a copy; without it cool-down and budget forget"
        ) from error


def fired(
    known: Ledger, use_case: UseCase, partition_key: str, costs: Mapping[str, float], labels_until: Mapping[str, str]
) -> tuple[Fired, ...]:
    """The retrainings of the ledger as seen from a partition. `costs` and `labels_until` are by run id.

    One of which nobody knows what labels it knew is taken to have known those of its own partition.
    """
    here = use_case.partition_time(partition_key)
    return tuple(
        Fired(
            partition_key=firing.partition_key,
            partitions_away=(moment - here) // use_case.partition_step,
            moment=moment,
            model_version=firing.model_version,
            labels_until=labels_until.get(firing.run_id, firing.partition_key),
            cost=costs.get(firing.run_id, 0.0),
        )
        for firing in known.fired
        for moment in [use_case.partition_time(firing.partition_key)]
    )


def labels_known(root: StorePath, known: Ledger, model_version: int | None) -> dict[str, str]:
    """Run id of each retraining that was to replace that version to the newest partition whose labels its decision knew."""
    decisions = {firing.run_id: recorded(root, firing.partition_key) for firing in known.fired if firing.model_version == model_version}
    return {
        run_id: decision.labels_until
        for run_id, decision in decisions.items()
        if decision is not None and decision.trigger_run_id == run_id and decision.labels_until is not None
    }


def training_costs(root: StorePath, profile: Profile, run_ids: Sequence[str]) -> tuple[dict[str, float], float]:
    """(run id to what the training cost, what the newest training of all cost), in the currency of the profile's cloud.

    Raises `ConfigError` where the profile names no cloud whose prices count.
    """
    if profile.cloud is None:
        raise ConfigError(
            f"monitoring.max_cost needs prices, and profile {profile.name} names no cloud whose prices count; "
            "set its `cloud` and `prices`, or remove `max_cost`"
        )
    cloud = profile.cloud
    prices = {cloud: profile.prices[cloud]}

    def of(run: StorePath) -> float:
        return sum((bill.cost[cloud] for bill in cost.of_run(run, prices).values()), 0.0)

    newest = cost.newest_run(root, Pipeline.TRAINING)
    runs = {run_id: of(root / "runs" / Pipeline.TRAINING / safe_name(run_id)) for run_id in run_ids}
    return runs, 0.0 if newest is None else of(newest)
