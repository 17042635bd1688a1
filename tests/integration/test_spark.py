"""The work on Spark is the work of this process: the same rows, findings, figures and pages."""

import random
import shutil
from contextlib import nullcontext
from dataclasses import replace
from importlib.util import find_spec

import pytest

from pipelines_lib.config import Spark
from pipelines_lib.contracts import JobResult
from pipelines_lib.data import partition_writer, spark
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import ConfigError, Held
from pipelines_lib.jobs import ingest, prepare, validate
from pipelines_lib.store import write_json

pytestmark = [
    pytest.mark.skipif(find_spec("pyspark") is None, reason="PySpark is not installed: pip install '.[spark]'"),
    pytest.mark.skipif(shutil.which("java") is None, reason="there is no Java, which Spark runs on"),
    # The session, which outlives a test here, keeps it from a stage's log.
    pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas:FutureWarning"),
]

KEY = "2026-01-01"
HEADER = "id,who,when,price,count,colour,action\n"
LAYERS = ("quarantine", "quality", "clean", "labelled")
QUALITY = {
    "max_quarantined": 1,
    "upstream": {"changed_types": "quarantine"},
    "expectations": [
        {"expect_column_values_to_be_between": {"column": "price", "min_value": 0}},
        {"expect_column_values_to_be_between": {"column": "when", "min_value": "2026-01-01T03:30:00", "mostly": 0.1}},
        {"expect_column_values_to_be_unique": {"column": "id"}},
    ],
}
STEPS = [
    {"normalise": {"colour": ["lower"]}},
    {"fill_forward": {"columns": ["price", "colour"], "by": "who", "order": "when"}},
    {"clip": {"price": [0, 40]}},
    {"deduplicate": ["who", "colour", "price"]},
    {"drop_missing": ["when"]},
]
SETTINGS = Spark(master="local[2]", tasks=4)
ENGINES = {"local": {}, "spark": {"engine": "spark", "spark": SETTINGS}}


def text(n_rows):
    rng = random.Random(7)
    lines = []
    for number in range(n_rows):
        cells = [
            rng.choice([*[f"é{number}"] * 9, f"é{number // 7}"]),
            rng.choice(["", *(f"u{user}" for user in range(9))]),
            rng.choice([f"2026-01-01T{rng.randrange(24):02d}:00:00.000001", f"1890-03-28T{rng.randrange(24):02d}:00:00", "", "noon"]),
            rng.choice(["", "", "-1", "many", *map(str, range(60))]),
            rng.choice(["", "1", "2", str(10**17 + 1)]),
            rng.choice(["Red", "red", "blue", ""]),
            rng.choice(["buy", "view"] * 9 + ["steal"]),
        ]
        lines.append(",".join(cells[: rng.choice([7] * 30 + [4])]))
    return HEADER + "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def one_session():
    """One for all tests: it takes seconds to start, and so does what its workers import."""
    with spark.session(SETTINGS, quiet=False) as session:
        yield session


@pytest.fixture
def partition(sandbox, monkeypatch, one_session):
    """Returns `partition(engine, use_case, text)`: (every layer's rows, results, pages) of a partition that was done on an engine."""
    monkeypatch.setattr(spark, "session", lambda settings, quiet: nullcontext(one_session))
    # Tasks of Spark are other processes, and make groups of the usual size: what they read are these.
    monkeypatch.setattr(partition_writer, "GROUP_ROWS", 32)

    def do(engine, use_case, text):
        box = replace(sandbox, project=replace(sandbox.project, home=sandbox.project.home / engine))
        box.source(KEY, text)
        results = {}
        for name, module in {"ingest": ingest, "validate": validate, "prepare": prepare}.items():
            stage = box.stage(name, use_case, KEY)
            try:
                results[name] = module.main(replace(stage, profile=stage.profile.model_copy(update=ENGINES[engine])))
            except Held as held:
                results[name] = JobResult(stage=name, status="held", reason=held.reason, figures=held.figures, links=held.links)
                break
            write_json(stage.folder / "result.json", results[name])
        tables = Tables(stage.root)
        rows = {layer: tables.read(layer) for layer in LAYERS if tables.path(layer).exists()}
        return rows, results, {path.name: path.read_text() for path in stage.root.rglob("*.html")}

    return do


def test_spark_does_what_this_process_does(partition, make_use_case):
    columns = make_use_case().model_dump(mode="json", exclude_unset=True)["columns"]
    columns |= {"count": {"type": "integer", "privacy": "quasi_identifier"}, "colour": {"type": "string", "privacy": "sensitive"}}
    use_case = make_use_case(columns=columns, clean=STEPS, quality=QUALITY)

    rows, results, pages = partition("local", use_case, text(150))
    assert all(change["rows_dropped"] or change["values_changed"] for change in results["prepare"].figures["changes"].values())
    spark_rows, spark_results, spark_pages = partition("spark", use_case, text(150))

    assert {layer: table.combine_chunks() for layer, table in spark_rows.items()} == {
        layer: table.combine_chunks() for layer, table in rows.items()
    }
    assert (spark_results, spark_pages) == (results, pages)


def test_what_it_cannot_judge_is_still_the_use_case_s_fault(partition, make_use_case):
    wrong = {"expectations": [{"expect_column_values_to_match_regex": {"column": "price", "regex": "("}}]}
    with pytest.raises(ConfigError) as here:
        partition("local", make_use_case(quality=wrong), text(20))
    with pytest.raises(ConfigError) as there:
        partition("spark", make_use_case(quality=wrong), text(20))
    assert str(there.value) == str(here.value)


def test_a_partition_without_rows_is_no_trouble(partition, make_use_case):
    use_case = make_use_case(quality={"max_quarantined": 1}, clean=STEPS)
    _, results, _ = partition("spark", use_case, HEADER)
    assert "it has no rows" in results["validate"].reason
    # Every row is rejected: there is nothing to clean, and its columns are known all the same.
    rows, results, _ = partition("spark", use_case, HEADER + "e1,u1,2026-01-01,1,1,red,steal\n")
    assert results["prepare"].figures["n_rows"] == rows["clean"].num_rows == 0
