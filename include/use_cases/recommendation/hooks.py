"""A deterministic shop: lands a day of user events as CSV. Same seed and day, same bytes.

Every day some twenty users join and twenty leave, so users come back for a hundred days, and nothing about the crowd
changes by itself. From `drift_from` on a festival runs: other people come, from other devices, at other hours, to steeper
discounts, and what used to make them click no longer does.
"""

import csv
import datetime as dt
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipelines_lib.store import write_bytes

COLUMNS = (
    "event_id", "user_id", "item_id", "event_time", "action", "segment", "device", "hour", "item_category", "price",
    "discount", "position", "days_since_signup", "clicks_7d", "affinity",
)  # fmt: skip
FIRST_DAY = dt.date(2026, 1, 1)
N_ITEMS, USERS_A_DAY, DAYS_A_USER_STAYS = 300, 20, 100

SEGMENTS = ("newcomer", "regular", "bargain_hunter", "vip")
DEVICES = ("android", "ios", "web", "mini_program")
CATEGORIES = ("electronics", "fashion", "beauty", "food", "home", "sports", "books", "toys")
# Half of the clients report actions in Chinese.
ACTIONS = {"view": ("view", "浏览"), "click": ("click", "点击"), "buy": ("buy", "购买")}

# What draws an event's user, device, hour and item; the second line of each holds during the festival.
SEGMENT_PULL = np.array([[0.9, 1.0, 0.8, 1.1], [1.6, 0.6, 2.4, 0.5]])
DEVICE_SHARE = np.array([[0.38, 0.30, 0.22, 0.10], [0.20, 0.13, 0.07, 0.60]])
CATEGORY_PULL = np.array([[1, 1, 1, 1, 1, 1, 1, 1], [2.2, 2.4, 2.6, 0.5, 0.6, 0.5, 0.3, 0.4]])
HOUR_PEAK = np.array([[13.0, 4.5], [20.5, 2.0]])
DISCOUNT_SHAPE = np.array([[1.2, 6.0], [4.0, 4.0]])

# How each moves the log-odds of a click or purchase.
SEGMENT_EFFECT = np.array([[-0.4, 0.1, 0.2, 0.7], [0.9, -0.2, -0.8, -0.3]])
DEVICE_EFFECT = np.array([[0.1, 0.2, -0.5, 0.5], [0.3, 0.4, 0.0, -0.7]])
CATEGORY_EFFECT = np.array([[-0.2, 0.4, 0.5, -0.3, -0.5, 0.2, 0.3, -0.2], [0.8, -0.6, -0.4, 0.3, 0.5, 0.0, -0.2, 0.4]])
DISCOUNT_EFFECT = np.array([2.2, -2.4])
INTERCEPT = np.array([-1.6, -0.5])


def land(partition_key: str, path: Path, params: Mapping[str, object]) -> None:
    """Write the events of day `partition_key` to `path`.

    Params: `seed`; `rows`, the sound events of a day; `drift_from`, the first day of the festival (null: never); `broken_share`,
    how many broken rows are mixed in for each sound one.
    """
    day = dt.date.fromisoformat(partition_key)
    start = params.get("drift_from")
    festival = start is not None and day >= dt.date.fromisoformat(str(start))
    seed, n_rows = int(str(params.get("seed", 0))), int(str(params.get("rows", 3000)))
    rng = np.random.Generator(np.random.PCG64([seed, day.toordinal()]))
    lines = [_line(event) for event in _events(rng, day, seed, n_rows, int(festival))]
    lines = _with_broken(rng, lines, round(n_rows * float(str(params.get("broken_share", 0.02)))))
    write_bytes(path, "".join([_line(COLUMNS), *lines]).encode("utf-8"))


def _events(rng: np.random.Generator, day: dt.date, seed: int, n: int, festival: int) -> list[tuple[object, ...]]:
    """Columns in the order of `COLUMNS`, oldest event first."""
    users = _users(day, seed)
    items = _items(seed)
    user = rng.choice(len(users["name"]), n, p=_normal(users["activity"] * SEGMENT_PULL[festival][users["segment"]]))
    item = rng.choice(N_ITEMS, n, p=_normal(items["popularity"] * CATEGORY_PULL[festival][items["category"]]))
    segment, category = users["segment"][user], items["category"][item]
    device = rng.choice(len(DEVICES), n, p=DEVICE_SHARE[festival])
    second = np.sort(rng.normal(HOUR_PEAK[festival][0], HOUR_PEAK[festival][1], n) % 24 * 3600).astype(int)
    discount = np.round(rng.beta(*DISCOUNT_SHAPE[festival], n) * 0.8, 2)
    price = np.round(items["price"][item] * (1 - discount), 2)
    position = np.minimum(rng.geometric(0.09, n), 50)
    clicks = rng.poisson(users["taste"][user].max(axis=1) * 4 * (1 + festival), n)
    affinity = np.round(np.clip(users["taste"][user, category] + rng.normal(0, 0.08, n), 0, 1), 3)
    logit = (
        INTERCEPT[festival]
        + SEGMENT_EFFECT[festival][segment]
        + DEVICE_EFFECT[festival][device]
        + CATEGORY_EFFECT[festival][category]
        + DISCOUNT_EFFECT[festival] * (discount - 0.15)
        + 4.0 * (affinity - 0.35)
        - 0.06 * (position - 10)
        + 0.2 * np.minimum(clicks, 8) * (1 - festival)
        - 0.25 * (np.log(price) - 4)
    )
    engaged = rng.random(n) < 1 / (1 + np.exp(-logit))
    bought = engaged & (rng.random(n) < 0.15)
    language = rng.integers(0, 2, n)
    midnight = dt.datetime.combine(day, dt.time())
    return [
        (
            f"e{day:%Y%m%d}-{i:05d}", users["name"][user[i]], f"i{item[i]:04d}", (midnight + dt.timedelta(seconds=int(second[i]))).isoformat(),
            ACTIONS["buy" if bought[i] else "click" if engaged[i] else "view"][language[i]], SEGMENTS[segment[i]], DEVICES[device[i]],
            second[i] // 3600, CATEGORIES[category[i]], f"{price[i]:.2f}", f"{discount[i]:.2f}", position[i],
            users["days"][user[i]], clicks[i], f"{affinity[i]:.3f}",
        )
        for i in range(n)
    ]  # fmt: skip


def _users(day: dt.date, seed: int) -> dict[str, np.ndarray]:
    """Who may come on `day`: the users who joined in the last hundred days, each the same person every day."""
    today = (day - FIRST_DAY).days
    joined = np.repeat(np.arange(today - DAYS_A_USER_STAYS + 1, today + 1), USERS_A_DAY)
    cohorts = [np.random.Generator(np.random.PCG64([seed, 1, int(c) + 10_000])) for c in np.unique(joined)]
    segment = np.concatenate([rng.choice(len(SEGMENTS), USERS_A_DAY, p=[0.3, 0.4, 0.2, 0.1]) for rng in cohorts])
    taste = np.concatenate([rng.beta(1.2, 2.2, (USERS_A_DAY, len(CATEGORIES))) for rng in cohorts])
    activity = np.concatenate([rng.gamma(2.0, 1.0, USERS_A_DAY) for rng in cohorts])
    days = today - joined
    number = (joined + 10_000) * USERS_A_DAY + np.tile(np.arange(USERS_A_DAY), DAYS_A_USER_STAYS)
    return {
        "name": np.array([f"u{n:07d}" for n in number]),
        "segment": segment,
        "taste": taste,
        "days": days,
        "activity": activity * np.exp(-days / 60),
    }


def _items(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.Generator(np.random.PCG64([seed, 2]))
    return {
        "category": rng.integers(0, len(CATEGORIES), N_ITEMS),
        "price": np.exp(rng.normal(4, 0.7, N_ITEMS)),
        "popularity": rng.pareto(1.5, N_ITEMS) + 0.2,
    }


def _with_broken(rng: np.random.Generator, lines: list[str], n_broken: int) -> list[str]:
    """`lines` with broken ones put in after the sound ones they are made of: repeated, impossible, unknown, ragged, by turns."""
    after: dict[int, list[str]] = {}
    for turn, index in enumerate(rng.choice(len(lines), min(n_broken, len(lines)), replace=False)):
        cells = next(csv.reader([lines[index]]))
        if turn % 4 != 0:
            cells[0] += f"x{turn % 4}"
        match turn % 4:
            case 1:
                cells[COLUMNS.index("price")] = f"-{cells[COLUMNS.index('price')]}"
            case 2:
                cells[COLUMNS.index("action")] = "hover"
            case 3:
                cells = cells[:-2] if turn % 8 == 3 else [*cells, "extra"]
        after.setdefault(int(index), []).append(_line(cells))
    return [line for index, sound in enumerate(lines) for line in (sound, *after.get(index, []))]


def _line(cells: object) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)  # type: ignore[arg-type]
    return text.getvalue()


def _normal(weights: np.ndarray) -> np.ndarray:
    return weights / weights.sum()
