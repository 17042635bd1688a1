"""A run's budget: what counts against it, and what it says no to."""

from pathlib import Path

import pytest

from pipelines_lib.config import Prices, Profile
from pipelines_lib.contracts import Pipeline
from pipelines_lib.cost.budget import Budget
from pipelines_lib.cost.meter import Meter
from pipelines_lib.cost.usage import Requests, Usage
from pipelines_lib.errors import ConfigError, Held
from pipelines_lib.store import write_json

# One reserved CPU is 3.6 an hour: a thousandth a second.
USD = Prices(currency="USD", cpu_hour=3.6, memory_gib_hour=0, gpu_hour={"default": 0})


class Fixed(Meter):
    """A meter that has counted what it is told."""

    def __init__(self, used: Usage) -> None:
        super().__init__()
        self.used = used

    def now(self) -> Usage:
        return self.used


def record(seconds: float, **more) -> Usage:
    return Usage(
        **{
            "attempt": 1, "rank": 0, "launch": "a", "started": 0, "seconds": seconds, "cpu_seconds": 0,
            "memory_gib_seconds": 0, "requests": Requests(cpus=1), **more,
        }
    )  # fmt: skip


@pytest.fixture
def budget(tmp_path: Path) -> Budget:
    """1 USD; an earlier stage took 0.2, a failed try 0.1, and this try's two ranks 0.1 each so far."""
    write_json(tmp_path / "snapshot" / "usage" / "1-0.json", record(200, launch="s"))
    write_json(tmp_path / "train" / "usage" / "1-0.json", record(100, launch="killed"))
    write_json(tmp_path / "train" / "usage" / "2-0.json", record(5, launch="now", attempt=2))
    write_json(tmp_path / "train" / "usage" / "2-1.json", record(100, launch="now", attempt=2, rank=1))
    return Budget(1.0, cloud="here", prices=USD, run_dir=tmp_path, meter=Fixed(record(100, launch="now", attempt=2)))


def test_every_stage_try_and_rank_counts_once(budget: Budget):
    assert budget.spent() == pytest.approx(0.5)


def test_what_comes_next_is_priced_by_all_ranks_of_this_try(budget: Budget):
    # 0.5 are left, and the two ranks cost 0.002 a second.
    assert not budget.would_pass(249)
    assert budget.would_pass(251)


def test_it_holds_with_figures_and_the_remedy(budget: Budget, tmp_path: Path):
    budget.check()
    budget.check_next(100, "epoch 3")
    with pytest.raises(
        Held, match=r"the run's budget is 1 USD: 0.5 USD of it are spent, and epoch 3, about 300 s, would pass it.*raise `budget`"
    ) as held:
        budget.check_next(300, "epoch 3")
    assert held.value.figures == {"budget": 1.0, "spent": 0.5, "currency": "USD", "cloud": "here"}

    spent = Budget(0.5, cloud="here", prices=USD, run_dir=tmp_path, meter=Fixed(record(100, launch="now", attempt=2)))
    with pytest.raises(Held, match=r"0.5 USD of it are spent"):
        spent.check()


def test_without_a_limit_nothing_is_too_much():
    budget = Budget()
    budget.check_next(1e12, "the rest")

    assert budget.spent() == 0


def test_it_needs_prices_and_is_the_trainings_alone(make_use_case, tmp_path: Path):
    profile = Profile(name="bare", store="", tracking_uri="")
    case = make_use_case(budget=5)
    with pytest.raises(ConfigError, match=r"shop has a budget of 5, and profile bare names no cloud whose prices count"):
        Budget.of(case, profile, Pipeline.TRAINING, tmp_path, Meter())
    assert not Budget.of(case, profile, Pipeline.DATA, tmp_path, Meter()).would_pass(1e12)
    priced = profile.model_copy(update={"prices": {"here": USD}, "cloud": "here"})
    assert Budget.of(case, priced, Pipeline.TRAINING, tmp_path, Meter()).would_pass(1e12)
