"""The plan as the text of a `use_case.yaml`: every setting with the reason beside it."""

from collections.abc import Iterator
from typing import Any

from pipelines_lib.scaffold.people import suggestion
from pipelines_lib.scaffold.plan import Plan
from pipelines_lib.scaffold.survey import Facts
from pipelines_lib.scaffold.yaml_text import comment, flow, quoted, scalar
from pipelines_lib.use_case import Csv


def settings_text(plan: Plan, *, name: str, title: str, data: str) -> str:
    """`data` is the file's path as the use case will read it."""
    blocks = [
        _head(plan, name, title, data),
        _schedule(),
        _source(plan, data),
        _columns(plan),
        _quality(plan),
        _clean(plan),
        _label(plan),
        _split(plan),
        _training(plan),
        _gate(plan),
        _monitoring(plan),
    ]
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _head(plan: Plan, name: str, title: str, data: str) -> Iterator[str]:
    survey = plan.survey
    yield f"# Written by `sluice new`; inferred from {quoted(data)} ({survey.n_rows:,} rows, {len(survey.columns)} columns)."
    yield f"# Everything here is yours to change; `sluice check {name}` says what is wrong, `pipelines_lib/use_case/` what each setting means."
    yield ""
    yield f"name: {name}"
    yield f"title: {scalar(title)}"
    yield f"description: {quoted(f'Predicts {plan.goal.facts.source} from the other columns of the file.')}"
    yield "owner: unassigned  # who is asked when a run fails: a name, a team, an address"
    yield f"task: {plan.goal.task}{comment(plan.goal.why_task)}"
    yield "partition: day"
    yield "start: 2026-01-01  # the first partition; the file's rows are played back from here"


def _schedule() -> Iterator[str]:
    yield "schedule:  # cron, in UTC; null leaves the DAG to manual runs, backfills and triggers"
    yield '  data: "0 2 * * *"'
    yield '  training: "0 4 * * 1"'
    yield '  monitoring: "0 6 * * *"'


def _csv(csv: Csv) -> dict[str, Any]:
    """What is not the usual, or could not be detected again."""
    written: dict[str, Any] = {}
    if csv.encoding not in ("utf-8", "utf-8-sig"):
        written["encoding"] = csv.encoding
    if csv.delimiter != ",":
        written["delimiter"] = csv.delimiter
    if csv.skip:
        written["skip"] = csv.skip
    if not csv.header:
        written["header"] = False
    return written


def _source(plan: Plan, data: str) -> Iterator[str]:
    csv = plan.survey.csv
    yield "source:"
    yield f"  path: {quoted(data)}"
    if csv is not None and (written := _csv(csv)):
        yield f"  csv: {flow(written)}" + ("" if csv.header else "  # without a header, the file's columns are called c0, c1, …")
    yield "  # One finished file, played back as so many partitions. For one file a partition, write {partition} into the path and remove `replay`."
    seed = "null}  # in the file's order, which follows its time" if plan.in_order else "0}  # shuffled; null keeps the file's order"
    yield f"  replay: {{partitions: {plan.sizes.partitions}, seed: {seed}"


def _columns(plan: Plan) -> Iterator[str]:
    yield "# Without a role, a column is a feature. Roles: key (names the row), entity (whose row it is), time, label, other (kept, not used)."
    yield "columns:"
    for column in plan.columns:
        why = "; ".join(part for part in (_why(plan, column), suggestion(column)) if part)
        yield f"  {scalar(column.name)}: {flow(_column(plan, column))}{comment(why)}"


def _column(plan: Plan, column: Facts) -> dict[str, Any]:
    role = plan.uses[column.name].role
    written: dict[str, Any] = {"type": column.type}
    if role != "feature":
        written["role"] = role
    if column.source != column.name:
        written["source"] = column.source
    if column.n_missing == 0 and column.n_unfit == 0:
        written["nullable"] = False
    return written


def _why(plan: Plan, column: Facts) -> str:
    use = plan.uses[column.name]
    if use.role == "feature" and column.type == "string":
        return f"{column.n_distinct} categories"
    if column.n_unfit and use.role != "other":
        return f"{column.n_unfit} values of the file are no {column.type}"
    return use.why


def _quality(plan: Plan) -> Iterator[str]:
    yield "quality:"
    yield "  max_quarantined: 0.05  # share of a partition's rows that may be rejected before the whole partition is held"
    yield "  # Great Expectations' own names and arguments. A row that fails one goes to quarantine; one about the table, or with `mostly`, holds the partition."
    yield "  expectations:"
    for name, arguments, why in plan.expectations:
        yield f"    - {name}: {flow(arguments)}{comment(why)}"


def _clean(plan: Plan) -> Iterator[str]:
    steps = []
    if key := plan.named("key"):
        steps.append(f"  - deduplicate: {flow([key])}")
    markers = {c.name: c.words_to_missing for c in plan.columns if c.words_to_missing and plan.uses[c.name].role != "other"}
    if markers:
        steps.append(f"  - to_missing: {flow(markers)}  # words that stand for a missing value")
    suspected = [f'# {name}: {value} may mean "missing" ({why})' for name, (value, why) in plan.suspects.items()]
    suggestion = f"- to_missing: {flow({name: [value] for name, (value, _) in plan.suspects.items()})}"
    if steps:
        yield "clean:"
        yield from steps
        yield from (f"  {line}" for line in ([*suspected, f"# {suggestion}"] if suspected else []))
    elif suspected:
        yield from suspected
        yield from ("# clean:  # in place of the line below", f"#   {suggestion}", "clean: []")
    else:
        yield "clean: []"


def _label(plan: Plan) -> Iterator[str]:
    goal = plan.goal
    yield "label:"
    yield f"  column: {scalar(goal.facts.name)}"
    if goal.positive is not None:
        other = next(text for text in goal.facts.counts if text != goal.positive)
        yield f"  positive: {quoted(goal.positive)}  # the class whose probability is predicted"
        yield f"  # map: {{{quoted(other)}: negative, {quoted(goal.positive)}: positive}}  # gives classes other names; `positive` is then one of these"
    yield "  horizon: 0  # partitions that pass before the label is known"


def _split(plan: Plan) -> Iterator[str]:
    why = {
        "entity": "all rows of one entity fall on one side",
        "time": "the newest partitions judge, since the rows follow time",
        "row": "each row by its own hash; `entity` where several rows belong to one",
    }
    yield "split:"
    yield f"  by: {plan.split_by}  # {why[plan.split_by]}"
    yield "  validation: 0.15  # stops the training early"
    yield "  test: 0.2  # judges"


def _training(plan: Plan) -> Iterator[str]:
    size = plan.sizes
    yield "training:"
    yield f"  window: {size.partitions}  # partitions, the newest last"
    yield "  workers: 2  # processes that train together"
    yield f"  epochs: {size.epochs}  # at most"
    yield f"  patience: {size.patience}  # epochs without a better validation loss before training stops"
    yield f"  batch_size: {size.batch_size}"
    yield f"  learning_rate: {scalar(size.learning_rate)}"
    yield "  schedule: cosine  # it rises at first, and falls to nothing by the last epoch"
    yield f"  clip_norm: {scalar(size.clip_norm)}  # largest norm of a step's gradient"
    yield f"  weight_decay: {scalar(size.weight_decay)}"
    yield "  model:"
    yield f"    hidden: {flow(size.hidden)}  # widths of the hidden layers"
    yield f"    embedding: {size.embedding}  # width of a category's embedding; text gets eight times as much"
    yield f"    dropout: {scalar(size.dropout)}"
    yield f"    pieces: {size.pieces}  # into which a number's range is cut, so that the model can bend there"
    yield f"    members: {size.members}  # networks that share most of their weights, and whose mean answers; each costs as much time as one"


def _gate(plan: Plan) -> Iterator[str]:
    goal = plan.goal
    yield "gate:"
    yield f"  metric: {goal.metric}"
    yield f"  floor: {scalar(goal.floor)}{comment(goal.why_floor)}"
    yield f"  min_rows: {plan.sizes.gate_min_rows}  # rows the hold-out must have for a verdict"


def _monitoring(plan: Plan) -> Iterator[str]:
    yield "monitoring:"
    yield f"  min_rows: {plan.sizes.monitoring_min_rows}  # rows a partition needs before its figures count"
