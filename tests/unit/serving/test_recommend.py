"""`POST /recommend`: what suits a user, of what he has not met."""

import json
import warnings

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines_lib.contracts import DatasetRef
from pipelines_lib.data.pseudonyms import Pseudonyms
from pipelines_lib.data.snapshot import Snapshot
from pipelines_lib.data.tables import Tables
from pipelines_lib.registry.catalogue import Catalogue
from pipelines_lib.registry.package import Feature, Recommends
from pipelines_lib.serving import recommend
from pipelines_lib.serving.app import create_app
from pipelines_lib.store import write_json
from pipelines_lib.use_case import Column

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette's test client asks for a fork of httpx that nothing else here uses
    from starlette.testclient import TestClient

RECOMMENDS = Recommends(user=Feature(name="who", type="string"), item=Feature(name="product", type="string"), columns=("amount", "country"))
WHO = {"age": 40, "member": True}
KEY = "k" * 32


def catalogue(n=30, seed=0, who=str):
    """Item p<i>; user u1 has met the first ten."""
    random = np.random.default_rng(seed)
    rows = pa.table(
        {
            "who": [who("u1") if i < 10 else who(f"x{i}") for i in range(n)],
            "product": [f"p{i}" for i in range(n)],
            "amount": [None if i == 5 else float(v) for i, v in enumerate(random.normal(size=n))],
            "country": random.choice(["de", "cn", "fr"], n).tolist(),
        }
    )
    ref = DatasetRef(use_case="shop", table="labelled", version=0, partitions=("1",), n_rows=n, config_hash="c", content_hash="d")
    return Catalogue.of(Snapshot(ref, rows), user="who", item="product", columns=RECOMMENDS.columns)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store" / "shop"


@pytest.fixture
def package(root, make_package):
    return make_package(root, catalogue=catalogue(), recommends=RECOMMENDS)


@pytest.fixture
def client(root, package, deploy):
    deploy(root, 3, package=package, keys={"customer": "integer", "product": "string"})
    with TestClient(create_app(root, flush_seconds=0.02), raise_server_exceptions=False) as client:
        yield client


def ask(client, **changes):
    return client.post("/recommend", json={"user": "u1", "columns": WHO, **changes})


def items(answer):
    assert answer.status_code == 200, answer.text
    return [found["item"] for found in answer.json()["items"]]


def test_scores_are_those_of_invocations_and_the_best_comes_first(client):
    answer = ask(client, user=None, k=1000).json()
    assert (answer["model_name"], answer["model_version"], answer["candidates"], answer["met"]) == ("shop", "3", 30, 0)
    known = {row["item"]: row for row in catalogue().items.to_pylist()}
    assert {found["item"] for found in answer["items"]} == known.keys()
    records = [{**WHO, "amount": known[found["item"]]["amount"], "country": known[found["item"]]["country"]} for found in answer["items"]]
    said = client.post("/invocations", json={"dataframe_records": records}).json()["predictions"]
    scores = [found["score"] for found in answer["items"]]
    assert scores == pytest.approx([row["score"] for row in said], abs=1e-7)
    assert scores == sorted(scores, reverse=True)


def test_what_the_user_has_met_is_left_out_unless_it_is_asked_for(client):
    mine, all_of_them = items(ask(client, k=1000)), items(ask(client, user=None, k=1000))
    assert set(mine) == {f"p{i}" for i in range(10, 30)}
    assert mine == [item for item in all_of_them if item in mine]
    assert ask(client).json()["met"] == 10
    assert items(ask(client, k=1000, known=True)) == all_of_them
    stranger = ask(client, user="nobody knows him").json()
    assert ([found["item"] for found in stranger["items"]], stranger["met"]) == (all_of_them[:10], 0)
    assert items(ask(client, user="  u1 ", k=1000)) == mine


def test_items_may_be_excluded_and_named_and_have_columns_of_their_own(client):
    best = items(ask(client))
    assert items(ask(client, exclude=[best[0], "of another shop"]))[:9] == best[1:]
    assert set(items(ask(client, items=["p1", "p11", "p12"]))) == {"p11", "p12"}
    assert items(ask(client, items=["p1", "p2"])) == []
    dear = ask(client, items=["p11", "p12"], columns={**WHO, "amount": [0.0, 3.0], "country": "de"}).json()["items"]
    rows = [{**WHO, "amount": amount, "country": "de"} for amount in (3.0, 0.0)]
    said = client.post("/invocations", json={"dataframe_records": rows}).json()["predictions"]
    assert [found["item"] for found in dear] == ["p12", "p11"]
    assert [found["score"] for found in dear] == pytest.approx([row["score"] for row in said], abs=1e-7)


def test_a_large_catalogue_is_scored_in_pieces(client, monkeypatch):
    whole = ask(client, user=None, k=30).json()["items"]
    monkeypatch.setattr(recommend, "_PIECE", 7)
    assert ask(client, user=None, k=30).json()["items"] == whole


@pytest.mark.parametrize(
    ("changes", "where", "what"),
    [
        ({"k": 0}, "k", "found 0"),
        ({"k": 1001}, "k", "found 1001"),
        ({"k": True}, "k", "found True"),
        ({"known": 1}, "known", "found 1"),
        ({"user": 5}, "column 'who', row 0", "found 5"),
        ({"columns": {"age": 40}}, "columns", "lacks member"),
        ({"columns": [1]}, "columns", "found a list of 1"),
        ({"columns": {**WHO, "age": "old"}}, "column 'age', row 0", "found 'old'"),
        ({"columns": {**WHO, "age": [40]}}, "columns.age", "1 values for all items"),
        ({"items": ["p1", "p2"], "columns": {**WHO, "age": [40]}}, "columns.age", "1 values for 2 items"),
        ({"items": ["p1", "new"]}, "items", "unknown: ['new']"),
        ({"items": ["p1", "p1"]}, "items", "no item, or one twice"),
        ({"items": []}, "items", "no item, or one twice"),
        ({"items": [["p1"]]}, "items", "found a list of 1"),
        ({"items": None}, "items", "found null"),
        ({"exclude": "p1"}, "exclude", "found 'p1'"),
        ({"exclude": [1]}, "exclude", "found 1"),
        ({"params": {"id": 7}}, "params.id", "found 7"),
        ({"amount": 1}, "body", "found ['amount']"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_told_what_where_and_how_to_mend_it(client, changes, where, what):
    answer = ask(client, **changes)
    assert (answer.status_code, answer.json()["where"], answer.json()["what"]) == (400, where, what)
    assert answer.json()["remedy"]


def test_a_request_without_a_user_and_null_where_none_may_be_are_refused(root, client, package, deploy):
    assert client.post("/recommend", json={"columns": WHO}).json()["what"] == "lacks user"
    deploy(root, 4, package=package, required=("age", "amount"))
    client.app.state.service.slot.look()
    assert ask(client).status_code == 200
    assert ask(client, columns={**WHO, "age": None}).json()["where"] == "columns.age"


def test_a_version_that_knows_no_items_says_so(root, client, deploy):
    deploy(root, 4)
    client.app.state.service.slot.look()
    answer = ask(client)
    assert (answer.status_code, answer.json()["what"]) == (404, "version 4 recommends nothing")
    assert client.get("/v2/models/shop").json()["parameters"]["recommends"] is None


def test_what_is_recommended_is_told_and_logged(root, client):
    said = client.get("/v2/models/shop").json()["parameters"]["recommends"]
    assert said == {"user": "who", "item": "product", "columns": ["age", "member"], "items": 30, "until": "2026-01-01"}
    columns = {**WHO, "customer": 7, "colour": "red"}
    answer = ask(client, k=2, columns=columns, params={"id": "q1", "partition_key": "2026-01-05"}).json()
    assert (answer["id"], answer["ignored"]) == ("q1", ["colour"])
    ask(client, params={"log": False})
    ask(client, items=["p1"])
    log = client.app.state.service.predictions
    log.close()
    rows = Tables(root).read("predictions").to_pylist()
    assert [row["row_id"] for row in rows] == ["q1:000000", "q1:000001"]
    for row, found in zip(rows, answer["items"], strict=True):
        assert (row["product"], row["score"]) == (found["item"], pytest.approx(found["score"]))
        assert (row["age"], row["customer"], row["partition_key"]) == (40.0, 7, "2026-01-05")
        assert "who" not in row
    assert 'sluice_requests_total{endpoint="recommend",status="200"} 3' in client.get("/metrics").text


def test_a_hashed_user_is_known_by_his_hash_and_asked_for_by_his_name(root, make_package, deploy, monkeypatch):
    pseudonyms = Pseudonyms.under(KEY, "shop")
    hashed = catalogue(who=lambda name: pseudonyms.of(pa.array([name]))[0].as_py())
    package = make_package(root, catalogue=hashed, recommends=RECOMMENDS)
    deploy(root, 3, package=package, private={"who": Column(type="string", role="entity", privacy="identifier")})
    write_json(root / "privacy.json", {"key": pseudonyms.fingerprint, "domain": "shop"})
    with TestClient(create_app(root)) as client:
        answer = ask(client)
        assert (answer.status_code, answer.json()["where"]) == (503, "user")
        assert "no key" in answer.json()["what"]
        assert len(items(ask(client, user=None))) == 10
    monkeypatch.setenv("SLUICE_CONN_SLUICE_PRIVACY", json.dumps({"conn_type": "generic", "password": KEY}))
    with TestClient(create_app(root)) as client:
        assert ask(client).json()["met"] == 10
        assert ask(client, user=5).json()["what"] == "found another value"


scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.sampled_from(["u1", "p1", "age", ""]))
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*WHO, "x"]), inner), max_leaves=6
)
documents = anything | st.fixed_dictionaries({"user": scalars}, optional={name: anything for name in recommend._NAMES if name != "user"})


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(documents)
def test_no_json_makes_the_server_fail(client, document):
    answer = client.post("/recommend", content=json.dumps(document), headers={"Content-Type": "application/json"})
    assert answer.status_code in (200, 400)
    assert answer.json().get("error") or answer.status_code == 200
