"""Pictures of an evaluation as SVG: for the report and for MLflow, nothing to load, right in light and dark."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from pipelines_lib.decision import predicted_places
from pipelines_lib.evaluation.evidence import Measured
from pipelines_lib.evaluation.metrics import Floats, Truth, confidence, equal_bins

Curve = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 320, 240, 44, 34
_POINTS = 200
"""Points of a curve, at most."""
_BARS = 20
_CLASSES = 12
_STYLE = (
    ".a{fill:none;stroke:#c2571a;stroke-width:2}.b{fill:none;stroke:#4f7ca8;stroke-width:2}.g{stroke:#8888;stroke-width:1;stroke-dasharray:4 4;fill:none}"
    ".x{stroke:#8886;stroke-width:1;fill:none}.p{fill:#c2571a}.n{fill:#4f7ca8}text{font:11px system-ui,sans-serif;fill:currentColor}"
)


def of_answers(truth: Truth, scores: NDArray[np.float32], operating_point: float | None, *, private: bool) -> dict[str, str]:
    """Name → picture of what the model answered to the hold-out. The classes are numbered where they are about people (`private`)."""
    if truth.has_several or not len(scores):
        return {}
    wide = scores.astype(np.float64)
    if not truth.classes:
        return {"predicted": _predicted(np.asarray(truth.labels, np.float64), wide[:, 0])}
    found = {}
    if truth.positive is not None and 0 < (truth.labels == truth.positive).sum() < len(wide):
        roc, recall = _curves(np.asarray(truth.labels == truth.positive, bool), wide[:, truth.positive])
        found["roc"] = lines({"": roc}, "false positive rate", "true positive rate", diagonal=True)
        found["precision_recall"] = lines({"": recall}, "recall", "precision")
    found["calibration"] = _calibration(truth, wide)
    names = [f"no. {place}" for place in range(1, len(truth.classes) + 1)] if private else list(truth.classes)
    if len(names) <= _CLASSES:
        found["confusion"] = _confusion(np.asarray(truth.labels, np.int64), predicted_places(wide, truth.positive, operating_point), names)
    return found


def losses(history: Sequence[Mapping[str, float]]) -> str:
    """The losses by epoch."""
    curves = {
        name: [(epoch["epoch"], epoch[f"{name}_loss"]) for epoch in history if f"{name}_loss" in epoch] for name in ("train", "validation")
    }
    return lines({name: curve for name, curve in curves.items() if curve}, "epoch", "mean loss", unit=False)


def bars(figures: Mapping[str, float], label: str) -> str:
    """The largest figures as rows, in the order given."""
    shown = list(figures.items())[:_BARS]
    top = max((abs(value) for _, value in shown), default=0) or 1
    room, rows = _WIDTH - 190, []
    for place, (name, value) in enumerate(shown):
        y = place * 20
        short = name if len(name) <= 20 else f"{name[:19]}…"
        rows.append(
            f'<g><title>{escape(name)}: {value:.4g}</title><text x="0" y="{y + 12}">{escape(short)}</text>'
            f'<rect class="{"p" if value >= 0 else "n"}" x="130" y="{y + 2}" width="{abs(value) / top * room:.1f}" height="12"/>'
            f'<text x="{135 + abs(value) / top * room:.1f}" y="{y + 12}">{value:.3g}</text></g>'
        )
    return _svg(max(20, 20 * len(shown)), "".join(rows), label)


def parts(found: Sequence[Measured], floors: Mapping[str, float], label: str) -> str:
    """The figure of each part that has one, with its interval, and the floor of its kind (`of`) as a dashed line."""
    shown = [(part, part.figure) for part in found if part.figure is not None][:_BARS]
    ends = [[figure, part.lower, part.upper, floors.get(part.of)] for part, figure in shown]
    values = [value for row in ends for value in row if value is not None]
    low, high = min(values, default=0.0), max(values, default=1.0)
    start, room, rows = 130, _WIDTH - 140, []

    def at(value: float) -> str:
        return f"{start + (value - low) / ((high - low) or 1.0) * room:.1f}"

    for place, (part, figure) in enumerate(shown):
        y, floor = place * 20, floors.get(part.of)
        short = part.name if len(part.name) <= 20 else f"{part.name[:19]}…"
        told, line = f"{part.name}: {figure:.4g} of {part.n_rows:,} rows", ""
        if part.lower is not None and part.upper is not None:
            told += f", {part.lower:.4g} … {part.upper:.4g}"
            line = f'<path class="b" d="M{at(part.lower)} {y + 8}H{at(part.upper)}"/>'
        if floor is not None:
            told += f"; floor {floor:.4g}"
            line += f'<path class="g" d="M{at(floor)} {y}V{y + 18}"/>'
        rows.append(
            f'<g><title>{escape(told)}</title><text x="0" y="{y + 12}">{escape(short)}</text>{line}<circle class="n" r="4" cx="{at(figure)}" cy="{y + 8}"/></g>'
        )
    base, told_ends = 20 * len(shown) + 12, scale(low, high)
    rows += [
        f'<text x="{x}" y="{base}" text-anchor="{anchor}">{text}</text>'
        for x, anchor, text in zip((start, start + room), ("start", "end"), told_ends, strict=True)
    ]
    return _svg(base + 4, "".join(rows), label)


def lines(curves: Mapping[str, Curve], x: str, y: str, *, diagonal: bool = False, unit: bool = True, dots: bool = False) -> str:
    """Up to two curves in one frame. `unit`: both axes go from 0 to 1, else over the values."""
    points = [point for curve in curves.values() for point in curve if np.isfinite(point).all()]
    low = (0.0, 0.0) if unit or not points else tuple(min(point[axis] for point in points) for axis in (0, 1))
    high = (1.0, 1.0) if unit or not points else tuple(max(point[axis] for point in points) for axis in (0, 1))
    size = [end - start or 1.0 for start, end in zip(low, high, strict=True)]
    told = [scale(*ends) for ends in zip(low, high, strict=True)]
    left = max(_LEFT, room_for(told[1]))

    def at(point: tuple[float, float]) -> str:
        across, up = ((value - start) / length for value, start, length in zip(point, low, size, strict=True))
        return f"{left + across * (_WIDTH - left - 8):.1f},{8 + (1 - up) * (_HEIGHT - _BOTTOM - 8):.1f}"

    base, right = _HEIGHT - _BOTTOM, _WIDTH - 8
    parts = [f'<path class="x" d="M{left} 8V{base}H{right}"/>']
    if diagonal:
        ends = [max(low), min(high)] if max(low) < min(high) else [0.0, 0.0]
        parts.append(f'<path class="g" d="M{at((ends[0], ends[0]))} L{at((ends[1], ends[1]))}"/>')
    for kind, (name, curve) in zip("ab", curves.items(), strict=False):
        shown = [at(point) for point in curve if np.isfinite(point).all()]
        parts.append(f'<polyline class="{kind}" points="{" ".join(shown)}"/>')
        parts += [f'<circle class="{"pn"["ab".index(kind)]}" r="3" cx="{p.split(",")[0]}" cy="{p.split(",")[1]}"/>' for p in shown if dots]
        if name and shown:
            across, down = (float(value) for value in shown[-1].split(","))
            parts.append(f'<text x="{across:.1f}" y="{max(down - 6, 12):.1f}" text-anchor="end">{escape(name)}</text>')
    marks = [
        (left, base + 13, "start", told[0][0]), (right, base + 13, "end", told[0][1]),
        (left - 4, base, "end", told[1][0]), (left - 4, 16, "end", told[1][1]),
    ]  # fmt: skip
    parts += [f'<text x="{across}" y="{down}" text-anchor="{anchor}">{text}</text>' for across, down, anchor, text in marks]
    parts.append(f'<text x="{(left + right) / 2}" y="{_HEIGHT - 4}" text-anchor="middle">{escape(x)}</text>')
    middle = base / 2
    parts.append(f'<text x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">{escape(y)}</text>')
    return _svg(_HEIGHT, "".join(parts), f"{y} by {x}")


def scale(low: float, high: float) -> tuple[str, str]:
    """Both ends of a scale in three digits, or in as many as tell them apart."""
    ends = [(_short(low, digits), _short(high, digits)) for digits in range(3, 8)]
    return next((pair for pair in ends if pair[0] != pair[1]), ends[0])


def room_for(labels: Sequence[str]) -> float:
    """Width that a scale's labels take beside it; digits are as wide in few fonts as they are here."""
    return 8 + 7.0 * max(map(len, labels))


def _short(value: float, digits: int) -> str:
    rounded = float(f"{value:.{digits}g}") + 0.0  # no -0
    if rounded == 0 or 1e-4 <= abs(rounded) < 1e6:
        return f"{rounded:,.10f}".rstrip("0").rstrip(".")
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def _curves(positive: NDArray[np.bool_], score: Floats) -> tuple[Curve, Curve]:
    """Receiver operating characteristic, and precision by recall, at every score, thinned out."""
    order = np.argsort(-score, kind="stable")
    ranked, hits = score[order], positive[order]
    last = np.flatnonzero(np.r_[ranked[1:] != ranked[:-1], True])
    true, false = np.cumsum(hits)[last], np.cumsum(~hits)[last]
    kept = np.unique(np.linspace(0, len(last) - 1, min(_POINTS, len(last))).astype(int))
    rate, fall, precision = true / true[-1], false / false[-1], true / (true + false)
    roc = [(0.0, 0.0), *((float(fall[i]), float(rate[i])) for i in kept)]
    return roc, [(float(rate[i]), float(precision[i])) for i in kept]


def _calibration(truth: Truth, scores: Floats) -> str:
    chances, came = confidence(truth, scores)
    return lines({"": _by_bin(chances, came)}, "chance given", "share that came so", diagonal=True, dots=True)


def _predicted(labels: Floats, said: Floats) -> str:
    return lines({"": _by_bin(said, labels)}, "predicted", "mean of the truth", diagonal=True, unit=False, dots=True)


def _by_bin(said: Floats, true: Floats) -> Curve:
    bins = equal_bins(said)
    n_rows = np.maximum(np.bincount(bins), 1)
    means = zip(np.bincount(bins, said) / n_rows, np.bincount(bins, true) / n_rows, np.bincount(bins), strict=True)
    return [(float(across), float(up)) for across, up, n in means if n]


def _confusion(labels: NDArray[np.int64], said: NDArray[np.int64], names: Sequence[str]) -> str:
    """Rows are what was true, columns what was said; the darker, the larger the share of the true class."""
    n = len(names)
    counts = np.bincount(labels * n + said, minlength=n * n).reshape(n, n)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    left, top = 90, 34
    wide, high = (_WIDTH - left) / n, min(60.0, 200 / n)
    parts = ['<text x="0" y="12">true ↓ said →</text>']
    narrow = wide < 40  # too narrow for names above the columns
    for row, name in enumerate(names):
        numbered = f"{row + 1} {name}" if narrow else name
        short = numbered if len(numbered) <= 12 else f"{numbered[:11]}…"
        head = str(row + 1) if narrow else short[: int(wide / 7)]
        parts.append(f'<text x="0" y="{top + row * high + high / 2 + 4:.1f}">{escape(short)}</text>')
        parts.append(f'<text x="{left + row * wide + wide / 2:.1f}" y="{top - 6}" text-anchor="middle">{escape(head)}</text>')
        for column, other in enumerate(names):
            x, y, share = left + column * wide, top + row * high, float(shares[row, column])
            parts.append(
                f"<g><title>{escape(name)}, said {escape(other)}: {counts[row, column]:,} ({share:.1%})</title>"
                f'<rect class="{"n" if row == column else "p"}" opacity="{0.1 + 0.6 * share:.2f}" x="{x:.1f}" y="{y:.1f}" width="{wide - 2:.1f}" height="{high - 2:.1f}"/>'
                f'<text x="{x + wide / 2:.1f}" y="{y + high / 2 + 4:.1f}" text-anchor="middle">{counts[row, column]:,}</text></g>'
            )
    return _svg(top + n * high, "".join(parts), "what was true and what was said")


def _svg(height: float, content: str, label: str) -> str:
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{escape(label)}"><style>{_STYLE}</style>{content}</svg>'
