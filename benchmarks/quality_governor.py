"""How soon does the governor see drift, how often is it wrong, and what is it worth? Prints the tables of docs/monitoring.md.

    python benchmarks/quality_governor.py quiet [KIND …]     windows without drift of 500 to 100,000 rows
    python benchmarks/quality_governor.py made [STREAM …]    made streams with known drift
    python benchmarks/quality_governor.py shop FILE.csv      weeks of a shop's sessions with known incidents (ecom_clickstream.csv)
    python benchmarks/quality_governor.py FILE.csv           a stream of numbers whose last column is the class (insects_gradual.csv)

Set OPENBLAS_NUM_THREADS=1: threads gain nothing on matrices as small as these.
"""

import datetime as dt
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from governed import NEVER, Champion, Measured, Watch, use_case_of
from scipy.stats import beta
from streams import FIRST, MADE, N_DAYS, NO_RETRAINING, QUIET, SHOP_START, numbers, shop

from pipelines_lib.monitoring.drift import compare
from pipelines_lib.monitoring.sketch import profile_columns

MEMORY = 10
"""Days that a training learns from."""
LABELS = {"governor": 0, "labels a week late": 7, "without labels": NEVER}
"""Policies of the governor, and the days after which labels come; without them it has estimates alone."""
POLICIES = ("never", "weekly", "always", *LABELS)


@dataclass
class Outcome:
    """What a policy did with a stream after the days of its first training."""

    fired: list[int] = field(default_factory=list)
    alerts: list[int] = field(default_factory=list)
    figures: list[float] = field(default_factory=list)
    """The metric, one a day."""
    cpu_seconds: float = 0.0
    """Of the retrainings."""


class Replay:
    """A stream under one policy after the other. A model depends on its days alone, so each is trained, and measures a day, once."""

    def __init__(self, days: Sequence[pa.Table]) -> None:
        self._days, self._case = days, use_case_of(days[0])
        self._champions: dict[int, Champion] = {}
        self._measured: dict[tuple[int, int], Measured] = {}

    def follow(self, policy: str) -> Outcome:
        """A model that was trained on a day's evening serves from the next day on."""
        outcome, trained = Outcome(), MEMORY - 1
        watch = Watch(self._case, LABELS.get(policy, NEVER))
        for day in range(MEMORY, len(self._days)):
            outcome.figures.append(self._champion(trained).metric(self._days[day]))
            again = policy == "always" or (policy == "weekly" and day % 7 == 0)
            if policy in LABELS:
                watch.add(day, self._measure(trained, day))
                action = watch.decide(day, trained).action
                again = action == "retrain"
                outcome.alerts += [day] * (action == "alert")
            if again:
                trained = day
                outcome.cpu_seconds += self._champion(day).cpu_seconds
                outcome.fired.append(day)
                watch.fired.append(day)
        return outcome

    def _champion(self, trained: int) -> Champion:
        """The model that learned from the days up to this one, which is its version too."""
        if trained not in self._champions:
            self._champions[trained] = Champion(self._case, trained, self._days[trained - MEMORY + 1 : trained + 1])
        return self._champions[trained]

    def _measure(self, trained: int, day: int) -> Measured:
        if (trained, day) not in self._measured:
            self._measured[trained, day] = self._champion(trained).measure(self._days[day])
        return self._measured[trained, day]


def made(names: Sequence[str], n_seeds: int = 5) -> None:
    """Per stream: delay of the first retraining, false ones, trainings, and the metric and seconds of each policy."""
    header = (
        "| stream | policy | first retraining, days after: median (range) | false retrainings | trainings | alerts | ROC AUC | seconds |"
    )
    print(header, f"|{'---|' * 8}", sep="\n")
    for name in names or MADE:
        of_seeds: dict[str, list[Outcome]] = {policy: [] for policy in POLICIES}
        for seed in range(n_seeds):
            random = np.random.default_rng(seed)
            replay = Replay([MADE[name](random, day) for day in range(N_DAYS)])
            for policy, outcomes in of_seeds.items():
                outcomes.append(replay.follow(policy))
        for policy, outcomes in of_seeds.items():
            print(_line(name, policy, outcomes), flush=True)


def _line(name: str, policy: str, outcomes: Sequence[Outcome]) -> str:
    judged = policy in LABELS
    never = name in NO_RETRAINING
    false = [day for one in outcomes for day in one.fired if never or day < FIRST]
    first = [next((day - FIRST for day in one.fired if day >= FIRST), None) for one in outcomes]
    seen = [delay for delay in first if delay is not None]
    delay = f"{np.median(seen):.0f} ({min(seen)} to {max(seen)})" if seen else "none"
    if seen and len(seen) < len(first):
        delay += f", in {len(seen)} of {len(first)}"
    shown = [delay, f"{len(false)} in {len(outcomes)}"] if judged else ["", ""]
    means = [np.mean([len(one.fired) for one in outcomes]), np.mean([len(one.alerts) for one in outcomes])]
    figure, seconds = np.mean([np.mean(one.figures) for one in outcomes]), np.mean([one.cpu_seconds for one in outcomes])
    cells = [name, policy, *shown, f"{means[0]:.1f}", f"{means[1]:.1f}" if judged else "", f"{figure:.4f}", f"{seconds:.2f}"]
    return f"| {' | '.join(cells)} |"


@dataclass
class Counts:
    """Of quiet windows: what was found in them."""

    n: int = 0
    moved: int = 0
    lost: int = 0
    alerts: int = 0
    retrained: int = 0


def quiet(kinds: Sequence[str], n_references: int = 10, n_windows: int = 100) -> None:
    """False alarms. Nothing holds a retraining but that there is nothing to retrain for: no cool-down, no budget.

    Each reference is trained anew on fourteen days, so that a lucky hold-out is not the fate of all windows.
    """
    print(
        "| windows | labels | windows | inputs or answers drifted | lost | alerts | retrainings | per 100, at most (95 %) |",
        f"|{'---|' * 8}",
        sep="\n",
    )
    for kind in kinds or QUIET:
        counts = {"same day": Counts(), "none": Counts()}
        for reference in range(n_references):
            for labels, found in _quiet_windows(kind, reference, n_windows):
                of_kind = counts[labels]
                for name in ("n", "moved", "lost", "alerts", "retrained"):
                    setattr(of_kind, name, getattr(of_kind, name) + getattr(found, name))
        for labels, c in counts.items():
            print(
                f"| {kind} | {labels} | {c.n:,} | {c.moved} | {c.lost} | {c.alerts} | {c.retrained} | {100 * upper_bound(c.retrained, c.n):.2f} |",
                flush=True,
            )


def _quiet_windows(kind: str, reference: int, n_windows: int) -> Iterator[tuple[str, Counts]]:
    """Of one reference, window by window: (whether labels come, what was found)."""
    rows, a_day = QUIET[kind]
    random = np.random.default_rng([[*QUIET].index(kind), reference])
    days = [rows(random, day, a_day) for day in range(14)]
    case = use_case_of(days[0], cooldown=0, max_retrainings=10**6)
    champion, watch = Champion(case, 1, days), Watch(case)
    sizes = np.exp(random.uniform(np.log(500), np.log(100_000), n_windows)).astype(int)
    for day, n in enumerate(sizes, start=14):
        watch.add(day, champion.measure(rows(random, day, int(n))))
        for labels, after in (("same day", 0), ("none", NEVER)):
            watch.labels_after = after
            window, action = watch.window(day, day), watch.decide(day, 1).action
            yield labels, Counts(1, window.moved(case.monitoring), window.lost(case.monitoring), action == "alert", action == "retrain")


def upper_bound(k: int, n: int) -> float:
    """Clopper and Pearson's: with 95 % confidence the chance of what came `k` times in `n` is at most that."""
    return float(beta.ppf(0.95, k + 1, n - k)) if k < n else 1.0


def recorded(path: Path, n_days: int = 70) -> None:
    """A stream of a file, cut into days of equal length."""
    replay = Replay(numbers(path, n_days))
    print("| policy | trainings | metric | seconds | on day |", f"|{'---|' * 5}", sep="\n")
    for policy in POLICIES:
        found = replay.follow(policy)
        shown = ", ".join(map(str, found.fired)) if policy in LABELS else ""
        print(f"| {policy} | {len(found.fired)} | {np.mean(found.figures):.4f} | {found.cpu_seconds:.1f} | {shown} |", flush=True)


def incidents(path: Path, trained_on: int = 13) -> None:
    """Week by week, against the first thirteen: what has drifted, what is lost, which kinds of event are new, and what is decided."""
    weeks, events = shop(path)
    case = use_case_of(weeks[-1], min_rows=100)
    champion, watch = Champion(case, trained_on - 1, weeks[:trained_on]), Watch(case)
    known = profile_columns({"event": [name for week in events[:trained_on] for name in week]}, {"event": "string"})
    print(f"{case.gate.metric} of the hold-out: {champion.figure:.3f}")
    print("| week from | sessions | buyers | drifted (effect) | lost (95 %) | new events | decision |", f"|{'---|' * 7}", sep="\n")
    for week in range(trained_on, len(weeks)):
        rows = weeks[week]
        watch.add(week, champion.measure(rows))
        window, decision = watch.window(week, week), watch.decide(week, champion.version)
        assert window.loss is not None
        drifted = [f"{drift.column} ({drift.effect:.2f})" for drift in watch.drifts(week) if drift.drifted]
        [of_events] = compare(known, profile_columns({"event": events[week]}, {"event": "string"}), case.monitoring.psi)
        new = [f"{name} ({events[week].count(name)})" for name in of_events.new_categories]
        cells = [
            f"{SHOP_START + dt.timedelta(weeks=week)}", f"{len(rows)}", f"{pc.sum(pc.equal(rows['label'], '1')).as_py()}", ", ".join(drifted),
            f"{window.loss.share:.1%} ({window.loss.low:.1%} to {window.loss.high:.1%})", ", ".join(new),
            decision.action + (f" ({next(iter(decision.objections))})" if decision.objections else ""),
        ]  # fmt: skip
        print(f"| {' | '.join(cells)} |", flush=True)
        if decision.action == "retrain":
            champion = Champion(case, week, weeks[week - trained_on + 1 : week + 1])
            watch.fired.append(week)


if __name__ == "__main__":
    what, names = sys.argv[1], sys.argv[2:]
    if what == "quiet":
        quiet(names)
    elif what == "made":
        made(names)
    elif what == "shop":
        incidents(Path(names[0]))
    else:
        recorded(Path(what))
