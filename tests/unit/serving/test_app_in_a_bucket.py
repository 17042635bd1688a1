"""The service of a model whose store is a bucket: it follows the pointer there, and answers whatever becomes of the store."""

import time
import warnings

import pytest

from pipelines_lib.data.tables import Tables
from pipelines_lib.serving.app import create_app

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette's test client asks for a fork of httpx that nothing else here uses
    from starlette.testclient import TestClient

RECORD = {"amount": 0.5, "age": 40, "member": True, "country": "de"}
EVERY = "GET PUT HEAD POST DELETE"


def comes(what):
    """Whether `what` comes true while the service looks."""
    deadline = time.monotonic() + 20
    while not (true := what()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return true


def version(client):
    return client.get("/v2/models/credit").json().get("versions")


@pytest.mark.usefixtures("impatient")
def test_the_service_follows_the_pointer_and_outlives_the_store(bucket, troubled, troubled_bucket, deploy, caplog):
    deploy(bucket / "credit", 1)
    troubled.fail("answer", methods=EVERY, times=10_000, status=503, code="SlowDown")
    with TestClient(create_app(troubled_bucket / "credit", poll_seconds=0.02, flush_seconds=0.02)) as client:
        assert client.get("/v2/health/ready").status_code == 503
        troubled.heal()
        assert comes(lambda: client.get("/v2/health/ready").status_code == 200)
        assert version(client) == ["1"]

        troubled.fail("answer", methods=EVERY, times=10_000, status=403, code="AccessDenied")
        slot = client.app.state.service.slot
        assert comes(lambda: "refused access" in (slot.error or ""))
        deploy(bucket / "credit", 2, bias=1.0)
        assert client.post("/invocations", json={"dataframe_records": [RECORD]}).json()["predictions"]
        assert version(client) == ["1"]
        troubled.heal()
        assert comes(lambda: version(client) == ["2"])
        assert slot.error is None
        assert client.post("/invocations", json={"dataframe_records": [RECORD]}).json()["predictions"]
    assert caplog.text.count("goes on serving: s3://") == 2
    assert Tables(bucket / "credit").read("predictions").num_rows >= 1


@pytest.mark.usefixtures("impatient")
def test_answers_whose_commit_was_not_heard_of_are_logged_once(bucket, troubled, troubled_bucket, deploy):
    deploy(bucket / "credit", 1)
    with TestClient(create_app(troubled_bucket / "credit", poll_seconds=0.02, flush_seconds=0.02)) as client:
        logged = client.app.state.service.predictions
        client.post("/invocations", json={"dataframe_records": [RECORD]})
        assert comes(lambda: logged.rows_logged == 1)
        troubled.fail("lost", methods="PUT", path=r"predictions/_delta_log/\d+\.json")
        client.post("/invocations", json={"dataframe_records": [RECORD]})
        assert comes(lambda: logged.rows_logged == 2)
    assert Tables(bucket / "credit").read("predictions").num_rows == 2
