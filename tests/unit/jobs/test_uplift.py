"""A treatment through the stages of a training: arms that are checked, figures that are there, an answer for each arm."""

import json

import numpy as np
import pyarrow as pa
import pytest

from pipelines_lib.data.splitting import with_split
from pipelines_lib.data.tables import Tables
from pipelines_lib.errors import DataError
from pipelines_lib.registry.package import Scorer

DAY = "2026-01-04"


@pytest.fixture
def trial(make_credit):
    """The use case: does a letter make people pay?"""
    columns = {
        "income": {"type": "number"},
        "letter": {"type": "string", "role": "treatment"},
        "outcome": {"type": "string", "role": "label"},
    }
    model = {"type": "uplift", "control": "none", "hidden": [8]}
    training = make_credit().training.model_dump() | {"model": model, "epochs": 4}
    return make_credit(columns=columns, training=training, split={"by": "row"}, label={"column": "outcome", "positive": "good"})


def write(house, use_case, n: int = 800, letters: tuple[str | None, ...] = ("none", "friendly")) -> None:
    random = np.random.default_rng(0)
    income, letter = random.normal(size=n), random.integers(0, len(letters), n)
    pays = random.random(n) < 0.4 + 0.4 * (letter == 1) * (income > 0)
    rows = {
        "row_id": [f"{DAY}:{line:09d}" for line in range(1, n + 1)],
        "income": income,
        "letter": pa.array([letters[place] for place in letter], pa.string()),
        "label": ["good" if p else "bad" for p in pays],
    }
    Tables(house.root).write("labelled", DAY, with_split(pa.table(rows), use_case))


def test_the_evaluation_says_how_well_the_effect_is_told(trained, trial):
    house = trained
    write(house, trial)
    trial = trial.model_copy(update={"training": trial.training.model_copy(update={"window": 1})})
    result = house.run("snapshot", "train", "evaluate", use_case=trial)
    assert {"qini", "qini_lower", "qini_upper", "uplift_at_30", "average_uplift", "roc_auc"} <= set(result.figures)
    assert result.figures["average_uplift"] == pytest.approx(0.2, abs=0.15)
    folder = house.root / "runs" / "training" / "run"
    manifest = json.loads((folder / "evaluate" / "manifest.json").read_text())
    assert [feature["name"] for feature in manifest["features"]] == ["income", "letter"]
    assert manifest["metrics"]["qini"] == result.figures["qini"]
    scorer = Scorer.open(folder / "train")
    friendly, none, unknown = (scorer.predict({"income": [1.0], "letter": [letter]})[0, 1] for letter in ("friendly", "none", "rude"))
    assert friendly > none == unknown


@pytest.mark.parametrize(
    ("letters", "says"),
    [
        (("none", None), "rows say no arm in 'letter'"),
        (("no", "yes"), "training.model.control is 'none'; correct it"),
        (("none",), "two arms or more are needed"),
        (("none", *(f"letter {place}" for place in range(200))), "of 10 rows at least each"),
    ],
)
def test_arms_that_nothing_can_be_learned_of(house, trial, letters, says):
    write(house, trial, letters=letters)
    trial = trial.model_copy(update={"training": trial.training.model_copy(update={"window": 1})})
    with pytest.raises(DataError, match=says):
        house.run("snapshot", use_case=trial)
