"""What the governor would have decided on recorded history under other settings, before they cost GPU hours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipelines_lib.monitoring.governor import Decision, Facts, Fired, Window, decide
from pipelines_lib.monitoring.history import Recorded, look_back
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
    as long as after one that was in vain. Labels are those of now, as though they had come with their partitions.
    """
    by_key = {window.partition_key: window for window in windows}
    steps: list[Step] = []
    fired: list[Fired] = []
    for key in sorted(by_key):
        there = recorded.get(key)
        champion = by_key[key].model_version if there is None else there.model_version
        facts = Facts(
            partition_key=key,
            moment=use_case.partition_time(key),
            champion_version=champion,
            trainings_in_flight=0,
            fired=tuple(_seen_from(use_case, key, earlier) for earlier in fired),
            next_cost=cost,
            labelled=tuple(by_key[one] for back in range(look_back(use_case) + 1) if (one := use_case.shift(key, -back)) in by_key),
        )
        last = [use_case.shift(key, -back) for back in range(settings.of)]
        decision = decide([by_key[one] for one in last if one in by_key], settings, facts)
        if decision.action == "retrain":
            own = Fired(partition_key=key, partitions_away=0, moment=facts.moment, model_version=champion, cost=cost)
            fired.append(replace(own, labels_until=decision.labels_until))
        steps.append(Step(window=by_key[key], decision=decision, recorded=None if there is None else there.action))
    return steps


def _seen_from(use_case: UseCase, partition_key: str, fired: Fired) -> Fired:
    return replace(fired, partitions_away=(fired.moment - use_case.partition_time(partition_key)) // use_case.partition_step)
