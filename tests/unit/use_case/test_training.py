"""The settings of a training: which belong to which kind of model."""

import pytest
from pydantic import ValidationError

from pipelines_lib.use_case import Model


def test_a_setting_of_another_kind_is_refused_and_told():
    with pytest.raises(ValidationError, match=r"`options` is a setting of `type: hooks`, and this model is `type: tabular`; remove it"):
        Model(options={"width": 4})


def test_what_was_written_out_with_its_defaults_is_read_again():
    for model in (Model(), Model(type="hooks", options={"width": 4})):
        assert Model.model_validate(model.model_dump()) == model
