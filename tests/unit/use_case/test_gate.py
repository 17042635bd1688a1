"""What `gate:` may ask for."""

import re
from pathlib import Path

import pytest
import yaml

from pipelines_lib.use_case import Gate
from pipelines_lib.use_case.rules import disagreements

BASE = {"metric": "roc_auc", "floor": 0.6}


def said(make_use_case, **gate):
    use_case = make_use_case()
    return dict(disagreements(use_case.model_copy(update={"gate": Gate.model_validate({**BASE, **gate})})))


def test_the_example_of_the_docs_is_accepted():
    text = (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    examples = [yaml.safe_load(example) for example in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    [gate] = [Gate.model_validate(example["gate"]) for example in examples if "gate" in example]
    assert gate.columns() == ["device", "price", "segment"]


def test_nothing_is_asked_for_by_default():
    gate = Gate.model_validate(BASE)
    assert (gate.slices, gate.fairness, gate.calibration, gate.robustness, gate.milliseconds) == ([], [], None, None, None)
    assert gate.columns() == []


def test_the_columns_are_those_of_slices_and_of_groups():
    gate = Gate.model_validate({**BASE, "slices": [{"column": "town"}, {"column": "age"}], "fairness": [{"column": "town"}]})
    assert gate.columns() == ["town", "age"]


@pytest.mark.parametrize("setting", ["slices", "fairness"])
def test_a_column_must_be_there_and_stand_there_once(make_use_case, setting):
    use_case = make_use_case()
    label, [feature, *_] = use_case.columns_with("label"), use_case.features("string", "number")
    found = said(make_use_case, **{setting: [{"column": name} for name in ("nowhere", feature, feature, *label)]})
    where = ("gate", setting)
    assert "'nowhere' is not declared" in found[(*where, 0, "column")]
    assert (*where, 1, "column") not in found
    assert "stands here twice" in found[(*where, 2, "column")]
    assert label == [] or "the label" in found[(*where, 3, "column")]


def test_robustness_tries_something():
    with pytest.raises(ValueError, match="nothing is tried; set one, or remove"):
        Gate.model_validate({**BASE, "robustness": {"loss": 0.1, "noise": 0, "missing": 0, "shifted": 0}})


def test_a_regression_has_no_fairness_and_no_calibration(make_use_case):
    use_case = make_use_case()
    gate = Gate.model_validate({"metric": "rmse", "floor": 1, "calibration": 0.1, "fairness": [{"column": use_case.features()[0]}]})
    found = dict(disagreements(use_case.model_copy(update={"task": "regression", "gate": gate})))
    assert "fairness is about a yes or no" in found[("gate", "fairness")]
    assert "remove `calibration`" in found[("gate", "calibration")]
