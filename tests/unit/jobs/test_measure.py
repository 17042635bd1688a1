import numpy as np
import pyarrow as pa
import pytest

from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import DataError
from pipelines_lib.jobs import measure, profile
from pipelines_lib.monitoring.encoding import Encoder
from pipelines_lib.monitoring.estimate import Calibration
from pipelines_lib.monitoring.history import look_back
from pipelines_lib.monitoring.reference import Reference, Sample
from pipelines_lib.registry.package import Package
from pipelines_lib.use_case import Deployment
from tests.tiny import training_rows

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


def test_a_challengers_answers_are_no_drift_of_the_champions(answer, monitor, deploy, root):
    deploy(root, 1)
    deploy(root, 2, bias=9)
    answer(DAY, version=1)
    answer(DAY, version=2, n=90)  # a canary of nearly one half, which says yes to everything
    measured = monitor(DAY)["measure"]
    assert (measured.outputs["model_version"], measured.figures["n_rows"]) == (1, 200)
    assert (measured.figures["drifted"], measured.figures["prediction_drifted"]) == ([], False)


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


@pytest.fixture
def scored(root, deploy):
    """Returns `scored(day, version, shift=0.0)`: deploys the version and leaves what the stages prepare and score would, but no label."""

    def leave(day, version, shift=0.0):
        package = Package.open(root.parent / deploy(root, version))
        n, rows, tables = 100, training_rows(100, seed=int(day[-2:]), shift=shift), Tables(root)
        ids = [f"{day}:{row:03d}" for row in range(n)]
        tables.write("clean", day, pa.table({"row_id": ids, **rows, "customer": list(range(n))}))
        score = package.predict(rows)[:, 1].astype(float).tolist()
        said = ["yes" if one > 0.5 else "no" for one in score]
        made = {"row_id": ids, "prediction": [*said[:-1], None], "score": [*score[:-1], None], "model_version": [version] * n}
        tables.write("scored", day, pa.table(made))
        return ids, said

    return leave


def test_scores_of_a_table_are_monitored_as_answers_are(sandbox, shop, root, scored):
    batch = shop.model_copy(update={"deployment": Deployment(batch=True)})
    ids, said = scored(DAY, 1, shift=2.0)
    assert sandbox.run(profile.main, "profile", batch, DAY).figures == {"n_rows": 99, "columns": 6, "versions": {"1": 99}}
    found = sandbox.run(measure.main, "measure", batch, DAY)
    assert set(found.figures["drifted"]) == {"amount", "age", "score", "prediction"}
    assert found.outputs["performance"] is None

    wrong = ["no" if one == "yes" else "yes" for one in said[:30]]
    Tables(root).write("labelled", DAY, pa.table({"row_id": ids, "label": [*wrong, *said[30:]]}))
    performance = sandbox.run(measure.main, "measure", batch, DAY).outputs["performance"]
    assert (performance["n_rows"], performance["n_answered"]) == (99, 99)
    assert performance["metrics"]["accuracy"] == pytest.approx(69 / 99), "a scored row is its label's, whatever its keys"


def test_labels_of_rows_that_another_version_has_scored_since_change_nothing(sandbox, shop, root, scored):
    batch = shop.model_copy(update={"deployment": Deployment(batch=True)})
    scored(DAY, 1)
    for module, name in ((profile, "profile"), (measure, "measure")):
        sandbox.run(module.main, name, batch, DAY)
    ids, said = scored(DAY, 2)
    with pytest.raises(DataError, match="answers of version 1 on 2026-01-05 have been replaced since they were profiled; clear `profile`"):
        sandbox.run(measure.main, "measure", batch, DAY)
    Tables(root).write("labelled", DAY, pa.table({"row_id": ids, "label": said}))
    scored("2026-01-06", 2)
    for module, name in ((profile, "profile"), (measure, "measure")):
        found = sandbox.run(module.main, name, batch, "2026-01-06")
    assert found.figures["labels_came"] == []


def test_labels_are_waited_for_as_long_as_the_use_case_lets_them_come(shop):
    assert look_back(shop) == 60
    assert look_back(shop.model_copy(update={"label": shop.label.model_copy(update={"horizon": 90})})) == 90
