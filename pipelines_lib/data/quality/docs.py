"""Great Expectations' Data Docs of a partition, as one page that opens anywhere.

GX renders the results; what stands around them is ours. GX's own frame fetches style sheets and scripts from seven places on the
internet, which a page in a store should not need and the Sluice page refuses.
"""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from pipelines_lib.data.quality.gx import great_expectations
from pipelines_lib.data.quality.judge import Check


def data_docs(title: str, partition_key: str, checks: Sequence[Check]) -> str:
    """The page as HTML. The same findings give the same bytes."""
    great_expectations()
    from great_expectations.core.expectation_validation_result import (  # noqa: PLC0415
        ExpectationSuiteValidationResult,
        ExpectationValidationResult,
    )
    from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer  # noqa: PLC0415
    from great_expectations.render.view import DefaultJinjaPageView  # noqa: PLC0415
    from great_expectations.validator.validator import calc_validation_statistics  # noqa: PLC0415
    from jinja2 import ChoiceLoader, DictLoader  # noqa: PLC0415

    results = [
        ExpectationValidationResult(
            success=check.success,
            expectation_config=check.result.expectation_config,
            result=_plain(_shown(check.result.result)),
        )
        for check in checks
    ]
    statistics = calc_validation_statistics(results)
    suite = ExpectationSuiteValidationResult(
        success=bool(statistics.success),
        results=results,
        suite_name="quality",
        statistics={name: getattr(statistics, name) for name in _STATISTICS},
        meta={"run_id": {"run_name": partition_key, "run_time": ""}},
    )
    view = DefaultJinjaPageView()
    view.env.loader = ChoiceLoader([DictLoader(_TEMPLATES), view.env.loader])
    # GX's are random.
    view.env.filters["generate_html_element_uuid"] = str
    document = ValidationResultsPageRenderer().render(suite)
    # Of the overview the statistics alone: the rest links into a site that is not there.
    overview = document.sections[0]
    overview.content_blocks = overview.content_blocks[1:2]
    page: str = view.render(document, heading=f"{title}, {partition_key}")
    return "\n".join(line.rstrip() for line in page.splitlines() if line.strip()) + "\n"


def _shown(result: dict[str, Any]) -> dict[str, Any]:
    """Of distinct values GX counts the unexpected ones and gives no share, which its own renderer asks for wherever it sees a count."""
    return {**result, "unexpected_count": 0} if "unexpected_count" in result and "unexpected_percent" not in result else result


def _plain(value: Any) -> Any:
    """A result as GX's renderers need it: numbers of Python's, not numpy's, and texts escaped, since they put them in as they are."""
    match value:
        case dict():
            return {_plain(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case np.generic():
            return _plain(value.item())
        case None | bool() | int() | float():
            return value
        case _:
            return escape(str(value))


_STATISTICS = ("evaluated_expectations", "successful_expectations", "unsuccessful_expectations", "success_percent")

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Data Docs: {{ heading | e }}</title><style>
:root { color-scheme: light dark; --line: #8885; --bad: #c62828; --good: #2e7d32 }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem }
nav ul { display: flex; flex-wrap: wrap; gap: 0 1.2rem; padding: 0; list-style: none }
.ge-section { border-top: 2px solid var(--line); margin-top: 1.5rem; padding-top: .5rem }
h5 { font-size: 1.1rem; margin: .4rem 0 } h6 { font-size: .95rem; margin: .2rem 0 }
table { border-collapse: collapse; width: 100%; margin: .6rem 0 }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; overflow-wrap: anywhere }
td table { margin: 0 } [hidden] { display: none } summary { cursor: pointer }
.badge { border: 1px solid var(--line); border-radius: 4px; padding: 0 .3rem; font-size: .9em }
i.text-success::before { content: "✓"; color: var(--good); font-style: normal; font-weight: 700 }
i.text-danger::before { content: "✗"; color: var(--bad); font-style: normal; font-weight: 700 }
i.text-warning::before { content: "!"; font-style: normal; font-weight: 700 }
</style></head><body>
<h1>Data Docs: {{ heading | e }}</h1>
<nav><ul>{% for section in sections %}<li><a href="#section-{{ loop.index }}">{{ section['section_name'] | e }}</a></li>{% endfor %}</ul></nav>
<main>{% for section in sections %}{% set section_loop = loop -%}{% include 'section.j2' %}{% endfor %}</main>
</body></html>
"""

_COLLAPSE = """<details id="{{ content_block_id }}-parent">
<summary>{{ content_block.get("collapse_toggle_link", "Show more…") | render_content_block }}</summary>
{% include 'content_block_header.j2' %}
{% for block in content_block["collapse"] %}
{{ block | render_content_block(content_block_id=content_block_id ~ "-collapse-item-" ~ loop.index) }}
{% endfor %}
</details>
"""

# What GX draws and folds with scripts of others.
_TEMPLATES = {"page.j2": _PAGE, "collapse.j2": _COLLAPSE, "graph.j2": ""}
