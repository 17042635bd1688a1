"""Put the new champion up for the devices of `deployment.edge`, in a smaller format, if it answers there as the server does.

python -m pipelines_lib.jobs.release --spec spec.json
"""

from typing import Any

import pyarrow as pa

from pipelines_lib.connections import connection
from pipelines_lib.contracts import GateResult, JobResult, ModelRef, safe_name
from pipelines_lib.data.sides import TEST
from pipelines_lib.data.snapshot import load
from pipelines_lib.data.tables import Tables
from pipelines_lib.edge.precision import calibration, in_precision, parity
from pipelines_lib.edge.release import private_key, release
from pipelines_lib.errors import ConfigError, Held
from pipelines_lib.evaluation.evidence import Evidence
from pipelines_lib.evaluation.gates import held
from pipelines_lib.evaluation.holdout import scores_of, truth_of
from pipelines_lib.evaluation.metrics import values
from pipelines_lib.features.transform import Arrays
from pipelines_lib.graph import open_graph
from pipelines_lib.jobs.gate import page_of
from pipelines_lib.jobs.snapshot import snapshot_of
from pipelines_lib.jobs.stage import Stage, run_stage
from pipelines_lib.registry import tracking
from pipelines_lib.registry.models import ModelRegistry
from pipelines_lib.registry.package import MODEL, Package, Scorer
from pipelines_lib.serving.pointer import package_folder, read_pointer
from pipelines_lib.store import read_json, write_text
from pipelines_lib.use_case import HIGHER_IS_BETTER
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
    figures = _parity(stage, package, edge, snapshot.side(TEST), learned)
    results = _judged(stage, edge, figures)
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


def _parity(stage: Stage, package: Package, edge: Edge, test: pa.Table, learned: Arrays) -> dict[str, Any]:
    """How far the smaller graph's answers to the hold-out `test` are from the server's, and what the gate's metric loses."""
    use_case, manifest = stage.use_case, package.manifest
    graph = in_precision((package.folder / MODEL).read_bytes(), edge.precision, learned)
    device = Scorer(package.transform, open_graph(graph, f"the graph in {edge.precision}", "release it in another precision"))
    ours, theirs = (scores_of(scorer, test, use_case.feature_types) for scorer in (package, device))
    truth = truth_of(use_case, test, manifest.classes)
    metric = use_case.gate.metric
    server, edge_metric = (values([metric], truth, scores, manifest.decision.operating_point)[metric] for scores in (ours, theirs))
    lost = None if server is None or edge_metric is None else (server - edge_metric) * (1 if HIGHER_IS_BETTER[metric] else -1)
    found = {"rows": test.num_rows, "precision": edge.precision, "server_metric": server, "edge_metric": edge_metric, "metric_lost": lost}
    return {**found, **parity(theirs, ours, manifest.decision)}


def _judged(stage: Stage, edge: Edge, figures: dict[str, Any]) -> list[GateResult]:
    """A row each for the difference of scores and the metric lost."""
    metric, largest, lost = stage.use_case.gate.metric, figures["largest_difference"], figures["metric_lost"]
    differs = (
        f"{edge.precision} moves a score by {largest:.3g} at most and {figures['mean_difference']:.3g} on average, and decides "
        f"{figures['decisions_changed']:.2%} of {figures['rows']:,} rows otherwise; at most {edge.bound:g} is let through (deployment.edge.bound)"
    )
    loses = (
        f"{metric} is undefined on the hold-out"
        if lost is None
        else f"{metric} {figures['edge_metric']:.4f} on devices, {figures['server_metric']:.4f} on the server; a loss of {edge.loss:g} is let through (deployment.edge.loss)"
    )
    # NaN is no parity either.
    return [
        _row("device scores", largest <= edge.bound, largest, edge.bound, differs),
        _row("device metric", lost is not None and lost <= edge.loss, lost, edge.loss, loses),
    ]


def _row(gate: str, passes: bool, figure: float | None, bound: float, reason: str) -> GateResult:
    return GateResult(gate=gate, verdict="pass" if passes else "hold", figure=figure, bound=bound, reason=reason)


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
