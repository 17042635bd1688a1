import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import pipelines_lib.exposition as exposition_module
from pipelines_lib.cli import app
from pipelines_lib.config import Project
from pipelines_lib.exposition import exposition, statuses
from pipelines_lib.store import write_json

DATA = {"partition_key": "2026-01-02", "n_rows": 100, "n_quarantined": 3, "verdict": "hold"}
MONITORING = {
    "partition_key": "2026-01-01",
    "decision": "alert",
    "n_rows": 90,
    "drifted_share": 0.25,
    "loss": None,
    "effects": {'a "column"': 0.3},
    "fired": False,
    "realised": {"partition_key": "2025-12-30", "metrics": {"roc_auc": 0.9, "f1": None}},
    "estimated": {"metric": "roc_auc", "value": 0.88, "low": 0.8, "high": 0.9},
    "health": {
        "n_requests": 7,
        "n_errors": 1,
        "n_rejected": None,
        "p99_seconds": 0.01,
        "usual_rows": 80.0,
        "clean_behind": 0,
        "labelled_behind": 2,
    },
}
TEXT = """\
# HELP sluice_partition_timestamp_seconds Start of the newest partition that the pipeline has finished: how fresh it is.
# TYPE sluice_partition_timestamp_seconds gauge
sluice_partition_timestamp_seconds{use_case="shop",pipeline="data"} 1767312000
sluice_partition_timestamp_seconds{use_case="shop",pipeline="monitoring"} 1767225600
# HELP sluice_rows Rows of the newest partition: of the data, or answered.
# TYPE sluice_rows gauge
sluice_rows{use_case="shop",pipeline="data"} 100
sluice_rows{use_case="shop",pipeline="monitoring"} 90
# HELP sluice_quarantined_rows Rows of the newest partition that broke a rule.
# TYPE sluice_quarantined_rows gauge
sluice_quarantined_rows{use_case="shop"} 3
# HELP sluice_held 1 where the data gate holds the newest partition.
# TYPE sluice_held gauge
sluice_held{use_case="shop"} 1
# HELP sluice_drifted_share Share of the inputs that have drifted, by what they are worth to the model.
# TYPE sluice_drifted_share gauge
sluice_drifted_share{use_case="shop"} 0.25
# HELP sluice_column_effect How far a column has drifted, on the scale of the population stability index.
# TYPE sluice_column_effect gauge
sluice_column_effect{use_case="shop",column="a \\"column\\""} 0.3
# HELP sluice_metric Realised performance of the newest partition whose labels have come.
# TYPE sluice_metric gauge
sluice_metric{use_case="shop",metric="roc_auc"} 0.9
# HELP sluice_metric_timestamp_seconds Start of that partition: how fresh the labels are.
# TYPE sluice_metric_timestamp_seconds gauge
sluice_metric_timestamp_seconds{use_case="shop"} 1767052800
# HELP sluice_metric_estimated Performance of the newest partition as it is estimated without labels.
# TYPE sluice_metric_estimated gauge
sluice_metric_estimated{use_case="shop",metric="roc_auc"} 0.88
# HELP sluice_decision 1 for what the governor decided on the newest partition.
# TYPE sluice_decision gauge
sluice_decision{use_case="shop",action="retrain"} 0
sluice_decision{use_case="shop",action="alert"} 1
sluice_decision{use_case="shop",action="hold"} 0
# HELP sluice_retraining_fired 1 where a training follows from that decision.
# TYPE sluice_retraining_fired gauge
sluice_retraining_fired{use_case="shop"} 0
# HELP sluice_day_requests Requests of the newest partition, as the service counted them: all, failed, rejected.
# TYPE sluice_day_requests gauge
sluice_day_requests{use_case="shop",outcome="all"} 7
sluice_day_requests{use_case="shop",outcome="failed"} 1
# HELP sluice_day_p99_seconds The time within which 99 of 100 of them were answered.
# TYPE sluice_day_p99_seconds gauge
sluice_day_p99_seconds{use_case="shop"} 0.01
# HELP sluice_usual_rows Answers that a partition usually has.
# TYPE sluice_usual_rows gauge
sluice_usual_rows{use_case="shop"} 80
# HELP sluice_layer_behind Partitions by which the newest one of a layer is older than the newest that was monitored.
# TYPE sluice_layer_behind gauge
sluice_layer_behind{use_case="shop",layer="clean"} 0
sluice_layer_behind{use_case="shop",layer="labelled"} 2
"""


@pytest.fixture
def store(tmp_path, make_use_case, monkeypatch):
    profile = Project.profile(Project.from_environment()).model_copy(update={"store": str(tmp_path)})
    monkeypatch.setattr(Project, "profile", lambda _: profile)
    monkeypatch.setattr(Project, "use_cases_or_errors", lambda _: ([make_use_case()], {}))
    write_json(tmp_path / "shop" / "status" / "data.json", DATA)
    write_json(tmp_path / "shop" / "status" / "monitoring.json", MONITORING)
    return tmp_path


def test_the_figures_in_prometheus_text(store, make_use_case):
    assert exposition([(make_use_case(), statuses(store / "shop"))]) == TEXT
    assert exposition([(make_use_case(), {})]) == ""


def test_the_dashboard_asks_for_metrics_that_there_are():
    board = json.loads((Path(__file__).parents[2] / "docs" / "grafana.json").read_text(encoding="utf-8"))
    asked = {name for panel in board["panels"] for target in panel["targets"] for name in re.findall(r"sluice_\w+", target["expr"])}
    assert asked
    assert asked <= set(exposition_module._HELP)


def test_into_a_file_for_the_textfile_collector(store, tmp_path):
    file = tmp_path / "node" / "sluice.prom"
    assert CliRunner().invoke(app, ["monitor", "metrics", "--out", str(file)]).output == ""
    assert file.read_text(encoding="utf-8") == TEXT
    assert CliRunner().invoke(app, ["monitor", "metrics"]).output == TEXT
