"""What the governor would have decided on recorded history under other settings, before they cost GPU hours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines_lib.monitoring.governor import Decision, Facts, Fired, Window, decide
from pipelines_lib.monitoring.history import Recorded
from pipelines_lib.use_case import Monitoring, UseCase


@dataclass(frozen=True, kw_only=True)
class Step:
    """One partition of the replay."""

    window: Window
    decision: Decision
    recorded: str | None
    """What was decided then; None where nothing was."""


def replay(
    windows: Sequence[Window], use_case: UseCase, settings: Monitoring, recorded: Mapping[str, Recorded], *, cost: float = 0.0
) -> list[Step]:
    """Decide on each of `windows` under `settings`, in the order of the partitions, each retraining fired at once and costing `cost`.

    No training is taken to be in flight. Champions are those of history: after a retraining that history does not have, the
    windows are still those of the model that served, so drift that such a retraining would have ended goes on, and the next waits
    as long as after one that was in vain.
    """
    by_key = {window.partition_key: window for window in windows}
    steps: list[Step] = []
    fired: dict[str, int | None] = {}
    for key in sorted(by_key):
        there = recorded.get(key)
        champion = by_key[key].model_version if there is None else there.model_version
        facts = Facts(
            partition_key=key,
            moment=use_case.partition_time(key),
            champion_version=champion,
            trainings_in_flight=0,
            fired=tuple(_fired(use_case, earlier, key, version, cost) for earlier, version in fired.items()),
            next_cost=cost,
        )
        last = [use_case.shift(key, -back) for back in range(settings.of)]
        decision = decide([by_key[one] for one in last if one in by_key], settings, facts)
        if decision.action == "retrain":
            fired[key] = champion
        steps.append(Step(window=by_key[key], decision=decision, recorded=None if there is None else there.action))
    return steps


def _fired(use_case: UseCase, partition_key: str, seen_from: str, model_version: int | None, cost: float) -> Fired:
    moment = use_case.partition_time(partition_key)
    away = (moment - use_case.partition_time(seen_from)) // use_case.partition_step
    return Fired(partition_key=partition_key, partitions_away=away, moment=moment, model_version=model_version, cost=cost)
