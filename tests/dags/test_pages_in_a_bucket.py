"""The Sluice page where the store is a bucket, opened by Airflow's own connection."""

import json
from pathlib import Path

from pipelines_lib.store import write_json, write_text

from .conftest import write_use_case

ASK = """
import json, os
given = os.environ.pop("SLUICE_CONN_BUCKET")
os.environ |= {{"SLUICE_PROJECT": {project!r}, "AIRFLOW_CONN_BUCKET": given}}

from fastapi import HTTPException
from pipelines_lib.config import Project
from pipelines_lib.orchestration import pages

def shown(path):
    try:
        return pages.file(path, None).body.decode()
    except HTTPException as error:
        return f"{{error.status_code}}: {{error.detail}}"

project = Project.from_environment()
card = lambda: pages._card_or_error(project.use_case("alpha"), project.profile(), {{}})
said = {{"card": card(), **{{path: shown(path) for path in {paths!r}}}}}
os.environ["AIRFLOW_CONN_BUCKET"] = given.replace({sound!r}, {refusing!r})
said |= {{"refused": shown("alpha/reports/d.html"), "refused card": card()}}
print(json.dumps(said))
"""


def test_cards_and_reports_come_from_the_bucket_and_nothing_beside_it(tmp_path: Path, in_airflow, bucket, cloud, troubled) -> None:
    store = bucket / "store"
    write_use_case(tmp_path / "cases", "alpha")
    profiles = tmp_path / "project" / "include" / "profiles"
    profiles.mkdir(parents=True)
    (profiles / "local.yaml").write_text(f"name: local\nstore: {store}\nstore_connection: bucket\ntracking_uri: ''\n", encoding="utf-8")
    write_json(
        store / "alpha" / "status" / "data.json", {"verdict": "pass", "partition_key": "2026-01-05", "report": "alpha/reports/d.html"}
    )
    write_text(store / "alpha" / "reports" / "d.html", "<p>drift</p>")
    write_text(bucket / "secret.html", "hush")
    troubled.fail("answer", methods="GET HEAD", times=10_000, status=403, code="AccessDenied")
    paths = ["alpha/reports/d.html", "alpha/reports/none.html", "alpha/status/data.json", "../secret.html", "alpha/../../secret.html"]

    script = ASK.format(project=str(tmp_path / "project"), paths=paths, sound=cloud, refusing=troubled.address)
    said = json.loads(in_airflow(script, tmp_path / "cases"))

    assert "2026-01-05" in said["card"]
    assert "/sluice/files/alpha/reports/d.html" in said["card"]
    assert said.pop("alpha/reports/d.html") == "<p>drift</p>"
    assert all(said[path].startswith("404: there is no report") for path in paths[1:])
    assert said["refused"].startswith(f"503: {store}/alpha/reports/d.html (connection 'bucket'): the store refused access (AccessDenied)")
    assert "the store can't be read" in said["refused card"]
    assert "the store refused access" in said["refused card"]
