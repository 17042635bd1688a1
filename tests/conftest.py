"""A small use case and a place to run its stages, for whoever tests with data."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, settings

from pipelines_lib.config import Profile, Project
from pipelines_lib.connections import connection
from pipelines_lib.contracts import JobResult, JobSpec
from pipelines_lib.errors import Held
from pipelines_lib.jobs.stage import Stage
from pipelines_lib.store import StorePath, at, write_json
from pipelines_lib.use_case import UseCase
from tests.kube_api.server import ApiServer
from tests.troubled import Troubled

# How long a draw takes says more about this machine, and about the modules that earlier tests have loaded, than about a test.
settings.register_profile("sluice", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sluice")

SHOP: dict[str, Any] = {
    "name": "shop",
    "title": "Shop",
    "owner": "tests",
    "task": "binary",
    "start": "2026-01-01",
    "source": {"path": "{home}/in/{partition}.csv"},
    "columns": {
        "id": {"type": "string", "role": "key", "nullable": False},
        "who": {"type": "string", "role": "entity"},
        "when": {"type": "timestamp", "role": "time"},
        "price": {"type": "number"},
        "count": {"type": "integer"},
        "colour": {"type": "string"},
        "action": {"type": "string", "role": "label"},
    },
    "label": {"column": "action", "map": {"buy": "yes", "view": "no"}, "positive": "yes"},
    "split": {"by": "entity"},
    "gate": {"metric": "roc_auc", "floor": 0.6},
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--renew-golden", action="store_true", help="Write what the tests find into tests/golden, to be read with `git diff`.")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, Any], None]:
    """Returns `golden(name, found)`: `found` is what tests/golden/<name> says; with --renew-golden the file is written first."""

    def compare(name: str, found: Any) -> None:
        path = Path(__file__).parent / "golden" / name
        if request.config.getoption("--renew-golden"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(yaml.safe_dump(found, width=120, allow_unicode=True), encoding="utf-8")
        assert found == yaml.safe_load(path.read_text(encoding="utf-8")), f"where this is meant, renew {path} by pytest --renew-golden"

    return compare


@pytest.fixture
def make_use_case() -> Callable[..., UseCase]:
    """Returns `make(**changes)`: the shop with whole settings replaced."""
    return lambda **changes: UseCase.model_validate({**SHOP, **changes})


@dataclass(frozen=True)
class Sandbox:
    """A project in a temporary folder."""

    project: Project

    def source(self, key: str, text: str) -> None:
        """Write the source file of a partition."""
        path = self.project.home / "in" / f"{key}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def stage(self, name: str, use_case: UseCase, key: str, run_id: str = "run") -> Stage:
        """What the stage's main() is given."""
        store = str(self.project.home / "store")
        spec = JobSpec(stage=name, pipeline="data", use_case=use_case.name, partition_key=key, run_id=f"{run_id}-{key}", store=store)
        return Stage(spec, use_case, Profile(name="local", store=store, tracking_uri=""), self.project)

    def run(self, main: Callable[[Stage], JobResult], name: str, use_case: UseCase, key: str) -> JobResult:
        """Run a stage in this process and leave its result as `run_stage` does. `Held` is raised on."""
        stage = self.stage(name, use_case, key)
        try:
            result = main(stage)
        except Held as held:
            write_json(stage.folder / "result.json", JobResult(stage=name, status="held", reason=held.reason))
            raise
        write_json(stage.folder / "result.json", result)
        return result


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    """An empty project."""
    return Sandbox(Project(folder=tmp_path, home=tmp_path / "home", use_cases=tmp_path / "use_cases", profile_name="local"))


@pytest.fixture(scope="session")
def cloud() -> Iterator[str]:
    """Address of an S3-compatible store that speaks HTTP, with one bucket, `sluice`."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    address = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    client = boto3.client("s3", endpoint_url=address, aws_access_key_id="k", aws_secret_access_key="s", region_name="us-east-1")
    client.create_bucket(Bucket="sluice")
    yield address
    server.stop()


def connect(monkeypatch: pytest.MonkeyPatch, endpoint: str, name: str = "bucket") -> None:
    """Put the connection `name` to the store at `endpoint` into the environment."""
    extra = {"endpoint_url": endpoint, "region_name": "us-east-1", "addressing_style": "path"}
    text = json.dumps({"conn_type": "aws", "login": "k", "password": "s", "extra": extra})
    monkeypatch.setenv(f"SLUICE_CONN_{name.upper()}", text)


@pytest.fixture
def bucket(cloud: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> StorePath:
    """An empty place in a bucket; the connection to it is `bucket`."""
    connect(monkeypatch, cloud)
    mine = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]
    return at(f"s3://sluice/{mine}", connection("bucket"))


@pytest.fixture
def kube_api() -> Iterator[ApiServer]:
    """A Kubernetes API server with the namespaces `default` and `sluice`, without a node."""
    with ApiServer() as api:
        yield api


@pytest.fixture
def troubled(cloud: str) -> Iterator[Troubled]:
    """The same store behind a proxy that gives trouble when it is told to."""
    with Troubled(cloud) as proxy:
        yield proxy


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3 does not wait between attempts."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)


@pytest.fixture
def troubled_bucket(bucket: StorePath, troubled: Troubled, monkeypatch: pytest.MonkeyPatch) -> StorePath:
    """`bucket` as one comes to it through that proxy; the connection is `troubled`."""
    connect(monkeypatch, troubled.address, "troubled")
    return at(str(bucket), connection("troubled"))


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> StorePath:
    """An empty place in a store: once a folder, once a bucket."""
    return tmp_path if request.param == "folder" else request.getfixturevalue("bucket")
