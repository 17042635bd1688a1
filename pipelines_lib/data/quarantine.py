"""Rows in quarantine: which wait there and why, and which would come back under the rules of today."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines_lib.contracts import JobResult, JobSpec, Pipeline
from pipelines_lib.data.quality.judge import MASK
from pipelines_lib.data.quality.partition import UNREADABLE, judge_partition
from pipelines_lib.data.raw import raw_name
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import DataError
from pipelines_lib.store import StorePath, beside, read_json
from pipelines_lib.use_case import UseCase


@dataclass(frozen=True)
class Waiting:
    """What waits in quarantine of one partition."""

    partition_key: str
    rows: dict[str, tuple[str, ...]] = field(repr=False)
    """`row_id` to the row's reasons."""
    held: bool = False
    """Whether the partition was held when it was last judged."""

    @property
    def unreadable(self) -> set[str]:
        """Records that are no rows: no rule can bring them back."""
        return {row for row, reasons in self.rows.items() if any(reason.startswith(UNREADABLE) for reason in reasons)}

    def by_reason(self) -> list[tuple[str, int]]:
        """(reason, rows that have it), the most frequent first."""
        counts = Counter(reason for reasons in self.rows.values() for reason in reasons)
        return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


@dataclass(frozen=True)
class Outcome:
    """What judging a partition again changes in its quarantine."""

    before: Waiting
    after: Waiting
    held_because: str
    """Why the partition does not pass, or nothing."""

    @property
    def changes(self) -> bool:
        """Whether the rules of today say otherwise than those by which it was judged: of a row, or of the partition."""
        return self.before.rows != self.after.rows or self.before.held != self.after.held

    def sentence(self, would: bool) -> str:
        """For a person: how many rows come back, how many stay and why, and whether the partition passes."""
        before, after = self.before.rows.keys(), self.after.rows.keys()
        back = len(before - after)
        told = f"{self.before.partition_key}: {back} of {len(before)} rows {'would come' if would else 'came'} back"
        if came := len(after - before):
            told += f", {came} {'would go' if would else 'went'} to quarantine that passed before"
        stay = ", ".join(f"{reason} ({n})" for reason, n in self.after.by_reason())
        told += f"; {len(after)} stay{f': {stay}' if stay else ''}"
        if self.after.unreadable:
            told += (
                f". {len(self.after.unreadable)} can't be read as rows, so no rule brings them back: mend the source and run ingest again"
            )
        verdict = "would be held" if would else "is held, and nothing came back to `clean`"
        return told + (f". The partition {verdict}: {self.held_because}" if self.held_because else "")


def waiting(tables: Tables, partitions: Sequence[str] | None = None) -> list[Waiting]:
    """What waits in these partitions (all, when None), in their order. Raises `DataError` where a partition was never judged."""
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    rows = tables.read("quarantine", partitions, columns=["partition_key", "row_id", "reasons"])
    for key, row, reasons in zip(*(rows[name].to_pylist() for name in ("partition_key", "row_id", "reasons")), strict=True):
        found.setdefault(key, {})[row] = tuple(reasons)
    judged = set(tables.partitions("quality"))
    for key in partitions or ():
        if key not in judged:
            raise DataError(f"partition {key} was never judged, so nothing of it is in quarantine; run its data pipeline first")
    keys = sorted(found) if partitions is None else list(dict.fromkeys(partitions))
    verdicts = tables.read("quality", keys, columns=["partition_key", "kind", "success"])
    held = set(verdicts.filter((pc.field("kind") == "partition") & ~pc.field("success"))["partition_key"].to_pylist())
    return [Waiting(key, found.get(key, {}), key in held) for key in keys]


def shown(tables: Tables, use_case: UseCase, partition_key: str, reason: str | None = None) -> list[dict[str, Any]]:
    """Rows in quarantine with their reasons and what stood in them, personal columns masked; with `reason`, those that have it."""
    private = {raw_name(use_case.columns[name].source or name).casefold() for name in use_case.private()}
    return [
        {"row_id": row["row_id"], "reasons": row["reasons"], "raw": _masked(row["raw"], row["reasons"], private)}
        for row in tables.read("quarantine", [partition_key]).to_pylist()
        if reason is None or any(reason in one for one in row["reasons"])
    ]


def last_ingest(root: StorePath, partition_key: str) -> tuple[JobSpec, JobResult]:
    """Spec and result of the ingest that wrote what `raw` holds of the partition. Raises `DataError` where its folder is gone."""
    found: list[tuple[int, float, JobSpec, JobResult]] = []
    for path in (root / "runs" / Pipeline.DATA).glob("*/ingest/result.json"):
        spec_path = path.with_name("spec.json")
        if spec_path.exists() and (spec := JobSpec.model_validate(read_json(spec_path))).partition_key == partition_key:
            result = JobResult.model_validate(read_json(path))
            if result.status == "done":
                found.append((int(str(result.outputs["raw_version"])), path.stat().st_mtime, spec, result))
    if not found:
        raise DataError(
            f"no run below {root / 'runs' / Pipeline.DATA} has ingested partition {partition_key}, or its folder is gone; "
            f"run the whole data pipeline for it: `sluice run {root.name} data --partition {partition_key}`"
        )
    _, _, spec, result = max(found, key=lambda item: item[:2])
    return spec, result


def judged_again(root: StorePath, use_case: UseCase, partition_key: str) -> Outcome:
    """What the rules of today would say of the partition. Writes nothing."""
    tables = Tables(root)
    [before] = waiting(tables, [partition_key])
    spec, ingested = last_ingest(root, partition_key)
    version = int(str(ingested.outputs["raw_version"]))
    records: Any = read_json(beside(root, f"{spec.stage_dir}/{ingested.outputs['unreadable']}"))
    rejected: list[pa.Table] = []
    findings = judge_partition(
        use_case,
        lambda columns: tables.scan("raw", partition_key, version=version, columns=columns),
        tables.schema("raw", version).names,
        int(str(ingested.figures["n_rows"])),
        unreadable={record["row_id"]: (record["text"], record["why"]) for record in records},
        quarantine=lambda rows: rejected.append(rows.select(["row_id", "reasons"])),
    )
    rows = {row["row_id"]: tuple(row["reasons"]) for part in rejected for row in part.to_pylist()}
    return Outcome(before, Waiting(partition_key, rows, bool(findings.held_because)), findings.held_because)


def _masked(raw: str, reasons: Sequence[str], private: set[str]) -> Any:
    """A row's columns as they stood in the source; the text of a record that is no row (its shape, where data are about people)."""
    if any(reason.startswith(UNREADABLE) for reason in reasons):
        return raw
    return {name: MASK if name.casefold() in private and value is not None else value for name, value in json.loads(raw).items()}
