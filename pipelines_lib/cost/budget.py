"""The budget that a use case gives a training: all stages of the run and all their tries together, priced by the profile's cloud."""

import time
from collections.abc import Iterator
from pathlib import Path

from pipelines_lib.config import Prices, Profile
from pipelines_lib.contracts import Pipeline
from pipelines_lib.cost import price
from pipelines_lib.cost.meter import BEAT_SECONDS, Meter
from pipelines_lib.cost.usage import Usage, of_run
from pipelines_lib.errors import ConfigError, Held
from pipelines_lib.store import StorePath
from pipelines_lib.use_case import UseCase

_FRESH_SECONDS = BEAT_SECONDS
"""For so long what was read of the other processes' records is trusted."""


class Budget:
    """What a training may cost, all its stages and tries together. Without a limit nothing is ever too much.

    Ranks read each other's records a beat late, so one rank asks and tells the others.
    """

    def __init__(
        self,
        limit: float | None = None,
        *,
        cloud: str = "",
        prices: Prices | None = None,
        run_dir: StorePath = Path(),
        meter: Meter | None = None,
    ) -> None:
        self._limit, self._cloud, self._prices = limit, cloud, prices
        self._run_dir = run_dir
        self._meter = meter or Meter()
        self._read: tuple[float, list[Usage]] | None = None

    @classmethod
    def of(cls, use_case: UseCase, profile: Profile, pipeline: Pipeline, run_dir: StorePath, meter: Meter) -> "Budget":
        """The budget of a run: what the use case says, for a training. Raises `ConfigError` where the profile has no prices for it."""
        if use_case.budget is None or pipeline != Pipeline.TRAINING:
            return cls()
        if profile.cloud is None:
            raise ConfigError(
                f"{use_case.name} has a budget of {use_case.budget:g}, and profile {profile.name} names no cloud whose prices count; "
                "set its `cloud` and `prices`, or remove `budget`"
            )
        return cls(use_case.budget, cloud=profile.cloud, prices=profile.prices[profile.cloud], run_dir=run_dir, meter=meter)

    def spent(self) -> float:
        """What the run has cost so far, this process included, in the currency of the profile's cloud; 0 without a limit."""
        if self._prices is None:
            return 0.0
        mine = self._meter.now()
        return price(mine, self._prices) + sum(price(usage, self._prices) for usage in self._others(mine))

    def would_pass(self, seconds: float) -> bool:
        """Whether so many seconds more of this try would pass the limit, if all its processes go on at what they cost so far."""
        if self._limit is None or self._prices is None:
            return False
        mine = self._meter.now()
        together = [mine, *(usage for usage in self._others(mine) if usage.launch == mine.launch)]
        a_second = sum(price(usage, self._prices) / usage.seconds for usage in together if usage.seconds > 0)
        return self.spent() + seconds * a_second > self._limit

    def check(self) -> None:
        """Raises `Held` where the limit is reached."""
        if self._limit is not None and (spent := self.spent()) >= self._limit:
            raise self.held(f"{self._amount(spent)} of it are spent")

    def check_next(self, seconds: float, what: str) -> None:
        """Raises `Held` where `what`, which will take about so many seconds, would pass the limit."""
        self.check()
        if self.would_pass(seconds):
            raise self.held(f"{self._amount(self.spent())} of it are spent, and {what}, about {seconds:.0f} s, would pass it")

    def held(self, because: str) -> Held:
        """What to raise where the budget ends a stage."""
        assert self._limit is not None
        assert self._prices is not None
        return Held(
            f"the run's budget is {self._amount(self._limit)}: {because}. What is done is kept: raise `budget` and run the stage again, and it goes on",
            {"budget": self._limit, "spent": round(self.spent(), 6), "currency": self._prices.currency, "cloud": self._cloud},
        )

    def _amount(self, value: float) -> str:
        assert self._prices is not None
        return f"{value:.4g} {self._prices.currency}"

    def _others(self, mine: Usage) -> Iterator[Usage]:
        """The records of the run's other processes and of the earlier tries."""
        now = time.monotonic()
        if self._read is None or now - self._read[0] > _FRESH_SECONDS:
            self._read = (now, [usage for folders in of_run(self._run_dir).values() for records in folders for usage in records])
        return (usage for usage in self._read[1] if (usage.launch, usage.rank) != (mine.launch, mine.rank))
