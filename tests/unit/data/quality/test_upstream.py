import pyarrow as pa
import pytest

from pipelines_lib.data.quality.rejections import Rejections
from pipelines_lib.data.quality.upstream import TypeWatch, column_changes, conformed
from pipelines_lib.data.typed import typed
from pipelines_lib.errors import DataError, Held
from pipelines_lib.use_case import Quality

NAMES = ["id", "who", "when", "price", "count", "colour", "action"]


@pytest.fixture
def shop(make_use_case):
    return lambda **policy: make_use_case(quality={"upstream": policy})


def test_columns_as_declared_are_no_change(shop):
    assert column_changes("in.csv", NAMES, shop()) == []


def test_a_new_column_is_kept_unless_the_policy_says_otherwise(shop):
    rows = pa.table({name: ["x"] for name in [*NAMES, "extra"]})

    assert [change.said for change in column_changes("in.csv", rows.column_names, shop())] == ["not declared, and kept in raw"]
    assert conformed(rows, shop()) == rows
    assert [change.said for change in column_changes("in.csv", rows.column_names, shop(new_columns="ignore"))] == [
        "not declared, and left out"
    ]
    assert conformed(rows, shop(new_columns="ignore")).column_names == NAMES
    with pytest.raises(Held, match=r"in.csv: has columns that use case shop does not declare: 'extra'; declare them"):
        column_changes("in.csv", rows.column_names, shop(new_columns="hold"))


def test_a_lost_column_is_bad_input_that_names_the_nearest_new_one(shop):
    names = [{"price": "prices"}.get(name, name) for name in NAMES]

    with pytest.raises(DataError, match=r"in.csv: has no column 'price', .* as columns.price; did you mean 'prices'\?") as caught:
        column_changes("in.csv", names, shop())
    assert "It has: id, who, when, prices" in str(caught.value)


def test_a_lost_column_may_count_as_empty(shop):
    rows = pa.table({name: ["x"] for name in NAMES if name != "price"})

    [change] = column_changes("in.csv", rows.column_names, shop(lost_columns="empty"))
    assert (change.kind, change.column, change.holds) == ("lost column", "price", False)
    assert conformed(rows, shop(lost_columns="empty"))["price"].to_pylist() == [None]


def test_another_file_altogether_is_bad_input_whatever_the_policy(shop):
    with pytest.raises(DataError, match=r"has no column 'id', which is declared as columns.id\. Set columns.id.source"):
        column_changes("in.csv", ["a", "b"], shop(lost_columns="empty"))


@pytest.mark.parametrize(("n_odd", "n_right", "changed"), [(3, 0, False), (4, 0, True), (58, 42, False), (70, 40, True), (0, 9, False)])
def test_a_type_has_changed_where_the_values_say_so_beyond_chance(make_use_case, n_odd, n_right, changed):
    use_case = make_use_case(quality=Quality(max_quarantined=1))
    prices = ["odd"] * n_odd + ["1"] * n_right + [None] * 500
    raw = pa.table({"row_id": [f"r{i:03d}" for i in range(len(prices))], **{name: ["1"] * len(prices) for name in NAMES}, "price": prices})
    raw = raw.set_column(raw.column_names.index("action"), "action", pa.array(["buy"] * len(prices)))
    raw = raw.set_column(raw.column_names.index("when"), "when", pa.array(["2026-01-01"] * len(prices)))
    rejections, watch = Rejections(use_case), TypeWatch(use_case)
    for start in range(0, len(prices), 25):
        rows = typed(raw.slice(start, 25), use_case)
        rejections.add(rows.reasons, raw)
        watch.add(rows)

    changes = watch.changes(rejections)

    assert [change.column for change in changes] == (["price"] if changed else [])
    if changed:
        assert "such as r000 ('odd'), r001 ('odd'), r002 ('odd')" in changes[0].said
        assert changes[0].n_failed == n_odd
