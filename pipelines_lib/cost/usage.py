"""What the processes of a stage use: the records that `meter` writes while they run, and reading them.

Every process (every rank) of every try has one file, `usage/<try>-<rank>.json` in the stage's folder; a shard has its own below
the shard's. A new try never writes over an older one's, so what was lost to retries stays known. `cost` prices the records.
"""

from collections.abc import Iterable
from typing import Literal

from pydantic import Field, ValidationError

from pipelines_lib.contracts import Contract
from pipelines_lib.errors import DataError
from pipelines_lib.store import StorePath, in_order, read_json

STALE_SECONDS = 60.0
"""Without a beat for so long, a process that has left no outcome is taken to be gone."""

Outcome = Literal["running", "done", "held", "failed"]


class Requests(Contract):
    """What was reserved for a process, whether it uses it or not: what a cloud bills."""

    cpus: float | None = Field(default=None, ge=0)
    memory_gib: float | None = Field(default=None, ge=0)


class Usage(Contract):
    """What one process of one try has used up to its last beat."""

    attempt: int
    """The try of the stage, counted from 1."""
    rank: int
    launch: str
    """Which start of processes together it belongs to; the ranks of one have the same."""
    started: float
    """When the process began (a job of the warm interpreter: when it was forked), in seconds since 1970."""
    seconds: float
    """Wall time since then."""
    cpu_seconds: float
    """Its own and its children's."""
    memory_gib_seconds: float
    """Resident memory of it and its children, over time."""
    gpu: str | None = None
    """Name of the GPUs that it holds, as their driver tells it."""
    gpu_seconds: float = 0.0
    """Their number times the wall time."""
    kept_seconds: float = 0.0
    """Of a training: wall time up to the last complete checkpoint, which no retry repeats."""
    requests: Requests = Requests()
    outcome: Outcome = "running"

    @property
    def beaten(self) -> float:
        """When it was last written, in seconds since 1970."""
        return self.started + self.seconds


def of_folder(stage_dir: StorePath) -> list[Usage]:
    """The records of a stage alone, or of one of its shards, by try and rank."""
    # One that is empty is being begun at this moment.
    written = [path for path in stage_dir.glob("usage/*-*.json") if path.stat().st_size]
    return sorted((_read(path) for path in written), key=lambda usage: (usage.attempt, usage.rank))


def of_stage(stage_dir: StorePath) -> list[list[Usage]]:
    """The records of each folder in which a stage's processes worked: its own, and its shards'."""
    found = [of_folder(folder) for folder in (stage_dir, *in_order(stage_dir.glob("shard-*")))]
    return [records for records in found if records]


def of_run(run_dir: StorePath) -> dict[str, list[list[Usage]]]:
    """`of_stage` of every stage of a run that has begun, in the order of their beginning."""
    stages = {path.name: found for path in in_order(run_dir.glob("*")) if path.is_dir() and (found := of_stage(path))}
    return dict(sorted(stages.items(), key=lambda stage: min(usage.started for records in stage[1] for usage in records)))


def lost_seconds(records: Iterable[Usage], now: float) -> list[tuple[Usage, float]]:
    """The records of one folder whose try came to nothing, and the wall seconds of each that no later try can build on.

    What a checkpoint keeps, it keeps for all ranks of its try, whichever of them wrote it.
    """
    records = list(records)
    newest = max((usage.attempt for usage in records), default=0)
    kept: dict[int, float] = {}
    for usage in records:
        kept[usage.attempt] = max(kept.get(usage.attempt, 0.0), usage.kept_seconds)
    return [(usage, max(0.0, usage.seconds - kept[usage.attempt])) for usage in records if _is_lost(usage, newest, now)]


def _is_lost(usage: Usage, newest: int, now: float) -> bool:
    if usage.outcome == "running":
        return usage.attempt < newest or now - usage.beaten > STALE_SECONDS
    return usage.outcome == "failed"


def _read(path: StorePath) -> Usage:
    try:
        return Usage.model_validate(read_json(path))
    except ValidationError as error:
        raise DataError(f"{path} is not a record of what a process used; delete it, and what it stood for is not counted") from error
