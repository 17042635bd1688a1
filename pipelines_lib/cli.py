"""The command `sluice`. Each subcommand imports what it needs when it runs, so that `--help` is quick."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import JsonValue

from pipelines_lib import quarantine_cli
from pipelines_lib.config import Project
from pipelines_lib.contracts import EXTRA_STAGES, TUNE, ExitCode, JobSpec, Params, Pipeline, stages_of
from pipelines_lib.errors import BadInput, SluiceError
from pipelines_lib.monitoring import cli as monitoring_cli
from pipelines_lib.store import in_order, opened, read_json, store_of

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="From raw data to a monitored model and back to retraining.",
)

label_app = typer.Typer(no_args_is_help=True, help="Ask people for labels: export tasks for Label Studio, import its answers.")
app.add_typer(label_app, name="label")
app.add_typer(quarantine_cli.app, name="quarantine")
app.add_typer(monitoring_cli.app, name="monitor")

UseCaseName = Annotated[str, typer.Argument(help="Name of the use case: its folder's name.")]
PartitionKey = Annotated[str, typer.Option("--partition", help="Partition key, such as 2026-01-15.")]


def main() -> None:
    """Entry point: what a user can cause ends as one sentence and a non-zero exit code, never as a traceback."""
    try:
        app()
    except SluiceError as error:
        _fail(str(error), ExitCode.BAD_INPUT if isinstance(error, BadInput) else 1)
    except KeyboardInterrupt:
        _fail("stopped", 130)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"sluice: {message}", err=True)
    sys.exit(code)


@app.command()
def new(
    name: UseCaseName,
    data: Annotated[Path, typer.Option(help="A data file to start from: CSV, JSON lines or Parquet, packed or not.")],
    target: Annotated[str, typer.Option(help="The column to predict: its name, or its number from 1 where the file has no header.")],
) -> None:
    """Write a use case's folder with settings inferred from a data file."""
    from pipelines_lib.scaffold import scaffold  # noqa: PLC0415

    project = Project.from_environment()
    folder = scaffold(project, name, data, target, typer.echo)
    typer.echo(
        f"wrote {folder}\nNext: read and edit {folder / 'use_case.yaml'}, then `sluice check {name}` and `sluice up`, and switch its DAGs on in Airflow"
    )


@app.command()
def check(names: Annotated[list[str] | None, typer.Argument(help="Use cases to check; all when none is named.")] = None) -> None:
    """Check use cases (settings, columns against the data file, expectations against Great Expectations), and a profile whose stages are pods."""
    from pipelines_lib.check import check_use_case  # noqa: PLC0415
    from pipelines_lib.check_cluster import check_profile  # noqa: PLC0415
    from pipelines_lib.check_sources import not_checked  # noqa: PLC0415

    project = Project.from_environment()
    wrong = 0
    if (problems := check_profile(project)) is not None:
        wrong += bool(problems)
        typer.echo(f"{'✗' if problems else '✓'} profile {project.profile_name}" + "".join(f"\n{problem}" for problem in problems))
    for name in names or project.use_case_names():
        problems = check_use_case(project, name)
        wrong += bool(problems)
        typer.echo(f"{'✗' if problems else '✓'} {name}" + "".join(f"\n{problem}" for problem in problems))
        for what in not_checked(project, name):
            typer.echo(f"    not checked: {what}")
    raise typer.Exit(ExitCode.BAD_INPUT if wrong else 0)


@app.command()
def run(  # noqa: PLR0917 - typer reads options from parameters
    use_case: UseCaseName,
    pipeline: Annotated[Pipeline, typer.Argument(help="Which pipeline.")],
    partition: PartitionKey,
    stage: Annotated[str | None, typer.Option(help="Only this stage.")] = None,
    run_id: Annotated[str | None, typer.Option(help="Name of the run; by_hand__<partition> when absent.")] = None,
    param: Annotated[list[str] | None, typer.Option(help="A parameter of the run, as name=JSON; may be repeated.")] = None,
) -> None:
    """Run a pipeline, or one stage of it, by hand: the same stages as in Airflow, without Airflow."""
    from pipelines_lib.launcher import Job  # noqa: PLC0415

    project = Project.from_environment()
    settings, profile = project.use_case(use_case), project.profile()
    settings.partition_time(partition)
    params = _params(param or [])
    Params.checked(params)
    stages = stages_of(pipeline, tuned=settings.tuning is not None, asked=settings.deployment.stages)
    if stage is not None and stage not in (known := (*stages, *EXTRA_STAGES[pipeline])):
        raise BadInput(f"{pipeline} has no stage {stage!r}; its stages are {', '.join(known)}")
    for name in stages if stage is None else (stage,):
        spec = JobSpec(
            stage=name,
            pipeline=pipeline,
            use_case=use_case,
            partition_key=partition,
            run_id=run_id or f"by_hand__{partition}",
            profile=profile.name,
            store=profile.store,
            workers=settings.training.workers if name in ("train", TUNE) else 1,
            shards=settings.tuning.trials if name == TUNE and settings.tuning is not None else settings.shards,
            params=params,
        )
        for part in spec.in_shards():
            typer.echo(
                f"── {name}" + ("" if part.shard is None else f", {'trial' if name == TUNE else 'shard'} {part.shard + 1} of {part.shards}")
            )
            code = Job(part, project, profile.grace_seconds).run(typer.echo)
            if code != ExitCode.DONE:
                raise typer.Exit(code if code > 0 else 1)
        if name == "decide" and read_json(opened(f"{spec.stage_dir}/result.json", project))["outputs"]["action"] == "retrain":  # type: ignore[index,call-overload]
            typer.echo(f"by hand no training is started; `sluice run {use_case} training --partition {partition}` starts it")


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show the health of each use case, and which services run."""
    from pipelines_lib.local.services import running  # noqa: PLC0415

    project = Project.from_environment()
    store = store_of(project.profile())
    records = sorted((project.home / "services").glob("*.json"))
    services = {r.stem: json.loads(r.read_text(encoding="utf-8")).get("url") or "running" for r in records if running(project, r.stem)}
    use_cases: dict[str, dict[str, Any]] = {
        name: {p.stem: read_json(p) for p in in_order((store / name / "status").glob("*.json"))} for name in project.use_case_names()
    }
    if as_json:
        typer.echo(json.dumps({"services": services, "use_cases": use_cases}, indent=2, ensure_ascii=False, sort_keys=True))
        return
    typer.echo("services: " + (", ".join(f"{k} ({v})" for k, v in services.items()) or "none run; `make demo` or `sluice up` starts them"))
    for name, parts in use_cases.items():
        typer.echo(f"\n{name}" + ("" if parts else "\n  nothing has run yet"))
        for part, state in parts.items():
            version = f"version {state['model_version']}" if "model_version" in state else None
            facts = (version, *(state.get(key) for key in ("verdict", "decision", "partition_key", "url", "reason")))
            typer.echo(f"  {part:<11}" + " · ".join(str(fact) for fact in facts if fact not in (None, "")))


@app.command()
def cost(
    use_case: UseCaseName,
    run_id: Annotated[str | None, typer.Option("--run", help="Name of the run; the newest when absent.")] = None,
    pipeline: Annotated[Pipeline, typer.Option(help="Which pipeline.")] = Pipeline.TRAINING,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a run used and cost, stage by stage, and what of it was lost to failed tries."""
    from pipelines_lib.cost import cli as cost_cli  # noqa: PLC0415

    cost_cli.show(Project.from_environment(), use_case, pipeline, run_id, as_json=as_json, echo=typer.echo)


@label_app.command("export")
def label_export(
    use_case: UseCaseName,
    out: Annotated[Path, typer.Option(help="The file to write; the labelling configuration goes beside it.")],
    partition: Annotated[list[str] | None, typer.Option(help="Only this partition; may be repeated.")] = None,
) -> None:
    """Write the rows that wait for review as tasks for Label Studio."""
    from pipelines_lib.data.review import export  # noqa: PLC0415

    project = Project.from_environment()
    settings = project.use_case(use_case)
    n_tasks, config = export(store_of(project.profile()) / use_case, settings, partition, out)
    typer.echo(
        f"wrote {n_tasks} tasks to {out}, and {config}\nNext: make a project in Label Studio with that configuration, import the tasks"
    )


@label_app.command("import")
def label_import(use_case: UseCaseName, answers: Annotated[Path, typer.Argument(help="What Label Studio exported as JSON.")]) -> None:
    """Take in what people said, and label the partitions again that it is about."""
    from pipelines_lib.data.review import deliver  # noqa: PLC0415

    project = Project.from_environment()
    partitions = deliver(answers, store_of(project.profile()) / use_case, project.use_case(use_case))
    run(use_case, Pipeline.DATA, partitions[0], stage="relabel")


@app.command()
def serve(use_case: UseCaseName) -> None:
    """See that the service of a use case's champion runs, for instance after the machine was restarted."""
    from pipelines_lib.serving.place import place_of  # noqa: PLC0415
    from pipelines_lib.serving.pointer import pointer_path  # noqa: PLC0415

    project = Project.from_environment()
    settings, root = project.use_case(use_case), store_of(project.profile()) / use_case
    if not pointer_path(root).exists():
        raise BadInput(f"nothing of {use_case} is deployed yet, so there is nothing to serve; run its training first")
    typer.echo(f"{use_case} answers at {place_of(settings, project, project.profile(), root).put_up(candidate=False)}")


@app.command()
def replay(
    use_case: UseCaseName,
    partition: PartitionKey,
    url: Annotated[str | None, typer.Option(help="Address of the service, where the profile's own is not reached from here.")] = None,
) -> None:
    """Send a partition's rows to the service, as its users would have, and let it log the answers under that partition."""
    from pipelines_lib.serving.replay import replay as send  # noqa: PLC0415

    typer.echo(send(use_case, partition, url))


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []})
def edge(context: typer.Context) -> None:
    """Models on devices: release, widen, rollback, status, key; on the device pull, verify, predict, back."""
    from pipelines_lib.edge.__main__ import main as edge_main  # noqa: PLC0415

    raise typer.Exit(edge_main(context.args))


@app.command()
def vacuum(
    use_case: UseCaseName,
    days: Annotated[int, typer.Option(help="Keep every version that is younger.")] = 30,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and leave it.")] = False,
) -> None:
    """Remove old versions of a use case's tables; what a model was trained on always stays."""
    from pipelines_lib.retention import vacuum as remove  # noqa: PLC0415

    project = Project.from_environment()
    project.use_case(use_case)
    for part in remove(store_of(project.profile()) / use_case, days, dry_run=dry_run):
        kept = f"; kept for models: version {', '.join(map(str, part.kept_versions))}" if part.kept_versions else ""
        typer.echo(f"{part.layer:<13}{'would remove' if dry_run else 'removed'} {part.n_files} files, {part.n_bytes / 2**20:.1f} MiB{kept}")


@app.command()
def doctor() -> None:
    """Look for what would keep Sluice from running here, and say what to do about it."""
    from pipelines_lib.local.doctor import examine  # noqa: PLC0415

    findings = examine(Project.from_environment())
    for finding in findings:
        typer.echo(f"{'✓' if finding.good else '✗'} {finding.what}" + ("" if finding.good else f"\n    {finding.remedy}"))
    raise typer.Exit(0 if all(finding.good for finding in findings) else 1)


@app.command()
def up() -> None:
    """Start Airflow and MLflow on this machine."""
    from pipelines_lib.local import services  # noqa: PLC0415
    from pipelines_lib.local.airflow_api import AirflowApi  # noqa: PLC0415
    from pipelines_lib.local.settings_file import load_settings  # noqa: PLC0415

    project = Project.from_environment()
    services.up(project, typer.echo)
    load_settings(project.folder / "airflow_settings.yaml", AirflowApi(project.profile().airflow_url or ""))


@app.command()
def down() -> None:
    """Stop everything that `sluice up` and the deployments started."""
    from pipelines_lib.local import services  # noqa: PLC0415

    services.down(Project.from_environment(), typer.echo)


@app.command()
def clean() -> None:
    """Stop everything and forget its state: data, models, runs."""
    from pipelines_lib.local import services  # noqa: PLC0415

    services.clean(Project.from_environment(), typer.echo)


@app.command()
def demo() -> None:
    """Run the demo: two use cases from raw files to a monitored, retrained model."""
    from pipelines_lib.local.demo import Demo  # noqa: PLC0415
    from pipelines_lib.local.progress import Progress  # noqa: PLC0415

    Demo(Project.from_environment(), Progress()).run()


def _params(given: list[str]) -> dict[str, JsonValue]:
    params: dict[str, JsonValue] = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not equals:
            raise BadInput(f"--param {item!r}: write name=JSON, such as --param epochs=3")
        try:
            params[name] = json.loads(value)
        except json.JSONDecodeError:
            params[name] = value
    return params


if __name__ == "__main__":
    main()
