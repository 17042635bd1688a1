import datetime as dt
import subprocess
import sys
from itertools import pairwise
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines_lib.data.quality import gx
from pipelines_lib.data.quality.judge import MASK, Example, Judge, problems
from pipelines_lib.errors import ConfigError
from pipelines_lib.use_case import Quality

ROWS = pa.table(
    {
        "row_id": ["a", "b", "c", "d"],
        "price": [1.0, -2.0, None, 4.0],
        "colour": ["red", "blue", "red", None],
        "low": [1, 5, 2, 3],
        "high": [2, 4, 3, 4],
    }
)


def judged(rows, *expectations, cuts=(), private=()):
    judge = Judge(Quality(expectations=list(expectations)), private)
    reasons = {}
    edges = [0, *sorted(cuts), rows.num_rows]
    for first, last in pairwise(edges):
        reasons |= judge.add(rows.slice(first, last - first))
    checks, late = judge.finish(rows.select)
    for row, found in late.items():
        reasons.setdefault(row, set()).update(found)
    return checks, reasons


def test_each_kind_of_expectation_is_reported_in_the_order_written():
    checks, reasons = judged(
        ROWS,
        {"expect_table_row_count_to_be_between": {"min_value": 10}},
        {"expect_column_values_to_be_between": {"column": "price", "min_value": 0}},
        {"expect_column_mean_to_be_between": {"column": "price", "min_value": 0}},
        {"expect_column_values_to_not_be_null": {"column": "colour"}},
        {"expect_column_pair_values_a_to_be_greater_than_b": {"column_A": "high", "column_B": "low"}},
        {"expect_column_value_z_scores_to_be_less_than": {"column": "low", "threshold": 3, "double_sided": True}},
    )

    assert [(c.name, c.success, c.of_rows, c.n_checked, c.n_failed, c.observed) for c in checks] == [
        ("expect_table_row_count_to_be_between", False, False, 4, 0, "observed 4"),
        ("expect_column_values_to_be_between(price)", False, True, 3, 1, ""),
        ("expect_column_mean_to_be_between(price)", True, False, 4, 0, "observed 1.0"),
        ("expect_column_values_to_not_be_null(colour)", False, True, 4, 1, ""),
        ("expect_column_pair_values_a_to_be_greater_than_b(high, low)", False, True, 4, 1, ""),
        ("expect_column_value_z_scores_to_be_less_than(low)", True, True, 4, 0, ""),
    ]
    assert reasons == {
        "b": {"expect_column_values_to_be_between(price)", "expect_column_pair_values_a_to_be_greater_than_b(high, low)"},
        "d": {"expect_column_values_to_not_be_null(colour)"},
    }


def test_what_failed_is_shown_in_the_shape_the_expectation_has():
    checks, _ = judged(
        ROWS,
        {"expect_column_values_to_be_between": {"column": "price", "min_value": 2}},
        {"expect_column_pair_values_a_to_be_greater_than_b": {"column_A": "high", "column_B": "low"}},
        {"expect_multicolumn_sum_to_equal": {"column_list": ["low", "high"], "sum_total": 3}},
        cuts=(1, 3),
    )

    assert checks[0].examples == (Example("a", 1.0), Example("b", -2.0))
    assert checks[1].examples == (Example("b", (4, 5)),)
    assert checks[2].examples[-1] == Example("d", {"low": 3, "high": 4})


def test_personal_values_are_masked_wherever_they_would_show():
    checks, _ = judged(
        ROWS,
        {"expect_column_values_to_be_in_set": {"column": "colour", "value_set": ["blue"]}},
        {"expect_column_pair_values_a_to_be_greater_than_b": {"column_A": "high", "column_B": "low"}},
        {"expect_column_max_to_be_between": {"column": "low", "max_value": 1}},
        {"expect_column_distinct_values_to_be_in_set": {"column": "colour", "value_set": ["green"]}},
        {"expect_column_most_common_value_to_be_in_set": {"column": "colour", "value_set": ["green"]}},
        {"expect_column_unique_value_count_to_be_between": {"column": "colour", "min_value": 5}},
        private=("colour", "low"),
    )

    assert [example.value for check in checks for example in check.examples] == [MASK, MASK, (4, MASK)]
    assert [check.observed for check in checks] == ["", "", f"observed {MASK}", f"observed {MASK}", f"observed {MASK}", "observed 2"]
    shown = str([check.result.to_json_dict()["result"] for check in checks])
    assert "red" not in shown
    assert "5" not in str(checks[2].result.result)


def test_an_exception_of_gx_quotes_no_personal_value():
    rows = ROWS.set_column(2, "colour", pa.array(["Anna Smith"] * 4))
    expectation = {"expect_column_values_to_match_json_schema": {"column": "colour", "json_schema": {"type": "object"}}}

    with pytest.raises(ConfigError, match="not shown because a column is personal") as caught:
        judged(rows, expectation, private=["colour"])
    assert "Anna" not in str(caught.value)
    assert "Anna" not in str(problems(Quality(expectations=[expectation]), rows, ["colour"]))


def test_with_mostly_it_judges_the_partition_over_all_batches():
    expectation = {"column": "colour", "value_set": ["red"]}
    for mostly, met in ((0.6, True), (0.9, False)):
        checks, reasons = judged(ROWS, {"expect_column_values_to_be_in_set": {**expectation, "mostly": mostly}}, cuts=(1, 2, 3))

        assert reasons == {}
        assert [(c.success, c.of_rows, c.n_checked, c.n_failed) for c in checks] == [(met, False, 3, 1)]
        assert checks[0].examples == (Example("b", "blue"),)


@pytest.mark.parametrize(
    ("expectation", "message"),
    [
        ({"expect_column_values_to_be_betwen": {"column": "price"}}, "expectations.0: .*did you mean 'expect_column_values_to_be_between'"),
        ({"expect_column_values_to_be_between": {"column": "price", "minimum": 0}}, "does not take .*minimum.*correct its arguments"),
        ({"expect_column_mean_to_be_between": {"column": "colour", "min_value": 0}}, "can't judge these columns"),
        ({"expect_column_values_to_match_like_pattern": {"column": "colour", "like_pattern": "r%"}}, "can't judge these columns"),
    ],
)
def test_a_wrong_expectation_is_the_use_case_s_fault(expectation, message):
    with pytest.raises(ConfigError, match=message):
        judged(ROWS, expectation)
    [(index, said)] = problems(Quality(expectations=[{"expect_column_to_exist": {"column": "low"}}, expectation]), ROWS)
    assert index == 1
    assert said


def test_no_rows_are_not_judged():
    assert judged(ROWS.slice(0, 0), {"expect_column_to_exist": {"column": "price"}}) == ([], {})


def test_whole_numbers_stay_whole_beside_missing_ones():
    rows = pa.table({"row_id": ["a", "b", "c"], "code": [12, None, 7], "big": [2**53 + 1, 2**53, None]})
    _, reasons = judged(
        rows,
        {"expect_column_values_to_match_regex": {"column": "code", "regex": r"^\d\d$"}},
        {"expect_column_values_to_be_unique": {"column": "big"}},
    )

    assert reasons == {"c": {"expect_column_values_to_match_regex(code)"}}


def test_a_whole_number_that_no_float_holds_stands_beside_a_missing_one():
    rows = pa.table({"row_id": ["a", "b"], "low": [2**53 + 2, 1], "high": [None, 2]})
    checks, reasons = judged(rows, {"expect_column_pair_values_a_to_be_greater_than_b": {"column_A": "high", "column_B": "low"}})

    # GX takes a pair of which one is missing for one that fails, unless `ignore_row_if` says otherwise.
    assert checks[0].examples == (Example("a", (None, 2**53 + 2)),)
    assert reasons.keys() == {"a"}


def test_times_are_compared_with_days_and_beyond_what_nanoseconds_hold():
    rows = pa.table(
        {"row_id": ["a", "b", "c"], "at": pa.array([dt.datetime(2025, 12, 31, 23), dt.datetime(2026, 1, 1), None], pa.timestamp("us"))}
    )
    late = rows.set_column(1, "at", pa.array([dt.datetime(9999, 12, 31), dt.datetime(2026, 1, 1), None], pa.timestamp("us")))
    for bound in ("2026-01-01", dt.date(2026, 1, 1), dt.datetime(2026, 1, 1)):
        _, reasons = judged(rows, {"expect_column_values_to_be_between": {"column": "at", "min_value": bound}})
        assert list(reasons) == ["a"]
        _, reasons = judged(late, {"expect_column_values_to_be_between": {"column": "at", "max_value": bound}})
        assert list(reasons) == ["a"]


@pytest.mark.parametrize("loaded", [False, True])
def test_it_imports_without_spark_and_leaves_spark_as_it_was(loaded):
    code = (
        f"import sys; sys.modules |= dict.fromkeys(['pyspark', 'pyspark.sql'], sys) if {loaded} else {{}}; "
        "from pipelines_lib.data.quality.gx import great_expectations; great_expectations(); "
        f"assert ('pyspark' in sys.modules, 'pyspark.sql' in sys.modules) == ({loaded}, {loaded}); "
        "from great_expectations.compatibility import pyspark as compatible; assert not compatible.pyspark; "
        "import importlib.util; print(importlib.util.find_spec('pyspark').name if 'pyspark' not in sys.modules else 'pyspark')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.stdout == "pyspark\n", done.stderr


def test_where_spark_is_loaded_it_is_out_of_reach_for_a_while_and_then_as_before(monkeypatch):
    for name in ("pyspark", "pyspark.sql"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    before = dict(sys.modules)

    with gx._out_of_reach("pyspark"), pytest.raises(ModuleNotFoundError):
        import pyspark.sql  # noqa: F401

    assert {name: sys.modules[name] for name in before} == before


N = 60
EXPECTATIONS = [
    {"expect_column_values_to_be_between": {"column": "price", "min_value": 10, "max_value": 80}},
    {"expect_column_values_to_be_between": {"column": "price", "min_value": 10, "mostly": 0.8}},
    {"expect_column_values_to_be_between": {"column": "at", "min_value": "2026-01-01T06:00:00"}},
    {"expect_column_values_to_be_between": {"column": "price", "min_value": 50, "row_condition": 'colour=="red"', "condition_parser": "pandas"}},
    {"expect_column_values_to_be_between": {"column": "count", "min_value": 3}},
    {"expect_column_values_to_be_in_set": {"column": "colour", "value_set": ["red", "blue"]}},
    {"expect_column_values_to_not_be_in_set": {"column": "count", "value_set": [3, 4]}},
    {"expect_column_values_to_be_in_set": {"column": "member", "value_set": [True]}},
    {"expect_column_values_to_not_be_null": {"column": "count"}},
    {"expect_column_values_to_not_be_null": {"column": "colour", "mostly": 0.95}},
    {"expect_column_values_to_be_null": {"column": "member"}},
    {"expect_column_values_to_match_regex": {"column": "colour", "regex": "e"}},
    {"expect_column_values_to_not_match_regex": {"column": "colour", "regex": "^r"}},
    {"expect_column_values_to_match_regex_list": {"column": "colour", "regex_list": ["^r", "^g"]}},
    {"expect_column_values_to_not_match_regex_list": {"column": "colour", "regex_list": ["^r", "^g"]}},
    {"expect_column_value_lengths_to_be_between": {"column": "colour", "min_value": 4}},
    {"expect_column_value_lengths_to_equal": {"column": "colour", "value": 3}},
    {"expect_column_values_to_match_strftime_format": {"column": "day", "strftime_format": "%Y-%m-%d"}},
    {"expect_column_values_to_be_dateutil_parseable": {"column": "day"}},
    {"expect_column_values_to_be_json_parseable": {"column": "day"}},
    {"expect_column_pair_values_a_to_be_greater_than_b": {"column_A": "price", "column_B": "cost"}},
    {"expect_column_pair_values_a_to_be_greater_than_b": {"column_A": "count", "column_B": "low", "or_equal": True, "mostly": 0.5}},
    {"expect_column_pair_values_to_be_equal": {"column_A": "count", "column_B": "low", "ignore_row_if": "either_value_is_missing"}},
    {"expect_column_pair_values_to_be_in_set": {"column_A": "count", "column_B": "low", "value_pairs_set": [[1, 1], [2, 3]]}},
    {"expect_multicolumn_sum_to_equal": {"column_list": ["count", "low"], "sum_total": 6}},
    {"expect_multicolumn_values_to_be_equal": {"column_list": ["count", "low"]}},
    {"expect_select_column_values_to_be_unique_within_record": {"column_list": ["count", "low"]}},
    {"expect_column_values_to_be_unique": {"column": "price"}},
    {"expect_column_values_to_be_unique": {"column": "count", "mostly": 0.1}},
    {"expect_compound_columns_to_be_unique": {"column_list": ["count", "low", "colour"]}},
    {"expect_column_values_to_be_increasing": {"column": "low"}},
    {"expect_column_values_to_be_decreasing": {"column": "count", "strictly": True}},
    {"expect_column_value_z_scores_to_be_less_than": {"column": "price", "threshold": 1.5, "double_sided": True}},
    {"expect_column_values_to_not_be_outliers": {"column": "price", "method": "iqr", "multiplier": 0.5}},
    {"expect_column_values_to_be_of_type": {"column": "price", "type_": "float64"}},
    {"expect_column_values_to_be_in_type_list": {"column": "low", "type_list": ["int64"]}},
    {"expect_column_mean_to_be_between": {"column": "price", "min_value": 40, "max_value": 45}},
    {"expect_column_median_to_be_between": {"column": "count", "min_value": 4}},
    {"expect_column_stdev_to_be_between": {"column": "price", "max_value": 20}},
    {"expect_column_sum_to_be_between": {"column": "low", "max_value": 20}},
    {"expect_column_min_to_be_between": {"column": "at", "min_value": "2026-01-01T03:00:00"}},
    {"expect_column_max_to_be_between": {"column": "count", "max_value": 8}},
    {"expect_column_quantile_values_to_be_between": {"column": "price", "quantile_ranges": {"quantiles": [0.1], "value_ranges": [[0, 9]]}}},
    {"expect_column_most_common_value_to_be_in_set": {"column": "colour", "value_set": ["red"]}},
    {"expect_column_distinct_values_to_be_in_set": {"column": "colour", "value_set": ["red"]}},
    {"expect_column_distinct_values_to_equal_set": {"column": "low", "value_set": [0, 1, 2]}},
    {"expect_column_distinct_values_to_contain_set": {"column": "colour", "value_set": ["red", "black"]}},
    {"expect_column_unique_value_count_to_be_between": {"column": "colour", "max_value": 2}},
    {"expect_column_proportion_of_unique_values_to_be_between": {"column": "count", "min_value": 0.5}},
    {"expect_column_proportion_of_non_null_values_to_be_between": {"column": "count", "min_value": 0.9}},
    {"expect_column_kl_divergence_to_be_less_than": {"column": "colour", "partition_object": {"values": ["red", "blue", "green"], "weights": [0.5, 0.3, 0.2]}, "threshold": 0.01}},
    {"expect_table_row_count_to_be_between": {"min_value": 10, "max_value": 50}},
    {"expect_table_row_count_to_equal": {"value": N}},
    {"expect_table_column_count_to_equal": {"value": 8}},
    {"expect_table_columns_to_match_set": {"column_set": ["price", "cost"], "exact_match": False}},
    {"expect_table_columns_to_match_ordered_list": {"column_list": ["price", "cost"]}},
    {"expect_column_to_exist": {"column": "price", "column_index": 0}},
]  # fmt: skip


def _rows(seed, missing=0.1):
    rng = np.random.default_rng(seed)
    lacks = lambda: rng.random(N) < missing  # noqa: E731
    hours = np.datetime64("2026-01-01T00:00", "us") + (rng.integers(0, 24, N) * 3_600_000_000).astype("timedelta64[us]")
    return pa.table(
        {
            "row_id": [f"r{i:03d}" for i in range(N)],
            "price": pa.array(rng.integers(0, 90, N).astype(float), mask=lacks()),
            "cost": pa.array(rng.integers(0, 60, N).astype(float), mask=lacks()),
            "count": pa.array(rng.integers(0, 10, N), mask=lacks()),
            "low": pa.array(rng.integers(0, 6, N)),
            "colour": pa.array(rng.choice(["red", "blue", "green"], N), mask=lacks()),
            "day": pa.array(rng.choice(["2026-01-01", "12", "never"], N), mask=lacks()),
            "member": pa.array(rng.random(N) < 0.5, mask=lacks()),
            "at": pa.array(hours, mask=lacks()),
        }
    )


@pytest.mark.parametrize(("seed", "missing", "cuts"), [(1, 0.1, (7, 20, 21)), (2, 0.0, (1, 30)), (3, 0.5, ())])
def test_in_batches_it_finds_what_one_run_on_the_whole_finds(whole_run, seed, missing, cuts):
    rows = _rows(seed, missing)
    whole = whole_run(rows.drop_columns(["row_id"]), Quality(expectations=EXPECTATIONS))
    for expectation, (success, positions, observed) in zip(EXPECTATIONS, whole, strict=True):
        [check], reasons = judged(rows, expectation, cuts=cuts)

        assert check.success == success, expectation
        if positions is None:
            assert reasons == {}, expectation
            assert observed is None or check.observed == f"observed {observed}"[:200]
        else:
            failed = [f"r{position:03d}" for position in positions]
            assert check.n_failed == len(failed), expectation
            assert [example.row_id for example in check.examples] == failed[:20], expectation
            assert sorted(reasons) == (failed if check.of_rows else []), expectation


@settings(max_examples=6)
@given(seed=st.integers(0, 10**6), missing=st.sampled_from([0.0, 0.2]), cuts=st.lists(st.integers(0, N), max_size=4))
def test_however_the_rows_are_cut_the_findings_are_the_same(seed, missing, cuts):
    rows = _rows(seed, missing)
    for one, other in zip(judged(rows, *EXPECTATIONS), judged(rows, *EXPECTATIONS, cuts=cuts), strict=True):
        assert one == other
