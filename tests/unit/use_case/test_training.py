"""The settings of a training: which belong to which kind of model."""

import pytest
from pydantic import ValidationError

from pipelines_lib.use_case import FieldErrors, Model, Training, UseCase
from pipelines_lib.use_case.source import Replay
from pipelines_lib.use_case.split import Split


def test_a_setting_of_another_kind_is_refused_and_told():
    with pytest.raises(ValidationError, match=r"`options` is a setting of `type: hooks`, and this model is `type: tabular`; remove it"):
        Model(options={"width": 4})


def test_what_was_written_out_with_its_defaults_is_read_again():
    for model in (Model(), Model(type="hooks", options={"width": 4}), Model(type="sequence", series={"heat": "heat_{step}"}, heads=2)):
        assert Model.model_validate(model.model_dump()) == model


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"type": "sequence"}, "name each sensor's columns under `series`"),
        ({"series": {"heat": "heat_{step}"}}, "`series` is a setting of `type: sequence or hooks`"),
        ({"encoder": "transformer"}, "`encoder` is a setting of `type: sequence`"),
        ({"type": "sequence", "series": {"heat": "h_{step}"}, "encoder": "transformer", "hidden": [10]}, "the encoder is 10 wide"),
        ({"text": "transformer", "embedding": 3, "heads": 5}, "a text is read 24 wide"),
        ({"type": "uplift", "control": "none", "members": 4}, "`members` is a setting of `type: tabular`"),
    ],
)
def test_settings_of_windows(settings, says):
    with pytest.raises(ValidationError, match=says):
        Model(**settings)


SENSORS = {
    "name": "pump",
    "title": "Pump",
    "owner": "tests",
    "task": "binary",
    "start": "2026-01-01",
    "source": {"path": "{home}/in/{partition}.csv"},
    "columns": {
        **{f"heat_{step}": {"type": "number"} for step in (10, 2, 1)},
        **{f"noise_{step}": {"type": "integer"} for step in (1, 2, 10)},
        "heat_max": {"type": "number"},
        "site": {"type": "string"},
        "outcome": {"type": "string", "role": "label"},
    },
    "label": {"column": "outcome", "positive": "bad"},
    "gate": {"metric": "roc_auc", "floor": 0.6},
}


def pump(**model) -> UseCase:
    return UseCase.model_validate({**SENSORS, "training": {"model": {"type": "sequence", **model}}})


def test_a_pattern_stands_for_the_columns_with_a_number_in_its_order():
    use_case = pump(series={"heat": "heat_{step}", "noise": ["noise_10", "noise_2", "noise_1"]})
    assert use_case.series == {"heat": ("heat_1", "heat_2", "heat_10"), "noise": ("noise_10", "noise_2", "noise_1")}


@pytest.mark.parametrize(
    ("series", "says"),
    [
        ({"heat": "heat"}, "'heat' has no {step} in it; write it like `heat_{step}`"),
        ({"heat": "warmth_{step}"}, "this one has 0; name columns that are declared"),
        ({"heat": ["heat_1", "site"]}, "'site' is no feature of type integer, number or boolean"),
        ({"heat": ["heat_1", "heat_3"]}, "'heat_3' is no feature"),
        ({"heat": "heat_{step}", "noise": ["noise_1", "noise_2"]}, "differ in length (heat 3, noise 2)"),
        ({"heat": ["heat_1", "heat_2"], "warm": ["heat_2", "heat_10"]}, "column 'heat_2' stands in two places"),
    ],
)
def test_windows_that_do_not_fit_the_columns(series, says):
    with pytest.raises((ValidationError, FieldErrors)) as told:
        pump(series=series)
    assert says in str(told.value)


TRIAL = {
    **SENSORS,
    "columns": {
        "age": {"type": "number"},
        "arm": {"type": "string", "role": "treatment"},
        "outcome": {"type": "string", "role": "label"},
    },
    "training": {"model": {"type": "uplift", "control": "none"}},
}


def test_a_treatment_is_a_feature():
    use_case = UseCase.model_validate(TRIAL)
    assert (use_case.features(), use_case.treatment) == (["age", "arm"], "arm")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"training": {"model": {"type": "uplift"}}}, "name that arm as `control`"),
        ({"training": {"model": {"control": "none"}}}, "`control` is a setting of `type: uplift or hooks`"),
        ({"training": {}}, "column 'arm' is a treatment, whose effect is asked for with `type: uplift` and `control`"),
        ({"columns": {**TRIAL["columns"], "arm": {"type": "string"}}}, "no column has `role: treatment`"),
        ({"columns": {**TRIAL["columns"], "arm": {"type": "integer", "role": "treatment"}}}, "set `type: string`"),
        ({"columns": {**TRIAL["columns"], "arm2": {"type": "string", "role": "treatment"}}}, "are all `role: treatment`"),
        ({"columns": {name: TRIAL["columns"][name] for name in ("arm", "outcome")}}, "no column has `role: feature`"),
        ({"clean": [{"impute": {"arm": "mode"}}]}, "a treatment that nobody got"),
        (
            {"task": "multiclass", "label": {"column": "outcome"}, "gate": {"metric": "accuracy", "floor": 0.5}},
            "make it binary or regression",
        ),
    ],
)
def test_treatments_that_do_not_fit(changes, says):
    with pytest.raises((ValidationError, FieldErrors)) as told:
        UseCase.model_validate({**TRIAL, **changes})
    assert says in str(told.value)


def shop(**changes) -> UseCase:
    columns = {**SENSORS["columns"], "age": {"type": "number"}, "colour": {"type": "string"}}
    model = {"type": "ranking", "user": ["age"], "item": ["colour"]}
    return UseCase.model_validate({**SENSORS, "columns": columns, "training": {"model": model | changes.pop("model", {})}, **changes})


def test_towers_that_fit():
    assert shop().training.model.crosses == 2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": {"user": []}}, "name the features of each under `user` and `item`"),
        ({"model": {"item": ["colour", "shape"]}}, "column 'shape' is no feature; features are: heat_10"),
        ({"model": {"item": ["outcome"]}}, "column 'outcome' is no feature"),
        ({"model": {"item": ["age", "colour"]}}, "column 'age' is of the user too"),
        ({"task": "multiclass", "label": {"column": "outcome"}, "gate": {"metric": "accuracy", "floor": 0.5}}, "make it binary"),
    ],
)
def test_towers_that_do_not(changes, says):
    with pytest.raises((ValidationError, FieldErrors)) as told:
        shop(**changes)
    assert says in str(told.value)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_no_generator_takes_is_refused(seed):
    with pytest.raises(ValidationError, match="seed"):
        Training(seed=seed)
    with pytest.raises(ValidationError, match="seed"):
        Split(seed=seed)
    with pytest.raises(ValidationError, match="seed"):
        Replay(partitions=3, seed=seed)


def recommending(asked, **changes):
    columns = {
        **shop().model_dump()["columns"],
        "who": {"type": "string", "role": "entity"},
        "product": {"type": "string", "role": "other"},
    }
    return shop(**{"columns": columns | changes.pop("columns", {}), "deployment": {"recommend": asked}, **changes})


def test_what_is_recommended_has_the_features_of_the_items_tower_unless_others_are_named():
    assert recommending({"item": "product"}).item_columns == ("colour",)
    assert recommending({"item": "colour", "columns": ["age"]}).item_columns == ("colour", "age")
    assert shop().item_columns == ()


@pytest.mark.parametrize(
    ("asked", "changes", "says"),
    [
        ({"item": "shape"}, {}, "column 'shape' is not declared"),
        ({"item": "outcome"}, {}, "column 'outcome' can't name an item"),
        ({"item": "age"}, {}, "column 'age' is of type number, and an item's name is a string or an integer"),
        ({"item": "product", "columns": ["product"]}, {}, "column 'product' is no feature"),
        ({"item": "product"}, {"columns": {"who": {"type": "string", "role": "other"}}}, "nobody is there to recommend to"),
        ({"item": "product"}, {"columns": {"product": {"type": "string", "role": "other", "privacy": "sensitive"}}}, "column 'product' is about a person"),
        ({"item": "product"}, {"training": {}}, "nothing says what an item is"),
        ({"item": "product"}, {"task": "multiclass", "label": {"column": "outcome"}, "gate": {"metric": "accuracy", "floor": 0.5}, "training": {}}, "items are recommended in the order of one score"),
    ],
)  # fmt: skip
def test_recommendations_that_do_not_fit(asked, changes, says):
    with pytest.raises((ValidationError, FieldErrors)) as told:
        recommending(asked, **changes)
    assert says in str(told.value)
