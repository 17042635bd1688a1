"""Values that can't be mistaken for anything else go in at every source; no file, log or error that comes out holds one.

Identifiers are nowhere at all. Sensitive values are in the tables, and nowhere else.
"""

import json
import random
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines_lib.contracts import JobSpec
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import BadInput, Held
from pipelines_lib.jobs.stage import Stage
from pipelines_lib.store import write_json
from pipelines_lib.use_case import UseCase

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette's test client asks for a fork of httpx that nothing else here uses
    from starlette.testclient import TestClient

PERSON, SECRET = "zqperson", "zqsecret"
"""In every identifier, and in every sensitive value. No word of any language, and no hexadecimal digits."""
DAYS = ("2026-01-01", "2026-01-02", "2026-01-03")

CLINIC: dict[str, Any] = {
    "name": "clinic",
    "title": "Clinic",
    "owner": "tests",
    "task": "binary",
    "start": "2026-01-01",
    "source": {"path": "{home}/in/{partition}.csv"},
    "columns": {
        "visit": {"type": "string", "role": "key", "privacy": "identifier"},
        "patient": {"type": "string", "role": "entity", "privacy": "identifier", "nullable": False},
        "mail": {"type": "string", "role": "other", "privacy": "identifier", "protect": "drop"},
        "age": {"type": "integer", "privacy": "quasi_identifier", "protect": {"bins": [0, 40, 65]}, "nullable": False},
        "town": {"type": "string", "role": "other", "privacy": "quasi_identifier", "protect": {"keep": 1}},
        "finding": {"type": "text", "privacy": "sensitive"},
        "drug": {"type": "string", "role": "other", "privacy": "sensitive"},
        "dose": {"type": "number"},
        "outcome": {"type": "string", "role": "label", "privacy": "sensitive"},
    },
    "label": {"column": "outcome", "map": {f"{SECRET}ill": "ill", f"{SECRET}well": "well"}, "positive": "ill"},
    "split": {"by": "entity", "validation": 0.2, "test": 0.3},
    "quality": {"max_quarantined": 0.2},
    "training": {"epochs": 1, "model": {"hidden": [4]}, "batch_size": 64, "workers": 1},
    "gate": {"metric": "roc_auc", "floor": 0.0, "resamples": 100, "min_rows": 5},
    "monitoring": {"min_rows": 10, "psi": 0.01, "share": 0.01},
}
HEADER = "visit,patient,mail,age,town,finding,drug,dose,outcome,phone"


def rows(day: str, n: int = 90, spoil: Callable[[dict[str, str]], None] = lambda row: None) -> list[str]:
    """`n` visits; a few of them broken in ways that any file has. `spoil` changes each."""
    rng = random.Random(day)
    lines = []
    for number in range(n):
        ill = rng.random() < 0.5
        row = {
            "visit": f"{PERSON}v{day}-{number}",
            "patient": f"{PERSON}p{rng.randrange(40)}",
            "mail": f"{PERSON}{number}@example.org",
            "age": str(rng.randrange(18, 90)),
            "town": f"{PERSON}town{rng.randrange(3)}",
            "finding": f"{SECRET}text{day}{number} {'worse' if ill else 'better'}",
            "drug": f"{SECRET}drug{rng.randrange(60)}",
            "dose": str(round(rng.gauss(2.0 if ill else 0.0, 1), 3)),
            "outcome": f"{SECRET}{'ill' if ill else 'well'}",
            "phone": f"{PERSON}phone{number}",
        }
        if number % 30 == 1:  # cells that slipped into their neighbours' columns
            row["age"], row["dose"] = row["mail"], row["drug"]
        if number % 30 == 4:
            row["dose"] = row["patient"]
        if number % 30 == 2:
            row["outcome"] = f"{SECRET}else{number}"
        spoil(row)
        lines.append(",".join(row.values()))
        if number % 45 == 3:
            lines.append(f"{PERSON}broken,{SECRET}broken")
    return lines


@dataclass
class Clinic:
    """Runs stages in this process and keeps all that is said."""

    sandbox: Any
    said: list[str]

    def stage(self, name: str, pipeline: str, key: str, use_case: UseCase, run_id: str) -> Stage:
        stage = self.sandbox.stage(name, use_case, key)
        spec: JobSpec = stage.spec.model_copy(update={"pipeline": pipeline, "run_id": run_id})
        profile = stage.profile.model_copy(update={"tracking_uri": f"sqlite:///{self.sandbox.project.home}/mlflow.db"})
        return replace(stage, spec=spec, profile=profile)

    def run(self, pipeline: str, key: str, *names: str, **changes: Any) -> str | None:
        """Why the run stopped, or None where it went through."""
        use_case = UseCase.model_validate({**CLINIC, **changes})
        run_id = f"{key}-{len(changes)}"
        for name in names:
            stage = self.stage(name, pipeline, key, use_case, run_id)
            try:
                result = import_module(f"pipelines_lib.jobs.{name}").main(stage)
            except (Held, BadInput) as error:
                self.said.append(str(error) + json.dumps(getattr(error, "figures", {})))
                return str(error)
            self.said.append(result.model_dump_json())
            write_json(stage.folder / "result.json", result)
        return None

    def data(self, key: str, lines: list[str], *, header: str | None = HEADER, **changes: Any) -> str | None:
        self.sandbox.source(key, "\n".join([*([header] if header else []), *lines]) + "\n")
        return self.run("data", key, "ingest", "validate", "prepare", **changes)


@pytest.fixture
def clinic(sandbox, capfd) -> Clinic:
    return Clinic(sandbox, [])


def test_no_value_about_a_person_comes_out(clinic, deploy_and_ask, caplog, capfd) -> None:
    for day in DAYS:
        assert clinic.data(day, rows(day)) is None
    _train(clinic)
    deploy_and_ask(clinic)
    for name in ("profile", "measure", "decide", "report"):
        assert clinic.run("monitoring", DAYS[-1], name) is None
    stopped = _everything_that_goes_wrong(clinic)
    assert [case for case, why in stopped.items() if why is None] == []

    clinic.said += [caplog.text, *capfd.readouterr()]
    home = clinic.sandbox.project.home
    _nothing_in(clinic.said, home)
    # The search finds what is there.
    labelled = Tables(home / "store" / "clinic").read("labelled").to_pylist()
    assert len(labelled) > 200
    assert SECRET in json.dumps([row["finding"] for row in labelled])
    assert re.search("[0-9a-f]{32}", labelled[0]["patient"])


def _train(clinic: Clinic) -> None:
    names = ("snapshot", "train", "evaluate", "gate", "register")
    assert clinic.run("training", DAYS[-1], *names) is None, clinic.said[-1]


def _everything_that_goes_wrong(clinic: Clinic) -> dict[str, str | None]:
    """A mistake to why its run stopped."""

    def expects(**expectation: Any) -> dict[str, Any]:
        return {"quality": {"max_quarantined": 0.2, "expectations": [expectation]}}

    def shift(row: dict[str, str]) -> None:
        row["age"] = row["mail"]

    def unheard_of(row: dict[str, str]) -> None:
        row["outcome"] = f"{SECRET}unheard of {row['drug']}"

    day = "2026-01-04"
    good = rows(day)
    raw_classes = {"label": {"column": "outcome", "positive": "ill"}, "quality": {"max_quarantined": 1}}
    stopped = {
        "a lost header": clinic.data("2026-01-05", good, header=None),
        "a header of somebody's": clinic.data("2026-01-05", good, header=HEADER.replace("age", f"{PERSON}age")),
        "cells that slipped": clinic.data("2026-01-05", rows(day, spoil=shift)),
        "broken records": clinic.data("2026-01-05", [*good[:20], *[f"{PERSON},{SECRET}"] * 20]),
        "nothing but broken records": clinic.data("2026-01-05", [f"{PERSON},{SECRET}"] * 20),
        "unknown classes": clinic.data("2026-01-05", rows(day, spoil=unheard_of)),
        "values that are not in a set": clinic.data(
            "2026-01-05", good, **expects(expect_column_values_to_be_in_set={"column": "drug", "value_set": ["aspirin"]})
        ),
        "distinct values that are not in a set": clinic.data(
            "2026-01-05", good, **expects(expect_column_distinct_values_to_be_in_set={"column": "drug", "value_set": ["aspirin"]})
        ),
        "the commonest value": clinic.data(
            "2026-01-05", good, **expects(expect_column_most_common_value_to_be_in_set={"column": "outcome", "value_set": ["none"]})
        ),
        "an expectation that can't judge": clinic.data(
            "2026-01-05", good, **expects(expect_column_values_to_be_between={"column": "drug", "min_value": 1, "max_value": 2})
        ),
        "an average of text": clinic.data(
            "2026-01-05", good, **expects(expect_column_mean_to_be_between={"column": "drug", "max_value": 0})
        ),
    }
    assert clinic.data("2026-01-06", good, **raw_classes) is None
    last = clinic.run("training", "2026-01-06", "snapshot", **raw_classes)
    return {**stopped, "classes that nobody named": last}


@pytest.fixture
def deploy_and_ask() -> Callable[[Clinic], None]:
    """Serve the registered package in this process, and send it what a client would."""

    def serve(clinic: Clinic) -> None:
        from pipelines_lib.contracts import ModelRef
        from pipelines_lib.serving.app import create_app
        from pipelines_lib.serving.pointer import Deployment, write_pointer
        from pipelines_lib.store import read_json

        home = clinic.sandbox.project.home
        root = home / "store" / "clinic"
        [registered] = root.glob("runs/training/*/register/result.json")
        document: Any = read_json(registered)
        model = ModelRef.model_validate(document["outputs"]["model"])
        write_pointer(root, Deployment.candidate(model, UseCase.model_validate(CLINIC), None).verified())
        records = [
            {"visit": f"{PERSON}v{DAYS[-1]}-{number}", "age": 50, "finding": f"{SECRET}asked {number}", "dose": 9.5} for number in range(40)
        ]
        with TestClient(create_app(root, home=home, flush_seconds=0.01)) as client:
            params = {"id": "q", "partition_key": DAYS[-1]}
            assert client.post("/invocations", json={"dataframe_records": records, "params": params}).status_code == 200
            for wrong in ({"age": f"{PERSON}age"}, {"age": -1}, {"finding": 5, "dose": f"{SECRET}dose"}, {"visit": [f"{PERSON}list"]}):
                answer = client.post("/invocations", json={"dataframe_records": [{**records[0], **wrong}]})
                clinic.said.append(answer.text)
            clinic.said += [client.get(path).text for path in ("/", "/metrics", "/v2/models/clinic")]
        answered = Tables(root).read("predictions")
        truth = set(Tables(root).read("labelled", [DAYS[-1]])["visit"].to_pylist())
        assert len(truth.intersection(answered["visit"].to_pylist())) > 20, "monitoring finds the truth by the hash"

    return serve


def _nothing_in(said: list[str], home: Path) -> None:
    found = [f"said: {text[:300]}" for text in said for word in (PERSON, SECRET) if word in text]
    for path in sorted(home.rglob("*")):
        if not path.is_file() or path.is_relative_to(home / "in"):
            continue
        content = path.read_bytes()
        text = repr(pq.read_table(path, partitioning=None).to_pydict()) if path.suffix == ".parquet" else content.decode("utf-8", "replace")
        is_table = path.is_relative_to(home / "store" / "clinic" / "tables")
        for word in (PERSON,) if is_table else (PERSON, SECRET):
            if word in text.lower():
                place = text.lower().index(word)
                found.append(f"{path.relative_to(home)}: …{text[max(0, place - 60) : place + 40]}…")
    assert not found, "\n".join(found)
