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
    "sluice_metric_timestamp_seconds": "Start of that partition: how fresh the labels are.",
    "sluice_metric_estimated": "Performance of the newest partition as it is estimated without labels.",
    "sluice_metric_loss": "Share of the champion's hold-out metric that is lost.",
    "sluice_decision": "1 for what the governor decided on the newest partition.",
    "sluice_retraining_fired": "1 where a training follows from that decision.",
    "sluice_day_requests": "Requests of the newest partition, as the service counted them: all, failed, rejected.",
    "sluice_day_p99_seconds": "The time within which 99 of 100 of them were answered.",
    "sluice_usual_rows": "Answers that a partition usually has.",
    "sluice_layer_behind": "Partitions by which the newest one of a layer is older than the newest that was monitored.",
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
            yield (
                "sluice_partition_timestamp_seconds",
                {**case, "pipeline": pipeline},
                _start(use_case, str(status[pipeline]["partition_key"])),
            )
            yield "sluice_rows", {**case, "pipeline": pipeline}, float(status[pipeline]["n_rows"])
    if "data" in status:
        yield "sluice_quarantined_rows", case, float(status["data"]["n_quarantined"])
        yield "sluice_held", case, float(status["data"]["verdict"] == "hold")
    if "deployment" in status:
        yield "sluice_model_version", case, float(status["deployment"]["model_version"])
    if "monitoring" in status:
        yield from _monitored(use_case, case, status["monitoring"])


def _monitored(use_case: UseCase, case: dict[str, str], status: Mapping[str, Any]) -> Iterator[Sample]:
    for metric, key in (("sluice_drifted_share", "drifted_share"), ("sluice_metric_loss", "loss")):
        if status.get(key) is not None:
            yield metric, case, float(status[key])
    for column, effect in status.get("effects", {}).items():
        yield "sluice_column_effect", {**case, "column": column}, float(effect)
    if (realised := status.get("realised")) is not None:
        yield "sluice_metric_timestamp_seconds", case, _start(use_case, realised["partition_key"])
        for name, value in realised["metrics"].items():
            if value is not None:
                yield "sluice_metric", {**case, "metric": name}, float(value)
    if (guess := status.get("estimated")) is not None:
        yield "sluice_metric_estimated", {**case, "metric": guess["metric"]}, float(guess["value"])
    for action in ("retrain", "alert", "hold"):
        yield "sluice_decision", {**case, "action": action}, float(status["decision"] == action)
    yield "sluice_retraining_fired", case, float(status.get("fired", False))
    yield from _fared(case, status.get("health") or {})


def _fared(case: dict[str, str], health: Mapping[str, Any]) -> Iterator[Sample]:
    """The service's figures of the partition, volume and freshness; without those that nobody told."""
    counts = {"all": "n_requests", "failed": "n_errors", "rejected": "n_rejected"}
    told = [
        *(("sluice_day_requests", {**case, "outcome": outcome}, health.get(key)) for outcome, key in counts.items()),
        ("sluice_day_p99_seconds", case, health.get("p99_seconds")),
        ("sluice_usual_rows", case, health.get("usual_rows")),
        *(("sluice_layer_behind", {**case, "layer": layer}, health.get(f"{layer}_behind")) for layer in ("clean", "labelled")),
    ]
    yield from ((metric, labels, float(value)) for metric, labels, value in told if value is not None)


def _start(use_case: UseCase, partition_key: str) -> float:
    return use_case.partition_time(partition_key).replace(tzinfo=dt.UTC).timestamp()


def _labels(labels: Mapping[str, str]) -> str:
    return ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
