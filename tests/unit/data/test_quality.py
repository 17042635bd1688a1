import pyarrow as pa
import pytest

from pipelines_lib.data.quality import Check, check, held_because, row_reasons
from pipelines_lib.errors import ConfigError
from pipelines_lib.use_case import Quality

ROWS = pa.table({"price": [1.0, -2.0, None, 4.0], "colour": ["red", "blue", "red", None], "low": [1, 5, 2, 3], "high": [2, 4, 3, 4]})


def checks(*expectations):
    return check(ROWS, Quality(expectations=list(expectations)))


def test_each_kind_of_expectation_is_reported_in_the_order_written():
    found = checks(
        {"expect_table_row_count_to_be_between": {"min_value": 10}},
        {"expect_column_values_to_be_between": {"column": "price", "min_value": 0}},
        {"expect_column_mean_to_be_between": {"column": "price", "min_value": 0}},
        {"expect_column_values_to_not_be_null": {"column": "colour"}},
        {"expect_column_pair_values_a_to_be_greater_than_b": {"column_A": "high", "column_B": "low"}},
        {"expect_column_value_z_scores_to_be_less_than": {"column": "low", "threshold": 3, "double_sided": True}},
    )

    assert [(c.name, c.success, c.of_rows, c.rows) for c in found] == [
        ("expect_table_row_count_to_be_between", False, False, ()),
        ("expect_column_values_to_be_between(price)", False, True, (1,)),
        ("expect_column_mean_to_be_between(price)", True, False, ()),
        ("expect_column_values_to_not_be_null(colour)", False, True, (3,)),
        ("expect_column_pair_values_a_to_be_greater_than_b(high, low)", False, True, (1,)),
        ("expect_column_value_z_scores_to_be_less_than(low)", True, True, ()),
    ]
    assert found[0].observed == "observed 4"


def test_with_mostly_it_judges_the_partition():
    expectation = {"column": "colour", "value_set": ["red"]}
    [met] = checks({"expect_column_values_to_be_in_set": {**expectation, "mostly": 0.5}})
    [broken] = checks({"expect_column_values_to_be_in_set": {**expectation, "mostly": 0.9}})

    assert row_reasons([met, broken], list("abcd")) == {}
    assert held_because([met], {}, 4, Quality()) == ""
    assert held_because([broken], {}, 4, Quality()) == "expect_column_values_to_be_in_set(colour) failed for 1 rows"


@pytest.mark.parametrize(
    ("expectation", "message"),
    [
        ({"expect_column_values_to_be_betwen": {"column": "price"}}, "expectations.0: .*did you mean 'expect_column_values_to_be_between'"),
        ({"expect_column_values_to_be_between": {"column": "price", "minimum": 0}}, "does not take .*minimum.*correct its arguments"),
        ({"expect_column_mean_to_be_between": {"column": "colour", "min_value": 0}}, "can't judge these columns"),
    ],
)
def test_a_wrong_expectation_is_the_use_case_s_fault(expectation, message):
    with pytest.raises(ConfigError, match=message):
        checks(expectation)


def test_rows_get_every_expectation_they_failed():
    failed = [Check("a", False, True, (0, 2)), Check("b", False, True, (2,)), Check("c", False, False, (1,))]

    assert row_reasons(failed, ["r0", "r1", "r2"]) == {"r0": {"a"}, "r2": {"a", "b"}}


def test_too_many_bad_rows_hold_and_the_reason_names_three():
    reasons = {f"r{i}": {"type: price is not a finite number"} for i in range(6)}

    assert held_because([], reasons, 120, Quality(max_quarantined=0.05)) == ""
    because = held_because([], reasons, 119, Quality(max_quarantined=0.05))
    assert because.startswith("6 of 119 rows (5.0%) are quarantined, and quality.max_quarantined allows 5.0%")
    assert because.endswith("type: price is not a finite number: 6 rows, such as r0, r1, r2")


def test_no_rows_hold():
    assert held_because([], {}, 0, Quality()) == "it has no rows"
    assert check(ROWS.slice(0, 0), Quality(expectations=[{"expect_column_to_exist": {"column": "price"}}])) == []
