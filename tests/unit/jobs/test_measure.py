import pytest

from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import DataError

DAY = "2026-01-05"


@pytest.fixture
def root(sandbox):
    return sandbox.project.home / "store" / "shop"


def test_a_quiet_day_and_its_performance(answer, monitor, deploy, root):
    deploy(root, 1)
    answer(DAY)
    result = monitor(DAY)["measure"]
    assert result.reason == "0 of 4 input columns have drifted from version 1's training data"
    assert (result.figures["drifted"], result.figures["prediction_drifted"]) == ([], False)
    performance = result.outputs["performance"]
    assert (performance["n_rows"], performance["n_answered"]) == (200, 200)
    assert performance["metrics"]["roc_auc"] == 1.0
    rows = Tables(root).read("drift", [DAY])
    assert rows["row_id"].to_pylist() == ["age", "amount", "country", "member", "prediction", "score"]
    assert set(rows["model_version"].to_pylist()) == {1}
    assert rows["psi"].null_count == 3, "categories are compared by js"


def test_a_drifted_day_names_the_columns(answer, monitor, deploy, root):
    deploy(root, 1)
    answer(DAY, shift=2)
    result = monitor(DAY)["measure"]
    assert set(result.figures["drifted"]) == {"amount", "age", "score", "prediction"}
    assert result.figures["drifted_share"] == 0.5
    version = Tables(root).version("drift")
    assert monitor(DAY)["measure"] == result
    assert Tables(root).version("drift") == version


def test_a_day_is_compared_with_the_version_that_answered_most(answer, monitor, deploy, root):
    deploy(root, 1)
    deploy(root, 2, bias=1)
    answer(DAY, version=1)
    answer(DAY, version=2, n=150)
    assert monitor(DAY)["measure"].outputs["model_version"] == 2


def test_a_day_without_requests_or_labels(monitor, deploy, answer, root):
    deploy(root, 1)
    assert monitor(DAY)["measure"].figures == {"n_rows": 0}
    assert Tables(root).partitions("drift") == []
    answer("2026-01-06")
    Tables(root).write("labelled", "2026-01-06", Tables(root).read("labelled", ["2026-01-06"]).slice(0, 0))
    assert monitor("2026-01-06")["measure"].outputs["performance"] is None


def test_answers_of_a_version_nobody_deployed_are_refused(answer, monitor):
    answer(DAY, version=9)
    with pytest.raises(DataError, match="model version 9"):
        monitor(DAY)
