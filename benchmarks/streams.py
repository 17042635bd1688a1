"""Streams with known drift, and streams without any: what `quality_governor.py` replays.

A day is an Arrow table of inputs with a column `label`.
"""

import csv
import datetime as dt
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Made = Callable[[np.random.Generator, int], pa.Table]
"""(random numbers, day) → the day's rows."""
Quiet = Callable[[np.random.Generator, int, int], pa.Table]
"""(random numbers, day, number of rows) → the day's rows."""

N_DAYS, FIRST, LAST, A_DAY = 50, 20, 34, 2000
"""Days of a made stream, first day of its drift, last one of what ends, and rows of a day."""


def table(inputs: Floats, chances: Floats, random: np.random.Generator, **more: pa.Array) -> pa.Table:
    """Numbers [n, d] as columns x00, x01, …, further columns, and labels that are "1" with the given chances [n]."""
    numbers = {f"x{place:02d}": pa.array(column, from_pandas=True) for place, column in enumerate(inputs.T)}
    return pa.table({**numbers, **more, "label": pa.array(np.where(random.random(len(inputs)) < chances, "1", "0"))})


def chance(log_odds: Floats) -> Floats:
    """Logistic."""
    return np.asarray(1 / (1 + np.exp(-log_odds)))


def _rows(random: np.random.Generator, *, idle: float = 0.0, telling: float = 0.0, turned: float = 0.0) -> pa.Table:
    """Ten normal inputs, of which the first five make the label: the others are moved by `idle`, these by `telling`, and a share of weights turns."""
    inputs = random.normal(size=(A_DAY, 10))
    inputs[:, 5:] += idle
    inputs[:, :5] += telling
    weights = np.where(np.arange(5) < turned * 5, -1.0, 1.0)
    return table(inputs, chance(inputs[:, :5] @ weights), random)


def _turning(random: np.random.Generator, day: int) -> pa.Table:
    """From the first drifted day on the weights turn without an end, a sixtieth of a circle a day."""
    inputs = random.normal(size=(A_DAY, 10))
    angle = max(0, day - FIRST + 1) * 2 * np.pi / 60
    weights = np.sqrt(2) * np.cos(angle + np.arange(5) * 2 * np.pi / 5)
    return table(inputs, chance(inputs[:, :5] @ weights), random)


def _broken(random: np.random.Generator, value: float) -> pa.Table:
    """Four of the inputs that make the label come as `value`; NaN is no value."""
    rows = _rows(random)
    for place in range(4):
        rows = rows.set_column(place, f"x{place:02d}", pa.array(np.full(A_DAY, value), from_pandas=True))
    return rows


MADE: dict[str, Made] = {
    "no drift": lambda random, _: _rows(random),
    "the concept turns at once": lambda random, day: _rows(random, turned=0.4 * (day >= FIRST)),
    "it turns within 20 days": lambda random, day: _rows(random, turned=0.4 * (random.random() < (day - FIRST) / 20)),
    "it turns, and the inputs move": lambda random, day: _rows(random, idle=1.0 * (day >= FIRST), turned=0.4 * (day >= FIRST)),
    "it turns without an end": _turning,
    "a week's season": lambda random, day: _rows(random, idle=0.3 * np.sin(day * 2 * np.pi / 7)),
    "a season of 15 days": lambda random, day: _rows(random, idle=1.0 * (FIRST <= day <= LAST)),
    "inputs move, nothing is lost": lambda random, day: _rows(random, idle=1.0 * (day >= FIRST)),
    "telling inputs move, nothing is lost": lambda random, day: _rows(random, telling=0.6 * (day >= FIRST)),
    "one bad day": lambda random, day: _broken(random, 0.0) if day == FIRST else _rows(random),
    "columns come empty": lambda random, day: _broken(random, np.nan) if day >= FIRST else _rows(random),
}
NO_RETRAINING = {
    "no drift",
    "a week's season",
    "a season of 15 days",
    "inputs move, nothing is lost",
    "telling inputs move, nothing is lost",
    "one bad day",
    "columns come empty",
}
"""Where a model that was trained again would be no better: any retraining is a false one."""


def _plain(random: np.random.Generator, _: int, n: int) -> pa.Table:
    inputs = random.normal(size=(n, 20))
    return table(inputs, chance(inputs[:, :5].sum(axis=1)), random)


def _correlated(random: np.random.Generator, _: int, n: int) -> pa.Table:
    """Any two columns correlate by 0.8."""
    inputs = np.sqrt(0.8) * random.normal(size=(n, 1)) + np.sqrt(0.2) * random.normal(size=(n, 20))
    return table(inputs, chance(inputs[:, :5].sum(axis=1) / 2), random)


def _heavy(random: np.random.Generator, _: int, n: int) -> pa.Table:
    """Cauchy, log-normal, mostly zero, of few values, and missing."""
    normal = random.normal(size=(n, 20))
    inputs = np.column_stack([
        random.standard_cauchy((n, 5)), np.exp(2 * normal[:, 5:10]), np.maximum(normal[:, 10:15] - 1.5, 0), np.round(normal[:, 15:])
    ])  # fmt: skip
    odds = np.tanh(inputs[:, :3]).sum(axis=1) + normal[:, 5] + inputs[:, 15]
    inputs[random.random(inputs.shape) < 0.05] = np.nan
    return table(inputs, chance(odds), random)


def _names(random: np.random.Generator, n: int, n_names: int, power: float) -> tuple[pa.Array, NDArray[np.int64]]:
    """Categories whose shares fall by a power of their rank, and their ranks [n]."""
    shares = np.arange(1, n_names + 1) ** -power
    ranks = np.searchsorted(np.cumsum(shares / shares.sum()), random.random(n)).clip(0, n_names - 1)
    return pc.binary_join_element_wise("c", pa.array(ranks).cast(pa.string()), ""), ranks


def _categories(n_names: int, power: float) -> Quiet:
    """Ten columns of categories beside ten numbers."""

    def rows(random: np.random.Generator, _: int, n: int) -> pa.Table:
        inputs = random.normal(size=(n, 10))
        columns = [_names(random, n, n_names, power) for _column in range(10)]
        odds = inputs[:, :3].sum(axis=1) + (columns[0][1] % 3 == 0) - (columns[1][1] % 2 == 0)
        return table(inputs, chance(odds), random, **{f"c{place:02d}": column for place, (column, _) in enumerate(columns)})

    return rows


def _weekly(random: np.random.Generator, day: int, n: int) -> pa.Table:
    """At weekends six of the twenty columns, one of which makes the label, lie 0.3 deviations higher; the reference holds whole weeks."""
    inputs = random.normal(size=(n, 20))
    inputs[:, 4:10] += 0.3 * (day % 7 >= 5)
    return table(inputs, chance(inputs[:, :5].sum(axis=1)), random)


def _weak(random: np.random.Generator, _: int, n: int) -> pa.Table:
    """The model can hardly be better than chance, so that its metric varies most."""
    inputs = random.normal(size=(n, 20))
    return table(inputs, chance(0.2 * inputs[:, :5].sum(axis=1)), random)


QUIET: dict[str, tuple[Quiet, int]] = {
    "20 normal columns": (_plain, 2000),
    "any two correlate by 0.8": (_correlated, 2000),
    "heavy tails, zeros, missing": (_heavy, 2000),
    "50 categories, many rare": (_categories(50, 1.5), 2000),
    "20,000 categories": (_categories(20_000, 1.0), 2000),
    "weekends differ": (_weekly, 2000),
    "weak model, 200 rows a day of training": (_weak, 200),
}
"""Kind → its rows, and how many of them a day of training had."""


def numbers(path: Path, n_days: int) -> list[pa.Table]:
    """A file of numbers without a header whose last column is the class, cut into days of equal length."""
    with path.open(encoding="utf-8") as file:
        rows = np.array([[float(value) for value in row] for row in csv.reader(file)])
    return [
        pa.table({
            **{f"x{place:02d}": pa.array(column) for place, column in enumerate(part[:, :-1].T)},
            "label": pa.array([f"{label:g}" for label in part[:, -1]]),
        })
        for part in np.array_split(rows, n_days)
    ]  # fmt: skip


SHOP_START = dt.date(2024, 1, 1)
_PAGES = ("home", "catalog", "search", "product_view", "filter_results", "promo_page", "error_page", "support_chat", "add_to_cart", "cart",
          "shipping_details", "payment_details")  # fmt: skip


def shop(path: Path) -> tuple[list[pa.Table], list[list[str]]]:
    """`ecom_clickstream.csv` by weeks: its sessions, of which some end with a purchase, and the names of all events.

    Of a session a model knows who came and which pages were seen before the purchase, if there was one.
    """
    sessions: dict[str, list[dict[str, str]]] = defaultdict(list)
    with path.open(encoding="utf-8") as file:
        for event in csv.DictReader(file):
            sessions[event["session_id"]].append(event)
    weeks: dict[int, list[dict[str, object]]] = defaultdict(list)
    events: dict[int, list[str]] = defaultdict(list)
    for rows in sessions.values():
        rows.sort(key=lambda event: event["timestamp"])
        week = (dt.date.fromisoformat(rows[0]["timestamp"][:10]) - SHOP_START).days // 7
        names = [event["event"] for event in rows]
        events[week] += names
        seen = names[: names.index("purchase")] if "purchase" in names else names
        weeks[week].append({
            **{name: rows[0][name] for name in ("platform", "acquisition_channel", "user_cohort", "user_lifecycle")},
            "entry": names[0], "hour": float(rows[0]["timestamp"][11:13]), "length": float(len(seen)),
            **{f"n_{page}": float(seen.count(page)) for page in _PAGES},
            "label": "1" if "purchase" in names else "0",
        })  # fmt: skip
    return [pa.Table.from_pylist(weeks[week]) for week in sorted(weeks)], [events[week] for week in sorted(events)]
