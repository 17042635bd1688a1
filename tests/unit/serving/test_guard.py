"""What a request brings about a person: the model meets bins, the log holds hashes, and without a key it holds nothing."""

import json
import warnings

import pyarrow as pa
import pytest

from pipelines_lib.data.pseudonyms import Pseudonyms, pseudonyms
from pipelines_lib.data.tables import Tables
from pipelines_lib.serving.app import create_app
from pipelines_lib.store import write_json
from pipelines_lib.use_case import Column

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette's test client asks for a fork of httpx that nothing else here uses
    from starlette.testclient import TestClient

SECRET = "0123456789abcdef" * 4
CUSTOMER = Column(type="string", role="key", privacy="identifier")
AGE = Column(type="integer", privacy="quasi_identifier", protect={"bins": [18, 40, 65]})
COUNTRY = Column(type="string", privacy="sensitive")
PRIVATE = {"customer": CUSTOMER, "age": AGE, "country": COUNTRY}
RECORD = {"amount": 0.5, "age": 44, "member": True, "country": "de", "customer": "Zoë 1"}


@pytest.fixture
def root(tmp_path, deploy):
    deploy(tmp_path / "store" / "credit", 3, keys={"customer": "string"}, private=PRIVATE)
    return tmp_path / "store" / "credit"


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("SLUICE_CONN_SLUICE_PRIVACY", json.dumps({"conn_type": "generic", "password": SECRET}))


def asked(root, *records, home=None):
    """(answers, rows of the log, metadata, page)."""
    with TestClient(create_app(root, home=home, flush_seconds=0.01)) as client:
        params = {"id": "q", "partition_key": "2026-01-05"}
        answer = client.post("/invocations", json={"dataframe_records": list(records), "params": params})
        metadata, page = client.get("/v2/models/credit").json(), client.get("/").text
    rows = Tables(root).read("predictions").to_pylist() if answer.status_code == 200 else []
    return answer.json(), rows, metadata["parameters"], page


@pytest.mark.usefixtures("key")
def test_the_model_and_the_log_meet_what_the_pipeline_writes(root):
    answers, rows, metadata, _ = asked(
        root, RECORD, {**RECORD, "age": 40, "customer": " Zoë 1 "}, {**RECORD, "customer": None, "age": None}
    )

    [name] = Pseudonyms.under(SECRET, "credit").of(pa.array(["Zoë 1"])).to_pylist()
    assert [row["customer"] for row in rows] == [name, name, None]
    assert [row["age"] for row in rows] == [40, 40, None]
    assert answers["predictions"][0] == answers["predictions"][1]
    assert metadata["not_logged"] is None


@pytest.mark.usefixtures("key")
def test_a_replayed_row_is_not_hashed_twice(root):
    [name] = Pseudonyms.under(SECRET, "credit").of(pa.array(["Zoë 1"])).to_pylist()

    assert asked(root, {**RECORD, "customer": name})[1][0]["customer"] == name


def test_without_a_key_identifiers_are_answered_and_not_logged(root):
    answers, [row], metadata, page = asked(root, RECORD)

    assert len(answers["predictions"]) == 1
    assert "customer" not in row
    assert row["age"] == 40
    assert metadata["not_logged"]["columns"] == ["customer"]
    assert "customer: not logged, because there is no key" in page


@pytest.mark.parametrize("password", ["short", "another key, long enough to be taken for one"])
def test_with_a_key_that_will_not_do_neither(root, monkeypatch, password):
    write_json(root / "privacy.json", {"key": Pseudonyms.under(SECRET, "credit").fingerprint, "domain": "credit"})
    monkeypatch.setenv("SLUICE_CONN_SLUICE_PRIVACY", json.dumps({"conn_type": "generic", "password": password}))

    _, [row], metadata, _ = asked(root, RECORD)

    assert "customer" not in row
    assert ("can't be guessed" if password == "short" else "were hashed under") in metadata["not_logged"]["because"]


def test_the_key_made_on_this_machine_is_found(root, sandbox, make_use_case):
    columns = {"customer": CUSTOMER.model_dump(), "price": {"type": "number"}, "action": {"type": "string", "role": "label"}}
    use_case = make_use_case(name="credit", columns=columns, split={"by": "row"})
    made = pseudonyms(use_case, sandbox.project, "local", root)

    assert asked(root, RECORD, home=sandbox.project.home)[1][0]["customer"] == made.of(pa.array(["Zoë 1"]))[0].as_py()


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("age", 7, "none of its bins"),
        ("age", 10**18 + 1, "none of its bins"),  # of more digits than the pipeline reads
        ("age", "Smith", "another value"),
        ("country", 7007, "another value"),
    ],
)
def test_a_refusal_does_not_quote_what_was_sent(root, column, value, says):
    answer, *_ = asked(root, {**RECORD, column: value})

    assert says in answer["what"]
    assert str(value) not in json.dumps(answer)


def test_a_value_that_means_missing_is_answered_as_the_pipeline_keeps_it(tmp_path, deploy):
    root = tmp_path / "store" / "credit"
    deploy(root, 3, private={"age": AGE}, markers={"age": ("-1", "unknown")})
    answers, [row], *_ = asked(root, {name: value for name, value in {**RECORD, "age": -1}.items() if name != "customer"})

    assert len(answers["predictions"]) == 1
    assert row["age"] == -1
