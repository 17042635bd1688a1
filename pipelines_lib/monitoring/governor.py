"""The governor: the one place where what was measured becomes "retrain", "hold, because …" or "alert: a person should look".

A pure function of what it is given: it reads no clock and no table, so the same facts give the same decision, in whatever
order the partitions were measured.

Performance outranks inputs. A partition speaks for a retraining where the metric has fallen, whatever its inputs do. Where
they have drifted it speaks for one too, unless the metric is known not to have fallen: that is told, and trains nothing.

Labels may come later than the last partitions reach back, and only they tell that the world answers differently to the same inputs. So
performance is judged by the newest partitions that have labels, wherever they lie, and apart from the inputs. What they say overrules estimates.
"""

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import JsonValue

from pipelines_lib.use_case import Monitoring

BUDGET_PERIOD = dt.timedelta(days=30)

Action = Literal["retrain", "hold", "alert"]

_ALERTING = ("bad_data", "no_loss")
"""The rules that a person should hear of, the most telling first."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """How much of the champion's hold-out metric is lost, as a share of it; negative where the partition is better."""

    metric: str
    source: Literal["realised", "estimated"]
    share: float
    low: float
    high: float
    """Ends of its 95 % interval."""


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
    drifted_weight: float | None = None
    """Share of what all inputs are worth to the model that the drifted ones are; their share in number, where None."""
    joint_drifted: bool = False
    """Whether the inputs that have not drifted by themselves have drifted together."""
    loss: Loss | None = None
    """None where performance is not known."""
    bad_data: str = ""
    """Why its rows are no measure of the world: a gate that held them, columns without any value. Empty where nothing is wrong."""

    @property
    def has_truth(self) -> bool:
        """Whether its performance is known by labels."""
        return self.loss is not None and self.loss.source == "realised"

    @property
    def drifted_share(self) -> float:
        """Share of the inputs that have drifted, by what they are worth to the model."""
        in_number = self.n_drifted / self.n_inputs if self.n_inputs else 0.0
        return in_number if self.drifted_weight is None else self.drifted_weight

    def moved(self, settings: Monitoring) -> bool:
        """Whether enough of the inputs, the predictions, or the inputs together have drifted."""
        return self.prediction_drifted or self.joint_drifted or (self.n_drifted > 0 and self.drifted_share >= settings.share)

    def lost(self, settings: Monitoring) -> bool:
        """Whether the metric has fallen by what counts, and chance does not explain it."""
        return settings.loss is not None and self.loss is not None and self.loss.share >= settings.loss and self.loss.low > 0

    def kept(self, settings: Monitoring) -> bool:
        """Whether the metric is known not to have fallen by what counts."""
        return settings.loss is not None and self.loss is not None and self.loss.high < settings.loss

    def drifted(self, settings: Monitoring) -> bool:
        """Whether the partition speaks for a retraining."""
        return self.lost(settings) or (self.moved(settings) and not self.kept(settings))


@dataclass(frozen=True, kw_only=True)
class Fired:
    """A retraining that was fired."""

    partition_key: str
    partitions_away: int
    """Partitions between it and the one decided on, whichever came first."""
    moment: dt.datetime
    """Start of its partition."""
    model_version: int | None = None
    """The champion that it was to replace; None where it is known to have been replaced."""
    labels_until: str = ""
    """The newest partition whose labels its decision knew, and its training could learn from; empty where it knew none."""
    cost: float = 0.0
    """In the currency of the profile's cloud."""


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
    """Retrainings fired so far. A decision that has fired one for this very partition stands, and is not asked for again."""
    next_cost: float = 0.0
    """What the next one is expected to cost."""
    labelled: tuple[Window, ...] = ()
    """Earlier partitions whose labels have come, in any order; the newest `settings.of` that count are gone by, those of the history among them."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to do, why, and the figures behind it."""

    action: Action
    reason: str
    objections: dict[str, str]
    """Every rule that speaks against a retraining, and what it says."""
    figures: dict[str, JsonValue]
    labels_until: str = ""
    """The newest partition whose labels it went by; empty where there was none."""


def decide(history: Sequence[Window], settings: Monitoring, facts: Facts) -> Decision:
    """Retrain, if and only if no rule speaks against it; the first that does is the reason, the figures name all that do.

    `history` holds the windows measured among the last `settings.of` partitions, in any order. Those with too few rows, with
    bad data, or of another version than the champion's do not count.
    """
    evidence = _evidence(history, settings, facts)
    objections = dict(_objections(evidence, settings, facts))
    gain = _expected_gain(evidence.speaking)
    labels_until = max((window.partition_key for window in evidence.labelled), default="")
    figures: dict[str, JsonValue] = {
        "drifted_partitions": _keys(evidence.drifted),
        "counted_partitions": _keys(evidence.counted),
        "lost_partitions": _keys(evidence.lost),
        "labelled_partitions": _keys(evidence.labelled),
        "need": settings.need,
        "of": settings.of,
        "expected_gain": None if gain is None else round(gain, 4),
        "fired_in_30_days": _most_in_any_period(facts),
        "trainings_in_flight": facts.trainings_in_flight,
        "objections": list(objections),
    }
    action: Action = "hold" if objections else "retrain"
    reason = next(iter(objections.values()), "") or _why(evidence, settings)
    for rule in _ALERTING:
        if rule in objections and facts.champion_version is not None:
            action, reason = "alert", objections[rule]
            break
    return Decision(action=action, reason=reason, objections=objections, figures=figures, labels_until=labels_until)


@dataclass(frozen=True, kw_only=True)
class _Evidence:
    """What the windows say, oldest first."""

    here: Window | None
    """The partition decided on."""
    counted: Sequence[Window]
    """Those of the history that count."""
    drifted: Sequence[Window]
    """Of these the ones that speak for a retraining."""
    labelled: Sequence[Window]
    """The newest that have labels, and count."""
    lost: Sequence[Window]
    """Of these the ones that have lost, and that no retraining has known yet."""
    is_lost: bool
    """Whether performance by itself speaks for a retraining: enough of `labelled` have lost, and the newest is one of them."""

    @property
    def speaking(self) -> Sequence[Window]:
        """The windows that a retraining would be fired for."""
        return self.lost if self.is_lost else self.drifted


def _evidence(history: Sequence[Window], settings: Monitoring, facts: Facts) -> _Evidence:
    known = {w.partition_key: w for w in (*facts.labelled, *history) if w.has_truth and _counts(w, settings, facts)}
    labelled = [known[key] for key in sorted(known)][-settings.of :]
    last = sorted((_heard(window, labelled, settings) for window in history), key=lambda window: window.partition_key)
    counted = [window for window in last if _counts(window, settings, facts)]
    # A loss that a retraining was fired for, and that it left in place, fires no other: what comes later must show it again.
    learned = max((fired.labels_until for fired in _in_vain(facts)), default="")
    lost = [window for window in labelled if window.lost(settings) and window.partition_key > learned]
    return _Evidence(
        here=next((window for window in last if window.partition_key == facts.partition_key), None),
        counted=counted,
        drifted=[window for window in counted if window.drifted(settings)],
        labelled=labelled,
        lost=lost,
        is_lost=len(lost) >= settings.need and lost[-1] is labelled[-1],
    )


def _counts(window: Window, settings: Monitoring, facts: Facts) -> bool:
    return window.n_rows >= settings.min_rows and not window.bad_data and window.model_version == facts.champion_version


def _heard(window: Window, labelled: Sequence[Window], settings: Monitoring) -> Window:
    """The window without an estimate that the truth overrules.

    An estimate speaks for partitions after the newest labelled one alone. Where that one has lost, and the estimate says that nothing is,
    the estimate is of the kind that cannot see it.
    """
    if window.loss is None or window.has_truth or not labelled:
        return window
    newest = labelled[-1]
    overruled = window.partition_key < newest.partition_key or (newest.lost(settings) and not window.lost(settings))
    return replace(window, loss=None) if overruled else window


def _in_vain(facts: Facts) -> list[Fired]:
    """Retrainings that left the champion in place."""
    return [fired for fired in facts.fired if fired.model_version == facts.champion_version]


def _why(evidence: _Evidence, settings: Monitoring) -> str:
    """Why a retraining is fired."""
    if evidence.is_lost:
        lost = _some([f"{w.partition_key} {w.loss.share:.1%}" for w in evidence.lost if w.loss is not None])
        labelled = f"{len(evidence.labelled)} newest partitions with labels have lost {_metric(evidence.labelled)}"
        return f"{len(evidence.lost)} of the {labelled} ({lost}); {settings.need} are enough"
    what = "lost performance or drifted" if any(window.lost(settings) for window in evidence.drifted) else "drifted"
    drifted = ", ".join(window.partition_key for window in evidence.drifted)
    told = f"{len(evidence.drifted)} of the last {settings.of} partitions have {what} ({drifted}); {settings.need} are enough"
    return told + _labels(evidence, settings)


def _labels(evidence: _Evidence, settings: Monitoring) -> str:
    """Which labels were gone by, where the partition's own have not come."""
    labelled = [window.partition_key for window in evidence.labelled]
    if settings.loss is None or not labelled or (evidence.here is not None and labelled[-1] == evidence.here.partition_key):
        return ""
    n_lost = sum(window.lost(settings) for window in evidence.labelled)
    told = f"; {n_lost} of the {len(labelled)} newest partitions with labels ({_some(labelled)}) have lost {_metric(evidence.labelled)}"
    return told if n_lost == len(evidence.lost) else f"{told}, {n_lost - len(evidence.lost)} of which a retraining was fired for already"


def _some(names: Sequence[str]) -> str:
    """All of a few; of many the first and the last."""
    return ", ".join(names) if len(names) <= 5 else f"{names[0]}, …, {names[-1]}"


def _metric(labelled: Sequence[Window]) -> str:
    return next(window.loss.metric for window in reversed(labelled) if window.loss is not None)


def _objections(evidence: _Evidence, settings: Monitoring, facts: Facts) -> Iterator[tuple[str, str]]:
    """Every rule that speaks against a retraining, the most telling first: (rule, reason)."""
    drifted = evidence.drifted
    if facts.champion_version is None:
        yield "champion", "no model serves, so there is nothing to retrain; run the training DAG"
    yield from _against_this_partition(evidence, settings, facts)
    if len(drifted) < settings.need and not evidence.is_lost:
        which = f" ({', '.join(window.partition_key for window in drifted)})" if drifted else ""
        few = f"{len(drifted)} of the last {settings.of} partitions have drifted{which}; {settings.need} are needed (monitoring.need)"
        yield "need", few + _labels(evidence, settings)
    gain = _expected_gain(evidence.speaking)
    if settings.min_gain is not None and gain is not None and gain < settings.min_gain:
        yield (
            "gain",
            f"a retraining is expected to win back {gain:.1%} of the metric; {settings.min_gain:.1%} make one (monitoring.min_gain)",
        )
    for period in settings.quiet:
        if period.first <= facts.moment.date() <= period.last:
            yield (
                "quiet_period",
                f"no retraining from {period.first} to {period.last}{f': {period.why}' if period.why else ''} (monitoring.quiet)",
            )
    if facts.trainings_in_flight > 0:
        yield "in_flight", f"{facts.trainings_in_flight} training(s) of this use case are under way; their champion comes first"
    yield from _against_another(settings, facts)


def _against_this_partition(evidence: _Evidence, settings: Monitoring, facts: Facts) -> Iterator[tuple[str, str]]:
    """What the partition decided on says itself; what became of performance outranks its inputs."""
    here = evidence.here
    if here is not None and here.bad_data:
        yield "bad_data", f"bad data rather than drift in {here.partition_key}: {here.bad_data}. Mend it; nothing is trained on it"
    elif here is None or here.n_rows < settings.min_rows:
        n_rows = here.n_rows if here else 0
        yield (
            "min_rows",
            f"{n_rows} predictions in {facts.partition_key}; fewer than {settings.min_rows} (monitoring.min_rows) say too little",
        )
    elif here.model_version != facts.champion_version:
        yield (
            "version",
            f"{facts.partition_key} was answered by version {here.model_version}, and version {facts.champion_version} serves now",
        )
    elif not here.moved(settings) and not here.lost(settings) and not evidence.is_lost:
        yield "quiet", _quiet(here, settings) + _labels(evidence, settings)
    elif not here.drifted(settings) and not evidence.is_lost:
        often = sum(window.moved(settings) for window in evidence.counted) >= settings.need
        yield "no_loss" if often else "kept", _no_loss(here, settings) + _labels(evidence, settings)


def _against_another(settings: Monitoring, facts: Facts) -> Iterator[tuple[str, str]]:
    """What the retrainings fired so far leave no room for."""
    in_vain = _in_vain(facts)
    wait = _wait(settings, len(in_vain))
    near = [fired for fired in facts.fired if abs(fired.partitions_away) <= (wait if fired in in_vain else settings.cooldown)]
    if near:
        nearest = min(near, key=lambda fired: (abs(fired.partitions_away), fired.partition_key))
        when = f"{nearest.partition_key}, {abs(nearest.partitions_away)} partition(s) away"
        if abs(nearest.partitions_away) <= settings.cooldown:
            yield "cooldown", f"a retraining was fired for {when}; {settings.cooldown} must pass (monitoring.cooldown)"
        else:
            left = f"{len(in_vain)} retraining(s) left version {facts.champion_version} in place"
            yield "cooldown", f"{left}, the nearest for {when}; {wait} must pass (monitoring.cooldown, longer each time)"
    if (spent := _most_in_any_period(facts)) >= settings.max_retrainings:
        yield (
            "budget",
            f"{spent} retrainings were fired within 30 days; {settings.max_retrainings} are allowed (monitoring.max_retrainings)",
        )
    if settings.max_cost is not None and (cost := _most_spent_in_any_period(facts)) + facts.next_cost > settings.max_cost:
        yield "cost", _too_dear(cost, facts.next_cost, settings.max_cost)


def _wait(settings: Monitoring, n_in_vain: int) -> int:
    """Partitions that must pass after a retraining which left the champion in place, the last of `n_in_vain`.

    Its model was held by a gate, or it failed. The next would learn from nearly the same rows and most likely end the same, so each
    waits twice as long as the one before, until there is much to learn that is new.
    """
    return int(max(settings.cooldown, 1) * 2 ** max(n_in_vain - 1, 0))


def _too_dear(cost: float, next_cost: float, allowed: float) -> str:
    return (
        f"retrainings cost {cost:.4g} within 30 days, and the next is expected to cost {next_cost:.4g}; "
        f"together {allowed:g} are allowed (monitoring.max_cost)"
    )


def _quiet(window: Window, settings: Monitoring) -> str:
    return (
        f"{window.n_drifted} of {window.n_inputs} input columns have drifted in {window.partition_key}, {window.drifted_share:.0%} of what all are "
        f"worth to the model and less than {settings.share:.0%} (monitoring.share), and the predictions have not"
    )


def _no_loss(window: Window, settings: Monitoring) -> str:
    assert window.loss is not None
    assert settings.loss is not None
    return (
        f"drift without a loss of performance in {window.partition_key}: {window.n_drifted} of {window.n_inputs} input columns have drifted, and "
        f"{window.loss.source} {window.loss.metric} has lost {window.loss.share:.1%} ({window.loss.low:.1%} to {window.loss.high:.1%}), "
        f"less than {settings.loss:.1%} (monitoring.loss)"
    )


def _expected_gain(drifted: Sequence[Window]) -> float | None:
    """What a retraining can be expected to win back at most: the mean loss of the drifted windows whose performance is known."""
    losses = [window.loss.share for window in drifted if window.loss is not None]
    return sum(losses) / len(losses) if losses else None


def _most_in_any_period(facts: Facts) -> int:
    """The most retrainings fired within any 30 days that hold this partition."""
    return max(len(period) for period in _periods(facts))


def _most_spent_in_any_period(facts: Facts) -> float:
    """The most that they cost within any 30 days that hold this partition."""
    return max(sum(fired.cost for fired in period) for period in _periods(facts))


def _periods(facts: Facts) -> Iterator[list[Fired]]:
    """The retrainings of each 30 days that hold this partition; those that begin with a retraining, or with it, are enough to look at."""
    moments = (*(fired.moment for fired in facts.fired), facts.moment)
    for start in moments:
        if facts.moment - BUDGET_PERIOD < start <= facts.moment:
            yield [fired for fired in facts.fired if start <= fired.moment < start + BUDGET_PERIOD]


def _keys(windows: Sequence[Window]) -> list[JsonValue]:
    return [window.partition_key for window in windows]
