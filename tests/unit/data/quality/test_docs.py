import logging
import re

import pyarrow as pa
import pytest

from pipelines_lib.data.quality.docs import data_docs
from pipelines_lib.data.quality.judge import MASK, Judge
from pipelines_lib.use_case import Quality

ROWS = pa.table(
    {
        "row_id": [f"r{i}" for i in range(6)],
        "colour": ["red", "<script>alert(1)</script>", "blue", "blue", None, "red"],
        "price": [1.0, 2.0, None, 4.0, 5.0, 6.0],
        "low": [1, 2, 3, 4, 5, 7],
    }
)
EXPECTATIONS = [
    {"expect_column_values_to_be_in_set": {"column": "colour", "value_set": ["red"]}},
    {"expect_column_distinct_values_to_be_in_set": {"column": "colour", "value_set": ["red"]}},
    {"expect_column_most_common_value_to_be_in_set": {"column": "colour", "value_set": ["green"]}},
    {"expect_column_mean_to_be_between": {"column": "price", "max_value": 3}},
    {"expect_column_max_to_be_between": {"column": "low", "max_value": 6}},
    {"expect_column_pair_values_a_to_be_greater_than_b": {"column_A": "price", "column_B": "low", "or_equal": True}},
    {"expect_multicolumn_sum_to_equal": {"column_list": ["price", "low"], "sum_total": 3}},
    {"expect_column_quantile_values_to_be_between": {"column": "price", "quantile_ranges": {"quantiles": [0.5], "value_ranges": [[0, 1]]}}},
    {"expect_table_columns_to_match_set": {"column_set": ["price", "<b>"]}},
]


def docs(private=(), cut=2):
    judge = Judge(Quality(expectations=EXPECTATIONS), private)
    judge.add(ROWS.slice(0, cut))
    judge.add(ROWS.slice(cut))
    return data_docs("Shop & <b>", "2026-01-01", judge.finish(ROWS.select)[0])


def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing(caplog):
    page = docs()

    assert re.findall(r'(?:src|href)="(?!#section-)', page) == []
    assert "<script" not in page
    assert "default-src 'none'" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "Data Docs: Shop &amp; &lt;b&gt;, 2026-01-01" in page
    # GX logs what it could not render.
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_it_says_what_gx_found():
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", docs()))

    assert "Evaluated Expectations 9" in text
    assert "3 unexpected values found. 60% of 6 total rows." in text
    assert "mean must be less than or equal to 3.0 . 3.6" in text


def test_the_same_findings_are_the_same_bytes():
    assert docs() == docs(cut=5)


@pytest.mark.parametrize("private", [("colour",), ("low",), ("price", "low", "colour")])
def test_personal_values_are_masked(private):
    page = docs(private)

    assert MASK in page
    shown = re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)
    if "colour" in private:
        assert "blue" not in shown
        assert "alert" not in shown
    if "low" in private:
        assert not re.search(r"\b7\b", shown)
