import pytest
from pydantic import ValidationError

from pipelines_lib.use_case import CleaningStep
from pipelines_lib.use_case.rules import FieldErrors


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ({"outliers": {"columns": ["price"], "method": "bounds", "action": "clip"}}, "needs `low`, `high` or both"),
        ({"outliers": {"columns": ["price"], "method": "bounds", "low": 2, "high": 1, "action": "clip"}}, "swap them"),
        ({"outliers": {"columns": ["price"], "method": "bounds", "low": 2, "times": 1, "action": "clip"}}, "`times` is for"),
        ({"outliers": {"columns": ["price"], "method": "iqr", "low": 2, "action": "clip"}}, "takes its bounds from the training rows"),
        ({"outliers": {"columns": ["price"], "method": "iqr", "action": "drop"}}, "'clip', 'flag' or 'to_missing'"),
        ({"outliers": {"columns": [], "method": "iqr", "action": "flag"}}, "at least 1 item"),
        ({"clip": {"price": [5, 1]}}, "swap them"),
        ({"drop": {"price": []}}, "at least 1 item"),
        ({"normalise": {"colour": ["upper"]}}, "'nfkc', 'lower' or 'blanks'"),
        ({"impute": {"price": "max"}}, "'median', 'mean' or 'mode'"),
        ({"fill_forward": {"columns": ["price"]}}, "by"),
    ],
)
def test_a_step_that_can_not_be(step, says):
    with pytest.raises(ValidationError, match=r"validation error") as caught:
        CleaningStep.model_validate(step)

    assert says in str(caught.value)


def rules(make_use_case, *steps):
    """Field to message of each broken rule; none where the steps are right."""
    try:
        make_use_case(clean=list(steps))
    except ValidationError as error:
        [found] = error.errors()
        cause = found["ctx"]["error"]
        assert isinstance(cause, FieldErrors)
        return {".".join(map(str, field)): message for field, message in cause.problems}
    return {}


IQR = {"method": "iqr", "action": "flag"}


@pytest.mark.parametrize(
    ("steps", "field", "says"),
    [
        ([{"impute": {"price": "median"}}, {"fill": {"count": 1}}], "clean.0", r"can't come before clean.1 (fill); move it to the end"),
        ([{"impute": {"colour": "median"}}], "clean.0", "write `colour: mode`"),
        ([{"impute": {"who": "mode"}}], "clean.0", "'who' is no feature"),
        ([{"outliers": {"columns": ["colour"], **IQR}}], "clean.0", "works on integer or number columns"),
        ([{"normalise": {"price": ["lower"]}}], "clean.0", "works on string or text columns"),
        ([{"clip": {"colour": [0, 1]}}], "clean.0", "works on integer or number columns"),
        ([{"drop_columns": ["price"]}], "clean.0", "is needed after cleaning (role: feature), so it can't be dropped"),
        ([{"fill_forward": {"columns": ["price"], "by": "who", "order": "colour"}}], "clean.0", "which has no order in time"),
        ([{"fill_forward": {"columns": ["price", "who"], "by": "who"}}], "clean.0", "['who'] can't both be filled and say whose row"),
        ([{"fill_forward": {"columns": ["price"], "by": "owner"}}], "clean.0", "column 'owner' is not declared"),
    ],
)
def test_a_step_must_fit_its_columns(make_use_case, steps, field, says):
    assert says in rules(make_use_case, *steps)[field]


def test_a_column_that_was_dropped_is_gone(make_use_case):
    columns = {
        "price": {"type": "number"},
        "note": {"type": "text", "role": "other"},
        "price_outlier": {"type": "boolean"},
        "y": {"type": "string", "role": "label"},
    }
    with pytest.raises(ValidationError) as caught:
        make_use_case(
            columns=columns,
            label={"column": "y", "positive": "1"},
            split={"by": "row"},
            clean=[{"drop_columns": ["note"]}, {"drop_missing": ["note"]}, {"outliers": {"columns": ["price"], **IQR}}],
        )

    assert "was dropped by clean.0; move that step behind this one" in str(caught.value)
    assert "the flag would be called 'price_outlier', as a column is already" in str(caught.value)


def test_a_column_that_keeps_groups_together_is_kept(make_use_case):
    columns = {"price": {"type": "number"}, "site": {"type": "string", "role": "other"}, "y": {"type": "string", "role": "label"}}
    with pytest.raises(ValidationError, match=r"'site' is needed after cleaning \(split.group\)"):
        make_use_case(
            columns=columns,
            label={"column": "y", "positive": "1"},
            split={"by": "group", "group": "site"},
            clean=[{"drop_columns": ["site"]}],
        )


def test_hashes_have_no_spelling(make_use_case):
    columns = {
        "price": {"type": "number"},
        "who": {"type": "string", "role": "entity", "privacy": "identifier"},
        "y": {"type": "string", "role": "label"},
    }
    with pytest.raises(ValidationError, match="'who' holds hashes, which differ where spellings do"):
        make_use_case(columns=columns, label={"column": "y", "positive": "1"}, clean=[{"normalise": {"who": ["lower"]}}])


def test_steps_that_fit(make_use_case):
    steps = [
        {"normalise": {"colour": ["lower"]}},
        {"fill_forward": {"columns": ["price", "count"], "by": "who", "order": "when"}},
        {"drop": {"colour": ["red"]}},
        {"outliers": {"columns": ["price"], "method": "zscore", "times": 4, "action": "to_missing"}},
        {"impute": {"price": "mean", "colour": "mode"}},
    ]

    assert rules(make_use_case, *steps) == {}
    assert [step.fitted for step in make_use_case(clean=steps).clean] == [False, False, False, True, True]
    assert make_use_case(clean=steps).clean[1].columns() == ["price", "count", "who", "when"]


@pytest.mark.parametrize(
    ("steps", "made"),
    [
        ([{"clip": {"price": [0, 10]}}, {"to_missing": {"price": [10]}}, {"fill": {"price": 3}}], None),
        ([{"to_missing": {"price": [5]}}, {"clip": {"price": [5, 9]}}], "5.0"),
        ([{"fill": {"price": 5}}, {"to_missing": {"price": [0]}}], "a missing value"),
        ([{"to_missing": {"price": [-1]}}, {"fill": {"price": -1}}], None),
        ([{"fill": {"price": 99}}, {"clip": {"price": [0, 10]}}], None),
        ([{"to_missing": {"colour": ["none"]}}, {"normalise": {"colour": ["lower"]}}], "'none'"),
        ([{"normalise": {"colour": ["lower"]}}, {"to_missing": {"colour": ["none"]}}], None),
        ([{"normalise": {"colour": ["lower"]}}, {"fill": {"colour": "Unknown"}}], "'Unknown'"),
        ([{"fill": {"colour": "Unknown"}}, {"normalise": {"colour": ["lower"]}}], None),
        ([{"clip": {"count": [0.5, 9.5]}}, {"to_missing": {"count": [1]}}], None),
        ([{"to_missing": {"count": [1]}}, {"clip": {"count": [0.5, 9.5]}}], "1"),
    ],
)
def test_a_served_row_is_cleaned_as_the_training_rows_were(make_use_case, steps, made):
    found = rules(make_use_case, *steps)

    assert (f"the steps make {made} in column" in found.get("clean", "")) if made is not None else found == {}


def test_a_column_has_one_flag(make_use_case):
    assert (
        "'price' are flagged twice"
        in rules(make_use_case, {"outliers": {"columns": ["price"], **IQR}}, {"outliers": {"columns": ["price"], **IQR}})["clean"]
    )
