"""The report of an evaluation: one HTML file without outside parts, with the gates' verdicts on top once they are given."""

from collections.abc import Mapping, Sequence
from html import escape

from pipelines_lib.contracts import GateResult
from pipelines_lib.evaluation.evidence import Evidence, Measured

_STYLE = """
:root{--ink:#1c2733;--soft:#5b6875;--line:#dde3e9;--ground:#fff;--good:#2b7a4b;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#dde3e9;--soft:#93a1af;--line:#333d47;--ground:#14191f;--good:#7bcf9b;--bad:#ff8f87}}
body{font:16px/1.5 system-ui,sans-serif;max-width:66rem;margin:1.5rem auto;padding:0 1rem;color:var(--ink);background:var(--ground)}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}.soft{color:var(--soft)}.pass{color:var(--good);font-weight:600}.hold{color:var(--bad);font-weight:600}
.verdict{border-left:6px solid var(--line);padding:.5rem 1rem;margin:1rem 0}.verdict.pass{border-color:var(--good)}.verdict.hold{border-color:var(--bad)}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(18rem,1fr));gap:1.5rem}figure{margin:0}figcaption{font-weight:600}svg{width:100%;height:auto}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}td,th{text-align:left;padding:.3rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
td.f,th.f{text-align:right;white-space:nowrap}
@media(max-width:40rem){.gates tr{display:grid;grid-template-columns:2fr 1fr 1.2fr 1.2fr;border-bottom:1px solid var(--line)}.gates td,.gates th{border:0;padding:.3rem .2rem}
.gates td:last-child{grid-column:1/-1}.gates th:last-child{display:none}}
"""

CAPTIONS = {
    "roc": "Receiver operating characteristic",
    "precision_recall": "Precision and recall",
    "calibration": "Calibration",
    "confusion": "Confusion",
    "predicted": "Truth by prediction",
    "slices": "The metric in parts of the hold-out",
    "losses": "Losses",
    "importance": "What the metric loses where an input is shuffled",
}


def evaluation_page(
    title: str,
    *,
    metric: str,
    evidence: Evidence,
    figures: Mapping[str, float | None],
    pictures: Mapping[str, str],
    gates: Sequence[GateResult] | None = None,
) -> str:
    """The page as HTML; `pictures` are SVG of ours, all else is escaped. Without `gates` it says that no verdict has been given."""
    held = [gate for gate in gates or () if gate.verdict == "hold"]
    verdict = (
        "No verdict yet: the stage gate gives it"
        if gates is None
        else f"{len(held)} of {len(gates)} gates hold"
        if held
        else f"All {len(gates)} gates pass"
    )
    tone = "" if gates is None else "hold" if held else "pass"
    compared = (
        "no champion to compare with"
        if evidence.comparison is None
        else f"compared with version {evidence.champion} on {evidence.comparison.n_rows:,} of them"
    )
    charts = "".join(f"<figure><figcaption>{escape(CAPTIONS.get(name, name))}</figcaption>{svg}</figure>" for name, svg in pictures.items())
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f'<p class="soft">{evidence.n_rows:,} rows of the hold-out, {compared}</p><div class="verdict {tone}"><b>{verdict}</b></div>'
        f"{_gates(gates or ())}<h2>Figures</h2>{_figures(metric, evidence, figures)}{_parts(evidence)}<h2>Pictures</h2><div class=charts>{charts}</div></body></html>\n"
    )


def _gates(gates: Sequence[GateResult]) -> str:
    if not gates:
        return ""
    rows = "".join(
        f"<tr><td>{escape(gate.gate)}</td><td class={gate.verdict}>{gate.verdict}</td><td class=f>{_number(gate.figure)}</td>"
        f"<td class=f>{_number(gate.bound)}</td><td>{escape(gate.reason)}</td></tr>"
        for gate in gates
    )
    return f"<h2>Gates</h2><div class=wide><table class=gates><tr><th>Gate</th><th>Verdict</th><th class=f>Figure</th><th class=f>Bound</th><th>Why</th></tr>{rows}</table></div>"


def _figures(metric: str, evidence: Evidence, figures: Mapping[str, float | None]) -> str:
    rows = [(f"{name} (decides)" if name == metric else name, _number(value)) for name, value in figures.items()]
    if evidence.milliseconds is not None:
        rows.append(("milliseconds a row", f"{evidence.milliseconds:.3f}"))
    if evidence.n_bytes is not None:
        rows.append(("bytes of graph and transform", f"{evidence.n_bytes:,}"))
    if evidence.cost is not None:
        rows.append(("cost of the run so far", f"{evidence.cost:.4g} {escape(evidence.currency or '')}"))
    body = "".join(f"<tr><td>{escape(name)}</td><td class=f>{value}</td></tr>" for name, value in rows)
    return f"<div class=wide><table>{body}</table></div>"


def _parts(evidence: Evidence) -> str:
    asked: Mapping[str, Sequence[Measured]] = {
        "slice": evidence.slices,
        "robustness": evidence.robustness,
        "disparate impact": evidence.impact,
        "equal opportunity": evidence.opportunity,
    }
    parts = [(kind, part) for kind, found in asked.items() for part in found]
    if not parts:
        return ""
    rows = "".join(
        f"<tr><td>{kind}</td><td>{escape(part.name)}</td><td class=f>{part.n_rows:,}</td>"
        f"<td class=f>{_number(part.figure)}</td><td class=f>{_interval(part)}</td></tr>"
        for kind, part in parts
    )
    head = "<tr><th>Asked</th><th>Part</th><th class=f>Rows</th><th class=f>Figure</th><th class=f>Interval</th></tr>"
    return f"<h2>Parts, worse inputs and groups</h2><div class=wide><table>{head}{rows}</table></div>"


def _interval(part: Measured) -> str:
    return "" if part.lower is None and part.upper is None else f"{_number(part.lower)} … {_number(part.upper)}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) > 1 else f"{value + 0.0:.4f}"  # no -0.0000
