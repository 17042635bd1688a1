"""The page about the trials of a tuning: one HTML file without outside parts, with the losses of each trial as a line."""

from collections.abc import Sequence
from html import escape

from pydantic import JsonValue

from pipelines_lib.training.study import Trial

_STYLE = """
:root{--ink:#1c2733;--soft:#5b6875;--line:#dde3e9;--ground:#fff;--best:#2b7a4b}
@media(prefers-color-scheme:dark){:root{--ink:#dde3e9;--soft:#93a1af;--line:#333d47;--ground:#14191f;--best:#7bcf9b}}
body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:1.5rem auto;padding:0 1rem;color:var(--ink);background:var(--ground)}
h1{font-size:1.5rem}.soft{color:var(--soft)}.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
td,th{text-align:right;padding:.25rem .6rem;border-bottom:1px solid var(--line);white-space:nowrap}td:nth-child(2),th:nth-child(2),td:last-child{text-align:left}
td:last-child{white-space:normal;color:var(--soft)}tr.best{color:var(--best);font-weight:600}polyline{fill:none;stroke:currentColor;stroke-width:1.5}
"""
_WIDTH, _HEIGHT = 120, 24


def trials_page(title: str, n_trials: int, trials: Sequence[Trial], best: Trial | None) -> str:
    """The page as HTML: the completed trials first, the best of them on top."""
    names = list(dict.fromkeys(name for trial in trials for name in trial.values))
    order = sorted(trials, key=lambda trial: (trial.state != "completed", trial.loss is None, trial.loss or 0.0, trial.task))
    lowest = min((loss for trial in trials for loss in trial.losses), default=0.0)
    highest = max((trial.losses[0] for trial in trials if trial.losses), default=1.0)
    longest = max((len(trial.losses) for trial in trials), default=1)
    rows = "".join(_row(trial, names, trial is best, (lowest, highest, longest)) for trial in order)
    head = "".join(f"<th>{escape(name)}</th>" for name in ("trial", "state", "loss", *names, "epochs", "by epoch", ""))
    left_out = f", {n_trials - len(trials)} of {n_trials} have not begun" if len(trials) < n_trials else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f'<p class="soft">The loss is the best on the validation rows; of a pruned trial, the last. Lower is better{left_out}.</p>'
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></body></html>\n'
    )


def _row(trial: Trial, names: Sequence[str], is_best: bool, scale: tuple[float, float, int]) -> str:
    cells = [
        str(trial.task + 1),
        trial.state,
        "" if trial.loss is None else f"{trial.loss:.5g}",
        *(_value(trial.values.get(name)) for name in names),
        str(len(trial.losses)),
    ]
    texts = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f"<tr{' class=best' if is_best else ''}>{texts}<td>{_line(trial.losses, *scale)}</td><td>{escape(trial.reason)}</td></tr>"


def _value(value: JsonValue) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _line(losses: Sequence[float], lowest: float, highest: float, longest: int) -> str:
    """The losses by epoch, all trials to one scale; what lies above the first losses is cut."""
    span = max(highest - lowest, 1e-12)
    points = " ".join(
        f"{_WIDTH * epoch / max(1, longest - 1):.1f},{_HEIGHT - _HEIGHT * min(1.0, (loss - lowest) / span):.1f}"
        for epoch, loss in enumerate(losses)
    )
    return f'<svg width="{_WIDTH}" height="{_HEIGHT}" viewBox="-1 -1 {_WIDTH + 2} {_HEIGHT + 2}"><polyline points="{points}"/></svg>'
