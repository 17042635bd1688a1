import pytest

from pipelines_lib.data.sources import land, raw_rows, read_source, source_path
from pipelines_lib.data.typed import typed
from pipelines_lib.errors import ConfigError, DataError

HEADER = "id,who,when,price,count,colour,action\n"
KEY = "2026-01-02"


def lines(n: int) -> str:
    return HEADER + "".join(f"e{i},u{i},2026-01-01,1,1,red,buy\n" for i in range(n))


def test_the_path_is_filled_in_and_relative_to_the_project(sandbox, make_use_case):
    assert source_path(sandbox.project, make_use_case(), KEY) == sandbox.project.home / "in" / f"{KEY}.csv"
    relative = make_use_case(source={"path": "data/{partition}.csv"})
    assert source_path(sandbox.project, relative, KEY) == sandbox.project.folder / "data" / f"{KEY}.csv"


@pytest.mark.parametrize("key", ["../../etc/passwd", "2026-1-2", "2026-01-02/..", ""])
def test_a_key_is_no_way_out_of_the_folder(sandbox, make_use_case, key):
    with pytest.raises(ConfigError, match="is not a partition of shop"):
        source_path(sandbox.project, make_use_case(), key)


def test_before_the_first_partition_there_is_nothing(sandbox, make_use_case):
    with pytest.raises(DataError, match=r"lies before 2026-01-01.*move `start` back"):
        source_path(sandbox.project, make_use_case(), "2025-12-31")


def test_a_missing_file_is_named_with_the_remedy(sandbox, make_use_case):
    path = source_path(sandbox.project, make_use_case(), KEY)

    with pytest.raises(DataError, match=r"there is no file .*2026-01-02\.csv; wait for it and clear the task"):
        read_source(path, make_use_case(), KEY)


def test_a_missing_column_is_named_with_the_nearest(sandbox, make_use_case):
    sandbox.source(KEY, HEADER.replace("price", "prices") + "e,u,2026-01-01,1,1,red,buy\n")

    with pytest.raises(DataError, match=r"no column 'price'.*Did you mean 'prices'\?.*Set columns\.price\.source"):
        read_source(source_path(sandbox.project, make_use_case(), KEY), make_use_case(), KEY)


def test_a_hook_that_lands_nothing_is_caught(sandbox, make_use_case):
    with pytest.raises(DataError, match="left no"):
        land(lambda key, path, params: None, KEY, sandbox.project.home / "x" / "y.csv", make_use_case())


def test_rows_are_named_after_partition_and_record(sandbox, make_use_case):
    sandbox.source(KEY, lines(1) + "ragged\n" + "e9,u9,2026-01-01,1,1,red,buy\n")
    file = read_source(source_path(sandbox.project, make_use_case(), KEY), make_use_case(), KEY)

    assert raw_rows(file, KEY)["row_id"].to_pylist() == [f"{KEY}:000000002", f"{KEY}:000000004"]


def test_columns_named_like_ours_are_kept(sandbox, make_use_case):
    sandbox.source(KEY, "row_id,Partition_Key," + HEADER + "a,b,e,u,2026-01-01,1,1,red,buy\n")
    file = read_source(source_path(sandbox.project, make_use_case(), KEY), make_use_case(), KEY)

    assert raw_rows(file, KEY).column_names[:3] == ["row_id", "row_id_", "Partition_Key_"]


def test_columns_named_like_ours_stay_apart(sandbox, make_use_case):
    sandbox.source(KEY, "row_id,row_id_,ROW_ID__," + HEADER + "a,b,c,e,u,2026-01-01,1,1,red,buy\n")
    shop = make_use_case().model_dump(mode="json")["columns"]
    columns = {**shop, "first": {"type": "string", "source": "row_id"}, "second": {"type": "string", "source": "row_id_"}}
    use_case = make_use_case(columns=columns)
    rows = raw_rows(read_source(source_path(sandbox.project, use_case, KEY), use_case, KEY), KEY)

    assert rows.column_names[:4] == ["row_id", "row_id_", "row_id__", "ROW_ID___"]
    assert [typed(rows, use_case).rows[name].to_pylist() for name in ("first", "second")] == [["a"], ["b"]]


@pytest.mark.parametrize("seed", [0, None])
def test_a_replay_gives_every_record_to_one_partition(sandbox, make_use_case, seed):
    sandbox.source("all", lines(50) + "ragged\n")
    use_case = make_use_case(source={"path": "{home}/in/all.csv", "replay": {"partitions": 4, "seed": seed}})
    keys = [use_case.shift("2026-01-01", i) for i in range(4)]

    files = [read_source(source_path(sandbox.project, use_case, key), use_case, key) for key in keys]
    again = read_source(source_path(sandbox.project, use_case, keys[1]), use_case, keys[1])

    sizes = [len(file.numbers) + len(file.unreadable) for file in files]
    assert max(sizes) - min(sizes) <= 1
    assert sorted(n for file in files for n in [*file.numbers, *(r.number for r in file.unreadable)]) == list(range(2, 53))
    assert again.numbers == files[1].numbers
    assert again.rows.equals(files[1].rows)
    in_order = [n for file in files for n in file.numbers]
    assert (in_order == sorted(in_order)) is (seed is None)


def test_a_replay_ends(sandbox, make_use_case):
    sandbox.source("all", lines(50))
    use_case = make_use_case(source={"path": "{home}/in/all.csv", "replay": {"partitions": 4}})

    with pytest.raises(DataError, match=r"2026-01-01 to 2026-01-04 and no further.*source\.replay\.partitions"):
        read_source(source_path(sandbox.project, use_case, "2026-01-05"), use_case, "2026-01-05")
