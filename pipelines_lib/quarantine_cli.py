"""The command `sluice quarantine`: what waits there, and bringing it back after a rule was corrected."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines_lib.config import Project
from pipelines_lib.contracts import ExitCode
from pipelines_lib.store import store_of
from pipelines_lib.use_case import UseCase

if TYPE_CHECKING:
    from pipelines_lib.data.tables import Tables

app = typer.Typer(no_args_is_help=True, help="Rows that broke a rule: list them, look at them, bring them back once the rule is corrected.")

UseCaseName = Annotated[str, typer.Argument(help="Name of the use case: its folder's name.")]
Partitions = Annotated[list[str] | None, typer.Option("--partition", help="Only this partition; may be repeated.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_(use_case: UseCaseName, partition: Partitions = None, as_json: AsJson = False) -> None:
    """Count the rows in quarantine by partition and reason."""
    from pipelines_lib.data.quarantine import waiting  # noqa: PLC0415

    _, tables = _open(use_case)
    found = waiting(tables, partition or None)
    if as_json:
        listed = [
            {"partition_key": w.partition_key, "n_rows": len(w.rows), "n_unreadable": len(w.unreadable), "reasons": dict(w.by_reason())}
            for w in found
        ]
        typer.echo(json.dumps(listed, indent=2, ensure_ascii=False))
        return
    for one in found:
        typer.echo(f"{one.partition_key}: {len(one.rows)} rows")
        for reason, n_rows in one.by_reason():
            typer.echo(f"  {n_rows:>8}  {reason}")
    if not found:
        typer.echo("nothing is in quarantine")


@app.command()
def show(  # noqa: PLR0917 - typer reads options from parameters
    use_case: UseCaseName,
    partition: Annotated[str, typer.Option(help="Partition key, such as 2026-01-15.")],
    reason: Annotated[str | None, typer.Option(help="Only rows with a reason that holds this text.")] = None,
    page: Annotated[int, typer.Option(min=1, help="Which page.")] = 1,
    size: Annotated[int, typer.Option(min=1, help="Rows a page.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show the rows of a partition that are in quarantine, with their reasons; personal columns are masked."""
    from pipelines_lib.data.quarantine import shown, waiting  # noqa: PLC0415

    settings, tables = _open(use_case)
    waiting(tables, [partition])
    rows = shown(tables, settings, partition, reason)
    first = (page - 1) * size
    here = rows[first : first + size]
    if as_json:
        typer.echo(json.dumps({"n_rows": len(rows), "page": page, "rows": here}, indent=2, ensure_ascii=False))
        return
    for row in here:
        typer.echo(f"{row['row_id']}  {'; '.join(row['reasons'])}\n    {json.dumps(row['raw'], ensure_ascii=False)}")
    more = f"; --page {page + 1} shows the next" if first + size < len(rows) else ""
    typer.echo(
        f"rows {first + 1} to {first + len(here)} of {len(rows)}{more}" if here else f"no rows on page {page}; there are {len(rows)}"
    )


@app.command()
def release(
    use_case: UseCaseName,
    partition: Partitions = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would come back; write nothing.")] = False,
) -> None:
    """Judge partitions again by the rules as they are now, and prepare (and score) what passes. What was ingested is taken as it is."""
    from pipelines_lib.data.quarantine import Outcome, judged_again, last_ingest, waiting  # noqa: PLC0415
    from pipelines_lib.launcher import Job  # noqa: PLC0415

    project = Project.from_environment()
    settings, tables = _open(use_case)
    held = False
    for before in waiting(tables, partition or None):
        if before.rows and before.unreadable == before.rows.keys() and not before.held:
            typer.echo(
                f"{before.partition_key}: all {len(before.rows)} rows can't be read, so no rule brings them back: mend the source and run ingest again"
            )
            continue
        would = judged_again(tables.root, settings, before.partition_key)
        if dry_run or (not partition and not would.changes):
            typer.echo(would.sentence(would=True))
            held = held or bool(would.held_because and not dry_run)
            continue
        spec, _ = last_ingest(tables.root, before.partition_key)
        profile, because = project.profile(), ""
        for name in ("validate", "prepare", *(("score",) if settings.deployment.batch else ())):
            typer.echo(f"── {before.partition_key}: {name}")
            again = spec.model_copy(update={"stage": name, "profile": profile.name, "store": profile.store})
            code = Job(again, project, profile.grace_seconds).run(typer.echo)
            if code == ExitCode.HELD:
                if name != "score":  # which is held while no version serves
                    because, held = "see above", True
                break
            if code != ExitCode.DONE:
                raise typer.Exit(code if code > 0 else 1)
        [after] = waiting(tables, [before.partition_key])
        typer.echo(Outcome(before, after, because).sentence(would=False))
    raise typer.Exit(ExitCode.HELD if held else ExitCode.DONE)


def _open(name: str) -> "tuple[UseCase, Tables]":
    from pipelines_lib.data.tables import Tables  # noqa: PLC0415

    project = Project.from_environment()
    return project.use_case(name), Tables(store_of(project.profile()) / name)
