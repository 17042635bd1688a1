"""What verify makes of a server's recommendations, from a real application without a socket."""

import json
import warnings
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from pipelines_lib.contracts import DatasetRef, ModelRef
from pipelines_lib.data.snapshot import Snapshot
from pipelines_lib.data.tables import Tables
from pipelines_lib.jobs import recommended
from pipelines_lib.registry.catalogue import Catalogue
from pipelines_lib.registry.package import Feature, Package, Recommends
from pipelines_lib.serving.app import create_app
from pipelines_lib.serving.pointer import read_pointer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette's test client asks for a fork of httpx that nothing else here uses
    from starlette.testclient import TestClient

RECOMMENDS = Recommends(user=Feature(name="who", type="string"), item=Feature(name="product", type="string"), columns=("amount", "country"))
USERS = ["u1", "nobody knows him", None]
MODEL = ModelRef(name="shop", version=3, package="", run_id="run")


def catalogue():
    """Thirty items, of which u1 has met ten."""
    random = np.random.default_rng(0)
    rows = pa.table(
        {
            "who": ["u1" if i < 10 else f"x{i}" for i in range(30)],
            "product": [f"p{i}" for i in range(30)],
            "amount": random.normal(size=30),
            "country": random.choice(["de", "cn", "fr"], 30).tolist(),
        }
    )
    ref = DatasetRef(use_case="shop", table="labelled", version=0, partitions=("1",), n_rows=30, config_hash="c", content_hash="d")
    return Catalogue.of(Snapshot(ref, rows), user="who", item="product", columns=RECOMMENDS.columns)


@pytest.fixture
def root(sandbox):
    return sandbox.project.home / "store" / "shop"


@pytest.fixture
def package(root, deploy, make_package):
    deploy(root, 3, package=make_package(root, catalogue=catalogue(), recommends=RECOMMENDS))
    return Package.open(root.parent / read_pointer(root).model.package)


@pytest.fixture
def server(root, package):
    """A replica that can be told to `spoil(status, answer)` what it answers."""

    def ask(path, document):
        answer = client.post(path, json=document)
        return made.spoil(answer.status_code, answer.json())

    with TestClient(create_app(root)) as client:
        made = SimpleNamespace(ask=ask, spoil=lambda status, answer: (status, answer))
        yield made


def test_the_versions_own_ranking_is_found_right(package, server):
    found = recommended.compare(package, USERS, MODEL, server)
    assert (found["requests"], found["errors"], found["users_not_known"]) == (3, 0, 0)
    assert found["largest_difference"] < 1e-6


def changed(**items):
    """Replaces what the answer says of its first item."""

    def spoil(status, answer):
        answer["items"][0].update(items)
        return status, answer

    return spoil


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda status, answer: (500, {"error": "broken"}), "status 500: broken"),
        (lambda status, answer: (status, {**answer, "model_version": "2"}), "version 2 answered"),
        (lambda status, answer: (status, {**answer, "items": answer["items"][1:]}), "9 items, where there are 20 to choose from"),
        (changed(item="p0"), "an item that the user has met"),
        (changed(item="of another shop"), "not the version's"),
    ],
)
def test_wrong_items_are_errors(package, server, spoil, why):
    server.spoil = spoil
    found = recommended.compare(package, ["u1"], MODEL, server)
    assert found["errors"] == 1
    assert why in found["first_error"]


@pytest.mark.parametrize(
    "spoil",
    [changed(score=0.0), lambda status, answer: (status, {**answer, "items": answer["items"][::-1]})],
)
def test_other_scores_and_another_order_are_differences(package, server, spoil):
    server.spoil = spoil
    assert recommended.compare(package, ["u1"], MODEL, server)["largest_difference"] > 0.01


def test_where_the_service_cannot_know_its_users_they_are_left_out(package, server):
    asked = []

    def ask(path, document, whole=server.ask):
        asked.append(document["user"])
        return (503, {"error": "no key"}) if document["user"] else whole(path, document)

    server.ask = ask
    found = recommended.compare(package, ["u1"], MODEL, server)
    assert (found["errors"], found["users_not_known"], asked) == (0, 1, ["u1", None])


def test_the_users_are_those_of_the_recorded_rows(package, sandbox, make_use_case, root):
    rows = pa.table({"row_id": ["r0", "r1", "r30"], "who": ["u1", None, "x9"], "label": ["yes"] * 3})
    Tables(root).write("labelled", "2026-01-01", rows)
    found = recommended.users_of(sandbox.stage("verify", make_use_case(), "2026-01-05"), package)
    assert found == ["u1"] + [None] * 19
    assert json.dumps(found)
