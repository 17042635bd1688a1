"""The newest partition's figures of every use case in Prometheus' text format, for dashboards and alert rules.

Made from what the stages leave under `status/`, so that it is the same in a command, in a file, and at an address.
"""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipelines_lib.store import StorePath, read_json
from pipelines_lib.use_case import UseCase

Sample = tuple[str, dict[str, str], float]
"""Metric, labels, value."""

_HELP = {
    "sluice_partition_timestamp_seconds": "Start of the newest partition that the pipeline has finished: how fresh it is.",
    "sluice_rows": "Rows of the newest partition: of the data, or answered.",
    "sluice_quarantined_rows": "Rows of the newest partition that broke a rule.",
    "sluice_held": "1 where the data gate holds the newest partition.",
    "sluice_model_version": "The version that serves.",
    "sluice_drifted_share": "Share of the inputs that have drifted, by what they are worth to the model.",
    "sluice_column_effect": "How far a column has drifted, on the scale of the population stability index.",
    "sluice_metric": "Realised performance of the newest partition whose labels have come.",
    "sluice_metric_loss": "Share of the champion's hold-out metric that is lost.",
    "sluice_decision": "1 for what the governor decided on the newest partition.",
}

PIPELINES = ("data", "monitoring", "deployment")


def statuses(root: StorePath) -> dict[str, Any]:
    """Pipeline to its status, of a use case's folder in the store; those that have run."""
    found: dict[str, Any] = {}
    for pipeline in PIPELINES:
        path = root / "status" / f"{pipeline}.json"
        if path.exists():
            found[pipeline] = read_json(path)
    return found


def exposition(use_cases: Sequence[tuple[UseCase, Mapping[str, Any]]]) -> str:
    """The text, with every metric's samples together; `use_cases` come with their statuses."""
    samples = [sample for use_case, status in use_cases for sample in _samples(use_case, status)]
    lines = []
    for name, told in _HELP.items():
        mine = [(labels, value) for metric, labels, value in samples if metric == name]
        if mine:
            lines += [f"# HELP {name} {told}", f"# TYPE {name} gauge"]
            lines += [f"{name}{{{_labels(labels)}}} {value:.10g}" for labels, value in mine]
    return "".join(f"{line}\n" for line in lines)


def _samples(use_case: UseCase, status: Mapping[str, Any]) -> Iterator[Sample]:
    case = {"use_case": use_case.name}
    for pipeline in ("data", "monitoring"):
        if pipeline in status:
            start = use_case.partition_time(str(status[pipeline]["partition_key"])).replace(tzinfo=dt.UTC)
            yield "sluice_partition_timestamp_seconds", {**case, "pipeline": pipeline}, start.timestamp()
            yield "sluice_rows", {**case, "pipeline": pipeline}, float(status[pipeline]["n_rows"])
    if "data" in status:
        yield "sluice_quarantined_rows", case, float(status["data"]["n_quarantined"])
        yield "sluice_held", case, float(status["data"]["verdict"] == "hold")
    if "deployment" in status:
        yield "sluice_model_version", case, float(status["deployment"]["model_version"])
    yield from _monitored(case, status.get("monitoring", {}))


def _monitored(case: dict[str, str], status: Mapping[str, Any]) -> Iterator[Sample]:
    for metric, key in (("sluice_drifted_share", "drifted_share"), ("sluice_metric_loss", "loss")):
        if status.get(key) is not None:
            yield metric, case, float(status[key])
    for column, effect in status.get("effects", {}).items():
        yield "sluice_column_effect", {**case, "column": column}, float(effect)
    for name, value in ((status.get("performance") or {}).get("metrics") or {}).items():
        if value is not None:
            yield "sluice_metric", {**case, "metric": name}, float(value)
    if status:
        for action in ("retrain", "alert", "hold"):
            yield "sluice_decision", {**case, "action": action}, float(status["decision"] == action)


def _labels(labels: Mapping[str, str]) -> str:
    return ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
