"""The settings `privacy` and `protect` of a column, and the rules between them and the rest of a use case."""

import pytest
from pydantic import ValidationError

from pipelines_lib.use_case import Column, Protect
from pipelines_lib.use_case.rules import FieldErrors

WHO = {"type": "string", "role": "entity", "privacy": "identifier"}
MAIL = {"type": "string", "role": "other", "privacy": "identifier", "protect": "drop"}
AGE = {"type": "integer", "privacy": "quasi_identifier", "protect": {"bins": [0, 18, 65]}}
ACTION = {"type": "string", "role": "label", "privacy": "sensitive"}
COLUMNS = {"who": WHO, "mail": MAIL, "age": AGE, "action": ACTION}


def test_an_identifier_is_hashed_where_nothing_is_said(make_use_case):
    use_case = make_use_case(columns=COLUMNS)

    assert Column.model_validate(WHO).protection == Protect(hash=True)
    assert use_case.hashed() == ["who"]
    assert list(use_case.written) == ["who", "age", "action"]
    assert use_case.private() == ["who", "mail", "age", "action"]
    assert use_case.private("quasi_identifier", "sensitive") == ["age", "action"]


@pytest.mark.parametrize("given", ["hash", "drop", {"keep": 2}, {"bins": [0, 18]}, {"round": "day"}])
def test_what_is_written_down_reads_back(given):
    protect = Protect.model_validate(given)

    assert Protect.model_validate(protect.model_dump(mode="json")) == protect


@pytest.mark.parametrize(
    ("column", "says"),
    [
        ({**WHO, "privacy": None, "protect": "hash"}, "say which way with `privacy`"),
        ({**WHO, "protect": {"keep": 2}}, "part of an identifier can still name a person"),
        ({**WHO, "protect": "hsh"}, "'hsh' is no way to protect a column; write hash"),
        ({**WHO, "protect": {}}, "this names none"),
        ({**WHO, "protect": {"hash": True, "drop": True}}, r"this names \['hash', 'drop'\]"),
        ({**WHO, "protect": "drop"}, "not there to be a entity; set `role: other`"),
        ({**WHO, "role": "feature"}, "would learn identifiers by heart"),
        ({**WHO, "role": "feature", "privacy": "sensitive", "protect": "hash"}, "would learn identifiers by heart"),
        ({**WHO, "role": "label"}, "a hash is nothing to predict"),
        ({**WHO, "type": "integer"}, "hash is for columns of type string, and this one is integer; set `type: string`"),
        ({**AGE, "type": "timestamp"}, "bins is for columns of type integer or number"),
        ({**AGE, "type": "number", "protect": {"round": "day"}}, "round is for columns of type timestamp"),
        ({**AGE, "protect": {"keep": 1}}, "keep is for columns of type string"),
        ({**AGE, "protect": {"bins": [0.5]}}, "the bounds of whole numbers are whole"),
        ({**AGE, "protect": {"bins": [18, 0]}}, "each above the one before it"),
        ({**AGE, "protect": {"bins": [0, float("inf")]}}, "finite"),
        ({**AGE, "protect": {"bins": []}}, "at least 1 item"),
    ],
)
def test_a_rule_of_one_column(column, says):
    with pytest.raises(ValidationError, match=says):
        Column.model_validate(column)


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"clean": [{"drop_missing": ["mail"]}]}, ("clean", 0), "nothing to clean"),
        (
            {"quality": {"expectations": [{"expect_column_values_to_match_regex": {"column": "who", "regex": "^C"}}]}},
            ("quality", "expectations", 0, "expect_column_values_to_match_regex"),
            "column 'who' holds hashes",
        ),
        (
            {"quality": {"expectations": [{"expect_column_values_to_not_be_null": {"column": "mail"}}]}},
            ("quality", "expectations", 0, "expect_column_values_to_not_be_null"),
            "can't be judged; remove the expectation",
        ),
        ({"deployment": {"edge": {}}}, ("deployment", "edge"), "features age are protected with a key that no device may hold"),
    ],
)
def test_what_asks_for_a_value_that_is_gone(make_use_case, changes, field, says):
    with pytest.raises(ValidationError) as caught:
        make_use_case(columns=COLUMNS, **changes)

    cause = caught.value.errors()[0]["ctx"]["error"]
    assert isinstance(cause, FieldErrors)
    assert says in dict(cause.problems)[field]


def test_a_hash_can_be_judged_by_what_it_keeps(make_use_case):
    unique = {"expect_column_values_to_be_unique": {"column": "who"}}

    assert make_use_case(columns=COLUMNS, quality={"expectations": [unique]}).quality.expectations == [unique]


def test_whose_hashes_they_are_decides_a_row(make_use_case):
    own, shared = make_use_case(columns=COLUMNS), make_use_case(columns=COLUMNS, privacy={"domain": "trade"})

    assert own.data_hash() != shared.data_hash()
    assert own.data_hash() == make_use_case(columns=COLUMNS, privacy={"min_k": 9, "action": "hold"}).data_hash()


def test_the_stages_that_hash_get_the_key(make_use_case):
    use_case = make_use_case(columns=COLUMNS, privacy={"connection": "house_key"})

    assert [stage for stage in ("ingest", "validate", "prepare", "train", "deploy") if "house_key" in use_case.connections(stage)] == [
        "ingest",
        "deploy",
    ]
    assert make_use_case().connections("ingest") == []


def test_one_column_of_the_source_is_protected_in_one_way(make_use_case):
    old = {"type": "integer", "source": "AGE", "privacy": "quasi_identifier"}
    with pytest.raises(ValidationError, match="columns 'age' and 'old' are made of one column of the source"):
        make_use_case(columns={**COLUMNS, "old": old})

    assert make_use_case(columns={**COLUMNS, "old": {**AGE, "source": "AGE"}}).private("quasi_identifier") == ["age", "old"]
