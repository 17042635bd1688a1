"""Who is named under a profile's `alerts` is told: of failures, of what the governor decided, of monitoring that is late."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pipelines_lib.contracts import JobResult, run_dir
from pipelines_lib.store import write_json

from .conftest import ROOT, write_use_case

PROFILE = """\
name: local
store: "{home}/store"
tracking_uri: ""
airflow_url: http://airflow
alerts:
  - {to: webhook, connection: ops}
  - {to: slack, connection: chat}
  - {to: mail, connection: post, address: [ops@example.com]}
"""

SCRIPT = """
import asyncio, json, os
from types import SimpleNamespace

address = {address!r}
os.environ |= {{
    "SLUICE_PROJECT": {project!r},
    "AIRFLOW_CONN_OPS": json.dumps({{"conn_type": "http", "host": address, "login": "me", "password": "s3cret"}}),
    "AIRFLOW_CONN_CHAT": json.dumps({{"conn_type": "http", "host": address, "password": "T0/B0/s3cret"}}),
    "AIRFLOW_CONN_POST": json.dumps({{"conn_type": "smtp", "host": "127.0.0.1", "extra": {{"from_email": "sluice@example.com"}}}}),
}}
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization
bag = DagBag({dags!r})
assert not bag.import_errors, bag.import_errors
dag = bag.dags["alpha__monitoring"]
late = DagSerialization.to_dict(dag)["dag"]["deadline"]

from airflow.providers.smtp.hooks.smtp import SmtpHook
mails = []

class Post:
    from_email = "sluice@example.com"
    subject_template = html_content_template = None
    def send_email_smtp(self, **mail):
        mails.append(mail)
    async def asend_email_smtp(self, **mail):
        mails.append(mail)

async def opened(self):
    return Post()

async def closed(self, *_):
    pass

SmtpHook.__enter__, SmtpHook.__exit__ = lambda self: Post(), lambda *_: None
SmtpHook.__aenter__, SmtpHook.__aexit__ = opened, closed

from pipelines_lib.orchestration.alerts import Alerts, TellOperator
from pipelines_lib.config import Project
use_case = Project.from_environment().use_case("alpha")
run = SimpleNamespace(dag_id="alpha__data", run_id="run", partition_key="2026-01-07", run_type="scheduled")
ti = SimpleNamespace(task_id="validate")
Alerts(use_case="alpha")({{"dag_run": run, "ti": ti, "exception": ValueError("held: <b>too many</b>")}})

async def missed():
    for kind, state in (("manual", "running"), ("backfill", "queued"), ("manual", "failed"), ("scheduled", "success")):
        run = {{"dag_id": "alpha__monitoring", "dag_run_id": "slow", "partition_key": None, "run_type": kind, "state": state}}
        await Alerts(use_case="alpha", context={{"dag_run": run, "deadline": {{"id": "1"}}}})

asyncio.run(missed())

def told(run_id, key):
    ti = SimpleNamespace(xcom_pull=lambda task_ids, key: "drift__alpha" if run_id == "fired" else None)
    try:
        TellOperator(task_id="tell", use_case=use_case).execute({{"partition_key": key, "params": {{}}, "run_id": run_id, "ti": ti}})
    except Exception as error:
        return f"{{type(error).__name__}}: {{error}}"

said = [told("held", "2026-01-05"), told("alerted", "2026-01-06"), told("again", "2026-01-07"), told("overtaken", "2026-01-08"), told("fired", "2026-01-09")]
os.environ["AIRFLOW_CONN_CHAT"] = json.dumps({{"conn_type": "http", "host": "http://127.0.0.1:1", "password": "T0/B0/s3cret"}})
said.append(told("fired", "2026-01-09"))
callbacks = [bool(task.on_failure_callback) for name in bag.dags for task in bag.dags[name].tasks]
print(json.dumps({{"said": said, "mails": mails, "callbacks": all(callbacks), "late": late, "tell": [*dag.get_task("tell").upstream_task_ids, dag.get_task("tell").trigger_rule]}}))
"""


@pytest.fixture
def server() -> Iterator[tuple[str, list]]:
    """(address, [path, authorization, body] of each request)."""
    got: list = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.path, self.headers.get("Authorization"), json.loads(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}", got
        http.shutdown()
        thread.join()


def test_people_are_told_once_of_what_is_news(tmp_path: Path, in_airflow, server) -> None:
    address, got = server
    write_use_case(tmp_path / "cases", "alpha")
    profiles = tmp_path / "project" / "include" / "profiles"
    profiles.mkdir(parents=True)
    (profiles / "local.yaml").write_text(PROFILE, encoding="utf-8")
    store = tmp_path / "home" / "store"
    for run_id, action, key in (
        ("held", "hold", "2026-01-05"), ("alerted", "alert", "2026-01-06"), ("again", "alert", "2026-01-07"),
        ("overtaken", "retrain", "2026-01-08"), ("fired", "retrain", "2026-01-09"),
    ):  # fmt: skip
        result = JobResult(
            stage="decide",
            outputs={"action": action, "reason": f"because {run_id}", "trigger_run_id": "r", "model_version": 1, "n_known": 0},
        )
        write_json(Path(run_dir(str(store), "alpha", "monitoring", run_id)) / "decide" / "result.json", result)
        write_json(store / "alpha" / "decisions" / f"{key}.json", {"action": action})

    found = json.loads(
        in_airflow(SCRIPT.format(address=address, project=str(tmp_path / "project"), dags=str(ROOT / "dags")), tmp_path / "cases")
    )

    assert [(path, auth is not None) for path, auth, _ in got[:2]] == [("/", True), ("/T0/B0/s3cret", False)]
    bodies = [body for path, _, body in got if path == "/"]
    assert [body["event"] for body in bodies] == ["failed", "late", "alert", "retrain", "retrain"], "one of four late runs is waited for"
    assert bodies[0] == {
        "event": "failed",
        "use_case": "alpha",
        "partition_key": "2026-01-07",
        "text": "validate of alpha__data failed in run run: held: <b>too many</b>",
        "url": "http://airflow/sluice/",
    }
    assert bodies[1]["text"] == "alpha__monitoring is late: run slow has not ended 3h after it was queued"
    assert bodies[2]["text"] == "Made alpha, 2026-01-06: alert. because alerted"
    assert bodies[3]["url"] == "http://airflow/sluice/files/alpha/reports/2026-01-09.html"
    assert next(body for path, _, body in got if path != "/") == {"text": f"{bodies[0]['text']}\n{bodies[0]['url']}"}
    assert len(found["mails"]) == 5
    assert found["mails"][0]["to"] == ["ops@example.com"]
    assert "held: &lt;b&gt;too many" in found["mails"][0]["html_content"]
    assert found["said"][:5] == [
        "AirflowSkipException: nothing is told of a hold",
        None,
        "AirflowSkipException: nothing is told: the partition before gave an alert too",
        "AirflowSkipException: nothing is told: this run fired no retraining",
        None,
    ]
    assert "could not tell by slack by connection 'chat'" in found["said"][5], "and the others were told"
    assert "s3cret" not in found["said"][5]
    assert found["callbacks"]
    assert found["late"]
    assert found["tell"] == ["retrain", "none_failed"]
