"""Rows with any number of classes, from the source to realised performance."""

import json

import numpy as np
import pyarrow as pa
import pytest

from pipelines_lib.data.labelling.values import labels_of
from pipelines_lib.data.splitting import with_split
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import DataError
from pipelines_lib.monitoring.performance import estimated, realised
from pipelines_lib.monitoring.reference import Reference
from pipelines_lib.registry.package import Manifest, Scorer, predicted

DAY = "2026-01-04"


@pytest.fixture
def tickets(make_credit):
    """Tickets with tags: `late` where the first number is high, `broken` where the second is, both, or none."""
    return make_credit(
        task="multilabel",
        columns={
            "number": {"type": "integer", "role": "key"},
            "x": {"type": "number"},
            "y": {"type": "number"},
            "tags": {"type": "string", "role": "label"},
        },
        label={"column": "tags", "separator": ";"},
        split={"by": "row"},
        training=make_credit().training.model_dump() | {"epochs": 12, "window": 1},
        gate={"metric": "micro_f1", "floor": 0.8, "resamples": 100},
    )


def rows(use_case, n: int = 800) -> pa.Table:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(2, n))
    tags = pa.array(
        [" ; ".join(tag for tag, there in (("late", a > 0), ("broken", b > 0.5)) if there) or None for a, b in zip(x, y, strict=True)]
    )
    ids = [f"{DAY}:{line:09d}" for line in range(1, n + 1)]
    table = {"row_id": ids, "number": list(range(n)), "x": x, "y": y, "label": labels_of(tags, use_case)}
    return with_split(pa.table(table), use_case)


def test_labels_are_sorted_and_none_is_a_label_too(tickets):
    found = labels_of(pa.array(["late;broken", None, "broken; late;late", "late"]), tickets)
    assert found.to_pylist() == ["broken;late", "", "broken;late", "late"]


def test_it_goes_through_the_stages(trained, tickets):
    house = trained
    table = rows(tickets)
    Tables(house.root).write("labelled", DAY, table)
    result = house.run("snapshot", "train", "evaluate", "gate", use_case=tickets)
    assert result.status == "done", result.reason
    folder = house.root / "runs" / "training" / "run"
    assert json.loads((folder / "train" / "training.json").read_text())["classes"] == ["broken", "late"]
    manifest = Manifest.model_validate_json((folder / "evaluate" / "manifest.json").read_text())
    assert set(manifest.metrics) == {"micro_f1", "macro_f1", "average_precision"}

    scorer = Scorer.open(folder / "train")
    said, scores = predicted(manifest, scorer.predict({"x": [2.0, -2.0, 2.0, -2.0], "y": [2.0, -2.0, -2.0, 2.0]}))
    assert said == ["broken;late", "", "late", "broken"]
    assert (scores > 0.5).tolist() == [True, False, True, True]

    everything = scorer.predict({"x": table["x"].to_numpy(), "y": table["y"].to_numpy()})
    said, scores = predicted(manifest, everything)
    answers = pa.table({"number": table["number"], "prediction": said, "score": scores})
    found = realised(answers, table, tickets, manifest.classes, None)
    assert found.n_rows == table.num_rows
    assert set(found.metrics) == {"micro_f1", "macro_f1"}
    assert found.metrics["micro_f1"] > 0.9
    kept = answers.append_column("scores", pa.array(everything.tolist(), pa.list_(pa.float32())))
    found = realised(kept, table, tickets, manifest.classes, None)
    reference = Reference.from_json((folder / "evaluate" / "profile.json").read_text())
    told = estimated(kept, tickets, reference, None)
    assert set(told) == set(tickets.metrics)
    assert told["micro_f1"].value == pytest.approx(found.metrics["micro_f1"], abs=0.05)
    assert found.metrics["average_precision"] > 0.9, "where every score was kept"


def test_a_class_that_the_model_does_not_know_is_one_it_missed(tickets):
    answers = pa.table({"number": [1, 2], "prediction": ["late", ""], "score": [0.9, 0.2]})
    labelled = pa.table({"number": [1, 2], "label": ["late;lost", ""]})
    found = realised(answers, labelled, tickets, ("broken", "late"), None)
    assert found.n_rows == 2
    assert found.metrics["micro_f1"] == pytest.approx(2 * 1 / (1 + 2))


def test_rows_that_are_all_alike_teach_nothing(house, tickets):
    table = rows(tickets)
    alike = pa.array(["late"] * table.num_rows)
    Tables(house.root).write("labelled", DAY, table.set_column(table.column_names.index("label"), "label", alike))
    with pytest.raises(DataError, match=r"all have the same classes, or none.*mend label\.separator"):
        house.run("snapshot", use_case=tickets)
