import gzip
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from pipelines_lib.data.sources import SourceContext, land, open_source, source_path
from pipelines_lib.data.sources.files import part_of, read_file
from pipelines_lib.data.sources.storage import Found
from pipelines_lib.errors import ConfigError, DataError, Unavailable

HEADER = "id,who,when,price,count,colour,action\n"
KEY = "2026-01-02"


def lines(n: int) -> str:
    return HEADER + "".join(f"e{i},u{i},2026-01-01,1,1,red,buy\n" for i in range(n))


def read(sandbox, use_case, key):
    """(rows, numbers, unreadable) of a partition of one file."""
    # A source is there until the next is asked for.
    batches = [
        batch for records in open_source(use_case.source, SourceContext(sandbox.project, use_case, key)) for batch in records.batches
    ]
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


@pytest.mark.parametrize(
    ("name", "data", "log"),
    [
        ("x.jsonl", b'{"id": 1, "who": "a"}\n', {}),
        ("x.csv.gz", gzip.compress(b"id,who\n1,a\n", mtime=0), {}),
        ("x.parquet", None, {}),
        ("x.log", b"1 a\n", {"log": {"pattern": r"(?P<id>\d) (?P<who>\w)"}}),
    ],
)
def test_a_file_is_read_as_its_name_says(sandbox, make_use_case, name, data, log):
    path = sandbox.project.home / "in" / KEY / name
    path.parent.mkdir(parents=True)
    if data is None:
        parquet.write_table(pa.table({"id": [1], "who": ["a"]}), path)
    else:
        path.write_bytes(data)
    use_case = make_use_case(source={"path": f"{{home}}/in/{{partition}}/{name}", **log})

    assert read(sandbox, use_case, KEY)[0] == [{"id": "1", "who": "a"}]
    assert read_file(path, use_case.source).rows.to_pylist() == [{"id": "1", "who": "a"}]


def test_json_lines_are_replayed(sandbox, make_use_case):
    path = sandbox.project.home / "all.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f'{{"id": {i}}}\n' for i in range(20)) + "no\n")
    use_case = make_use_case(source={"path": "{home}/all.jsonl", "replay": {"partitions": 3}})

    parts = [read(sandbox, use_case, use_case.shift("2026-01-01", i)) for i in range(3)]

    assert sorted(row["id"] for rows, _, _ in parts for row in rows) == sorted(map(str, range(20)))
    assert [record.number for _, _, unreadable in parts for record in unreadable] == [21]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({"path": "{partition}.jsonl", "csv": {"delimiter": ";"}}, "`csv` is about a CSV file, and this one is json_lines"),
        ({"path": "{partition}.csv", "log": {"pattern": "common"}, "format": "csv"}, "`log` says how the file is written"),
    ],
)
def test_two_ways_to_read_one_file_are_refused(make_use_case, source, says):
    with pytest.raises(ValueError, match=says):
        make_use_case(source=source)


def test_names_of_files_enter_the_rows_names(tmp_path):
    assert part_of(Found("/x/a b.csv", "a b.csv")) == "a%20b.csv"
    long = part_of(Found("", "part-00001-" + "x" * 90))
    assert (len(long), long[:11]) == (48, "part-00001-")
    assert long != part_of(Found("", "part-00001-" + "x" * 91))


def test_a_file_that_goes_while_it_is_read_is_asked_for_again(sandbox, make_use_case, monkeypatch):
    sandbox.source(KEY, lines(3))
    path, opened, opens = sandbox.project.home / "in" / f"{KEY}.csv", Path.open, []

    def open_once(self, *arguments, **named):
        if self == path:
            opens.append(self)
            if len(opens) == 2:
                path.rename(f"{path}.gone")
        return opened(self, *arguments, **named)

    monkeypatch.setattr(Path, "open", open_once)

    with pytest.raises(Unavailable, match=r"csv: was there when reading began, and is gone; .* run ingest again"):
        read(sandbox, make_use_case(), KEY)
