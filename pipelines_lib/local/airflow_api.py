"""The few calls of Airflow's REST API that the demo, `sluice` and the tests make."""

import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import httpx

from pipelines_lib.errors import BadInput, Unavailable


class AirflowApi:
    """A client of one Airflow. Every method raises `Unavailable` where it does not answer, `BadInput` where it refuses."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._token = ""

    def get(self, path: str, **query: Any) -> Any:
        """The document at `path`."""
        return self._send("GET", path, params=query)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Create something."""
        return self._send("POST", path, json=body)

    def patch(self, path: str, body: Mapping[str, Any]) -> Any:
        """Change something."""
        return self._send("PATCH", path, json=body)

    def exists(self, path: str) -> bool:
        """Whether there is something at `path`."""
        return self._try("GET", path).status_code == httpx.codes.OK

    def run_state(self, dag_id: str, run_id: str) -> str | None:
        """State of a DAG run; None where there is none."""
        answer = self._try("GET", f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}")
        return None if answer.status_code == httpx.codes.NOT_FOUND else str(self._checked(answer)["state"])

    def trigger(self, dag_id: str, run_id: str, partition_key: str, conf: Mapping[str, Any] | None = None) -> str:
        """Start a run for a partition, once: a run of this id that is there already is left alone. Returns its state."""
        state = self.run_state(dag_id, run_id)
        if state is not None:
            return state
        body = {"dag_run_id": run_id, "logical_date": None, "partition_key": partition_key, "conf": dict(conf or {})}
        return str(self.post(f"/dags/{dag_id}/dagRuns", body)["state"])

    def clear_failed(self, dag_id: str, run_id: str) -> None:
        """Let the failed tasks of a run, and what follows them, run again."""
        self.post(f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/clear", {"dry_run": False, "only_failed": True})

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        """The DAG's newest runs, newest first (100 at most)."""
        runs: list[dict[str, Any]] = self.get(f"/dags/{dag_id}/dagRuns", limit=100, order_by="-run_after")["dag_runs"]
        return runs

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """The task instances of a run."""
        tasks: list[dict[str, Any]] = self.get(f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances")["task_instances"]
        return tasks

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int, map_index: int = -1) -> str:
        """The log of a try of a task, or of one instance of a mapped task, as text."""
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances/{task_id}/logs/{try_number}"
        return "\n".join(_lines(self.get(path, full_content=True, map_index=map_index)["content"]))

    def _send(self, method: str, path: str, **request: Any) -> Any:
        return self._checked(self._try(method, path, **request))

    def _checked(self, answer: httpx.Response) -> Any:
        if answer.is_error:
            raise BadInput(f"Airflow refused {answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text[:500]}")
        return answer.json() if answer.content else None

    def _try(self, method: str, path: str, **request: Any) -> httpx.Response:
        """One request; a busy server (SQLite has one writer) or a dropped connection is asked again."""
        for attempt in range(5):
            try:
                if not self._token:
                    self._token = httpx.get(f"{self._url}/auth/token", timeout=60).raise_for_status().json()["access_token"]
                headers = {"Authorization": f"Bearer {self._token}"}
                answer = httpx.request(method, f"{self._url}/api/v2{path}", headers=headers, timeout=60, **request)
            except httpx.HTTPError as error:
                cause: object = error
            else:
                if answer.status_code == httpx.codes.UNAUTHORIZED:
                    self._token = ""
                elif answer.status_code == httpx.codes.CONFLICT and attempt > 0:
                    # The try before this one did its work, and only its answer was lost.
                    return httpx.Response(httpx.codes.OK, json={"state": "queued"}, request=answer.request)
                elif answer.status_code < httpx.codes.INTERNAL_SERVER_ERROR:
                    return answer
                cause = f"{answer.status_code} {answer.text[:300]}"
            time.sleep(min(2.0**attempt, 8))
        raise Unavailable(f"Airflow at {self._url} does not answer ({cause}); `sluice status` says what runs, `make demo` starts it")


def _lines(content: list[Any]) -> Iterator[str]:
    """Text of a log's events; an exception's own words stand in a field beside the event."""
    for event in content:
        if not isinstance(event, dict):
            yield str(event)
            continue
        yield str(event.get("event", event))
        for detail in event.get("error_detail") or []:
            yield f"{detail.get('exc_type')}: {detail.get('exc_value')}"
