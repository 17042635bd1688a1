"""How soon does the governor see drift, how often is it wrong, and what is it worth? Prints the tables of docs/monitoring.md.

    python benchmarks/quality_governor.py quiet              1,000 windows without drift, of 500 to 100,000 rows
    python benchmarks/quality_governor.py made               made streams with known drift
    python benchmarks/quality_governor.py FILE.csv           a stream of numbers whose last column is the class (insects_gradual.csv)

The figures come from the profile, drift and performance code that the stages use; the model is a logistic regression. Labels come
the same day. A retraining takes no time and learns from the last ten days.
"""

import csv
import datetime as dt
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipelines_lib.evaluation import metrics
from pipelines_lib.evaluation.compare import draws, interval
from pipelines_lib.monitoring.drift import compare
from pipelines_lib.monitoring.governor import Decision, Facts, Fired, Loss, Window, decide
from pipelines_lib.monitoring.history import drift_rows, window
from pipelines_lib.monitoring.joint import ROWS, joint_drift
from pipelines_lib.monitoring.reference import Reference
from pipelines_lib.monitoring.sketch import profile_columns
from pipelines_lib.use_case import Monitoring

Floats = NDArray[np.float64]
Day = tuple[Floats, NDArray[np.int64]]
"""Inputs [n, d] and class of each row [n]."""

SETTINGS = Monitoring()
MEMORY = 10
"""Days that a training learns from."""
LABELLED = 5000
"""Rows of a day whose labels come, at most: a bootstrap of 100,000 rows a thousand times would take hours."""
START = dt.datetime(2026, 1, 1)


class Champion:
    """A model, what it was trained on, and how good it was on rows it had not seen."""

    def __init__(self, days: Sequence[Day]) -> None:
        began = time.process_time()
        rows, labels = (np.concatenate(parts) for parts in zip(*days, strict=True))
        seen = np.arange(len(rows)) % 4 != 0
        self.model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)).fit(rows[seen], labels[seen])
        self.classes = tuple(str(name) for name in self.model.classes_)
        self.cpu_seconds = time.process_time() - began
        profile = profile_columns(*self._columns(rows))
        self.reference = Reference(profile=profile)
        self.encoder = self.reference.encoder(tuple(sorted(profile.columns.keys() - {"score", "prediction"})))
        places = np.unique(np.linspace(0, len(rows) - 1, ROWS).astype(int))
        self.sample = self.encoder.encode(_named(rows[places]), len(places))
        self.figure, _, _ = self.performance((rows[~seen], labels[~seen]), resamples=1)

    def performance(self, day: Day, resamples: int = 200) -> tuple[float, float, float]:
        """(metric, its 95 % interval): the area under the ROC curve of two classes, the accuracy of more."""
        rows, labels = (part[:LABELLED] for part in day)
        scores = self.model.predict_proba(rows).astype(np.float32)
        truth = metrics.Truth(np.searchsorted(self.model.classes_, labels), self.classes, 1 if len(self.classes) == 2 else None)
        metric = metrics.prepare("roc_auc" if len(self.classes) == 2 else "accuracy", truth, scores)
        low, high = interval(np.concatenate([metric(w) for w in draws(len(rows), None, resamples, seed=0)]), 0.95)
        return float(metric(np.ones((1, len(rows))))[0]), low or 0.0, high or 1.0

    def look(self, key: str, day: Day) -> Window:
        """What the stages profile and measure find in a day."""
        rows, _ = day
        drifts = compare(self.reference.profile, profile_columns(*self._columns(rows)), SETTINGS.psi)
        quiet = {drift.column for drift in drifts if not drift.drifted}
        kept = [name in quiet for name in self.encoder.names]
        places = np.unique(np.linspace(0, len(rows) - 1, min(ROWS, len(rows))).astype(int))
        now = self.encoder.encode(_named(rows[places]), len(places))
        together = joint_drift(
            self.encoder.spread(self.sample, kept), self.encoder.spread(now, kept), SETTINGS.psi,
            n_reference=self.reference.profile.n_rows, n_now=len(rows),
        )  # fmt: skip
        found: pa.Table = drift_rows([*drifts, *([] if together is None else [together])], 1)
        value, low, high = self.performance(day)
        share, least, most = ((self.figure - figure) / self.figure for figure in (value, high, low))
        return replace(window(key, found), loss=Loss(metric="metric", source="realised", share=share, low=least, high=most))

    def _columns(self, rows: Floats) -> tuple[Any, ...]:
        scores = self.model.predict_proba(rows)
        named = _named(rows)
        predicted = [self.classes[place] for place in scores.argmax(axis=1)]
        return named, dict.fromkeys(named, "number"), scores[:, 1] if len(self.classes) == 2 else scores.max(axis=1), predicted


def _named(rows: Floats) -> dict[str, Floats]:
    return {f"x{place:02d}": column for place, column in enumerate(rows.T)}


def _key(day: int) -> str:
    return f"{START + dt.timedelta(days=day):%Y-%m-%d}"


def judge(windows: Sequence[Window], day: int, fired: Sequence[int], settings: Monitoring = SETTINGS) -> Decision:
    """The governor's decision on the last of `windows`."""
    earlier = tuple(Fired(partition_key=_key(f), partitions_away=f - day, moment=START + dt.timedelta(days=f)) for f in fired)
    moment = START + dt.timedelta(days=day)
    facts = Facts(partition_key=_key(day), moment=moment, champion_version=1, trainings_in_flight=0, fired=earlier)
    return decide(windows[-settings.of :], settings, facts)


def rounds(days: Sequence[Day], policy: str) -> tuple[list[int], list[int], float, float]:
    """(days of a retraining, of an alert, mean metric, CPU seconds of the trainings) of the days after the first ten."""
    champion = Champion(days[:MEMORY])
    cpu_seconds, windows, fired, alerts, figures = 0.0, list[Window](), list[int](), list[int](), list[float]()
    for day in range(MEMORY, len(days)):
        figures.append(champion.performance(days[day], resamples=1)[0])
        again = policy == "always" or (policy == "weekly" and day % 7 == 0)
        if policy == "governor":
            windows.append(champion.look(_key(day), days[day]))
            decision = judge(windows, day, fired)
            again = decision.action == "retrain"
            alerts += [day] * (decision.action == "alert")
        if again:
            champion = Champion(days[day - MEMORY + 1 : day + 1])
            cpu_seconds, windows = cpu_seconds + champion.cpu_seconds, []
            fired.append(day)
    return fired, alerts, float(np.mean(figures)), cpu_seconds


def _rows(random: np.random.Generator, n: int, shift: float = 0.0, flip: float = 0.0, columns: int = 10) -> Day:
    """Normal inputs, the first five of which matter. `shift` moves the matterless half, `flip` turns that share of the weights around."""
    inputs = random.normal(size=(n, columns))
    inputs[:, columns // 2 :] += shift
    weights = np.where(np.arange(5) < flip * 5, -1.0, 1.0)
    return inputs, (random.random(n) < 1 / (1 + np.exp(-inputs[:, :5] @ weights))).astype(np.int64)


def _broken(random: np.random.Generator, n: int) -> Day:
    inputs, labels = _rows(random, n)
    inputs[:, :4] = 0.0
    return inputs, labels


DRIFT, N_DAYS, A_DAY = 30, 60, 2000
STREAMS: dict[str, Callable[[np.random.Generator, int], Day]] = {
    "quiet": lambda random, _: _rows(random, A_DAY),
    "sudden": lambda random, day: _rows(random, A_DAY, flip=0.4 * (day >= DRIFT)),
    "gradual (20 days)": lambda random, day: _rows(random, A_DAY, flip=0.4 * (random.random() < (day - DRIFT) / 20)),
    "inputs and concept": lambda random, day: _rows(random, A_DAY, shift=1.0 * (day >= DRIFT), flip=0.4 * (day >= DRIFT)),
    "seasonal (weekly)": lambda random, day: _rows(random, A_DAY, shift=0.3 * np.sin(day * 2 * np.pi / 7)),
    "virtual: inputs without loss": lambda random, day: _rows(random, A_DAY, shift=1.0 * (day >= DRIFT)),
    "one bad day": lambda random, day: _broken(random, A_DAY) if day == DRIFT else _rows(random, A_DAY),
}


def made(n_seeds: int = 2) -> None:
    """One line a stream: delay and what was fired, and the metric under each policy."""
    print(
        "| stream | first retraining, days after | retrainings | before the drift | alerts | never | weekly | always | governor | CPU s of always | of governor |"
    )
    print(f"|{'---|' * 11}")
    for name, stream in STREAMS.items():
        delays, n_fired, n_false, n_alerts = list[int](), 0, 0, 0
        quality: dict[str, list[float]] = {policy: [] for policy in ("never", "weekly", "always", "governor")}
        cpu = dict.fromkeys(quality, 0.0)
        for seed in range(n_seeds):
            random = np.random.default_rng(seed)
            days = [stream(random, day) for day in range(N_DAYS)]
            for policy, found in quality.items():
                fired, alerts, figure, seconds = rounds(days, policy)
                found.append(figure)
                cpu[policy] += seconds
            n_fired, n_alerts, n_false = n_fired + len(fired), n_alerts + len(alerts), n_false + sum(day < DRIFT for day in fired)
            delays += [day - DRIFT for day in fired if day >= DRIFT][:1]
        delay = f"{np.median(delays):.0f} ({min(delays)} to {max(delays)})" if delays else "never"
        figures = " | ".join(f"{np.mean(values):.4f}" for values in quality.values())
        costs = f"{cpu['always'] / n_seeds:.1f} | {cpu['governor'] / n_seeds:.2f}"
        print(
            f"| {name} | {delay} | {n_fired / n_seeds:.1f} | {n_false / n_seeds:.1f} | {n_alerts / n_seeds:.1f} | {figures} | {costs} |",
            flush=True,
        )


def quiet(n_windows: int = 1000) -> None:
    """False alarms: nothing holds a retraining but that there is nothing to retrain for."""
    random = np.random.default_rng(0)
    champion = Champion([_rows(random, 2000, columns=20) for _ in range(MEMORY)])
    sizes = np.exp(random.uniform(np.log(500), np.log(100_000), n_windows)).astype(int)
    eager = SETTINGS.model_copy(update={"cooldown": 0, "max_retrainings": 10**6})
    random = np.random.default_rng(1)
    windows: list[Window] = []
    for day, n in enumerate(sizes):
        windows.append(champion.look(_key(day), _rows(random, int(n), columns=20)))
        if (day + 1) % 100 and day + 1 < n_windows:
            continue
        for told, seen in (("with labels", windows), ("without labels", [replace(one, loss=None) for one in windows])):
            moved = sum(one.moved(eager) or one.lost(eager) for one in seen)
            fired = sum(judge(seen[: last + 1], last, [], eager).action == "retrain" for last in range(len(seen)))
            print(f"{told}: {moved} of {len(seen)} windows have moved or lost, {fired} are retrained for", flush=True)


def recorded(path: Path, n_days: int = 70) -> None:
    """A stream of a file, cut into days of equal length."""
    with path.open(encoding="utf-8") as file:
        table = np.array([[float(value) for value in row] for row in csv.reader(file)])
    days = [(part[:, :-1], part[:, -1].astype(np.int64)) for part in np.array_split(table, n_days)]
    print("| policy | retrainings | accuracy | CPU s | fired on day |")
    print(f"|{'---|' * 5}")
    for policy in ("never", "weekly", "always", "governor"):
        fired, _, figure, seconds = rounds(days, policy)
        shown = ", ".join(map(str, fired)) if policy == "governor" else ""
        print(f"| {policy} | {len(fired)} | {figure:.4f} | {seconds:.1f} | {shown} |", flush=True)


if __name__ == "__main__":
    {"quiet": quiet, "made": made}.get(sys.argv[1], lambda: recorded(Path(sys.argv[1])))()
