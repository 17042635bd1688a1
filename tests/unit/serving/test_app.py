import asyncio
import json
import math
import time
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines_lib.data.tables import Tables
from pipelines_lib.serving import app
from pipelines_lib.serving.app import MAX_BODY, create_app
from pipelines_lib.serving.pointer import Traffic, read_pointer, write_pointer
from pipelines_lib.use_case import CleaningStep

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette's test client asks for a fork of httpx that nothing else here uses
    from starlette.testclient import TestClient

JSON = {"Content-Type": "application/json"}
GOOD = [
    {"name": "amount", "shape": [2], "datatype": "FP64", "data": [0.5, None]},
    {"name": "age", "shape": [2, 1], "datatype": "INT64", "data": [[40], [50]]},
    {"name": "member", "shape": [2], "datatype": "BOOL", "data": [True, False]},
    {"name": "country", "shape": [2], "datatype": "BYTES", "data": ["de", "never seen"]},
]
RECORD = {"amount": 0.5, "age": 40, "member": True, "country": "de"}


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store" / "credit"


@pytest.fixture
def client(root, deploy):
    deploy(root, 3)
    with TestClient(create_app(root, poll_seconds=0.02, flush_seconds=0.02), raise_server_exceptions=False) as client:
        yield client


def v2(client, inputs=GOOD, **more):
    return client.post("/v2/models/credit/infer", content=json.dumps({"inputs": inputs, **more}), headers=JSON)


def test_the_model_answers_in_both_dialects(client):
    answer = v2(client, id="q1", parameters={"partition_key": "2026-01-05"}).json()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("credit", "3", "q1")
    prediction, score, scores = answer["outputs"]
    assert (prediction["datatype"], prediction["shape"], scores["shape"]) == ("BYTES", [2], [2, 2])
    assert scores["data"][1::2] == pytest.approx(score["data"])
    for body in (
        {"dataframe_records": [RECORD]},
        {"dataframe_split": {"columns": list(RECORD), "data": [list(RECORD.values())]}},
        {"inputs": {name: [value] for name, value in RECORD.items()}},
        {"inputs": [RECORD]},
    ):
        [mine] = client.post("/invocations", json=body).json()["predictions"]
        assert mine == {"prediction": prediction["data"][0], "score": pytest.approx(score["data"][0])}


def test_served_rows_are_cleaned_as_the_training_rows_were_and_logged_so(root, make_package, deploy):
    steps = [
        {"to_missing": {"amount": [-1]}},
        {"normalise": {"country": ["lower"]}},
        {"clip": {"age": [18, 70]}},
        {"impute": {"amount": "mean"}},
    ]
    deploy(root, 3, package=make_package(root, steps=tuple(map(CleaningStep.model_validate, steps))))
    sent = [RECORD | {"amount": -1, "age": 99, "country": " DE "}, RECORD | {"amount": None, "age": 70}]
    with TestClient(create_app(root, poll_seconds=0.02, flush_seconds=0.02)) as client:
        odd, plain = client.post("/invocations", json={"dataframe_records": sent}).json()["predictions"]

    assert odd == plain
    logged = Tables(root).read("predictions").select(["amount", "age", "member", "country"]).to_pylist()
    assert logged == [{"amount": None, "age": 70.0, "member": True, "country": "de"}] * 2


def test_predictions_follow_the_operating_point_and_the_metadata_tell_it(root, make_package, deploy):
    deploy(root, 3, package=make_package(root, operating_point=0.999))
    with TestClient(create_app(root)) as client:
        answer = client.post("/invocations", json={"dataframe_records": [RECORD]}).json()["predictions"][0]
        assert (answer["prediction"], answer["score"] > 0.5) == ("no", True)
        parameters = client.get("/v2/models/credit").json()["parameters"]
        assert (parameters["positive"], parameters["operating_point"]) == ("yes", 0.999)


def test_only_the_outputs_asked_for_are_sent(client):
    assert [output["name"] for output in v2(client, outputs=[{"name": "score"}]).json()["outputs"]] == ["score"]
    assert v2(client, outputs=[{"name": "socre"}]).status_code == 400


def test_health_metadata_page_and_metrics(client):
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/credit/ready", "/ping", "/openapi.json", "/v2"):
        assert client.get(path).status_code == 200
    metadata = client.get("/v2/models/credit").json()
    assert metadata["versions"] == ["3"]
    assert metadata["inputs"][0] == {"name": "amount", "datatype": "FP64", "shape": [-1]}
    assert metadata["parameters"]["optional_inputs"] == {"customer": "integer"}
    page = client.get("/").text
    assert "<script" not in page + client.get("/docs").text
    assert 'href="openapi.json"' in page
    assert "Version <b>3</b>" in page
    assert "curl" in page
    v2(client)
    v2(client, [])
    metrics = client.get("/metrics").text
    assert 'sluice_requests_total{endpoint="infer",status="200"} 1' in metrics
    assert 'sluice_request_errors_total{status="400"} 1' in metrics
    assert (
        "# TYPE sluice_prediction_rows_lost_total counter\nsluice_prediction_rows_lost_total 0\n# TYPE sluice_prediction_rows_waiting gauge\n"
        in metrics
    )
    assert 'sluice_request_seconds_bucket{le="+Inf"} 2' in metrics


def test_the_api_has_an_example_of_every_request_that_is_answered_as_it_says(client):
    document = client.get("/openapi.json").json()
    page = client.get("/docs").text
    assert {"/v2/models/credit/infer", "/invocations", "/recommend", "/metrics"} <= document["paths"].keys()
    for path in ("/v2/models/credit/infer", "/invocations"):
        operation = document["paths"][path]["post"]
        asked = operation["requestBody"]["content"]["application/json"]["example"]
        answer = client.post(path, json=asked)
        assert answer.status_code == 200
        assert answer.json() == operation["responses"]["200"]["content"]["application/json"]["example"]
        assert operation["responses"]["4XX"]["content"]["application/json"]["example"]["remedy"]
        assert f"POST {path}" in page
    for path, route in document["paths"].items():
        if "get" in route and path not in ("/ping", "/metrics", "/v2/health/live"):
            assert client.get(path).json() == route["get"]["responses"]["200"]["content"]["application/json"]["example"]
    assert client.app.state.service.predictions.rows_waiting == 0, "what answers an example is not logged"


def with_(place, **changes):
    return [tensor if i != place else {**tensor, **changes} for i, tensor in enumerate(GOOD)]


@pytest.mark.parametrize(
    ("inputs", "where", "what"),
    [
        (GOOD[1:], "columns", "lacks amount"),
        (with_(0, data=["x", 1]), "column 'amount', row 0", "found 'x'"),
        (with_(0, data=[True, 1]), "column 'amount', row 0", "found True"),
        (with_(1, data=[40.5, 1]), "column 'age', row 0", "found 40.5"),
        (with_(1, data=[2**63, 1]), "column 'age', row 0", "found 9223372036854775808"),
        (with_(0, datatype="BYTES"), "inputs[0] ('amount')", "datatype is 'BYTES'"),
        (with_(0, shape=[3]), "inputs[0] ('amount')", "2 values for shape [3]"),
        (with_(0, shape=[1, 2]), "inputs[0] ('amount')", "shape is [1, 2]"),
        (with_(0, shape=[1], data=[1.0]), "columns", "2 values in 'age', 1 in 'amount'"),
        ([*GOOD, GOOD[0]], "inputs[4]", "column 'amount' comes twice"),
        ([{**tensor, "shape": [0], "data": []} for tensor in GOOD], "columns", "no rows"),
        ("rows", "inputs", "found 'rows'"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_told_what_where_and_how_to_mend_it(client, inputs, where, what):
    answer = v2(client, inputs)
    assert answer.status_code == 400
    error = answer.json()
    assert (error["where"], error["what"]) == (where, what)
    assert error["rule"]
    assert error["remedy"]
    assert error["error"].startswith(f"{where}: {what}")


def test_what_is_wrong_beside_the_rows_is_refused_too(client):
    assert v2(client, parameters={"partition_key": "../../etc"}).json()["where"] == "parameters.partition_key"
    assert v2(client, parameters={"partition_key": "2026-1-5"}).status_code == 400
    assert v2(client, parameters={"log": 1}).status_code == 400
    assert v2(client, id=7).status_code == 400
    assert client.post("/v2/models/other/infer", json={}).status_code == 404
    assert client.get("/nothing").json()["where"] == "GET /nothing"
    assert client.get("/invocations").status_code == 405
    assert client.post("/invocations", content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 415
    assert client.post("/invocations", content=b" " * (MAX_BODY + 1), headers=JSON).status_code == 413
    for many in ({"dataframe_records": [RECORD] * 50_001}, {"inputs": {name: [value] * 50_001 for name, value in RECORD.items()}}):
        answer = client.post("/invocations", json=many)
        assert (answer.status_code, answer.json()["what"]) == (413, "found 50001 rows")
    missing = client.post("/invocations", json={"dataframe_records": [RECORD, {"age": 1}]})
    assert "lacks ['amount', 'member', 'country']" in missing.json()["error"]


def test_an_unknown_category_is_refused_where_the_use_case_says_so(root, deploy):
    deploy(root, 3, refuse_unknown=True)
    with TestClient(create_app(root)) as client:
        assert (
            client.post(
                "/invocations", json={"dataframe_records": [RECORD, RECORD | {"country": " de "}, RECORD | {"country": None}]}
            ).status_code
            == 200
        )
        refused = client.post("/invocations", json={"dataframe_records": [RECORD, RECORD | {"country": "atlantis"}]})
        assert refused.status_code == 400
        assert (refused.json()["what"], refused.json()["where"]) == ("found 'atlantis'", "column 'country', row 1")
        assert "deployment.unknown_categories" in refused.json()["rule"]
    deploy(root, 3)
    with TestClient(create_app(root)) as client:
        assert client.post("/invocations", json={"dataframe_records": [RECORD | {"country": "atlantis"}]}).status_code == 200


def test_a_path_may_name_the_version_that_serves(client):
    body = {"inputs": GOOD}
    assert client.post("/v2/models/credit/versions/3/infer", json=body).json() == v2(client).json()
    assert client.get("/v2/models/credit/versions/3/ready").json() == {"name": "credit", "ready": True}
    assert client.get("/v2/models/credit/versions/3").json() == client.get("/v2/models/credit").json()
    other = client.get("/v2/models/credit/versions/7")
    assert (other.status_code, other.json()["rule"]) == (404, "version 3 serves")


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"inputs": NaN}', b"[" * 100_000, b'{"a":' * 50_000, b"9" * 5000, b'{"id": "\\ud800"}',
        '{"inputs": []}'.encode("utf-16"), b'{"inputs": [],}', b"{'inputs': []}", b'{"a": 1}{"a": 1}', b"\x00",
    ],
)  # fmt: skip
def test_broken_json_is_refused(client, body):
    for path in ("/v2/models/credit/infer", "/invocations"):
        answer = client.post(path, content=body, headers=JSON)
        assert (answer.status_code, bool(answer.json()["remedy"])) == (400, True)


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(st.characters(), max_size=5), st.sampled_from(["de", "FP64", "amount", 10**400])
)  # fmt: skip
anything = st.recursive(
    scalars, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)), max_leaves=8
)
tensors = st.lists(
    st.one_of(
        anything,
        st.fixed_dictionaries(
            {"name": st.sampled_from(["amount", "age", "member", "country", "customer", "x"])},
            optional={
                "shape": st.one_of(anything, st.just([1]), st.just([1, 1])),
                "datatype": st.one_of(anything, st.sampled_from(["FP64", "BYTES", "BOOL", "INT64"])),
                "data": st.one_of(anything, st.lists(scalars, min_size=1, max_size=1)),
            },
        ),
        st.sampled_from(GOOD),
    ),
    max_size=6,
)
documents = st.one_of(
    anything,
    st.fixed_dictionaries(
        {"inputs": st.one_of(anything, tensors)},
        optional={"id": anything, "parameters": anything, "outputs": anything, "params": anything},
    ),
    st.fixed_dictionaries({"dataframe_records": st.one_of(anything, st.lists(st.fixed_dictionaries(dict.fromkeys(RECORD, scalars)), max_size=2))}),
    st.fixed_dictionaries({"dataframe_split": st.one_of(anything, st.fixed_dictionaries({"columns": st.just(list(RECORD)), "data": anything}))}),
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(documents)
def test_no_json_makes_the_server_fail(client, document):
    for path in ("/v2/models/credit/infer", "/invocations"):
        answer = client.post(path, content=json.dumps(document), headers=JSON)
        assert answer.status_code in (200, 400)
        assert answer.json().get("error") or answer.status_code == 200


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=100))
def test_no_bytes_make_the_server_fail(client, body):
    assert client.post("/invocations", content=body, headers=JSON).status_code == 400


def test_of_a_name_that_comes_twice_the_last_counts(client):
    once = json.dumps(RECORD)
    twice = once.replace('"age": 40', '"age": "old", "age": 40')
    said = [client.post("/invocations", content=f'{{"inputs": 1, "inputs": [{row}]}}', headers=JSON).json() for row in (once, twice)]
    assert said[0] == said[1]
    assert said[0]["predictions"]


@pytest.mark.parametrize(
    "kind", ["", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json", "application/jsonp", "\xff"]
)
def test_what_is_not_called_json_is_refused(client, kind):
    answer = client.post("/recommend", content=b"{}", headers={"Content-Type": kind.encode("latin-1")})
    assert (answer.status_code, answer.json()["where"]) == (415, "header Content-Type")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD", "BREW"])
def test_another_method_is_refused(client, method):
    for path in ("/v2/models/credit/infer", "/invocations", "/recommend"):
        assert client.request(method, path, headers=JSON).status_code == 405


@pytest.mark.parametrize(
    "inputs",
    [
        with_(1, data=[10**400, 1]), with_(1, data=[-(2**63) - 1, 1]), with_(0, data=[10**400, 1]), with_(0, data=[1e308 * 10, 1]), with_(1, shape=[2**70]),
        with_(1, shape=[True]), with_(0, data=[[[0.5]], 1]), with_(3, data=[{"de": 1}, "de"]), with_(0, data={"0": 1}), with_(0, name="a" * 10_000),
    ],
)  # fmt: skip
def test_values_beyond_reason_are_refused(client, inputs):
    body = json.dumps({"inputs": inputs}).replace("Infinity", "1e999")
    answer = client.post("/v2/models/credit/infer", content=body, headers=JSON)
    assert answer.status_code == 400
    assert len(answer.json()["error"]) < 1000


def test_a_body_in_chunks_is_read_as_a_whole_and_bounded(client):
    body = json.dumps({"inputs": GOOD}).encode()
    answer = client.post("/v2/models/credit/infer", content=(body[i : i + 7] for i in range(0, len(body), 7)), headers=JSON)
    assert answer.json()["outputs"]
    endless = client.post("/invocations", content=(b" " * 2**20 for _ in range(12)), headers=JSON)
    assert (endless.status_code, endless.headers["connection"]) == (413, "close")


def test_a_client_that_does_not_go_on_is_not_waited_for(client, monkeypatch):
    monkeypatch.setattr(app, "BODY_SECONDS", 0.01)
    sent = []

    async def receive():
        if sent:
            await asyncio.Event().wait()
        sent.append("the first part")
        return {"type": "http.request", "body": b"{", "more_body": True}

    async def send(message):
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    asyncio.run(client.app({"type": "http", "method": "POST", "path": "/invocations", "headers": headers}, receive, send))
    _, start, body = sent
    assert (start["status"], dict(start["headers"])[b"connection"]) == (408, b"close")
    assert json.loads(body["body"])["what"] == "not all of it came"


def test_answers_are_logged_typed_once_a_row(root, deploy):
    deploy(root, 3)
    with TestClient(create_app(root, flush_seconds=0.02)) as client:
        keyed = [*GOOD, {"name": "customer", "shape": [2], "datatype": "INT64", "data": [7, 8]}]
        answer = v2(client, keyed, id="q1", parameters={"partition_key": "2026-01-05"}).json()
        client.post("/invocations", json={"dataframe_records": [RECORD], "params": {"id": "q2", "partition_key": "2026-01-06"}})
        v2(client, parameters={"partition_key": "2026-01-05", "log": False})
        v2(client, [{"name": "nothing"}])
    rows = Tables(root).read("predictions")
    assert rows.column("row_id").to_pylist() == ["q1:000000", "q1:000001", "q2"]
    assert rows.column("partition_key").to_pylist() == ["2026-01-05", "2026-01-05", "2026-01-06"]
    assert rows.column("customer").to_pylist() == [7, 8, None]
    assert rows.column("amount").to_pylist() == [0.5, None, 0.5]
    # A feature that is whole today may be a fraction in the next version, and a table keeps its types; a key is compared.
    assert str(rows.schema.field("customer").type) == "int64"
    assert [str(rows.schema.field(name).type) for name in ("age", "member", "country", "model_version")] == [
        "double",
        "bool",
        "string",
        "int64",
    ]
    assert rows.column("score").to_pylist()[:2] == pytest.approx(answer["outputs"][1]["data"])
    assert set(rows.column("model_version").to_pylist()) == {3}


@pytest.fixture
def beside(root, deploy):
    """Returns `begin(mode, share=1.0, bias=1.0)`: version 3 serves, and version 4 meets requests beside it."""

    def begin(mode, share=1.0, bias=1.0, **more):
        deploy(root, 3)
        traffic = Traffic(mode=mode, share=share, until=time.time() + 600)
        deploy(root, 4, bias, "candidate", previous=read_pointer(root), traffic=traffic, **more)

    return begin


def report(client):
    return client.get("/v2/models/credit").json()["parameters"]["rollout"]


def test_in_a_canary_a_share_of_the_requests_is_answered_by_the_challenger_and_logged_as_its_own(root, beside):
    beside("canary", 0.5)
    with TestClient(create_app(root, flush_seconds=0.02)) as client:
        answers = {f"q{i}": v2(client, id=f"q{i}").json()["model_version"] for i in range(40)}
        assert {*answers.values()} == {"3", "4"}
        assert all(v2(client, id=name).json()["model_version"] == version for name, version in answers.items())
        assert client.post("/invocations", json={"dataframe_records": [RECORD]}).json()["model_version"] in ("3", "4")
        said = report(client)
        assert said["champion"]["requests"] + said["challenger"]["requests"] == 81
        assert "A canary is under way: version <b>4</b> answers 0.5" in client.get("/").text
        assert "sluice_rollout_requests_total" in client.get("/metrics").text
        assert client.get("/v2/models/credit").json()["versions"] == ["3"]
    logged = Tables(root).read("predictions")
    mine = {row["row_id"].partition(":")[0]: str(row["model_version"]) for row in logged.to_pylist()}
    assert answers.items() <= mine.items()


def test_shadow_answers_are_in_a_table_of_their_own(root, beside):
    beside("shadow")
    with TestClient(create_app(root, flush_seconds=0.02)) as client:
        assert {v2(client).json()["model_version"] for _ in range(5)} == {"3"}
        deadline = time.monotonic() + 10
        while report(client)["challenger"]["requests"] < 5:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert report(client)["disagreement"]["score_difference"] > 0
    for layer, version in (("predictions", 3), ("shadows", 4)):
        rows = Tables(root).read(layer)
        assert (rows.num_rows, {*rows["model_version"].to_pylist()}) == (10, {version})
    names = [Tables(root).read(layer)["row_id"].to_pylist() for layer in ("predictions", "shadows")]
    assert names[0] == names[1], "by which the answers to one request are found"


def test_a_challenger_that_needs_other_columns_fails_no_request(root, beside):
    beside("canary", required=("country",))
    with TestClient(create_app(root)) as client:
        gap = with_(3, data=["de", None])
        assert v2(client, gap).json()["model_version"] == "3"
        assert v2(client, [{"name": "nothing"}]).status_code == 400
        assert (report(client)["challenger"]["requests"], report(client)["challenger"]["errors"]) == (1, 1)


def test_a_challenger_that_cannot_be_opened_leaves_the_champion_alone_and_is_told(root, beside):
    beside("canary")
    (root.parent / read_pointer(root).model.package / "model.onnx").write_bytes(b"no graph")
    with TestClient(create_app(root)) as client:
        assert v2(client).json()["model_version"] == "3"
        assert "was changed" in report(client)["error"]
        assert client.get("/v2/models/credit").json()["parameters"]["error"] is None


def test_a_promoted_challenger_takes_over_and_the_roll_out_ends(root, beside):
    beside("canary", 0.01)
    with TestClient(create_app(root, poll_seconds=0.01)) as client:
        write_pointer(root, read_pointer(root).verified())
        deadline = time.monotonic() + 10
        while report(client) is not None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert v2(client).json()["model_version"] == "4"


def test_a_store_that_fails_never_fails_a_request(root, deploy):
    deploy(root, 3)
    (root / "tables").mkdir()
    (root / "tables" / "predictions").write_text("a file where the table should be")
    with TestClient(create_app(root, flush_seconds=0.01)) as client:
        assert v2(client).status_code == 200
        log = client.app.state.service.predictions
    assert (log.rows_logged, log.rows_lost, log.rows_waiting) == (0, 2, 0)


def test_without_a_model_it_is_live_but_not_ready(root):
    with TestClient(create_app(root)) as client:
        assert client.get("/v2/health/live").status_code == 200
        assert [client.get(path).status_code for path in ("/v2/health/ready", "/ping", "/v2/models/credit")] == [503] * 3
        assert v2(client).json()["remedy"] == "Run the training DAG, then ask again"
        assert "No model is deployed" in client.get("/").text


def test_ignored_columns_are_named(client):
    extra = [*GOOD, {"name": "colour", "shape": [1], "datatype": "BYTES", "data": ["red"]}]
    assert v2(client, extra).json()["parameters"]["ignored"] == ["colour"]


def test_a_null_is_refused_where_the_use_case_does_not_allow_one(root, deploy):
    deploy(root, 3, required=("age",))
    with TestClient(create_app(root)) as client:
        assert v2(client).status_code == 200
        error = v2(client, with_(1, data=[40, None])).json()
        assert (error["what"], error["where"]) == ("found null", "column 'age', row 1")
        assert "but not of age" in client.get("/").text


def test_missing_and_unknown_values_get_an_answer(client):
    nothing = dict.fromkeys(RECORD)
    [answer] = client.post("/invocations", json={"dataframe_records": [nothing]}).json()["predictions"]
    assert 0 < answer["score"] < 1
    assert math.isfinite(answer["score"])
