"""The log's columns keep their types while models and features come and go."""

from dataclasses import replace

from pipelines_lib.data.tables import Tables
from pipelines_lib.serving.prediction_log import Answers, as_table, logged_types


def answers(age, kind, version=1) -> Answers:
    return Answers(
        row_ids=[f"{version} {age}"],
        partition_key="2026-01-01",
        columns={"age": [age], "customer": [2**53 + 1]},
        types=logged_types({"age": kind}, {"customer": "integer"}),
        predictions=["yes"],
        scores=[0.7],
        model_version=version,
    )


def test_a_feature_that_becomes_a_fraction_goes_on_being_logged(tmp_path):
    tables = Tables(tmp_path)
    tables.append("predictions", as_table([answers(40, "integer"), answers(None, "integer")]))
    tables.append("predictions", as_table([answers(40.5, "number", 2)]))

    rows = tables.read("predictions")
    assert rows["age"].to_pylist() == [40.0, None, 40.5]
    assert rows["customer"].to_pylist() == [2**53 + 1] * 3


def test_a_version_of_many_classes_leaves_every_score(tmp_path):
    tables = Tables(tmp_path)
    tables.append("predictions", as_table([answers(40, "integer"), replace(answers(41, "integer"), all_scores=[[0.25, 0.5, 0.25]])]))
    assert tables.read("predictions")["scores"].to_pylist() == [None, [0.25, 0.5, 0.25]]


def test_a_whole_number_that_a_float_must_round_is_logged_rounded():
    assert as_table([answers(2**53 + 1, "integer")])["age"].to_pylist() == [2.0**53]
