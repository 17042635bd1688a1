import pyarrow as pa

from pipelines_lib.data.raw import raw_rows, row_id, row_ids
from pipelines_lib.data.records import Batch
from pipelines_lib.data.typed import typed

KEY = "2026-01-02"


def batch(numbers: list[int], *names: str) -> Batch:
    return Batch(pa.table({name: [name] * len(numbers) for name in names}), pa.array(numbers, pa.int64()))


def test_rows_are_named_after_partition_and_record():
    assert raw_rows(batch([2, 4], "a"), KEY)["row_id"].to_pylist() == [f"{KEY}:000000002", f"{KEY}:000000004"]
    assert raw_rows(batch([2], "a"), KEY, "part")["row_id"].to_pylist() == [f"{KEY}:part:000000002"]


def test_one_name_and_many_agree():
    numbers = [1, 999_999_999, 1_000_000_000]

    assert row_ids(KEY, pa.array(numbers), "p").to_pylist() == [row_id(KEY, number, "p") for number in numbers]


def test_columns_named_like_ours_are_kept():
    assert raw_rows(batch([2], "row_id", "Partition_Key", "id"), KEY).column_names == ["row_id", "row_id_", "Partition_Key_", "id"]


def test_columns_named_like_ours_stay_apart(make_use_case):
    shop = make_use_case().model_dump(mode="json")["columns"]
    columns = {**shop, "first": {"type": "string", "source": "row_id"}, "second": {"type": "string", "source": "row_id_"}}
    rows = raw_rows(batch([2], "row_id", "row_id_", "ROW_ID__", *shop), KEY)

    assert rows.column_names[:4] == ["row_id", "row_id_", "row_id__", "ROW_ID___"]
    typed_rows = typed(rows, make_use_case(columns=columns)).rows
    assert [typed_rows[name].to_pylist() for name in ("first", "second")] == [["row_id"], ["row_id_"]]
