"""The data-quality page of a partition: one self-contained HTML file. It shows no value of a column that carries a privacy role."""

from html import escape

from pipelines_lib.data.quality.findings import Findings
from pipelines_lib.data.quality.rejections import such_as

_STYLE = """
:root { color-scheme: light dark; --line: #8885; --bad: #c62828; --good: #2e7d32 }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100%; margin: 1rem 0 }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top }
td:first-child, code { overflow-wrap: anywhere }
th { white-space: nowrap }
td.n { text-align: right; font-variant-numeric: tabular-nums }
.pass { color: var(--good) } .hold { color: var(--bad) } code { font-size: .9em }
"""


def quality_page(*, use_case: str, partition_key: str, findings: Findings, notes: list[str], data_docs: str | None = None) -> str:
    """The page as HTML; `notes` are further figures, one a line, and `data_docs` the address of Great Expectations' own page.

    Every name is escaped: expectations, columns and values are others' input.
    """
    held, n_rows = findings.held_because, findings.n_rows
    rows = [
        f"<tr><td>{escape(reason.name)}</td><td class=n>{reason.n_rows:,}</td><td><code>{escape(such_as(reason.examples))}</code></td></tr>"
        for reason in findings.reasons
    ]
    judged = [
        f"<tr><td>{escape(check.name)}</td><td class={'pass' if check.success else 'hold'}>{'met' if check.success else 'not met'}</td>"
        f"<td>{'each row' if check.of_rows else 'the partition'}</td><td>{escape(check.observed) or f'{check.n_failed:,} of {check.n_checked:,} rows'}</td></tr>"
        for check in findings.checks
    ]
    changed = [
        f"<tr><td>{escape(change.kind)}</td><td>{escape(change.column)}</td><td class={'hold' if change.holds else 'pass'}>{escape(change.said)}</td></tr>"
        for change in findings.changes
    ]
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Data quality: {escape(use_case)} {escape(partition_key)}</title><style>{_STYLE}</style>
<h1>Data quality: {escape(use_case)}, {escape(partition_key)}</h1>
<p class={"hold" if held else "pass"}><strong>{"Held" if held else "Passed"}</strong>{": " + escape(held) if held else ""}</p>
<p>{n_rows:,} rows, {findings.n_quarantined:,} of them in quarantine{f" ({findings.share:.1%})" if n_rows else ""}.</p>
{"".join(f"<p>{escape(note)}</p>" for note in notes)}
<h2>Why rows are in quarantine</h2>
{_table("Reason", "Rows", "For example", body=rows, otherwise="No row is in quarantine.")}
<h2>Expectations</h2>
{_table("Expectation", "Verdict", "Judges", "Found", body=judged, otherwise="The use case states none.")}
{f'<p><a href="{escape(data_docs)}">Data Docs of Great Expectations</a></p>' if data_docs else ""}
<h2>What the source changed</h2>
{_table("Change", "Column", "What is done", body=changed, otherwise="Its columns are those that the use case declares.")}
</html>
"""


def _table(*heads: str, body: list[str], otherwise: str) -> str:
    if not body:
        return f"<p>{otherwise}</p>"
    return f"<table><thead><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr></thead><tbody>{''.join(body)}</tbody></table>"
