"""How far a smaller graph's answers are from the server's, what that costs, and whether it may go to devices."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines_lib.contracts import GateResult
from pipelines_lib.decision import Decision
from pipelines_lib.edge.precision import Precision, in_precision
from pipelines_lib.evaluation.holdout import scores_of, truth_of
from pipelines_lib.evaluation.metrics import values
from pipelines_lib.features.transform import Arrays
from pipelines_lib.graph import open_graph
from pipelines_lib.registry.package import MODEL, Package, Scorer
from pipelines_lib.use_case import HIGHER_IS_BETTER, LIKELY, UseCase

SINGLE_ROWS = 300
"""Rows asked one by one for the latency."""


def measured(use_case: UseCase, package: Package, test: pa.Table, precision: Precision, calibration: Arrays) -> dict[str, Any]:
    """`parity` with the server on the hold-out `test`, and what `gate.metric` loses; None where it is undefined there."""
    graph = in_precision((package.folder / MODEL).read_bytes(), precision, calibration)
    device = Scorer(package.transform, open_graph(graph, f"the graph in {precision}", "release it in another precision"))
    ours, theirs = (scores_of(scorer, test, use_case.feature_types) for scorer in (package, device))
    truth = truth_of(use_case, test, package.manifest.classes)
    point = LIKELY if package.manifest.operating_point is None else package.manifest.operating_point
    metric = use_case.gate.metric
    server, edge = (values([metric], truth, scores, point)[metric] for scores in (ours, theirs))
    lost = None if server is None or edge is None else (server - edge) * (1 if HIGHER_IS_BETTER[metric] else -1)
    found = {
        "rows": test.num_rows,
        "precision": precision,
        "metric": metric,
        "server_metric": server,
        "edge_metric": edge,
        "metric_lost": lost,
    }
    return {**found, **parity(theirs, ours, package.manifest.decision)}


def judged(figures: Mapping[str, Any], *, bound: float, loss: float) -> list[GateResult]:
    """A verdict each for the largest difference of a score and the metric lost of what was `measured`."""
    metric, largest, lost = figures["metric"], figures["largest_difference"], figures["metric_lost"]
    differs = (
        f"{figures['precision']} moves a score by {largest:.3g} at most and {figures['mean_difference']:.3g} on average, and decides "
        f"{figures['decisions_changed']:.2%} of {figures['rows']:,} rows otherwise; at most {bound:g} is let through (bound)"
    )
    loses = (
        f"{metric} is undefined on the hold-out"
        if lost is None
        else f"{metric} {figures['edge_metric']:.4f} on devices, {figures['server_metric']:.4f} on the server; a loss of {loss:g} is let through (loss)"
    )
    # NaN is no parity either.
    return [
        _row("device scores", largest <= bound, largest, bound, differs),
        _row("device metric", lost is not None and lost <= loss, lost, loss, loses),
    ]


def _row(gate: str, passes: bool, figure: float | None, bound: float, reason: str) -> GateResult:
    return GateResult(gate=gate, verdict="pass" if passes else "hold", figure=figure, bound=bound, reason=reason)


def compared(model: bytes, arrays: Mapping[str, NDArray[Any]], expected: NDArray[np.float32], decision: Decision) -> dict[str, float]:
    """`parity` of `model` with the scores `expected` [n, C] of the rows in `arrays`, and its size and latency on this CPU, one thread."""
    run = open_graph(model, "the model in this precision", "release it in another").run
    scores = run(["scores"], dict(arrays))[0]
    rows = [{name: array[row : row + 1] for name, array in arrays.items()} for row in range(len(expected))]
    single = [_seconds(partial(run, ["scores"], rows[turn % len(rows)])) for turn in range(SINGLE_ROWS)]
    return {
        "rows": len(expected),
        "bytes": len(model),
        **parity(scores, expected, decision),
        "milliseconds_median": 1000 * float(np.median(single)),
        "milliseconds_p99": 1000 * float(np.quantile(single, 0.99)),
        "milliseconds_all_rows": 1000 * _seconds(lambda: run(["scores"], dict(arrays))),
    }


def parity(scores: NDArray[np.float32], expected: NDArray[np.float32], decision: Decision) -> dict[str, float]:
    """How far `scores` [n, C] are from `expected`, as a share of the score where it is larger than 1, and the share of rows for which something
    else is predicted."""
    differences = np.abs(scores - expected) / np.maximum(1.0, np.abs(expected))
    changed = [now != before for now, before in zip(decision.of(scores)[0], decision.of(expected)[0], strict=True)]
    return {
        "largest_difference": float(differences.max()),
        "mean_difference": float(differences.mean()),
        "decisions_changed": float(np.mean(changed)),
    }


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
