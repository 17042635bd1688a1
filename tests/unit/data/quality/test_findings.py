import pyarrow as pa
import pytest

from pipelines_lib.data.quality.findings import Findings
from pipelines_lib.data.quality.history import quality_rows
from pipelines_lib.data.quality.judge import MASK, Check, Example
from pipelines_lib.data.quality.rejections import Rejections
from pipelines_lib.data.quality.upstream import Change
from pipelines_lib.use_case import Quality

RAW = pa.table({"row_id": ["r0", "r1", "r2"], "Price": ["1", "many", "few"], "who": ["ann", "bob", None]})


@pytest.fixture
def rejections(make_use_case):
    columns = make_use_case().model_dump(exclude_defaults=True)["columns"]
    columns["who"]["privacy"] = "sensitive"
    return Rejections(make_use_case(columns=columns))


def test_a_row_counts_once_and_under_every_reason(rejections):
    rejections.add({"r1": {"type: price is not a finite number", "expect_a"}}, RAW)
    rejections.add({"r2": {"expect_a"}})

    assert rejections.n_rows == 2
    assert [(reason.name, reason.n_rows) for reason in rejections.by_reason()] == [
        ("expect_a", 2),
        ("type: price is not a finite number", 1),
    ]


def test_what_stood_there_is_shown_unless_it_is_personal(rejections):
    rejections.add(
        {"r1": {"type: price is not a finite number", "label: who is none of the values of label.map"}, "r2": {"missing: who"}}, RAW
    )
    examples = {reason.name.partition(":")[0]: reason.examples for reason in rejections.by_reason()}

    assert examples == {"type": (Example("r1", "many"),), "label": (Example("r1", MASK),), "missing": (Example("r2", None),)}


def test_too_many_bad_rows_hold_and_the_reason_names_three(rejections):
    rejections.add({f"r{i}": {"type: price is not a finite number"} for i in range(6)})

    assert Findings(Quality(max_quarantined=0.05), 120, rejections).held_because == ""
    because = Findings(Quality(max_quarantined=0.05), 119, rejections).held_because
    assert because.startswith("6 of 119 rows (5.0%) are quarantined, and quality.max_quarantined allows 5.0%")
    assert because.endswith("type: price is not a finite number: 6 rows, such as r0, r1, r2")


def test_a_long_list_of_reasons_is_cut(rejections):
    rejections.add({"r0": {f"expect_{i}" for i in range(8)}})

    assert Findings(Quality(), 2, rejections).held_because.endswith("expect_4: 1 rows, such as r0; 3 other reasons")


def test_what_failed_for_the_partition_holds_it(rejections):
    mostly = Check("expect_a(colour)", False, False, n_checked=20, n_failed=3, examples=(Example("r7", "x" * 99),))
    mean = Check("expect_mean(price)", False, False, n_checked=20, observed="observed 3")
    met = Check("expect_b", True, False, n_checked=20, n_failed=1)
    changed = Change("changed type", "price", "90% of its values are no number any more", holds=True, n_failed=18)

    assert Findings(Quality(), 20, rejections, [mostly, mean, met], [changed]).held_because == (
        "changed type 'price': 90% of its values are no number any more; "
        f"expect_a(colour) failed for 3 of 20 rows (15.0%), such as r7 ('{'x' * 39}…); expect_mean(price) failed (observed 3)"
    )
    assert Findings(Quality(), 20, rejections, [met], [Change("new column", "x", "kept")]).held_because == ""


def test_no_rows_hold(rejections):
    assert Findings(Quality(), 0, rejections).held_because == "it has no rows"


def test_the_history_has_a_row_for_everything_that_was_asked(rejections):
    rejections.add({"r1": {"expect_a", "missing: who"}})
    twice = [Check("expect_a", False, True, 9, 1), Check("expect_a", True, False, 10, 0, "observed 2")]
    rows = quality_rows(Findings(Quality(max_quarantined=0.5), 10, rejections, twice, [Change("new column", "x", "kept in raw")]))

    assert [(r["row_id"], r["judges"], r["success"], r["n_checked"], r["n_failed"], r["observed"]) for r in rows.to_pylist()] == [
        ("partition:partition", "partition", True, 10, 1, ""),
        ("expectation:000", "row", False, 9, 1, ""),
        ("expectation:001", "partition", True, 10, 0, "observed 2"),
        ("rule:missing: who", "row", False, 10, 1, ""),
        ("upstream:new column: x", "partition", True, 10, 0, "kept in raw"),
    ]
    assert rows["share"].to_pylist()[1] == pytest.approx(1 / 9)
    assert rows.schema == quality_rows(Findings(Quality(), 0, rejections)).schema
