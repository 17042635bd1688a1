import numpy as np
import pyarrow as pa
import pytest

from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import DataError
from pipelines_lib.monitoring.encoding import Encoder
from pipelines_lib.monitoring.estimate import Calibration
from pipelines_lib.monitoring.reference import Reference, Sample

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
    figures = monitor(DAY)["measure"].figures
    assert (figures["n_rows"], figures["health"]["n_rows"], figures["health"]["n_requests"]) == (0, 0, None)
    assert Tables(root).read("health", [DAY]).num_rows == 1, "that nobody asked is told"
    assert Tables(root).partitions("drift") == []
    answer("2026-01-06")
    Tables(root).write("labelled", "2026-01-06", Tables(root).read("labelled", ["2026-01-06"]).slice(0, 0))
    assert monitor("2026-01-06")["measure"].outputs["performance"] is None


def test_answers_of_a_version_nobody_deployed_are_refused(answer, monitor):
    answer(DAY, version=9)
    with pytest.raises(DataError, match="model version 9"):
        monitor(DAY)


def reference(profile, rows, scores):
    """Of a model that is right about itself, to which the age is worth most."""
    inputs = tuple(rows)
    estimator = Calibration(np.array([1.0, 1.0, 0.0]), np.eye(3) * 1e-6)
    codes = Encoder(profile, inputs).encode(rows, len(scores))
    return Reference(
        profile=profile, importance={"age": 0.3, "amount": 0.1}, sample=Sample(columns=inputs, codes=codes), estimator=estimator
    )


def test_before_labels_come_performance_is_estimated_and_when_they_come_the_past_is_filled_in(answer, monitor, deploy, make_package, root):
    deploy(root, 1, package=make_package(root, reference=reference))
    answer(DAY)
    tables = Tables(root)
    truth = tables.read("labelled", [DAY]).drop_columns(["partition_key"])
    tables.write("labelled", DAY, truth.slice(0, 0))

    outputs = monitor(DAY)["measure"].outputs
    assert outputs["performance"] is None
    guess = outputs["estimated"]
    assert (guess["metric"], guess["low"] < guess["value"] < guess["high"] < 1) == ("roc_auc", True)
    assert tables.read("performance", [DAY])["row_id"].to_pylist() == ["estimated"]

    tables.write("labelled", DAY, truth)
    answer("2026-01-06")
    assert monitor("2026-01-06")["measure"].figures["labels_came"] == [DAY]
    kept = {row["row_id"]: row for row in tables.read("performance", [DAY]).to_pylist()}
    assert kept["estimated"]["value"] == guess["value"]
    assert (kept["realised"]["value"], kept["realised"]["n_rows"]) == (1.0, 200)
    assert monitor("2026-01-06")["measure"].figures["labels_came"] == [], "nothing new, nothing done"


def test_inputs_weigh_what_they_are_worth_and_are_looked_at_together(answer, monitor, deploy, make_package, root):
    deploy(root, 1, package=make_package(root, reference=reference))
    answer(DAY, shift=2)
    figures = monitor(DAY)["measure"].figures
    assert figures["drifted_share"] == 0.75, "half of the columns, and all that the model was seen to need"
    answer("2026-01-06", n=400)
    rows = Tables(root).read("predictions", ["2026-01-06"])
    amounts = rows["amount"].to_numpy()
    together = pa.array(np.sort(amounts)[np.argsort(np.argsort(rows["age"].to_numpy(), kind="stable"))])
    Tables(root).write(
        "predictions", "2026-01-06", rows.set_column(rows.column_names.index("amount"), "amount", together).drop_columns(["partition_key"])
    )
    assert monitor("2026-01-06")["measure"].figures["drifted"] == ["(all inputs)"]
