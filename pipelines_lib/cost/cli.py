"""`sluice cost`: what runs used and cost, stage by stage, and what of it was lost to failed tries."""

import json
from collections.abc import Callable, Iterable

from pydantic import JsonValue

from pipelines_lib import cost
from pipelines_lib.config import Prices, Project
from pipelines_lib.contracts import Pipeline, run_dir
from pipelines_lib.cost import Bill
from pipelines_lib.errors import BadInput
from pipelines_lib.store import StorePath, opened, store_of


def show(project: Project, use_case: str, pipeline: Pipeline, run_id: str | None, *, as_json: bool, echo: Callable[[str], None]) -> None:
    """Print the bill of a run; of the newest one when none is named. Raises `BadInput` where there is none."""
    settings, profile = project.use_case(use_case), project.profile()
    if run_id is not None:
        run: StorePath | None = opened(run_dir(profile.store, use_case, pipeline, run_id), project)
    else:
        run = cost.newest_run(store_of(profile) / use_case, pipeline)
    bills = {} if run is None else cost.of_run(run, profile.prices)
    if run is None or not bills:
        named = f"the run {run_id!r}" if run_id is not None else "a run"
        raise BadInput(
            f"nothing is known of {named} of {use_case}'s {pipeline}: none of its stages has begun in {profile.store}; name another"
        )
    together = sum(bills.values(), Bill())
    if as_json:
        document: dict[str, JsonValue] = {
            "run": run.name,
            "stages": {stage: bill.document() for stage, bill in bills.items()},
            "together": together.document(),
            "budget": settings.budget,
            "cloud": profile.cloud,
            "currencies": {cloud: prices.currency for cloud, prices in profile.prices.items()},
        }
        echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    echo(f"{use_case} {pipeline}, run {run.name}")
    for line in _table(bills, together, profile.prices):
        echo(line)
    if settings.budget is not None and profile.cloud is not None and pipeline == Pipeline.TRAINING:
        currency = profile.prices[profile.cloud].currency
        echo(f"budget: {together.cost[profile.cloud]:.4g} of {settings.budget:g} {currency} ({profile.cloud})")
    if not profile.prices:
        echo(f"no prices: profile {profile.name} has none under `prices`")


def _table(bills: dict[str, Bill], together: Bill, prices: dict[str, Prices]) -> list[str]:
    head = ["stage", "seconds", "CPU s", "GPU s", "memory GiB s", *(f"{cloud} {table.currency}" for cloud, table in prices.items())]
    head += ["wasted s", *(f"wasted {cloud}" for cloud in prices)]
    rows = [head, *(_row(stage, bill, prices) for stage, bill in bills.items()), _row("together", together, prices)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return ["  ".join(_cells(row, widths)).rstrip() for row in rows]


def _row(name: str, bill: Bill, prices: Iterable[str]) -> list[str]:
    used = (bill.seconds, bill.cpu_seconds, bill.gpu_seconds, bill.memory_gib_seconds)
    return [
        name,
        *(f"{value:,.1f}" for value in used),
        *(f"{bill.cost[cloud]:.3g}" for cloud in prices),
        f"{bill.wasted_seconds:,.1f}",
        *(f"{bill.wasted[cloud]:.3g}" for cloud in prices),
    ]


def _cells(row: list[str], widths: list[int]) -> Iterable[str]:
    """The name to the left, numbers to the right."""
    return (cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(zip(row, widths, strict=True)))
