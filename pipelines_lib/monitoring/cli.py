"""The command `sluice monitor`: try the governor's settings on what was recorded, and hand the figures to a dashboard."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from pydantic import ValidationError

from pipelines_lib.config import Profile, Project
from pipelines_lib.contracts import Pipeline
from pipelines_lib.errors import BadInput
from pipelines_lib.store import StorePath, store_of, write_text
from pipelines_lib.use_case import Monitoring

if TYPE_CHECKING:
    from pipelines_lib.monitoring.replay import Step

app = typer.Typer(no_args_is_help=True, help="Drift and retraining: try the governor's settings on recorded history.")


@app.command()
def replay(
    use_case: Annotated[str, typer.Argument(help="Name of the use case: its folder's name.")],
    settings: Annotated[list[str] | None, typer.Option("--set", help="A setting of `monitoring`, as name=value; may be repeated.")] = None,
    since: Annotated[str | None, typer.Option(help="The first partition; the first that was measured when absent.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what the governor would have decided on each measured partition, under other settings; nothing is written or fired."""
    from pipelines_lib.data.tables import Tables  # noqa: PLC0415
    from pipelines_lib.monitoring import history  # noqa: PLC0415
    from pipelines_lib.monitoring.replay import replay as steps_of  # noqa: PLC0415

    project = Project.from_environment()
    case, profile = project.use_case(use_case), project.profile()
    tried = _changed(case.monitoring, settings or [])
    root = store_of(profile) / use_case
    tables = Tables(root)
    keys = [key for key in tables.partitions("drift") if since is None or key >= since]
    if not keys:
        raise BadInput(f"no partition of {use_case} was measured{f' since {since}' if since else ''}; run its monitoring first")
    windows = history.windows(tables, case.model_copy(update={"monitoring": tried}), keys)
    recorded = {key: found for key in keys if (found := history.recorded(root, key)) is not None}
    cost, currency = _price_of_a_training(root, profile)
    steps = steps_of(windows, case, tried, recorded, cost=cost)
    if as_json:
        typer.echo(json.dumps(_document(steps, cost, currency), indent=2, ensure_ascii=False))
        return
    for line in _table(steps):
        typer.echo(line)
    typer.echo(_summary(steps, cost, currency))


@app.command()
def metrics(
    out: Annotated[
        Path | None,
        typer.Option(help="A file that is replaced whole, such as one for node_exporter's textfile collector; the terminal when absent."),
    ] = None,
) -> None:
    """Print the newest partition's figures of every use case in Prometheus' text format."""
    from pipelines_lib.exposition import exposition, statuses  # noqa: PLC0415

    project = Project.from_environment()
    store = store_of(project.profile())
    good, _ = project.use_cases_or_errors()
    text = exposition([(case, statuses(store / case.name)) for case in good])
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_text(out, text)


def _changed(settings: Monitoring, changes: Sequence[str]) -> Monitoring:
    """The settings with `name=value` changed. Raises `BadInput`."""
    given: dict[str, Any] = settings.model_dump(mode="json")
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals or name not in given:
            raise BadInput(f"--set {change!r}: write name=value, such as --set need=3; the names are {', '.join(given)}")
        given[name] = yaml.safe_load(value)
    try:
        changed = Monitoring.model_validate(given)
    except ValidationError as error:
        raise BadInput("; ".join(f"--set {'.'.join(map(str, e['loc']))}: {e['msg']}; change the value" for e in error.errors())) from error
    if changed.psi < settings.psi:
        raise BadInput(
            f"--set psi={changed.psi:g}: the columns were judged with psi {settings.psi:g}, and which others reach less was not kept; "
            "raise it, or lower it in use_case.yaml and run `measure` of these partitions again"
        )
    return changed


def _price_of_a_training(root: StorePath, profile: Profile) -> tuple[float, str]:
    """(what the use case's trainings cost on average, the currency), in the profile's cloud; 0 where it names none."""
    from pipelines_lib import cost  # noqa: PLC0415

    if profile.cloud is None:
        return 0.0, ""
    prices = {profile.cloud: profile.prices[profile.cloud]}
    bills = [
        sum(bill.cost[profile.cloud] for bill in cost.of_run(run, prices).values()) for run in (root / "runs" / Pipeline.TRAINING).glob("*")
    ]
    paid = [bill for bill in bills if bill > 0]
    return sum(paid) / len(paid) if paid else 0.0, prices[profile.cloud].currency


def _table(steps: Sequence["Step"]) -> list[str]:
    rows = [("partition", "rows", "model", "drifted", "lost", "decision", "then", "reason")]
    for step in steps:
        window = step.window
        rows.append(
            (
                window.partition_key,
                f"{window.n_rows:,}",
                f"v{window.model_version}",
                f"{window.n_drifted}/{window.n_inputs}{' + answers' if window.prediction_drifted else ''}",
                "" if window.loss is None else f"{window.loss.share:.1%}",
                step.decision.action,
                step.recorded or "",
                step.decision.reason,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows]


def _summary(steps: Sequence["Step"], cost: float, currency: str) -> str:
    count = {action: sum(step.decision.action == action for step in steps) for action in ("retrain", "alert", "hold")}
    then = sum(step.recorded == "retrain" for step in steps)
    price = f", about {count['retrain'] * cost:.3g} {currency} at {cost:.3g} a training" if currency and cost else ""
    return (
        f"{count['retrain']} retrainings (then: {then}){price}; {count['alert']} alerts, {count['hold']} holds in {len(steps)} partitions. "
        "After a retraining that history does not have, the figures are still those of the model that served."
    )


def _document(steps: Sequence["Step"], cost: float, currency: str) -> dict[str, Any]:
    return {
        "partitions": [
            {
                "partition_key": step.window.partition_key,
                "decision": step.decision.action,
                "recorded": step.recorded,
                "reason": step.decision.reason,
                "figures": step.decision.figures,
            }
            for step in steps
        ],
        "retrainings": sum(step.decision.action == "retrain" for step in steps),
        "cost_of_a_training": cost,
        "currency": currency,
    }
