import pyarrow as pa

from pipelines_lib.monitoring.performance import realised


def test_an_answer_without_a_key_is_no_labelled_row_without_one(make_use_case):
    use_case = make_use_case()
    answers = pa.table(
        {"id": pa.array(["a", None], pa.string()), "score": [0.9, 0.1], "prediction": ["yes", "no"], "row_id": ["1", "2"]},
    )
    labelled = pa.table({"id": pa.array(["a", None], pa.string()), "label": ["yes", "yes"]})

    found = realised(answers, labelled, use_case, ("no", "yes"), "yes")

    assert found is not None
    assert (found.n_rows, found.n_answered) == (1, 2)
