"""The README.md beside a new use case: what, data, target, owner, and what to look at first."""

from collections.abc import Iterator

from pipelines_lib.scaffold.plan import Plan
from pipelines_lib.scaffold.yaml_text import quoted


def readme(plan: Plan, *, name: str, title: str, data: str) -> str:
    """The text; it names columns and counts, never a row's values."""
    return "\n".join(_lines(plan, name, title, data)) + "\n"


def _lines(plan: Plan, name: str, title: str, data: str) -> Iterator[str]:
    goal, survey = plan.goal, plan.survey
    features = [column for column, use in plan.uses.items() if use.role == "feature"]
    yield f"# {title}"
    yield ""
    yield "Say here what is decided with the prediction, and by whom."
    yield ""
    yield f"- **Data:** {_code(quoted(data))}, {survey.n_rows:,} rows × {len(survey.columns)} columns, replayed as {plan.sizes.partitions} daily partitions."
    yield f"- **Target:** {_code(goal.facts.name)}, {goal.task} ({goal.why_task})."
    yield f"- **Features:** {len(features)}, from {_code(features[0])} to {_code(features[-1])}."
    yield f"- **Judged by:** {goal.metric} on rows held out ({plan.split_by}); a model with less than {goal.floor} does not serve."
    yield "- **Owner:** unassigned. Write yourself into `use_case.yaml`."
    yield ""
    yield "## Try it"
    yield ""
    yield "```bash"
    yield f"sluice check {name}"
    yield f"sluice run {name} data --partition 2026-01-01     # one partition by hand; in Airflow: {name}__data"
    yield f"sluice run {name} training --partition 2026-01-14 # after the partitions of the window"
    yield "```"
    if plan.notes:
        yield ""
        yield "## Look at these first"
        yield ""
        yield from (f"- {note}" for note in plan.notes)


def _code(text: str) -> str:
    """Inline code, whatever backticks the text has."""
    return f"`{text}`" if "`" not in text else f"`` {text} ``"
