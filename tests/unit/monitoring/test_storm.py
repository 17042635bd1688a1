"""A storm: thirty drifted days are backfilled side by side, in any order, by two schedulers, and cleared. It fires one training."""

from collections.abc import Iterator
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.contracts import Firing, Ledger
from pipelines_lib.errors import Held
from pipelines_lib.monitoring.governor import Decision, Facts, Window, decide
from pipelines_lib.monitoring.history import fired
from pipelines_lib.use_case import Monitoring, UseCase

SETTINGS = Monitoring(cooldown=0, max_retrainings=1000)
"""Neither cool-down nor budget helps: what keeps a second training away are the ledger and the trainings in flight."""


class World:
    """What runs share: the windows that were measured, the decisions, the ledger, Airflow's runs of the training DAG, and the champion."""

    def __init__(self) -> None:
        self.windows: dict[str, Window] = {}
        self.decisions: dict[str, tuple[Decision, str, int]] = {}
        self.ledger = Ledger()
        self.runs: dict[str, str] = {}
        self.champion = 1

    def monitoring(self, key: str) -> Iterator[None]:
        """A run of the monitoring DAG: between two of its steps, any other run may do any of its own."""
        self.windows[key] = Window(partition_key=key, n_rows=500, model_version=1, n_inputs=10, n_drifted=10, prediction_drifted=True)
        yield
        n_known = len(self.ledger.fired)
        yield
        in_flight = self._in_flight()
        yield
        decision, run_id, n_known = self.decisions[key] = self._decide(key, in_flight, n_known)
        yield
        if decision.action != "retrain":
            return
        try:
            firing = Firing(partition_key=key, run_id=run_id, model_version=1, at=0.0)
            self.ledger = self.ledger.with_one_more(firing, n_known)
        except Held:
            return
        yield
        self.runs.setdefault(run_id, "running")

    def _decide(self, key: str, in_flight: int, n_known: int) -> tuple[Decision, str, int]:
        known, last = self.ledger, [SHOP.shift(key, -back) for back in range(SETTINGS.of)]
        firing = known.of(key)
        if firing is not None and key in self.decisions and self.decisions[key][1] == firing.run_id:
            return self.decisions[key]
        facts = Facts(
            partition_key=key,
            moment=SHOP.partition_time(key),
            champion_version=self.champion,
            trainings_in_flight=in_flight,
            fired=fired(known, SHOP, key, {}, {}),
        )
        decision = decide([self.windows[k] for k in last if k in self.windows], SETTINGS, facts)
        return decision, f"drift__v{self.champion}__{key}", n_known

    def _in_flight(self) -> int:
        running = sum(state == "running" for state in self.runs.values())
        return running + sum(firing.run_id not in self.runs for firing in self.ledger.fired)

    def training_ends(self) -> None:
        """Its model becomes the champion."""
        for run_id, state in self.runs.items():
            if state == "running":
                self.runs[run_id], self.champion = "success", 2


def storm(world: World, keys: list[str], random: Random, *, at_once: int, ends: float) -> None:
    """Each key's run goes to its end, `at_once` of them side by side; `ends` is the chance that a training ends after a step."""
    waiting, under_way = list(keys), []
    while waiting or under_way:
        while waiting and len(under_way) < at_once:
            under_way.append(world.monitoring(waiting.pop(0)))
        run = random.choice(under_way)
        if next(run, "over") == "over":
            under_way.remove(run)
        if random.random() < ends:
            world.training_ends()


SHOP = UseCase.model_validate(
    {
        "name": "shop",
        "title": "Shop",
        "owner": "tests",
        "task": "binary",
        "start": "2026-01-01",
        "source": {"path": "{home}/{partition}.csv"},
        "columns": {"price": {"type": "number"}, "action": {"type": "string", "role": "label"}},
        "label": {"column": "action", "positive": "buy"},
        "gate": {"metric": "roc_auc", "floor": 0.6},
    }
)


@given(seed=st.integers(0, 2**32), at_once=st.integers(1, 16), ends=st.sampled_from([0.0, 0.02, 0.3]))
def test_a_storm_fires_one_training(seed, at_once, ends):
    random = Random(seed)
    keys = [SHOP.shift("2026-01-01", day) for day in range(30)]
    world = World()
    for _ in range(3):  # the backfill, all of it cleared, and cleared again
        twice = [*keys, *keys] if random.random() < 0.5 else list(keys)
        random.shuffle(twice)
        storm(world, twice, random, at_once=at_once, ends=ends)
    assert len(world.runs) == 1
    assert [firing.run_id for firing in world.ledger.fired] == list(world.runs)


def test_a_reference_that_moved_with_the_champion_lets_drift_fire_again():
    world = World()
    storm(world, ["2026-01-01", "2026-01-02"], Random(0), at_once=1, ends=0.0)
    world.training_ends()
    for key in ("2026-01-03", "2026-01-04"):
        run = world.monitoring(key)
        next(run)
        world.windows[key] = Window(partition_key=key, n_rows=500, model_version=2, n_inputs=10, n_drifted=10, prediction_drifted=True)
        list(run)
    assert list(world.runs) == ["drift__v1__2026-01-02", "drift__v2__2026-01-04"]
