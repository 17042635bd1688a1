import pytest

from pipelines_lib.data.sources import SourceContext, check_columns, land, open_source, source_path
from pipelines_lib.errors import ConfigError, DataError

HEADER = "id,who,when,price,count,colour,action\n"
KEY = "2026-01-02"


def lines(n: int) -> str:
    return HEADER + "".join(f"e{i},u{i},2026-01-01,1,1,red,buy\n" for i in range(n))


def read(sandbox, use_case, key):
    """(rows, numbers, unreadable) of a partition of one file."""
    [records] = open_source(use_case.source, SourceContext(sandbox.project, use_case, key))
    batches = list(records.batches)
    return (
        [row for batch in batches for row in batch.rows.to_pylist()],
        [number for batch in batches for number in batch.numbers.to_pylist()],
        [record for batch in batches for record in batch.unreadable],
    )


def test_the_path_is_filled_in_and_relative_to_the_project(sandbox, make_use_case):
    context = SourceContext(sandbox.project, make_use_case(), KEY)
    assert source_path(make_use_case().source, context) == sandbox.project.home / "in" / f"{KEY}.csv"
    relative = make_use_case(source={"path": "data/{partition}.csv"})
    assert source_path(relative.source, context) == sandbox.project.folder / "data" / f"{KEY}.csv"


@pytest.mark.parametrize("key", ["../../etc/passwd", "2026-1-2", "2026-01-02/..", ""])
def test_a_key_is_no_way_out_of_the_folder(sandbox, make_use_case, key):
    with pytest.raises(ConfigError, match="is not a partition of shop"):
        SourceContext(sandbox.project, make_use_case(), key)


def test_before_the_first_partition_there_is_nothing(sandbox, make_use_case):
    with pytest.raises(DataError, match=r"lies before 2026-01-01.*move `start` back"):
        SourceContext(sandbox.project, make_use_case(), "2025-12-31")


def test_a_missing_file_is_named_with_the_remedy(sandbox, make_use_case):
    with pytest.raises(DataError, match=r"there is no file .*2026-01-02\.csv; wait for it and clear the task"):
        read(sandbox, make_use_case(), KEY)


def test_a_missing_column_is_named_with_the_nearest(make_use_case):
    with pytest.raises(DataError, match=r"no column 'price'.*Did you mean 'prices'\?.*Set columns\.price\.source"):
        check_columns("in.csv", HEADER.strip().replace("price", "prices").split(","), make_use_case())


def test_a_hook_that_lands_nothing_is_caught(sandbox, make_use_case):
    with pytest.raises(DataError, match="left no"):
        land(lambda key, path, params: None, KEY, sandbox.project.home / "x" / "y.csv", make_use_case())


@pytest.mark.parametrize("seed", [0, None])
def test_a_replay_gives_every_record_to_one_partition(sandbox, make_use_case, seed):
    sandbox.source("all", lines(50) + "ragged\n")
    use_case = make_use_case(source={"path": "{home}/in/all.csv", "replay": {"partitions": 4, "seed": seed}})
    keys = [use_case.shift("2026-01-01", i) for i in range(4)]

    files = [read(sandbox, use_case, key) for key in keys]

    sizes = [len(numbers) + len(unreadable) for _, numbers, unreadable in files]
    assert max(sizes) - min(sizes) <= 1
    assert sorted(n for _, numbers, unreadable in files for n in [*numbers, *(r.number for r in unreadable)]) == list(range(2, 53))
    assert all(row["id"] == f"e{number - 2}" for rows, numbers, _ in files for row, number in zip(rows, numbers, strict=True))
    assert read(sandbox, use_case, keys[1]) == files[1]
    in_order = [n for _, numbers, _ in files for n in numbers]
    assert (in_order == sorted(in_order)) is (seed is None)


def test_a_replay_keeps_its_assignment(sandbox, make_use_case):
    sandbox.source("all", lines(20))
    use_case = make_use_case(source={"path": "{home}/in/all.csv", "replay": {"partitions": 4}})

    assert read(sandbox, use_case, KEY)[1] == [5, 10, 12, 13, 18]


def test_a_replay_ends(sandbox, make_use_case):
    sandbox.source("all", lines(50))
    use_case = make_use_case(source={"path": "{home}/in/all.csv", "replay": {"partitions": 4}})

    with pytest.raises(DataError, match=r"2026-01-01 to 2026-01-04 and no further.*source\.replay\.partitions"):
        read(sandbox, use_case, "2026-01-05")
