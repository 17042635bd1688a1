"""The drift report of a partition: one HTML file without outside parts that a person can look at, on a phone too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from pipelines_lib.monitoring.charts import Line, chart, timeline
from pipelines_lib.monitoring.drift import ColumnDrift
from pipelines_lib.monitoring.history import Day
from pipelines_lib.monitoring.sketch import DataProfile
from pipelines_lib.use_case import HIGHER_IS_BETTER, Monitoring

MAX_CHARTS = 30

_STYLE = """
:root{--ink:#1c2733;--soft:#5b6875;--line:#dde3e9;--ground:#fff;--then:#9fb3c8;--now:#c2571a;--good:#2b7a4b;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#dde3e9;--soft:#93a1af;--line:#333d47;--ground:#14191f;--then:#5b7690;--now:#f0894a;--good:#7bcf9b;--bad:#ff8f87}}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:1.5rem auto;padding:0 1rem;color:var(--ink);background:var(--ground)}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}.soft{color:var(--soft)}
.verdict{border-left:6px solid var(--good);padding:.5rem 1rem;margin:1rem 0;background:color-mix(in srgb,var(--line) 35%,transparent)}.verdict.retrain{border-color:var(--bad)}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(17rem,1fr));gap:1.25rem}figure{margin:0}svg{width:100%;height:auto}svg text{font-size:11px;fill:var(--soft)}
.then{fill:var(--then);background:var(--then)}.now{fill:var(--now);background:var(--now)}.key{display:inline-block;width:.8em;height:.8em;margin:0 .3em 0 1em}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}td,th{text-align:right;padding:.25rem .6rem;border-bottom:1px solid var(--line)}
.verdict.alert{border-color:var(--now)}.curve{fill:none;stroke-width:1.5}.interval{stroke-width:1;opacity:.5}.bound{stroke:var(--soft);stroke-dasharray:3 3}
.one{stroke:var(--now);fill:var(--now);background:var(--now)}.two{stroke:var(--then);fill:var(--then);background:var(--then)}.one.curve,.two.curve{fill:none}
.retrain{fill:var(--bad)}.alert{fill:var(--now)}ul{padding-left:1.2rem}
td:first-child,th:first-child{text-align:left}.yes{color:var(--bad);font-weight:600}
"""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the page shows."""

    title: str
    partition_key: str
    model_version: int | None
    n_rows: int
    action: str
    reason: str
    not_fired: str = ""
    """Why no training follows from the decision to retrain."""
    objections: Mapping[str, str]
    """Every rule that spoke against a retraining, and what it said."""
    settings: Monitoring
    metric: str
    """The gate's."""
    past: Sequence[Day]
    """The last partitions, this one last."""
    drifts: Sequence[ColumnDrift]
    performance: Mapping[str, Any] | None
    estimated: Mapping[str, Any] | None = None
    """The gate's metric as it was estimated: `metric`, `value`, `low`, `high`."""
    health: Mapping[str, Any] | None = None
    """Figures of the partition's row of the table `health`."""
    reference: DataProfile | None
    now: DataProfile
    private: Sequence[str] = ()
    """Columns about a person, of which the page shows no value."""


def drift_page(report: Report) -> str:
    """The page as HTML; everything that came from data is escaped."""
    title = f"{report.title}: {report.partition_key}"
    version = "no model" if report.model_version is None else f"version {report.model_version}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f'<p class="soft">{report.n_rows:,} answers by {version}, compared with what it was trained on</p>'
        f'<div class="verdict {escape(report.action)}"><b>{escape(report.action.capitalize())}</b><br>{escape(report.reason)}{_not_fired(report)}</div>'
        f"{_objections(report)}{_over_time(report)}{_performance(report)}{_health(report.health)}{_charts(report)}{_table(report)}</body></html>\n"
    )


def _not_fired(report: Report) -> str:
    return f"<br><b>{escape(report.not_fired)}</b>" if report.not_fired else ""


def _objections(report: Report) -> str:
    """The rules beside the one that is the reason."""
    others = [f"<li><b>{escape(rule)}</b>: {escape(said)}</li>" for rule, said in report.objections.items() if said != report.reason]
    return f"<p>Also against a retraining:</p><ul>{''.join(others)}</ul>" if others else ""


def _over_time(report: Report) -> str:
    """Drift and performance of the last partitions, with what counts and what was decided."""
    labels, settings = [day.partition_key for day in report.past], report.settings
    marks = {place: "retrain" if day.fired else "alert" for place, day in enumerate(report.past) if day.fired or day.action == "alert"}
    share = Line(name="inputs drifted", style="one", values=[day.drifted_share for day in report.past])
    answers = Line(name="effect of the answers", style="one", values=[day.prediction_effect for day in report.past])
    known = {source: [day.performance.get(source, (None, None, None)) for day in report.past] for source in ("realised", "estimated")}
    performance = [
        Line(name=source, style=style, values=[v for v, _, _ in values], ends=[(low, high) for _, low, high in values])
        for (source, values), style in zip(known.items(), ("one", "two"), strict=True)
    ]
    reference = next((day.reference for day in reversed(report.past) if day.reference is not None), None)
    sign = 1 if HIGHER_IS_BETTER[report.metric] else -1
    bounds = {} if reference is None else {"hold-out": reference}
    if reference is not None and settings.loss is not None:
        bounds["loss that counts"] = reference - sign * settings.loss * abs(reference)
    charts = {
        "Share of the inputs that have drifted": timeline(labels, [share], bounds={"share": settings.share}, marks=marks),
        "Effect of the answers": timeline(labels, [answers], bounds={"psi": settings.psi}, marks=marks),
        f'{report.metric} <span class="soft"><span class="key one"></span>realised<span class="key two"></span>estimated</span>': timeline(
            labels, performance, bounds=bounds, marks=marks
        ),
    }
    figures = "".join(f"<figure><figcaption>{title}</figcaption>{svg}</figure>" for title, svg in charts.items() if svg)
    legend = "<p class='soft'>▲ where a retraining was fired or an alert given; dashed: the settings.</p>" if marks else ""
    heading = f"The last {len(labels)} partitions" if len(labels) > 1 else "This partition"
    return f"<h2>{heading}</h2>{legend}<div class='charts'>{figures}</div>" if figures else ""


def _performance(report: Report) -> str:
    performance, guess, told = report.performance, report.estimated, ""
    if guess is not None:
        figures = f"{_figure(guess['value'])} ({_figure(guess['low'])} to {_figure(guess['high'])})"
        told = f"<p>Estimated from the inputs and the answers alone: {escape(str(guess['metric']))} {figures}, with 95 % confidence if rows still mean what they meant.</p>"
    told += _trust(report.past)
    if performance is None:
        return f'<h2>Performance</h2><p class="soft">Not known: the labels have not come, or no key column tells which answer they belong to.</p>{told}'
    figures = "".join(f"<tr><td>{escape(name)}</td><td>{_figure(value)}</td></tr>" for name, value in performance["metrics"].items())
    rows = f"{performance['n_rows']:,} of {performance['n_answered']:,} answers have a label."
    return f"<h2>Performance</h2><p>{rows}</p><div class='wide'><table>{figures}</table></div>{told}"


def _trust(past: Sequence[Day]) -> str:
    """How often what was realised lay where it had been estimated to lie."""
    pairs = [
        (day.performance["realised"][0], *day.performance["estimated"]) for day in past if {"realised", "estimated"} <= {*day.performance}
    ]
    known = [(true, guess, low, high) for true, guess, low, high in pairs if low is not None and high is not None]
    if not known:
        return ""
    inside = sum(low <= true <= high for true, _, low, high in known)
    off = sum(abs(guess - true) for true, guess, _, _ in known) / len(known)
    return (
        f"<p>How far to trust estimates: in {inside} of {len(known)} partitions whose labels have come ({inside / len(known):.0%}) what was realised lay "
        f"within the estimated interval, where 95 % should; the estimates were off by {_figure(off)} on average.</p>"
    )


def _health(health: Mapping[str, Any] | None) -> str:
    """The service's figures, volume and freshness; without those that nobody told."""
    if health is None:
        return ""
    told = []
    if health["n_requests"] is not None:
        slow = health["p99_seconds"]
        speed = "the slowest hundredth beyond what is counted" if slow is None else f"99 of 100 within {1000 * slow:g} ms"
        told.append(
            f"{health['n_requests']:,} requests, {speed}; {health['n_errors']:,} failed, {health['n_rejected']:,} were refused for what they held"
        )
    if health["usual_rows"] is not None:
        told.append(f"{health['n_rows']:,} answers, where {health['usual_rows']:,.0f} are usual")
    known = {layer: behind for layer in ("clean", "labelled") if (behind := health[f"{layer}_behind"]) is not None}
    told += [f"the newest partition of <i>{layer}</i> is {f'{n} partition(s) older' if n else 'this one'}" for layer, n in known.items()]
    return f"<h2>Service and data</h2><ul>{''.join(f'<li>{line}</li>' for line in told)}</ul>" if told else ""


def _charts(report: Report) -> str:
    shown = [drift for drift in report.drifts if drift.drifted or drift.kind == "prediction"]
    shown = sorted(shown, key=lambda drift: (drift.kind != "prediction", -(drift.effect or 0), drift.column))[:MAX_CHARTS]
    if report.reference is None or not shown:
        return ""
    figures = [
        f"<figure><figcaption><b>{escape(drift.column)}</b> {_caption(drift, drift.column in report.private)}</figcaption>"
        f"{chart(report.reference.columns[drift.column], report.now.columns[drift.column], private=drift.column in report.private)}</figure>"
        for drift in shown
        if drift.column in report.reference.columns and drift.column in report.now.columns
    ]
    legend = '<span class="key then"></span>then (training)<span class="key now"></span>now'
    return f"<h2>The predictions, and what has drifted</h2><p>{legend}</p><div class='charts'>{''.join(figures)}</div>"


def _caption(drift: ColumnDrift, private: bool) -> str:
    parts = [f"effect {_figure(drift.effect)}"]
    for told, categories in (("new", drift.new_categories), ("lost", drift.lost_categories)):
        if categories:
            parts.append(f"{told}: {'some' if private else ', '.join(categories)}")
    return f'<span class="soft">{escape("; ".join(parts))}</span>'


def _table(report: Report) -> str:
    if not report.drifts:
        return "<h2>Columns</h2><p class='soft'>Nothing was answered, so there is nothing to compare.</p>"
    lines = [_line(drift) for drift in sorted(report.drifts, key=lambda drift: (-(drift.effect or 0), drift.column))]
    head = "".join(
        f"<th>{name}</th>" for name in ("Column", "Drifted", "Effect", "PSI", "JS", "By chance", "Missing then", "Missing now", "New")
    )
    return (
        f"<h2>Columns</h2><p class='soft'>The effect is PSI (8 × the Jensen-Shannon divergence, for categories) less what so few rows show by chance; "
        f"a column has drifted from {report.settings.psi:g} on.</p><div class='wide'><table><tr>{head}</tr>{''.join(lines)}</table></div>"
    )


def _line(drift: ColumnDrift) -> str:
    drifted = '<td class="yes">yes</td>' if drift.drifted else "<td>no</td>"
    numbers = (drift.effect, drift.psi, drift.js, drift.noise_floor)
    shares = (drift.missing_reference, drift.missing_now, drift.new_share)
    cells = "".join(f"<td>{_figure(number)}</td>" for number in numbers)
    cells += "".join(f"<td>{'' if share is None else f'{share:.1%}'}</td>" for share in shares)
    return f"<tr><td>{escape(drift.column)}</td>{drifted}{cells}</tr>"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
