import datetime as dt

import numpy as np
import pyarrow as pa
import pytest

from pipelines_lib.evaluation.metrics import Truth, value
from pipelines_lib.monitoring.estimate import ClassCalibration
from pipelines_lib.monitoring.performance import estimated, realised
from pipelines_lib.monitoring.reference import Reference
from pipelines_lib.monitoring.sketch import profile_columns
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


@pytest.fixture
def of_three(make_use_case):
    """(use case, answers with every class's score, labels) of 300 rows whose classes came as often as they were said to."""
    random, classes = np.random.default_rng(0), ("a", "b", "c")
    scores = random.dirichlet(np.ones(3), 300).astype(np.float32)
    came = np.minimum((random.random((300, 1)) > scores.cumsum(axis=1)).sum(axis=1), 2)
    ids = [f"{row:03d}" for row in range(300)]
    answers = {
        "id": ids,
        "row_id": ids,
        "score": scores.max(axis=1).astype(np.float64),
        "prediction": [classes[c] for c in scores.argmax(axis=1)],
    }
    answers["scores"] = pa.array(scores.tolist(), pa.list_(pa.float32()))
    use_case = make_use_case(task="multiclass", label={"column": "action"}, gate={"metric": "log_loss", "floor": 2})
    return use_case, pa.table(answers), pa.table({"id": ids, "label": [classes[c] for c in came]}), scores, came


def test_of_many_classes_every_metric_is_realised_where_every_score_was_kept(of_three):
    use_case, answers, labels, scores, came = of_three
    found = realised(answers, labels, use_case, ("a", "b", "c"), None)
    assert found is not None
    truth = Truth(came, ("a", "b", "c"))
    assert found.metrics == {metric: pytest.approx(value(metric, truth, scores)) for metric in use_case.metrics}
    assert found.low < found.metrics["log_loss"] < found.high
    without = realised(answers.drop_columns(["scores"]), labels, use_case, ("a", "b", "c"), None)
    assert set(without.metrics) == {"accuracy", "macro_f1"}


def test_of_many_classes_every_metric_is_estimated_where_every_score_was_kept(of_three):
    use_case, answers, _, scores, came = of_three
    reference = Reference(profile=profile_columns({}, {}, scores=scores[:, 0]), estimator=ClassCalibration.fit(scores.astype(float), came))
    found = estimated(answers, use_case, reference, None)
    assert set(found) == set(use_case.metrics) - {"calibration_error"}
    for metric, figure in found.items():
        assert figure.low < value(metric, Truth(came, ("a", "b", "c")), scores) < figure.high
    assert estimated(answers.drop_columns(["scores"]), use_case, reference, None) == {}
