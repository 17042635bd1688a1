"""The stage evaluate: figures, the champion on the same rows, what it leaves for the package, MLflow."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines_lib.data.splitting import with_split
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import Held
from pipelines_lib.evaluation.holdout import sample
from pipelines_lib.monitoring.estimate import Calibration
from pipelines_lib.monitoring.reference import Reference
from pipelines_lib.monitoring.sketch import DataProfile
from pipelines_lib.registry import tracking
from pipelines_lib.registry.package import Holdout, Manifest, Package, Scorer


def left(house, name):
    return (house.root / "runs" / "training" / "run" / "evaluate" / name).read_text()


def evidence(house):
    return json.loads(left(house, "evaluation.json"))["evidence"]


def client(house):
    return tracking.connect(house.stage("evaluate").profile.tracking_uri)


def test_the_first_model_is_measured_on_the_test_rows(trained):
    result = trained.run("evaluate")
    rows = Tables(trained.root).read("labelled")
    n_test = rows["split"].to_pylist().count("test")
    assert result.figures["holdout_rows"] == n_test
    assert 0.75 < result.figures["roc_auc"] < 1
    assert result.reason.endswith(f"on {n_test:,} rows; no champion yet")
    found = evidence(trained)
    assert {name: found[name] for name in ("n_rows", "metric", "comparison", "champion", "incomparable", "champion_end", "known_rows")} == {
        "n_rows": n_test,
        "metric": result.figures["roc_auc"],
        "comparison": None,
        "champion": None,
        "incomparable": None,
        "champion_end": None,
        "known_rows": 0,
    }
    assert found["milliseconds"] > 0
    assert found["n_bytes"] > 1000
    assert found["calibration"] == result.figures["calibration_error"]


def test_the_recorded_rows_get_the_recorded_scores(trained):
    trained.run("evaluate")
    holdout = Holdout.model_validate_json(left(trained, "holdout.json"))
    scorer = Scorer.open(trained.root / "runs" / "training" / "run" / "train")
    again = scorer.predict({name: list(values) for name, values in holdout.columns.items()})
    np.testing.assert_allclose(again, holdout.scores, atol=1e-6)
    sides = Tables(trained.root).read("labelled", columns=["split"])
    side_of = dict(zip(sides["row_id"].to_pylist(), sides["split"].to_pylist(), strict=True))
    assert {side_of[row_id] for row_id in holdout.row_ids} == {"test"}
    assert len(holdout.row_ids) == min(200, list(side_of.values()).count("test"))


def test_the_profile_has_the_training_rows_and_scores_of_others(trained):
    trained.run("evaluate")
    profile = DataProfile.from_json(left(trained, "profile.json"))
    sides = Tables(trained.root).read("labelled")["split"].to_pylist()
    assert profile.n_rows == profile.columns["income"].n_rows == sides.count("train")
    assert profile.columns["score"].n_rows == profile.columns["prediction"].n_rows == len(sides) - sides.count("train")
    assert set(profile.columns["member"].categories.to_dict()["counts"]) == {"true", "false"}
    reference = Reference.from_json(left(trained, "profile.json"))
    assert max(reference.importance, key=reference.importance.get) == "income"
    assert set(reference.sample.columns) == {"income", "age", "member", "town"}
    assert reference.sample.codes.shape == (sides.count("train"), 4)
    assert isinstance(reference.estimator, Calibration)
    assert 0.01 < reference.holdout_error < 0.1, "the hold-out has some hundred rows"
    assert 0 < reference.estimator.chances(np.array([0.2, 0.8]))[0] < 0.5


def test_mlflow_has_one_run_with_settings_curves_and_figures(trained):
    result = trained.run("evaluate")
    assert trained.run("evaluate") == result
    found = client(trained).search_runs([client(trained).get_experiment_by_name("credit").experiment_id])
    assert [run.info.run_id for run in found] == [result.outputs["mlflow_run_id"]]
    run = found[0]
    assert run.info.run_name == "run"
    assert run.data.params["learning_rate"] == "0.02"
    assert run.data.metrics["holdout_roc_auc"] == pytest.approx(result.figures["roc_auc"])
    assert run.data.tags["sluice.partition"] == "2026-01-04"
    assert len(client(trained).get_metric_history(run.info.run_id, "validation_loss")) == 2
    assert result.links == {
        "MLflow run": f"http://mlflow/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}",
        "Evaluation": "credit/runs/training/run/evaluate/report.html",
    }
    logged = {file.path for file in client(trained).list_artifacts(run.info.run_id, "evaluation")}
    assert logged == {
        f"evaluation/{name}"
        for name in ("report.html", "roc.svg", "precision_recall.svg", "calibration.svg", "confusion.svg", "losses.svg", "importance.svg")
    }
    assert Manifest.model_validate_json(left(trained, "manifest.json")).mlflow_run_id == run.info.run_id


def test_the_champion_is_scored_on_the_same_rows(trained):
    champion = trained.promote()
    result = trained.run("evaluate")
    found = evidence(trained)
    assert (found["champion"], found["champion_end"]) == (champion.version, "2026-01-04")
    assert found["comparison"]["champion"] == result.figures["champion"] == pytest.approx(result.figures["roc_auc"])
    assert found["comparison"]["difference"] == 0


def test_a_damaged_champion_is_said_and_stops_nobody(trained):
    champion = trained.promote()
    (trained.home / "store" / champion.package / "model.onnx").write_bytes(b"")
    result = trained.run("evaluate")
    assert evidence(trained)["comparison"] is None
    assert "model.onnx was changed" in evidence(trained)["incomparable"]
    assert "can't be compared" in result.reason


def test_a_champion_with_columns_that_are_gone_is_said(trained, make_credit):
    trained.promote()
    columns = {name: column for name, column in make_credit().model_dump()["columns"].items() if name != "town"}
    without = make_credit(columns=columns)
    trained.run("snapshot", "train", "evaluate", use_case=without, run_id="run2")
    document = json.loads((trained.root / "runs" / "training" / "run2" / "evaluate" / "evaluation.json").read_text())
    assert document["evidence"]["incomparable"] == "it reads columns that the use case no longer has: town"
    assert document["evidence"]["champion_end"] == "2026-01-04"


def test_nothing_in_the_store_names_a_row_outside_the_holdout_sample(trained):
    trained.run("evaluate")
    folder = Path(trained.root / "runs" / "training" / "run" / "evaluate")
    assert sorted(path.name for path in folder.iterdir()) == [
        "evaluation.json",
        "holdout.json",
        "manifest.json",
        "profile.json",
        "report.html",
        "result.json",
    ]
    assert "2026-01-01:0" not in left(trained, "evaluation.json") + left(trained, "manifest.json") + left(trained, "result.json")


def test_the_recorded_rows_are_nobodys_where_they_are_about_people(trained, make_credit):
    columns = make_credit().model_dump(mode="json")["columns"]
    about = {"income": "sensitive", "age": "quasi_identifier", "town": "quasi_identifier", "member": "sensitive"}
    private = make_credit(columns={name: {**column, "privacy": about.get(name)} for name, column in columns.items()}, privacy={"min_k": 30})
    before = trained.root / "runs" / "training" / "run" / "evaluate" / "holdout.json"
    trained.run("evaluate")
    real = Holdout.model_validate_json(before.read_text())
    trained.run("snapshot", "train", "evaluate", use_case=private, run_id="private")
    folder = trained.root / "runs" / "training" / "private"
    found = Holdout.model_validate_json((folder / "evaluate" / "holdout.json").read_text())

    assert found.row_ids == real.row_ids
    exact = {value for value in real.columns["income"] if value is not None}
    assert not exact & {value for value in found.columns["income"] if value is not None}
    assert found.columns["age"] != real.columns["age"]
    assert sorted(found.columns["age"]) == sorted(real.columns["age"]), "two digits say an age exactly, of another row"
    assert set(found.columns["town"]) <= {"Bonn", "Köln", "西安", "rare"}
    # What the service will be compared with: the new model's answers to these rows.
    scores = Scorer.open(folder / "train").predict({name: list(values) for name, values in found.columns.items()})
    assert np.allclose(scores, found.scores)


def test_a_word_that_few_share_is_not_recorded(make_credit):
    columns = {"town": {"type": "string", "privacy": "quasi_identifier"}, "y": {"type": "string", "role": "label"}}
    use_case = make_credit(columns=columns, label={"column": "y", "positive": "1"}, split={"by": "row"})
    towns = ["Bonn"] * 8 + ["Kleinkleckersdorf"] * 4 + [None]
    test = pa.table({"row_id": [f"r{row:02d}" for row in range(13)], "town": towns})

    class Constant:
        def predict(self, columns):
            return np.zeros((len(columns["town"]), 2), np.float32)

    found = sample(use_case, test, Constant())

    assert sorted(map(str, found.columns["town"])) == ["Bonn"] * 8 + ["None"] + ["rare"] * 4


@pytest.fixture
def more_days(trained, write_day):
    """Eight more labelled days."""
    for day in range(5, 13):
        write_day(trained.root, f"2026-01-{day:02d}")
    return trained


def prepare_again(house, use_case):
    """Give every labelled row the side that it has under changed settings."""
    tables = Tables(house.root)
    for day in tables.partitions("labelled"):
        rows = tables.read("labelled", [day]).drop(["split", "partition_key"])
        tables.write("labelled", day, with_split(rows, use_case))


def retrained(house, use_case, key):
    """The evidence of a later training."""
    house.run("snapshot", "train", "evaluate", use_case=use_case, run_id="run2", key=key)
    document = json.loads((house.root / "runs" / "training" / "run2" / "evaluate" / "evaluation.json").read_text())
    return document["evidence"]


def test_a_wider_window_by_partition_compares_on_what_is_new_to_the_champion(more_days, make_credit):
    split = {"by": "time", "validation": 0.25, "test": 0.25}
    narrow = make_credit(split=split)
    more_days.run("snapshot", "train", use_case=narrow, key="2026-01-12")  # of all twelve days, 10, 11 and 12 judge
    more_days.promote(use_case=narrow, key="2026-01-12")
    wide = make_credit(split={**split, "test": 0.4})
    found = retrained(more_days, wide, "2026-01-12")  # 8 … 12 judge, and the champion learned from 8 and 9
    assert found["n_rows"] == 5 * 160
    assert found["comparison"]["n_rows"] == 3 * 160


def test_a_larger_test_share_compares_on_the_old_one(trained, make_credit):
    trained.promote()
    larger = make_credit(split={"by": "entity", "test": 0.35})
    prepare_again(trained, larger)
    found = retrained(trained, larger, "2026-01-04")
    old = with_split(Tables(trained.root).read("labelled").drop(["split"]), trained.use_case)["split"].to_pylist().count("test")
    assert found["comparison"]["n_rows"] == old < found["n_rows"]


def test_another_kind_of_split_is_no_comparison(trained, make_credit):
    trained.promote()
    by_row = make_credit(split={"by": "row"})
    prepare_again(trained, by_row)
    found = retrained(trained, by_row, "2026-01-04")
    assert found["comparison"] is None
    assert found["incomparable"].startswith("its rows were split by entity (who), now they are by row")
    with pytest.raises(Held, match="run again with `force`"):
        trained.run("gate", use_case=by_row, run_id="run2")


def test_a_champion_of_rows_with_mixed_sides_is_not_compared_with(trained, make_credit, caplog):
    larger = make_credit(split={"by": "entity", "test": 0.35})  # and nobody has prepared the partitions again
    trained.run("snapshot", "train", "evaluate", use_case=larger)
    assert Manifest.model_validate_json(left(trained, "manifest.json")).split is None
    assert "run credit__data again for 2026-01-01 … 2026-01-04" in caplog.text


def test_a_ranking_is_judged_by_its_lists(trained, make_credit):
    model = {"type": "ranking", "user": ["age", "member"], "item": ["income", "town"], "hidden": [8], "crosses": 1}
    training = {**trained.use_case.training.model_dump(mode="json"), "model": model}
    ranking = make_credit(
        training=training, gate={"metric": "ndcg", "floor": 0.3, "k": 3, "resamples": 100}, deployment={"recommend": {"item": "town"}}
    )
    trained.run("snapshot", "train", use_case=ranking)
    package = Package.open(trained.home / "store" / trained.promote(use_case=ranking).package)
    assert package.manifest.recommends.model_dump() == {
        "user": {"name": "who", "type": "string"}, "item": {"name": "town", "type": "string"}, "columns": ("town", "income"),
    }  # fmt: skip
    rows = Tables(trained.root).read("labelled").to_pylist()
    towns = package.catalogue.items["item"].take(package.catalogue.known("u7")).to_pylist()
    assert sorted(towns) == sorted({row["town"] for row in rows if row["who"] == "u7"})
    result = trained.run("evaluate", use_case=ranking)
    figures = result.figures
    assert figures["recall"] <= 1
    assert 0.5 < figures["ndcg"] <= 1, "bad ones come first"
    assert 0 < figures["map"] <= 1
    assert 0 < figures["coverage"] < 1, "of all items, those in the first three places of somebody's list"
    assert evidence(trained)["comparison"]["metric"] == "ndcg"
    assert evidence(trained)["comparison"]["difference"] == 0
