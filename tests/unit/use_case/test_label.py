import datetime as dt
import re
from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from pipelines_lib.config import _Loader
from pipelines_lib.use_case import Label, classes_in
from pipelines_lib.use_case.base import Duration, duration_text
from pipelines_lib.use_case.rules import FieldErrors

EVENT = {"column": "failure", "values": [1], "within": "24h", "follows": "yes", "otherwise": "no"}
JOIN = {"source": {"path": "truth/{partition}.csv"}, "on": ["id"], "column": "outcome"}
RULES = {"functions": ["f", "g", "h"], "classes": ["yes", "no"]}
THRESHOLD = {"at": 1, "above": "a", "below": "b"}


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ({}, "names none. Keep one"),
        ({"column": "a", "rules": RULES}, "names column and rules. Keep one"),
        ({"rules": RULES, "map": {"a": "b"}}, "`rules` gives classes already; remove it"),
        ({"column": "a", "map": {"a": "b"}, "threshold": THRESHOLD}, "keep one"),
        ({"event_within": EVENT, "horizon": 2}, "follows from `within`; remove `horizon`"),
        ({"event_within": EVENT | {"within": "a day"}}, "write a whole number and its unit (s, min, h, d), such as 10min or 7d"),
        ({"event_within": EVENT | {"within": "0h"}}, "is not a length of time"),
        ({"event_within": EVENT | {"follows": "x", "otherwise": "x"}}, "name two classes"),
        ({"column": "a", "threshold": THRESHOLD | {"below": "a"}}, "name two classes"),
        ({"join": JOIN | {"on": []}}, "write one or more"),
        ({"join": JOIN | {"on": ["id", "id"]}}, "each once"),
        ({"join": JOIN | {"source": {"path": "{partition}.csv", "land": True}}}, "remove `land`"),
        ({"rules": RULES | {"functions": ["f", "f"]}}, "names one twice"),
        ({"rules": RULES | {"min_votes": 4}}, "no row would be labelled; lower it"),
        ({"rules": RULES | {"functions": ["f", "g"], "aggregate": "dawid_skene"}}, "takes three of them or more"),
        ({"column": "a", "review": {"below": 0.5}}, "a label of another kind has none; remove `below`"),
    ],
)
def test_a_label_that_can_not_be_made_is_told(label, says):
    with pytest.raises(ValidationError) as caught:
        Label.model_validate(label)

    assert says in str(caught.value)


def problems(make_use_case, **changes):
    with pytest.raises(ValidationError) as caught:
        make_use_case(**changes)
    cause = caught.value.errors()[0]["ctx"]["error"]
    assert isinstance(cause, FieldErrors)
    return {".".join(map(str, field)): message for field, message in cause.problems}


COLUMNS = {
    "id": {"type": "string", "role": "key"},
    "who": {"type": "string", "role": "entity"},
    "when": {"type": "timestamp", "role": "time"},
    "note": {"type": "text"},
    "failure": {"type": "integer", "role": "label"},
}
REGRESSION = {"task": "regression", "gate": {"metric": "rmse", "floor": 1}, "split": {}}


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"label": {"rules": RULES, "positive": "maybe"}}, "label.positive", "not among the classes of the label: ['no', 'yes']"),
        ({"label": {"event_within": EVENT | {"column": "fail"}, "positive": "yes"}}, "label.event_within.column", "'fail' is not declared"),
        (
            {
                "label": {"event_within": EVENT, "positive": "yes"},
                "columns": {k: v for k, v in COLUMNS.items() if k != "when"},
            },
            "label.event_within",
            "no column has `role: time`",
        ),
        (
            {
                "label": {"event_within": EVENT, "positive": "yes"},
                "columns": {**COLUMNS, "when": {"type": "integer", "role": "time"}},
            },
            "columns.when.type",
            "set `type: timestamp`",
        ),
        ({"label": {"join": JOIN | {"on": ["claim"]}, "positive": "yes"}}, "label.join.on", "'claim' is not declared"),
        ({"label": {"join": JOIN | {"on": ["note"]}, "positive": "yes"}}, "label.join.on", "can't identify a row"),
        ({"label": {"column": "failure", "threshold": THRESHOLD, "positive": "c"}}, "label.positive", "not among the classes"),
        (
            {"label": {"join": JOIN, "positive": "yes"}, "split": {"stratify": True}},
            "split.stratify",
            "come to judge it; remove `stratify`",
        ),
        ({"label": {"event_within": EVENT, "positive": "yes"}, "split": {"by": "row"}}, "split.by", "set `by: entity`"),
        (
            {"label": {"join": JOIN | {"on": ["who"]}, "positive": "yes"}, "split": {"by": "row"}},
            "split.by",
            "one truth labels every row of its 'who'",
        ),
        (REGRESSION | {"label": {"rules": RULES}}, "label.rules", "no classes to make"),
        (REGRESSION | {"label": {"column": "failure", "review": {}}}, "label.review", "remove `review`"),
        (
            {
                "label": {"column": "ill", "positive": "yes", "review": {}},
                "columns": {**COLUMNS, "ill": {"type": "string", "role": "label", "privacy": "sensitive"}},
            },
            "label.review",
            "list the classes that people choose from in `map`",
        ),
        (REGRESSION | {"label": {"join": JOIN | {"missing": "no"}}}, "label.join.missing", "names a class"),
    ],
)
def test_a_label_that_does_not_fit_the_rest_is_told_with_the_remedy(make_use_case, changes, field, says):
    assert says in problems(make_use_case, **{"columns": COLUMNS, **changes})[field]


def test_a_threshold_needs_a_number(make_use_case):
    columns = {**COLUMNS, "failure": {"type": "string", "role": "label"}}
    found = problems(make_use_case, columns=columns, label={"column": "failure", "threshold": THRESHOLD, "positive": "a"})

    assert found == {"columns.failure.type": "a threshold splits numbers, and column 'failure' is a string; set `type: number`"}


@pytest.mark.parametrize(
    ("within", "partition", "horizon"),
    [("24h", "day", 1), ("25h", "day", 2), ("7d", "day", 7), ("30min", "hour", 1), ("24h", "hour", 24), ("1d", "hour", 24)],
)
def test_the_horizon_of_an_event_follows_from_its_window(make_use_case, within, partition, horizon):
    use_case = make_use_case(columns=COLUMNS, partition=partition, label={"event_within": EVENT | {"within": within}, "positive": "yes"})

    assert (use_case.horizon, use_case.reach) == (horizon, horizon)


def test_ground_truth_reaches_beyond_its_horizon(make_use_case):
    label = {"join": JOIN | {"late": 5}, "horizon": 7, "positive": "yes"}

    assert (make_use_case(columns=COLUMNS, label=label).horizon, make_use_case(columns=COLUMNS, label=label).reach) == (7, 12)


@pytest.mark.parametrize(
    ("label", "classes"),
    [
        ({"column": "a"}, None),
        ({"column": "a", "map": {"1": "x", "2": "y", "3": "x"}}, ["x", "y"]),
        ({"column": "a", "threshold": THRESHOLD}, ["a", "b"]),
        ({"event_within": EVENT}, ["yes", "no"]),
        ({"rules": RULES}, ["yes", "no"]),
        ({"join": JOIN}, None),
        ({"join": JOIN | {"missing": "fine"}, "map": {"1": "fraud"}}, ["fraud", "fine"]),
    ],
)
def test_the_classes_that_the_settings_name(label, classes):
    assert Label.model_validate(label).classes == classes


def test_what_decides_a_label_is_in_the_hash_and_where_it_comes_from_is_not(make_use_case):
    def hash_of(review=None, **join):
        return make_use_case(columns=COLUMNS, label={"join": JOIN | join, "positive": "yes", "review": review}).data_hash()

    assert hash_of() == hash_of(source={"path": "elsewhere/{partition}.csv"}) == hash_of(review={})
    assert len({hash_of(), hash_of(late=3), hash_of(missing="no"), hash_of(column="other")}) == 4


@pytest.mark.parametrize(
    ("written", "seconds", "text"), [("45s", 45, "45s"), ("30 min", 1800, "30min"), ("24h", 86400, "1d"), ("7d", 604800, "7d")]
)
def test_a_length_of_time(written, seconds, text):
    found = TypeAdapter(Duration).validate_python(written)

    assert found == dt.timedelta(seconds=seconds)
    assert duration_text(found) == text


def test_the_same_length_of_time_decides_the_same_rows(make_use_case):
    def hash_of(within):
        return make_use_case(columns=COLUMNS, label={"event_within": EVENT | {"within": within}, "positive": "yes"}).data_hash()

    assert hash_of("24h") == hash_of("1d") != hash_of("25h")


def test_the_documented_settings_are_right():
    text = (Path(__file__).parents[3] / "docs" / "data" / "label.md").read_text(encoding="utf-8")
    examples = [yaml.load(block, Loader=_Loader) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]

    assert len([Label.model_validate(example["label"]) for example in examples]) == 5


@pytest.mark.parametrize(("text", "classes"), [("", []), (" ; ", []), ("b;a", ["a", "b"]), (" a ;a; a b", ["a", "a b"])])
def test_the_classes_of_a_value(text, classes):
    assert classes_in(text, ";") == classes


TAGS = {"task": "multilabel", "gate": {"metric": "micro_f1", "floor": 0.5}}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({**TAGS, "label": {"column": "action"}}, "a multilabel task needs `separator`"),
        (
            {"label": {"column": "action", "positive": "buy", "separator": ";"}},
            "`separator` is for multilabel tasks, and this one is binary",
        ),
        ({**TAGS, "label": {"column": "action", "separator": ";", "map": {"a": "b"}}}, "`map` gives a row one class"),
        ({**TAGS, "label": {"column": "action", "separator": ";", "review": {}}}, "`review` gives a row one class"),
        (
            {**TAGS, "label": {"column": "action", "separator": ";"}, "split": {"by": "row", "stratify": True}},
            "can't be shared out by class",
        ),
        ({**TAGS, "label": {"column": "action", "separator": ";", "positive": "buy"}}, "`positive` is for binary tasks"),
    ],
)
def test_settings_of_several_classes(make_use_case, changes, says):
    with pytest.raises(ValidationError) as caught:
        make_use_case(**changes)
    assert says in str(caught.value)
