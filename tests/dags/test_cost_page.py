"""The Sluice page shows what the newest training of a use case has cost, what of it was lost, and that a version is rolled out."""

import json
from pathlib import Path

from pipelines_lib.contracts import run_dir
from pipelines_lib.cost.usage import Usage
from pipelines_lib.store import write_json

from .conftest import USE_CASE, write_use_case

ROWS = """
import json
from pipelines_lib.config import Project
from pipelines_lib.orchestration.pages import _card, metrics
from pipelines_lib.store import store_of
project = Project.from_environment()
profile = project.profile()
cards = {name: _card(project.use_case(name), profile, store_of(profile), {}) for name in project.use_case_names()}
print(json.dumps({**cards, "metrics": metrics(None).body.decode()}))
"""


def test_the_card_shows_cost_and_waste(tmp_path: Path, in_airflow) -> None:
    store = str(tmp_path / "home" / "store")
    for name, more in (("alpha", "budget: 5\n"), ("fresh", ""), ("torn", "")):
        write_use_case(tmp_path / "cases", name, USE_CASE + more)
    used = Usage(attempt=1, rank=0, launch="a", started=0, seconds=3600, cpu_seconds=3600, memory_gib_seconds=0, outcome="failed")
    write_json(Path(run_dir(store, "alpha", "training", "run")) / "train" / "usage" / "1-0.json", used)
    write_json(Path(run_dir(store, "torn", "training", "run")) / "train" / "usage" / "1-0.json", {"attempt": "many"})

    write_json(
        Path(store) / "alpha" / "status" / "data.json", {"partition_key": "2026-01-02", "n_rows": 7, "n_quarantined": 0, "verdict": "pass"}
    )

    traffic = {"mode": "canary", "share": 0.1, "pods": False, "until": 0}
    write_json(Path(store) / "alpha" / "deployment.json", {"model": {"version": 4}, "traffic": traffic})

    cards = json.loads(in_airflow(ROWS, tmp_path / "cases"))

    assert "<th>Cost</th><td>0.0405 USD <span class=key>aws</span> · 0.0648 USD <span class=key>gcp</span> · 0.1764 CNY" in cards["alpha"]
    assert "<span class=key>budget</span> 5 USD" in cards["alpha"]
    assert "<span class='tag act'>canary of version 4: 0.1 of the requests</span>" in cards["alpha"]
    assert "canary" not in cards["fresh"]
    assert "wasted</span> 3600 s (0.0405 USD, 0.0648 USD, 0.1764 CNY)" in cards["alpha"]
    assert 'sluice_rows{use_case="alpha",pipeline="data"} 7\n' in cards["metrics"]
    assert "Cost" not in cards["fresh"]
    assert "is not a record of what a process used" in cards["torn"]
