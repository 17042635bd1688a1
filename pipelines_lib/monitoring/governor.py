"""The governor: the one place where drift figures become "retrain", or "hold, because …".

A pure function of what it is given: it reads no clock and no table, so the same facts give the same decision.
"""

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

from pipelines_lib.use_case import Monitoring

BUDGET_PERIOD = dt.timedelta(days=30)


@dataclass(frozen=True, kw_only=True)
class Window:
    """One measured partition."""

    partition_key: str
    n_rows: int
    model_version: int
    """The version its rows were answered by, and compared with."""
    n_inputs: int
    n_drifted: int
    """Input columns compared, and those that have drifted."""
    prediction_drifted: bool

    def drifted(self, settings: Monitoring) -> bool:
        """Whether the partition speaks for a retraining: enough input columns, or the predictions, moved."""
        share = self.n_drifted / self.n_inputs if self.n_inputs else 0.0
        return self.prediction_drifted or (self.n_drifted > 0 and share >= settings.share)


@dataclass(frozen=True, kw_only=True)
class Fired:
    """A retraining that was fired for another partition."""

    partition_key: str
    partitions_away: int
    """Partitions between it and the one decided on, whichever came first."""
    moment: dt.datetime
    """Start of its partition."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What else a decision rests on."""

    partition_key: str
    moment: dt.datetime
    """Start of the partition decided on."""
    champion_version: int | None
    """The version that serves now, whose answers alone are judged; None where nothing serves."""
    trainings_in_flight: int
    fired: tuple[Fired, ...]
    """Retrainings fired for other partitions. This partition's own earlier decision is none of them."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to do, why, and the figures behind it."""

    action: Literal["retrain", "hold"]
    reason: str
    figures: dict[str, JsonValue]


def decide(history: Sequence[Window], settings: Monitoring, facts: Facts) -> Decision:
    """Retrain, if and only if no rule speaks against it; the first that does is the reason, the figures name all that do.

    `history` holds the windows measured so far; those beyond the last `settings.of` partitions or of another model
    version are for the caller to leave out (another version) or are not there (not measured).
    """
    counted = [window for window in history if window.n_rows >= settings.min_rows and window.model_version == facts.champion_version]
    drifted = [window.partition_key for window in counted if window.drifted(settings)]
    objections = dict(_objections(history, settings, facts, drifted))
    figures: dict[str, JsonValue] = {
        "drifted_partitions": list(drifted),
        "counted_partitions": [window.partition_key for window in counted],
        "need": settings.need,
        "of": settings.of,
        "fired_in_30_days": _most_in_any_period(facts),
        "trainings_in_flight": facts.trainings_in_flight,
        "objections": list(objections),
    }
    if objections:
        return Decision(action="hold", reason=next(iter(objections.values())), figures=figures)
    reason = f"{len(drifted)} of the last {settings.of} partitions have drifted ({', '.join(drifted)}); {settings.need} are enough"
    return Decision(action="retrain", reason=reason, figures=figures)


def _objections(history: Sequence[Window], settings: Monitoring, facts: Facts, drifted: list[str]) -> Iterator[tuple[str, str]]:
    """Every rule that speaks against a retraining, the most telling first: (rule, reason)."""
    here = next((window for window in history if window.partition_key == facts.partition_key), None)
    n_rows = here.n_rows if here else 0
    if facts.champion_version is None:
        yield "champion", "no model serves, so there is nothing to retrain; run the training DAG"
    if n_rows < settings.min_rows:
        yield (
            "min_rows",
            f"{n_rows} predictions in {facts.partition_key}; fewer than {settings.min_rows} (monitoring.min_rows) say too little",
        )
    elif here is not None and here.model_version != facts.champion_version:
        yield (
            "version",
            f"{facts.partition_key} was answered by version {here.model_version}, and version {facts.champion_version} serves now",
        )
    elif here is not None and not here.drifted(settings):
        yield "quiet", _quiet(here, settings)
    if len(drifted) < settings.need:
        which = f" ({', '.join(drifted)})" if drifted else ""
        yield (
            "need",
            f"{len(drifted)} of the last {settings.of} partitions have drifted{which}; {settings.need} are needed (monitoring.need)",
        )
    if facts.trainings_in_flight > 0:
        yield "in_flight", f"{facts.trainings_in_flight} training(s) of this use case are under way; their champion comes first"
    near = [fired for fired in facts.fired if abs(fired.partitions_away) <= settings.cooldown]
    if near:
        when = f"{near[0].partition_key}, {abs(near[0].partitions_away)} partition(s) away"
        yield "cooldown", f"a retraining was fired for {when}; {settings.cooldown} must pass (monitoring.cooldown)"
    if (spent := _most_in_any_period(facts)) >= settings.max_retrainings:
        yield (
            "budget",
            f"{spent} retrainings were fired within 30 days; {settings.max_retrainings} are allowed (monitoring.max_retrainings)",
        )


def _quiet(window: Window, settings: Monitoring) -> str:
    return (
        f"{window.n_drifted} of {window.n_inputs} input columns have drifted in {window.partition_key}, "
        f"fewer than {settings.share:.0%} (monitoring.share), and the predictions have not"
    )


def _most_in_any_period(facts: Facts) -> int:
    """The most retrainings fired within any 30 days that hold this partition."""
    moments = [fired.moment for fired in facts.fired]
    starts = [start for start in (*moments, facts.moment) if facts.moment - BUDGET_PERIOD < start <= facts.moment]
    return max(sum(start <= moment < start + BUDGET_PERIOD for moment in moments) for start in starts)
