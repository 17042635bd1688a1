"""Put the new champion up for the devices of `deployment.edge`, in a smaller format, if it answers there as the server does.

python -m pipelines_lib.jobs.release --spec spec.json
"""

from typing import Any

from pipelines_lib.connections import connection
from pipelines_lib.contracts import GateResult, JobResult, ModelRef, safe_name
from pipelines_lib.data.sides import TEST
from pipelines_lib.data.snapshot import load
from pipelines_lib.data.tables import Tables
from pipelines_lib.edge.parity import judged, measured
from pipelines_lib.edge.precision import calibration
from pipelines_lib.edge.release import private_key, release
from pipelines_lib.errors import ConfigError, Held
from pipelines_lib.evaluation.evidence import Evidence
from pipelines_lib.evaluation.gates import held
from pipelines_lib.jobs.gate import page_of
from pipelines_lib.jobs.snapshot import snapshot_of
from pipelines_lib.jobs.stage import Stage, run_stage
from pipelines_lib.registry import tracking
from pipelines_lib.registry.models import ModelRegistry
from pipelines_lib.registry.package import Package
from pipelines_lib.serving.pointer import package_folder, read_pointer
from pipelines_lib.store import read_json, write_text
from pipelines_lib.use_case.serving import Edge


def main(stage: Stage) -> JobResult:
    """Measure parity on the whole hold-out, judge it, release. Releasing again changes nothing. Raises `Held` where the parity is too poor."""
    edge = _edge(stage)
    key = private_key(connection(edge.connection))
    model = ModelRef.model_validate(stage.result_of("verify").outputs["model"])
    _hold_if_replaced(stage, model)
    package = Package.open(package_folder(stage.root, model))
    snapshot = load(stage.use_case, Tables(stage.root), snapshot_of(stage))
    learned = calibration(snapshot, package.transform)
    figures = measured(stage.use_case, package, snapshot.side(TEST), edge.precision, learned)
    results = judged(figures, bound=edge.bound, loss=edge.loss)
    links = {"Evaluation": _report(stage, results)}
    if (reason := held(results)) is not None:
        _tell_registry(stage, model, f"held: {reason}")
        raise Held(reason, figures, links)
    group = stage.root / "edge" / safe_name(edge.group)
    name, of_precisions = release(
        package,
        group,
        key,
        version=model.version,
        precision=edge.precision,
        share=edge.share,
        bound=edge.bound,
        calibration=learned,
    )
    _tell_registry(stage, model, name)
    milliseconds = {precision: round(found["milliseconds_median"], 4) for precision, found in of_precisions.items()}
    sizes: dict[str, Any] = {precision: found["bytes"] for precision, found in of_precisions.items()}
    return JobResult(
        stage="release",
        reason=f"version {model.version} is up as {name} for {edge.share:.0%} of the devices of {edge.group}; its scores differ by at most "
        f"{figures['largest_difference']:.2g} from the server's",
        figures={**figures, "bundle": name, "bytes": sizes, "milliseconds": dict(milliseconds)},
        outputs={"bundle": name, "model": model.model_dump(mode="json")},
        links=links,
    )


def _edge(stage: Stage) -> Edge:
    edge = stage.use_case.deployment.edge
    if edge is None:
        raise ConfigError(f"use case {stage.use_case.name} names no devices; set `deployment.edge`, or use `sluice edge release`")
    return edge


def _hold_if_replaced(stage: Stage, model: ModelRef) -> None:
    """An old run that runs again must not lead devices back."""
    pointer = read_pointer(stage.root)
    champion = pointer.champion if pointer else None
    if champion != model:
        now = "nothing serves" if champion is None else f"version {champion.version} serves"
        raise Held(f"version {model.version} is no longer the champion ({now}), so no device is given it", {"model_version": model.version})


def _report(stage: Stage, results: list[GateResult]) -> str:
    """The evaluation's report with these verdicts below the gate's; returns its path below the store."""
    judged: Any = stage.result_of("gate").figures["gates"]
    document: Any = read_json(stage.store / str(stage.result_of("evaluate").outputs["folder"]) / "evaluation.json")
    gates = [*(GateResult.model_validate(result) for result in judged), *results]
    path = stage.folder / "report.html"
    write_text(path, page_of(stage, document, Evidence.model_validate(document["evidence"]), gates))
    return stage.below(path)


def _tell_registry(stage: Stage, model: ModelRef, what: str) -> None:
    ModelRegistry(tracking.connect(stage.profile.tracking_uri), model.name).tag(model.version, {"sluice.edge": what})


if __name__ == "__main__":
    run_stage(main)
