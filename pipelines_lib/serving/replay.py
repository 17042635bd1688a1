"""Send a partition's rows to the service, as its users would have: for the demo, for tests, for trying a service out.

    python -m pipelines_lib.serving.replay --use-case recommendation --partition 2026-01-15 [--one] [--url http://…]

Request ids follow from the partition, and the prediction log is read by them, so a second replay changes nothing.
"""

import argparse
import sys
import time
from typing import Any

import httpx
import pyarrow as pa

from pipelines_lib.config import Project
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import DataError, SluiceError, Unavailable
from pipelines_lib.serving import local
from pipelines_lib.serving.access import bearer, token_of
from pipelines_lib.serving.objects import url_of
from pipelines_lib.serving.requests import DATATYPES
from pipelines_lib.store import store_of

_BATCH = 500
_FLUSH_SECONDS = 30


def main() -> int:
    """Replay, or with --one ask for the first row's answer and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--use-case", required=True)
    parser.add_argument("--partition", required=True)
    parser.add_argument("--one", action="store_true", help="send one row, print question and answer")
    parser.add_argument("--url", help="address of the service, where the profile's own is not reached from here")
    given = parser.parse_args()
    try:
        print((_one if given.one else replay)(given.use_case, given.partition, given.url))  # noqa: T201
    except (SluiceError, httpx.HTTPError) as error:
        print(f"replay: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def replay(name: str, partition: str, url: str | None = None) -> str:
    """Send every clean row of the partition to `url`, or to where the profile has the service; says how many were answered. Raises `DataError`, `Unavailable`."""
    run = _Replay(name, partition, url)
    started = time.monotonic()
    for start in range(0, run.rows.num_rows, _BATCH):
        run.ask(run.rows.slice(start, _BATCH), f"replay-{partition}-{start:09d}")
    run.wait_for_log()
    return f"{run.rows.num_rows} rows answered by {run.url} in {time.monotonic() - started:.1f} s"


def _one(name: str, partition: str, url: str | None) -> str:
    run = _Replay(name, partition, url)
    row = run.rows.slice(0, 1)
    answer = run.ask(row, f"one-{partition}", log=False)
    question = ", ".join(f"{column}={'…' if column in run.private else row[column][0].as_py()}" for column in run.features[:6])
    outputs = {tensor["name"]: tensor["data"][0] for tensor in answer["outputs"] if tensor["name"] in ("prediction", "score")}
    more = f", … ({len(run.features)} features)" if len(run.features) > 6 else ""
    told = ", ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in outputs.items())
    return f"{question}{more} → {told}"


class _Replay:
    """One partition's rows and the service that is asked."""

    def __init__(self, name: str, partition: str, url: str | None) -> None:
        project = Project.from_environment()
        use_case = project.use_case(name)
        self.partition = partition
        self.features = use_case.features()
        self.private = use_case.private()
        self._columns = [*self.features, *use_case.columns_with("key")]
        self._types = {column: DATATYPES[use_case.columns[column].type][0] for column in self._columns}
        self._tables = Tables(store_of(project.profile()) / name)
        self.rows = self._tables.read("clean", [partition], columns=self._columns)
        if self.rows.num_rows == 0:
            raise DataError(f"there are no clean rows of {partition} to send; run {name}__data for it first")
        self.url = url.rstrip("/") if url else _url(project, name)
        self._headers = bearer(token_of(use_case.deployment.token))
        self._infer = f"{self.url}/v2/models/{name}/infer"

    def ask(self, rows: pa.Table, request_id: str, *, log: bool = True) -> dict[str, Any]:
        """The service's answer to these rows. Raises `DataError` with its own words where it refuses."""
        inputs = [
            {"name": column, "shape": [rows.num_rows], "datatype": self._types[column], "data": _sent(rows[column])}
            for column in self._columns
        ]
        body = {"id": request_id, "inputs": inputs, "parameters": {"partition_key": self.partition, "log": log}}
        try:
            answer = httpx.post(self._infer, json=body, headers=self._headers, timeout=60)
        except httpx.TransportError as error:
            raise Unavailable(
                f"{self._infer} does not answer ({error}); from outside a cluster forward a port to it (`kubectl port-forward`), and name that as --url"
            ) from error
        if answer.is_error:
            raise DataError(f"{self._infer} refused the rows: {answer.status_code} {answer.text[:1000]}")
        document: dict[str, Any] = answer.json()
        return document

    def wait_for_log(self) -> None:
        """Until the service has written its answers down. Raises `Unavailable`."""
        deadline = time.monotonic() + _FLUSH_SECONDS
        while self._logged() < self.rows.num_rows:
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"after {_FLUSH_SECONDS} s the service has logged {self._logged()} of {self.rows.num_rows} answers; {self.url}/metrics counts the lost ones"
                )
            time.sleep(0.3)

    def _logged(self) -> int:
        if self.partition not in self._tables.partitions("predictions"):
            return 0
        return len(set(self._tables.read("predictions", [self.partition], columns=[])["row_id"].to_pylist()))


def _url(project: Project, name: str) -> str:
    """Where the service of a use case is asked. Raises `Unavailable` where it does not run."""
    kubernetes = (profile := project.profile()).kubernetes
    if profile.launcher != "local" and kubernetes is not None:
        return url_of(name, kubernetes.namespace)
    url = next((service.url for service in local.running(project) if service.use_case == name), None)
    if url is None:
        raise Unavailable(f"no service of {name} runs; start it with `sluice serve {name}`")
    return url


def _sent(column: pa.ChunkedArray) -> list[Any]:
    """The values as JSON has them: a time is text."""
    values: list[Any] = (column.cast(pa.string()) if pa.types.is_temporal(column.type) else column).to_pylist()
    return values


if __name__ == "__main__":
    sys.exit(main())
