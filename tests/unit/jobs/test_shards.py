"""A partition in shards is the partition: the same rows in every layer, the same findings, the same pages."""

import random
from dataclasses import replace

import pytest

from pipelines_lib.contracts import JobResult
from pipelines_lib.data import partition_writer
from pipelines_lib.data.accepted import Accepted
from pipelines_lib.data.cleaning import Cleaner
from pipelines_lib.data.quality.judge import Judge
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import DataError, Held
from pipelines_lib.jobs import ingest, prepare, validate
from pipelines_lib.store import write_json

KEY = "2026-01-01"
HEADER = "id,who,when,price,count,colour,action\n"
LAYERS = ("raw", "quarantine", "quality", "clean", "labelled")
EXPECTATIONS = [
    {"expect_column_values_to_be_between": {"column": "price", "min_value": 0}},
    {"expect_column_values_to_be_between": {"column": "when", "min_value": "2026-01-01T00:30:00", "mostly": 0.5}},
    {"expect_column_pair_values_a_to_be_greater_than_b": {"column_A": "price", "column_B": "count", "mostly": 0.01}},
    {"expect_column_mean_to_be_between": {"column": "count", "min_value": 0}},
    {"expect_table_row_count_to_be_between": {"min_value": 1}},
]
LENIENT = {"max_quarantined": 1, "upstream": {"changed_types": "quarantine"}}
UNIQUE = {"expect_column_values_to_be_unique": {"column": "id"}}
STEPS = [
    {"normalise": {"colour": ["lower"]}},
    {"fill_forward": {"columns": ["price", "colour"], "by": "who", "order": "when"}},
    {"clip": {"price": [0, 40]}},
    {"deduplicate": ["who", "colour", "price"]},
    {"fill_forward": {"columns": ["count"], "by": "colour"}},
    {"drop_missing": ["when"]},
]


def text(n_rows, seed):
    rng = random.Random(seed)
    lines = []
    for number in range(n_rows):
        cells = [
            rng.choice([*[f"e{number}"] * 5, f"e{number // 7}"]),
            rng.choice(["", *(f"u{user}" for user in range(9))]),
            rng.choice([f"2026-01-01T{rng.randrange(24):02d}:00:00", "", "noon"]),
            rng.choice(["", "", "-1", "many", *map(str, range(60))]),
            rng.choice(["", "1", "2", "3.5"]),
            rng.choice(["Red", "red", "blue", ""]),
            rng.choice(["buy", "view"] * 9 + ["steal"]),
        ]
        lines.append(",".join(cells[: rng.choice([7] * 30 + [4])]))
    return HEADER + "\n".join(lines) + "\n"


def run(main, name, sandbox, use_case, *, shards):
    """A stage as it is run with so many shards; returns its result."""
    stage = sandbox.stage(name, use_case, KEY)
    spec = stage.spec.model_copy(update={"shards": shards})
    for part in spec.in_shards():
        stage = replace(stage, spec=part)
        try:
            result = main(stage)
        except Held as held:
            result = JobResult(stage=name, status="held", reason=held.reason, figures=held.figures, links=held.links)
        write_json(stage.folder / "result.json", result)
    return result


@pytest.fixture
def partition(sandbox, monkeypatch):
    """Returns `partition(shards, use_case, text)`: (every layer's rows, results, pages) of a partition that was done in shards."""
    monkeypatch.setattr(partition_writer, "GROUP_ROWS", 24)
    monkeypatch.setattr(partition_writer, "FILE_ROWS", 72)

    def do(shards, use_case, text):
        home = sandbox.project.home / str(shards)
        box = replace(sandbox, project=replace(sandbox.project, home=home))
        box.source(KEY, text)
        results = {"ingest": run(ingest.main, "ingest", box, use_case, shards=1)}
        results["validate"] = run(validate.main, "validate", box, use_case, shards=shards)
        if results["validate"].status == "done":
            results["prepare"] = run(prepare.main, "prepare", box, use_case, shards=shards)
        root = box.stage("prepare", use_case, KEY).root
        tables = Tables(root)
        rows = {layer: tables.read(layer).to_pylist() for layer in LAYERS if tables.path(layer).exists()}
        pages = {path.name: path.read_text() for path in root.rglob("*.html")}
        return rows, results, pages

    return do


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("expectations", [EXPECTATIONS, [*EXPECTATIONS, UNIQUE]], ids=["by row", "by partition, too"])
def test_a_partition_in_shards_is_the_partition(partition, make_use_case, seed, expectations):
    columns = make_use_case().model_dump(mode="json", exclude_unset=True)["columns"]
    columns |= {"count": {"type": "integer", "privacy": "quasi_identifier"}, "colour": {"type": "string", "privacy": "sensitive"}}
    use_case = make_use_case(columns=columns, clean=STEPS, quality={**LENIENT, "expectations": expectations})
    source = text(150, seed)

    rows, results, pages = partition(1, use_case, source)
    assert results["validate"].figures["n_quarantined"] > 20
    assert results["prepare"].figures["n_rows"] > 10
    assert all(change["rows_dropped"] or change["values_changed"] for change in results["prepare"].figures["changes"].values())
    for shards in (2, 5):
        assert partition(shards, use_case, source) == (rows, results, pages)


@pytest.mark.parametrize("n_rows", [0, 1, 20])
def test_more_shards_than_rows_are_fine(partition, make_use_case, n_rows):
    use_case = make_use_case(quality=LENIENT)
    assert partition(4, use_case, text(n_rows, 1)) == partition(1, use_case, text(n_rows, 1))


def test_a_partition_that_is_held_is_held_in_shards(partition, make_use_case):
    use_case = make_use_case(quality={"expectations": [*EXPECTATIONS, UNIQUE]})
    rows, results, pages = partition(1, use_case, text(100, 5))
    assert results["validate"].status == "held"
    assert partition(3, use_case, text(100, 5)) == (rows, results, pages)


@pytest.fixture
def judged(sandbox, make_use_case, monkeypatch):
    """Returns (use case, spec of `validate` in two shards) of a partition that was ingested and whose shards were judged."""
    monkeypatch.setattr(partition_writer, "GROUP_ROWS", 16)
    use_case = make_use_case(quality=LENIENT)
    sandbox.source(KEY, text(100, 1))
    run(ingest.main, "ingest", sandbox, use_case, shards=1)
    run(validate.main, "validate", sandbox, use_case, shards=2)
    stage = sandbox.stage("validate", use_case, KEY)
    return replace(stage, spec=stage.spec.model_copy(update={"shards": 2}))


def test_putting_together_again_changes_nothing(judged):
    before = Tables(judged.root).version("quarantine")
    validate.main(judged)
    assert Tables(judged.root).version("quarantine") == before


def test_a_shard_done_again_leaves_no_file_of_the_first_time(judged):
    shard = replace(judged, spec=judged.spec.in_shards()[0])
    for _ in range(3):
        validate.main(shard)
    assert len(list((judged.root / "tables" / "quarantine" / "_staging").iterdir())) == 1


def test_shards_of_other_settings_are_refused(judged, make_use_case):
    other = make_use_case(quality={**LENIENT, "expectations": EXPECTATIONS})
    with pytest.raises(
        DataError,
        match=r"shard-0/shard\.json: made of .*settings have changed since; run all 2 shards again \(in Airflow: clear validate_shards\)",
    ):
        validate.main(replace(judged, use_case=other))


def test_a_missing_shard_is_named(judged):
    (judged.folder / "shard-1" / "shard.json").unlink()
    with pytest.raises(DataError, match=r"there is no .*shard-1/shard\.json; run all 2 shards again"):
        validate.main(judged)


def test_a_staged_file_that_is_gone_is_named(judged):
    shard = replace(judged, spec=judged.spec.in_shards()[0])
    validate.main(shard)
    for path in (judged.root / "tables" / "quarantine").rglob("*.parquet"):
        path.unlink()
    with pytest.raises(DataError, match=r"that a shard of validate staged is gone; run its shards again"):
        validate.main(judged)


def test_what_a_shard_leaves_for_the_others_shows_nobody(sandbox, make_use_case):
    columns = make_use_case().model_dump(mode="json", exclude_unset=True)["columns"]
    columns |= {"who": {"type": "string", "role": "entity", "privacy": "sensitive"}, "price": {"type": "number", "privacy": "sensitive"}}
    in_set = {"expect_column_values_to_be_in_set": {"column": "who", "value_set": ["u1"]}}
    use_case = make_use_case(columns=columns, quality={**LENIENT, "expectations": [in_set]})
    sandbox.source(KEY, HEADER + "e1,secret-person,2026-01-01,987654,1,red,buy\ne2,u1,2026-01-01,secret-price,1,red,buy\nsecret-record\n")
    run(ingest.main, "ingest", sandbox, use_case, shards=1)
    run(validate.main, "validate", sandbox, use_case, shards=2)

    written = "".join(path.read_text() for path in sandbox.stage("validate", use_case, KEY).folder.rglob("*.json"))
    assert "expect_column_values_to_be_in_set(who)" in written
    assert not any(told in written for told in ("secret", "987654"))


@pytest.mark.parametrize("n_groups", [4, 10])
def test_what_a_shard_holds_does_not_grow_with_the_partition(sandbox, make_use_case, monkeypatch, n_groups):
    """One of as many shards as there are pieces of 16 rows: no table that it judges, cleans or plans on has more than a few pieces."""
    monkeypatch.setattr(partition_writer, "GROUP_ROWS", 16)
    use_case = make_use_case(clean=STEPS[:4], quality={**LENIENT, "expectations": EXPECTATIONS[:2]})
    # Each row has a user of its own, and nothing is missing: nothing is kept of one row for another.
    rows = "".join(f"e{number},u{number},2026-01-01T10:00:00,{number % 40},1,red,buy\n" for number in range(16 * n_groups))
    sandbox.source(KEY, HEADER + rows)
    run(ingest.main, "ingest", sandbox, use_case, shards=1)
    held = []
    for owner, name in ((Judge, "add"), (Cleaner, "apply"), (Accepted, "_passed")):
        watched(monkeypatch, owner, name, held)
    planned(monkeypatch, held)

    run(validate.main, "validate", sandbox, use_case, shards=n_groups)
    run(prepare.main, "prepare", sandbox, use_case, shards=n_groups)

    assert max(held) <= 3 * 16  # a bucket holds 16 rows on average; a hash is not that even
    assert len(held) > n_groups


def watched(monkeypatch, owner, name, held):
    """Note how many rows the table has that `owner.name` is given."""
    method = getattr(owner, name)

    def noting(self, table, *more):
        held.append(table.num_rows)
        return method(self, table, *more)

    monkeypatch.setattr(owner, name, noting)


def planned(monkeypatch, held):
    """Note how many rows the steps put together that look at the whole partition."""
    from pipelines_lib.data import cleaning, fill_forward

    repeated, codes = cleaning._repeated, fill_forward._codes

    def note_hashes(hashes):
        held.append(sum(map(len, hashes)))
        return repeated(hashes)

    def note_entities(entities):
        held.append(sum(map(len, entities)))
        return codes(entities)

    monkeypatch.setattr(cleaning, "_repeated", note_hashes)
    monkeypatch.setattr(fill_forward, "_codes", note_entities)
