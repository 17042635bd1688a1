"""Distributions then and now, and figures over time, as inline SVG: nothing to load, readable on a phone, right in light and dark."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from pipelines_lib.evaluation.pictures import room_for, scale
from pipelines_lib.monitoring.sketch import ColumnProfile
from pipelines_lib.monitoring.summaries import Categories, Quantiles

WIDTH, HEIGHT = 320, 120
BARS = 16
MAX_CATEGORIES = 10
_LEFT = 42
"""Room for the scale of a timeline, at least."""

Shares = tuple[list[str], list[float], list[float]]
"""Labels, shares then, shares now."""


def chart(reference: ColumnProfile, now: ColumnProfile, *, private: bool = False) -> str:
    """An SVG of both distributions, as shares of the rows that have a value; empty where there are none.

    Of a column about a person (`private`) the shares are shown and no value: the bars are numbered.
    """
    if reference.categories is not None and now.categories is not None:
        labels, then, today = category_shares(reference.categories, now.categories)
        return _rows(_numbered(labels) if private else labels, then, today) if labels else ""
    name = "words" if "words" in reference.quantiles else "value"
    labels, then, today = histogram(reference.quantiles[name], now.quantiles[name])
    return _bars(_numbered(labels) if private else labels, then, today) if labels else ""


def histogram(reference: Quantiles, now: Quantiles) -> Shares:
    """Both over `BARS` equal bins between the outer half per cents of the two; a label is a bin's upper edge."""
    parts = [part for part in (reference, now) if part.n]
    if not parts:
        return [], [], []
    low, high = min(part.quantile(0.005) for part in parts), max(part.quantile(0.995) for part in parts)
    if not math.isfinite(high - low):  # wider than a float can say
        low, high = max(low, -1e300), min(high, 1e300)
    values = sorted({value for part in parts for value in part.values.tolist()})
    edges = values if len(values) <= BARS else np.linspace(low, high, BARS + 1)[1:].tolist()
    # The last bin takes what lies beyond it, the first what lies below.
    shares = [part.counts(edges[:-1]) / max(part.n, 1) for part in (reference, now)]
    return [f"{edge:.4g}" for edge in edges], shares[0].tolist(), shares[1].tolist()


def category_shares(reference: Categories, now: Categories) -> Shares:
    """The most frequent categories of both, and the rest."""
    total = max(reference.n, 1), max(now.n, 1)
    both = {
        name: (reference.counts.get(name, 0) / total[0], now.counts.get(name, 0) / total[1]) for name in {*reference.counts, *now.counts}
    }
    ranked = sorted(both, key=lambda name: (-sum(both[name]), name))[:MAX_CATEGORIES]
    labels, then, today = list(ranked), [both[name][0] for name in ranked], [both[name][1] for name in ranked]
    if len(both) > len(ranked) or reference.n_other or now.n_other:
        labels.append("all others")
        then.append(max(0.0, bool(reference.n) - sum(then)))
        today.append(max(0.0, bool(now.n) - sum(today)))
    return labels, then, today


@dataclass(frozen=True, kw_only=True)
class Line:
    """One figure over time."""

    name: str
    style: str
    """Its class in the page's style sheet."""
    values: Sequence[float | None]
    ends: Sequence[tuple[float | None, float | None]] = ()
    """Of each value's interval, where there are any."""


def timeline(labels: Sequence[str], lines: Sequence[Line], *, bounds: Mapping[str, float], marks: Mapping[int, str]) -> str:
    """An SVG of figures over partitions. `bounds` are levels drawn across, by name; `marks` say what was decided, by place.

    Empty where there is no figure.
    """
    if all(value is None for line in lines for value in line.values):
        return ""
    given = [value for line in lines for value in (*line.values, *(end for pair in line.ends for end in pair)) if value is not None]
    low, high = min([*given, *bounds.values()]), max([*given, *bounds.values()])
    room = (high - low) or abs(high) or 1.0
    low, high = low - 0.05 * room, high + 0.12 * room
    told = scale(min(given), max(given))
    left = max(_LEFT, room_for(told))

    def across(place: float) -> float:
        return left + (WIDTH - left - 6) * (place + 0.5) / len(labels)

    def down(value: float) -> float:
        return HEIGHT * (high - value) / (high - low)

    shapes = [_level(name, value, left, down(value)) for name, value in bounds.items()]
    shapes += [_curve(line, labels, across, down) for line in lines]
    shapes += [
        f'<g><title>{escape(labels[place])}: {escape(action)}</title><path class="{escape(action)}" d="M{across(place) - 4:.1f} 9 l4 -8 l4 8 z"/></g>'
        for place, action in marks.items()
    ]
    ends = f'<text x="{left}" y="{HEIGHT + 14}">{escape(labels[0])}</text><text x="{WIDTH}" y="{HEIGHT + 14}" text-anchor="end">{escape(labels[-1])}</text>'
    beside = zip(told, (min(given), max(given)), strict=True)
    side = "".join(f'<text x="{left - 4}" y="{down(value) + 4:.1f}" text-anchor="end">{text}</text>' for text, value in beside)
    return _svg(HEIGHT + 20, "".join(shapes) + ends + side, "over time")


def _level(name: str, value: float, left: float, y: float) -> str:
    return (
        f'<g><title>{escape(name)}: {value:.3g}</title><line class="bound" x1="{left}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{WIDTH}" y="{y - 3:.1f}" text-anchor="end">{escape(name)}</text></g>'
    )


def _curve(line: Line, labels: Sequence[str], across: Callable[[float], float], down: Callable[[float], float]) -> str:
    """A path that is broken where a value is missing, its points, and their intervals."""
    shapes, path, pen = [], [], "M"
    for place, value in enumerate(line.values):
        if value is None:
            pen = "M"
            continue
        x, y = across(place), down(value)
        path.append(f"{pen}{x:.1f} {y:.1f}")
        pen = "L"
        low, high = line.ends[place] if line.ends else (None, None)
        if low is not None and high is not None:
            shapes.append(f'<line class="{line.style} interval" x1="{x:.1f}" x2="{x:.1f}" y1="{down(low):.1f}" y2="{down(high):.1f}"/>')
        shapes.append(
            f'<g><title>{escape(labels[place])}: {escape(line.name)} {value:.3g}</title><circle class="{line.style}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/></g>'
        )
    return f'<path class="{line.style} curve" d="{" ".join(path)}"/>{"".join(shapes)}'


def _numbered(labels: Sequence[str]) -> list[str]:
    return [f"no. {place}" for place in range(1, len(labels) + 1)]


def _bars(labels: Sequence[str], then: Sequence[float], today: Sequence[float]) -> str:
    top = max([*then, *today], default=0) or 1
    step = WIDTH / len(labels)
    shapes = []
    for place, (label, before, after) in enumerate(zip(labels, then, today, strict=True)):
        left, half = place * step, step * 0.42
        shapes.append(
            f"<g><title>up to {escape(label)}: {before:.1%} then, {after:.1%} now</title>"
            f"{_bar(left, HEIGHT, half, before / top, 'then')}{_bar(left + half, HEIGHT, half, after / top, 'now')}</g>"
        )
    ends = f'<text x="0" y="{HEIGHT + 14}">≤ {escape(labels[0])}</text><text x="{WIDTH}" y="{HEIGHT + 14}" text-anchor="end">{escape(labels[-1])}</text>'
    return _svg(HEIGHT + 20, "".join(shapes) + ends)


def _bar(left: float, base: float, width: float, share: float, kind: str) -> str:
    height = share * (HEIGHT - 4)
    return f'<rect class="{kind}" x="{left:.1f}" y="{base - height:.1f}" width="{width:.1f}" height="{height:.1f}"/>'


def _rows(labels: Sequence[str], then: Sequence[float], today: Sequence[float]) -> str:
    top = max([*then, *today], default=0) or 1
    room = WIDTH - 130
    shapes = []
    for place, (label, before, after) in enumerate(zip(labels, then, today, strict=True)):
        y = place * 26
        short = label if len(label) <= 14 else f"{label[:13]}…"
        shapes.append(
            f"<g><title>{escape(label)}: {before:.1%} then, {after:.1%} now</title>"
            f'<text x="0" y="{y + 15}">{escape(short)}</text>'
            f'<rect class="then" x="100" y="{y}" width="{before / top * room:.1f}" height="10"/>'
            f'<rect class="now" x="100" y="{y + 11}" width="{after / top * room:.1f}" height="10"/></g>'
        )
    return _svg(len(labels) * 26, "".join(shapes))


def _svg(height: float, content: str, label: str = "distribution then and now") -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{label}">{content}</svg>'
