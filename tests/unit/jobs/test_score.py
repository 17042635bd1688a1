"""The stage score: a row of `scored` for each clean one, by the version that serves."""

import pyarrow as pa
import pytest

from pipelines_lib.contracts import JobResult
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import DataError, Held
from pipelines_lib.jobs import score
from pipelines_lib.registry.package import Package
from pipelines_lib.serving.pointer import read_pointer
from pipelines_lib.store import write_json
from tests.tiny import training_rows

DAY = "2026-01-05"
ROWS = {"amount": [0.5, None, -1.0], "age": [30, 40, 50], "member": [True, None, False], "country": ["de", "cn", "nowhere"]}


@pytest.fixture
def root(sandbox):
    return sandbox.project.home / "store" / "shop"


@pytest.fixture
def prepared(sandbox, shop, root):
    """Returns `prepared(rows)`: leaves clean rows as the stages before would, and returns the tables."""

    def leave(rows=ROWS):
        tables = Tables(root)
        n = len(rows["age"])
        columns = {"row_id": [f"r{row:0{len(str(n - 1))}d}" for row in range(n)], **rows, "customer": list(range(n))}
        version = tables.write("clean", DAY, pa.table(columns))
        for result in (
            JobResult(stage="validate", figures={"n_quarantined": 2}),
            JobResult(stage="prepare", figures={"changes": {"0: deduplicate": {"rows_dropped": 1}}}, outputs={"clean_version": version}),
        ):
            stage = sandbox.stage(result.stage, shop, DAY)
            write_json(stage.folder / "result.json", result)
        return tables

    return leave


def test_each_clean_row_is_scored_by_the_version_that_serves(sandbox, shop, root, prepared, deploy):
    tables = prepared()
    package = Package.open(root.parent / deploy(root, 4))
    serving = read_pointer(root)
    deploy(root, 5, bias=3.0, state="candidate", previous=serving)

    result = sandbox.run(score.main, "score", shop, DAY)

    found = tables.read("scored", [DAY])
    assert set(found.column_names) == {"row_id", "partition_key", "customer", "prediction", "score", "reason", "model_version"}
    assert found["score"].to_pylist() == pytest.approx(package.predict(ROWS)[:, 1].tolist())
    assert found["customer"].to_pylist() == [0, 1, 2]
    assert found["model_version"].to_pylist() == [4, 4, 4]
    assert found["prediction"].to_pylist() == ["yes" if value > 0.5 else "no" for value in found["score"].to_pylist()]
    assert result.figures == {"model_version": 4, "n_rows": 3, "n_scored": 3, "not_scored": {}, "n_quarantined": 2, "n_dropped": 1}


def test_the_same_version_again_makes_no_commit_and_another_one_replaces_its_rows(sandbox, shop, root, prepared, deploy):
    tables = prepared()
    deploy(root, 1)
    first = sandbox.run(score.main, "score", shop, DAY)
    assert sandbox.run(score.main, "score", shop, DAY) == first
    deploy(root, 2, bias=1.0)
    assert sandbox.run(score.main, "score", shop, DAY).outputs["scored_version"] == 1
    assert tables.read("scored")["model_version"].to_pylist() == [2, 2, 2]


def test_scores_are_the_same_bytes_however_few_rows_are_held_at_once(sandbox, shop, root, prepared, deploy):
    deploy(root, 1)
    tables = prepared(training_rows(100, seed=3))
    sandbox.run(score.main, "score", shop, DAY)
    whole, scan = tables.contents("scored"), Tables.scan

    def cut(n_rows):
        def by_few(self, *asked, **more):
            for part in scan(self, *asked, **more):
                yield from (part.slice(start, n_rows) for start in range(0, part.num_rows, n_rows))

        return by_few

    for n_rows in (1, 7, 64):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Tables, "scan", cut(n_rows))
            sandbox.run(score.main, "score", shop, DAY)
        assert tables.contents("scored") == whole, "a file is named after its bytes, so nothing was committed"


def test_a_row_without_a_score_says_why(sandbox, shop, root, prepared, deploy):
    tables = prepared()
    deploy(root, 1, bias=float("nan"))
    result = sandbox.run(score.main, "score", shop, DAY)
    rows = tables.read("scored").to_pylist()
    assert [(row["row_id"], row["prediction"], row["score"], row["reason"]) for row in rows] == [
        (f"r{number}", None, None, score.NOT_FINITE) for number in range(3)
    ]
    assert (result.figures["n_rows"], result.figures["n_scored"], result.figures["not_scored"]) == (3, 0, {score.NOT_FINITE: 3})


def test_a_day_without_rows_is_an_empty_partition(sandbox, shop, root, prepared, deploy):
    tables = prepared()
    deploy(root, 1)
    sandbox.run(score.main, "score", shop, DAY)
    tables.write("clean", DAY, tables.read("clean").drop(["partition_key"]).slice(0, 0))
    result = sandbox.stage("prepare", shop, DAY)
    write_json(result.folder / "result.json", JobResult(stage="prepare", figures={"changes": {}}, outputs={"clean_version": 1}))
    assert sandbox.run(score.main, "score", shop, DAY).figures["n_rows"] == 0
    assert tables.partitions("scored") == []


def test_without_a_champion_nothing_is_scored(sandbox, shop, root, prepared, deploy):
    prepared()
    with pytest.raises(Held, match="no version of shop serves yet, so nothing is scored; after its first training clear `score`"):
        sandbox.run(score.main, "score", shop, DAY)
    deploy(root, 1, state="candidate")
    with pytest.raises(Held):
        sandbox.run(score.main, "score", shop, DAY)


def test_a_column_that_is_gone_is_named(sandbox, shop, root, prepared, deploy):
    prepared({name: values for name, values in ROWS.items() if name != "country"})
    deploy(root, 3)
    with pytest.raises(DataError, match="version 3 reads country, which the clean rows no longer have"):
        sandbox.run(score.main, "score", shop, DAY)
