import pytest

from pipelines_lib.data.quality.judge import MASK
from pipelines_lib.data.quarantine import judged_again, last_ingest, shown, waiting
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import DataError
from pipelines_lib.jobs import ingest, prepare, validate
from pipelines_lib.store import write_json

HEADER = "id,who,when,price,count,colour,action\n"
KEY = "2026-01-01"
SOUND = "".join(f"e{i},u{i},2026-01-01,{i},1,red,buy\n" for i in range(40))
BROKEN = "ragged\nx,mary,2026-01-01,-5,many,red,buy\ny,bob,2026-01-01,-6,1,red,buy\n"
STRICT = {"expectations": [{"expect_column_values_to_be_between": {"column": "price", "min_value": 0}}], "max_quarantined": 0.1}


@pytest.fixture
def shop(make_use_case):
    """Returns `shop(**changes)`: the use case, whose column `who` is personal."""
    columns = make_use_case().model_dump(exclude_defaults=True)["columns"]
    columns["who"]["privacy"] = "sensitive"
    return lambda **changes: make_use_case(**{"columns": columns, "quality": STRICT, **changes})


@pytest.fixture
def run(sandbox):
    """Returns `run(use_case, main, name, key, run_id)`: runs a stage and leaves spec and result as the launcher does."""

    def run_stages(use_case, *stages, key=KEY):
        for main, name in stages:
            stage = sandbox.stage(name, use_case, key)
            write_json(stage.folder / "spec.json", stage.spec)
            sandbox.run(main, name, use_case, key)
        return stage.root

    return run_stages


ALL = ((ingest.main, "ingest"), (validate.main, "validate"), (prepare.main, "prepare"))


def test_what_waits_is_counted_by_partition_and_reason(sandbox, shop, run):
    sandbox.source(KEY, HEADER + SOUND + BROKEN)
    sandbox.source("2026-01-02", HEADER + SOUND)
    root = run(shop(), *ALL)
    run(shop(), *ALL, key="2026-01-02")

    [one] = waiting(Tables(root))
    assert (one.partition_key, len(one.rows), one.unreadable) == (KEY, 3, {f"{KEY}:000000042"})
    assert one.by_reason()[0] == ("expect_column_values_to_be_between(price)", 2)
    assert waiting(Tables(root), ["2026-01-02"])[0].rows == {}
    with pytest.raises(DataError, match="2026-01-03 was never judged"):
        waiting(Tables(root), ["2026-01-03"])


def test_rows_are_shown_with_what_stood_there_and_personal_columns_masked(sandbox, shop, run):
    sandbox.source(KEY, HEADER + SOUND + BROKEN)
    tables = Tables(run(shop(), *ALL))

    rows = shown(tables, shop(), KEY)
    # Of a record that is no row nobody knows which part is whose, so ingest kept its shape alone.
    assert rows[0]["raw"] == "xxxxxx"
    assert rows[1]["raw"] == {
        "id": "x", "who": MASK, "when": "2026-01-01", "price": "-5", "count": "xxxx", "colour": "red", "action": "buy",
    }  # fmt: skip
    assert "mary" not in str(rows)
    assert [row["row_id"] for row in shown(tables, shop(), KEY, "not an integer")] == [f"{KEY}:000000043"]


def test_judging_again_says_what_the_rules_of_today_would_bring_back_and_writes_nothing(sandbox, shop, run):
    sandbox.source(KEY, HEADER + SOUND + BROKEN)
    root = run(shop(), *ALL)
    before = Tables(root).version("quarantine")

    outcome = judged_again(root, shop(quality={"max_quarantined": 0.1}), KEY)

    assert outcome.sentence(would=True) == (
        "2026-01-01: 1 of 3 rows would come back; 2 stay: type: count is not an integer (1), unreadable: not the header's number of cells (1). "
        "1 can't be read as rows, so no rule brings them back: mend the source and run ingest again"
    )
    stricter = judged_again(root, shop(quality={**STRICT, "max_quarantined": 0.01}), KEY).sentence(would=True)
    assert "0 of 3 rows would come back; 3 stay" in stricter
    assert "The partition would be held: 3 of 43 rows (7.0%) are quarantined" in stricter
    worse = {"expectations": [{"expect_column_values_to_be_between": {"column": "price", "min_value": 1}}], "max_quarantined": 0.2}
    assert ", 1 would go to quarantine that passed before; 4 stay" in judged_again(root, shop(quality=worse), KEY).sentence(would=True)
    assert Tables(root).version("quarantine") == before


def test_the_ingest_that_counts_is_the_one_that_wrote_the_rows(sandbox, shop, run):
    sandbox.source(KEY, HEADER + SOUND + BROKEN)
    root = run(shop(), *ALL)
    sandbox.source(KEY, HEADER + SOUND)
    later = sandbox.stage("ingest", shop(), KEY, run_id="later")
    write_json(later.folder / "spec.json", later.spec)
    write_json(later.folder / "result.json", ingest.main(later))

    assert last_ingest(root, KEY)[0].run_id == f"later-{KEY}"
    assert len(judged_again(root, shop(), KEY).after.rows) == 0
    with pytest.raises(DataError, match=r"no run below .* has ingested partition 2026-01-09.*sluice run shop data --partition 2026-01-09"):
        last_ingest(root, "2026-01-09")


def test_a_partition_that_is_held_no_longer_is_a_change_though_no_row_comes_back(sandbox, shop, run):
    sandbox.source(KEY, HEADER + SOUND + BROKEN)
    root = run(shop(), *ALL)

    assert not judged_again(root, shop(), KEY).changes
    assert judged_again(root, shop(quality={**STRICT, "max_quarantined": 0.01}), KEY).changes
