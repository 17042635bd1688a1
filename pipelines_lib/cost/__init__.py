"""What runs cost: the records of `usage`, priced by the profile's table.

Where a launcher reserves resources these are what counts, used or not, as a cloud bills them; on one machine what was used counts.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from pipelines_lib.config import Prices
from pipelines_lib.contracts import Pipeline
from pipelines_lib.cost import usage
from pipelines_lib.cost.usage import Usage, lost_seconds
from pipelines_lib.store import StorePath, below

_HOUR = 3600.0


@dataclass(frozen=True)
class Bill:
    """Sums over processes and tries, and what of them came to nothing."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0
    memory_gib_seconds: float = 0.0
    wasted_seconds: float = 0.0
    """Wall seconds of failed tries that no checkpoint kept."""
    cost: dict[str, float] = field(default_factory=dict)
    """Cloud to its price of all this, waste included."""
    wasted: dict[str, float] = field(default_factory=dict)
    """Cloud to the price of the waste alone."""

    def __add__(self, other: "Bill") -> "Bill":
        return Bill(
            self.seconds + other.seconds,
            self.cpu_seconds + other.cpu_seconds,
            self.gpu_seconds + other.gpu_seconds,
            self.memory_gib_seconds + other.memory_gib_seconds,
            self.wasted_seconds + other.wasted_seconds,
            _sum(self.cost, other.cost),
            _sum(self.wasted, other.wasted),
        )

    def document(self) -> dict[str, JsonValue]:
        """As JSON, rounded to what means something."""
        numbers = ("seconds", "cpu_seconds", "gpu_seconds", "memory_gib_seconds", "wasted_seconds")
        return {
            **{name: round(getattr(self, name), 2) for name in numbers},
            "cost": {cloud: round(amount, 6) for cloud, amount in self.cost.items()},
            "wasted": {cloud: round(amount, 6) for cloud, amount in self.wasted.items()},
        }


def price(used: Usage, prices: Prices) -> float:
    """What a record costs in one cloud."""
    cpu = used.cpu_seconds if used.requests.cpus is None else used.requests.cpus * used.seconds
    memory = used.memory_gib_seconds if used.requests.memory_gib is None else used.requests.memory_gib * used.seconds
    gpu = used.gpu_seconds * prices.of_gpu(used.gpu) if used.gpu is not None else 0.0
    return (cpu * prices.cpu_hour + memory * prices.memory_gib_hour + gpu) / _HOUR


def bill(records: Iterable[Usage], prices: Mapping[str, Prices], now: float) -> Bill:
    """The bill of one folder's records. `now`, in seconds since 1970, tells a process that runs from one that is gone."""
    records = list(records)
    lost = lost_seconds(records, now)
    # A try's seconds are alike in what they cost, so the share of its time that was lost is the share of its price.
    wasted = {
        cloud: sum(price(used, table) * (seconds / used.seconds if used.seconds else 0.0) for used, seconds in lost)
        for cloud, table in prices.items()
    }
    return Bill(
        seconds=sum(used.seconds for used in records),
        cpu_seconds=sum(used.cpu_seconds for used in records),
        gpu_seconds=sum(used.gpu_seconds for used in records),
        memory_gib_seconds=sum(used.memory_gib_seconds for used in records),
        wasted_seconds=sum(seconds for _, seconds in lost),
        cost={cloud: sum(price(used, table) for used in records) for cloud, table in prices.items()},
        wasted=wasted,
    )


def of_stage(stage_dir: StorePath, prices: Mapping[str, Prices]) -> Bill:
    """The bill of a stage so far, its shards and tries included."""
    return _together(usage.of_stage(stage_dir), prices)


def of_run(run_dir: StorePath, prices: Mapping[str, Prices]) -> dict[str, Bill]:
    """Stage to its bill so far, for every stage of a run that has begun, in order."""
    return {stage: _together(folders, prices) for stage, folders in usage.of_run(run_dir).items()}


def _together(folders: Iterable[Iterable[Usage]], prices: Mapping[str, Prices]) -> Bill:
    now = time.time()
    nothing = dict.fromkeys(prices, 0.0)
    return sum((bill(records, prices, now) for records in folders), Bill(cost=nothing, wasted=nothing))


def newest_run(root: StorePath, pipeline: Pipeline) -> StorePath | None:
    """Folder of the use case's run that was worked on last, below its folder in the store."""
    runs = root / "runs" / pipeline
    records = [*runs.glob("*/*/usage/*.json"), *runs.glob("*/*/shard-*/usage/*.json")]
    if not records:
        return None
    newest = max(records, key=lambda record: record.stat().st_mtime)
    return runs / below(runs, newest).partition("/")[0]


def _sum(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {cloud: one.get(cloud, 0.0) + other.get(cloud, 0.0) for cloud in {**one, **other}}
