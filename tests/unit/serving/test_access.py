"""Who may ask a service that has a token."""

import json
import warnings

import pytest

from pipelines_lib.config import Project
from pipelines_lib.errors import ConfigError
from pipelines_lib.serving import objects
from pipelines_lib.serving.access import token_of
from pipelines_lib.serving.app import create_app
from pipelines_lib.use_case import Token

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette's test client asks for a fork of httpx that nothing else here uses
    from starlette.testclient import TestClient

TOKEN = "a-token-of-this-service"
RECORD = {"amount": 0.5, "age": 40, "member": True, "country": "de"}
ROUTES = [
    ("POST", "/v2/models/credit/infer"), ("POST", "/invocations"), ("POST", "/recommend"), ("GET", "/docs"), ("GET", "/v2/models/credit"), ("GET", "/v2"), ("GET", "/"),
    ("GET", "/openapi.json"), ("GET", "/nothing"), ("GET", "/ping/"), ("OPTIONS", "/invocations"),
]  # fmt: skip


@pytest.fixture
def client(tmp_path, deploy):
    root = tmp_path / "store" / "credit"
    deploy(root, 3)
    with TestClient(create_app(root, token=TOKEN)) as client:
        yield client


@pytest.mark.parametrize(
    "given", [None, "", "Bearer", "Bearer ", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, "Bearer \xff", f"Bearer {TOKEN} {TOKEN}"]
)  # fmt: skip
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_without_the_token_nothing_is_answered(client, method, path, given):
    headers = {} if given is None else {"Authorization": given.encode("latin-1")}
    answer = client.request(method, path, headers=headers, content=b"{" if method == "POST" else None)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert set(answer.json()) == {"error", "what", "where", "rule", "remedy"}


def test_with_it_everything_is(client):
    for scheme in ("Bearer", "bearer"):
        headers = {"Authorization": f"{scheme} {TOKEN}"}
        assert client.post("/invocations", json={"dataframe_records": [RECORD]}, headers=headers).status_code == 200
        assert client.get("/v2/models/credit", headers=headers).status_code == 200


def test_health_and_metrics_are_open_and_count_who_was_refused(client):
    client.post("/invocations", json={"dataframe_records": [RECORD]})
    for path in ("/ping", "/v2/health/live", "/v2/health/ready", "/v2/models/credit/ready"):
        assert client.get(path).status_code == 200
    assert 'sluice_requests_total{endpoint="invocations",status="401"} 1' in client.get("/metrics").text


def test_a_token_comes_from_its_connection_and_one_that_can_be_guessed_is_refused():
    def of(password):
        return token_of(Token(connection="shop"), {"SLUICE_CONN_SHOP": json.dumps({"conn_type": "generic", "password": password})})

    assert of(TOKEN) == TOKEN
    assert token_of(None) is None
    for wrong in (None, "short-token", "with a blank in between", "späte Wörter, viele", "line\nbreak in the middle"):
        with pytest.raises(ConfigError, match="16 or more letters") as raised:
            of(wrong)
        assert str(wrong) not in str(raised.value)
    with pytest.raises(ConfigError, match="SLUICE_CONN_SHOP"):
        token_of(Token(connection="shop"), {})


def test_deploy_and_verify_get_the_connection_and_no_other_stage(make_use_case):
    use_case = make_use_case(deployment={"token": {"connection": "shop_token"}})
    assert [stage for stage in ("ingest", "train", "register", "deploy", "verify") if use_case.connections(stage)] == ["deploy", "verify"]
    assert use_case.connections("verify") == ["shop_token"]


def test_pods_get_the_connections_name_and_the_token_by_a_secret():
    profile, template = Project.from_environment().profile("cluster"), Project.from_environment().pod_template("serving")

    def built(profile):
        token = Token(connection="shop_token")
        return objects.deployment("shop", "s3://b/shop", profile, template, candidate=False, replicas=1, token=token)

    with pytest.raises(ConfigError, match=r"deployment\.token.*put it into a Secret of namespace sluice as SLUICE_CONN_SHOP_TOKEN"):
        built(profile)
    kubernetes = profile.kubernetes.model_copy(update={"secrets": ["shop-service"]})
    [container] = built(profile.model_copy(update={"kubernetes": kubernetes}))["spec"]["template"]["spec"]["containers"]
    assert container["command"][-2:] == ["--token", "shop_token"]
    assert container["envFrom"] == [{"secretRef": {"name": "shop-service"}}]
