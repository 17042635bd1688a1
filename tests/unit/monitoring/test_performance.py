import datetime as dt

import pyarrow as pa

from pipelines_lib.monitoring.performance import realised
from pipelines_lib.serving.replay import _sent


def test_an_answer_without_a_key_is_no_labelled_row_without_one(make_use_case):
    use_case = make_use_case()
    answers = pa.table(
        {"id": pa.array(["a", None], pa.string()), "score": [0.9, 0.1], "prediction": ["yes", "no"], "row_id": ["1", "2"]},
    )
    labelled = pa.table({"id": pa.array(["a", None], pa.string()), "label": ["yes", "yes"]})

    found = realised(answers, labelled, use_case, ("no", "yes"), "yes")

    assert found is not None
    assert (found.n_rows, found.n_answered) == (1, 2)


def test_a_key_that_is_a_time_is_found_however_it_was_written(make_use_case):
    columns = {"at": {"type": "timestamp", "role": "key"}, "price": {"type": "number"}, "action": {"type": "string", "role": "label"}}
    use_case = make_use_case(columns=columns, split={"by": "row"})
    moments = pa.array([dt.datetime(2026, 1, 1, hour) for hour in (1, 2, 3)], pa.timestamp("us"))
    labelled = pa.table({"at": moments, "label": ["yes", "no", "yes"]})
    written = ["2026-01-01T01:00:00", "2026-01-01 03:00+01:00", _sent(pa.chunked_array([moments]))[2]]
    answers = pa.table({"at": written, "score": [0.9, 0.1, 0.8], "prediction": ["yes", "no", "yes"]})

    found = realised(answers, labelled, use_case, ("no", "yes"), "yes")

    assert found is not None
    assert (found.n_rows, found.metrics["accuracy"]) == (3, 1.0)
