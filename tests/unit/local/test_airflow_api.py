"""The client against a small server that plays Airflow, its bad moments included."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipelines_lib.errors import BadInput, ConfigError, Unavailable
from pipelines_lib.local import airflow_api
from pipelines_lib.local.airflow_api import AirflowApi
from pipelines_lib.local.settings_file import load_settings

ROOT = Path(__file__).parents[3]


class Airflow:
    """Answers of the server by method and path; each may be a list, taken one by one."""

    def __init__(self) -> None:
        self.answers: dict[str, list[tuple[int, object]]] = {}
        self.asked: list[tuple[str, object]] = []
        self.url = ""


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Airflow]:
    monkeypatch.setattr(airflow_api.time, "sleep", lambda _: None)
    state = Airflow()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            key = f"{self.command} {self.path.removeprefix('/api/v2')}"
            state.asked.append((key, json.loads(body) if body else None))
            queue = [(200, {"access_token": "t"})] if self.path == "/auth/token" else state.answers.get(key, [(404, {})])
            status, document = queue.pop(0) if len(queue) > 1 else queue[0]
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = _answer  # noqa: N815 - the server's names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        state.url = f"http://127.0.0.1:{server.server_port}"
        yield state
        server.shutdown()
        thread.join()


def test_a_busy_server_is_asked_again(airflow: Airflow) -> None:
    airflow.answers["GET /dags"] = [(503, {}), (500, {}), (200, {"dags": []})]
    assert AirflowApi(airflow.url).get("/dags") == {"dags": []}


def test_a_post_that_landed_unheard_is_done(airflow: Airflow) -> None:
    airflow.answers["POST /dags/d/dagRuns"] = [(503, {}), (409, {"detail": "exists"})]
    assert AirflowApi(airflow.url).trigger("d", "r", "2026-01-01") == "queued"


def test_a_run_that_is_there_is_left_alone(airflow: Airflow) -> None:
    airflow.answers["GET /dags/d/dagRuns/a%2Bb"] = [(200, {"state": "success"})]
    assert AirflowApi(airflow.url).trigger("d", "a+b", "2026-01-01") == "success"
    assert not [key for key, _ in airflow.asked if key.startswith("POST")]


def test_a_refusal_says_what_was_refused(airflow: Airflow) -> None:
    airflow.answers["POST /dags/d/dagRuns"] = [(409, {"detail": "twice"})]
    with pytest.raises(BadInput, match=r"refused POST .*409.*twice"):
        AirflowApi(airflow.url).trigger("d", "r", "2026-01-01")


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(airflow_api.time, "sleep", lambda _: None)
    with pytest.raises(Unavailable, match="does not answer"):
        AirflowApi("http://127.0.0.1:9").get("/dags")


def test_a_log_shows_the_words_of_an_exception(airflow: Airflow) -> None:
    event = {"event": "Task failed", "error_detail": [{"exc_type": "AirflowFailException", "exc_value": "no partition"}]}
    airflow.answers["GET /dags/d/dagRuns/r/taskInstances/t/logs/1?full_content=true&map_index=-1"] = [(200, {"content": [event]})]
    assert AirflowApi(airflow.url).log("d", "r", "t", 1) == "Task failed\nAirflowFailException: no partition"


def test_the_settings_file_is_loaded_once(airflow: Airflow) -> None:
    for path in ("/pools", "/variables", "/connections"):
        airflow.answers[f"POST {path}"] = [(201, {})]
    n_created = load_settings(ROOT / "airflow_settings.yaml", AirflowApi(airflow.url))
    posted = {key: body for key, body in airflow.asked if key.startswith("POST")}
    assert n_created == len(posted)
    assert posted["POST /pools"] == {
        "name": "sluice_training",
        "slots": 1,
        "description": "Trainings, which take all cores of one machine each",
    }
    airflow.answers["GET /pools/sluice_training"] = [(200, {})]
    airflow.asked.clear()
    assert load_settings(ROOT / "airflow_settings.yaml", AirflowApi(airflow.url)) == n_created - 1


def test_a_mistake_in_the_settings_file_names_its_line(airflow: Airflow, tmp_path: Path) -> None:
    path = tmp_path / "airflow_settings.yaml"
    path.write_text("airflow:\n  pools:\n    - pool_name: a\n      pool_slots: 3\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"airflow_settings.yaml:4: airflow.pools.0.pool_slots: unknown key"):
        load_settings(path, AirflowApi(airflow.url))
