"""The data-quality page of a partition: one self-contained HTML file with counts, reasons and row numbers, never a value."""

from html import escape

from pipelines_lib.data.quality import Check, by_reason

_EXAMPLES = 5
_STYLE = """
:root { color-scheme: light dark; --line: #8885; --bad: #c62828; --good: #2e7d32 }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100%; margin: 1rem 0 }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top }
td.n { text-align: right; font-variant-numeric: tabular-nums }
.pass { color: var(--good) } .hold { color: var(--bad) } code { font-size: .9em }
"""


def quality_page(
    *, use_case: str, partition_key: str, n_rows: int, held_because: str, reasons: dict[str, set[str]], checks: list[Check]
) -> str:
    """The page as HTML. Every name is escaped: expectations and columns are user input."""
    verdict = "hold" if held_because else "pass"
    rows = [
        f"<tr><td>{escape(reason)}</td><td class=n>{len(ids)}</td><td><code>{escape(', '.join(ids[:_EXAMPLES]))}</code></td></tr>"
        for reason, ids in by_reason(reasons)
    ]
    judged = [
        f"<tr><td>{escape(check.name)}</td><td class={'pass' if check.success else 'hold'}>{'met' if check.success else 'not met'}</td>"
        f"<td>{'each row' if check.of_rows else 'the partition'}</td><td>{escape(check.observed) or f'{len(check.rows)} rows'}</td></tr>"
        for check in checks
    ]
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Data quality: {escape(use_case)} {escape(partition_key)}</title><style>{_STYLE}</style>
<h1>Data quality: {escape(use_case)}, {escape(partition_key)}</h1>
<p class={verdict}><strong>{"Held" if held_because else "Passed"}</strong>{": " + escape(held_because) if held_because else ""}</p>
<p>{n_rows} rows, {len(reasons)} of them in quarantine{f" ({len(reasons) / n_rows:.1%})" if n_rows else ""}.</p>
<h2>Why rows are in quarantine</h2>
{_table("Reason", "Rows", "For example", body=rows, otherwise="No row is in quarantine.")}
<h2>Expectations</h2>
{_table("Expectation", "Verdict", "Judges", "Found", body=judged, otherwise="The use case states none.")}
</html>
"""


def _table(*heads: str, body: list[str], otherwise: str) -> str:
    if not body:
        return f"<p>{otherwise}</p>"
    return f"<table><thead><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr></thead><tbody>{''.join(body)}</tbody></table>"
