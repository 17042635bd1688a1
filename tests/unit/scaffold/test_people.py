"""What looks like a person's data is pointed at, and nothing else."""

import pyarrow as pa
import pytest

from pipelines_lib.scaffold.people import suggestion
from pipelines_lib.scaffold.survey import facts


def told(name: str, *texts: str) -> str:
    return suggestion(facts(name, name, pa.array(texts or ["a", "b"])))


@pytest.mark.parametrize(
    "name", ["email", "customer_id", "patient", "mobile_phone", "ssn", "last_name", "home_address", "客户编号", "手机"]
)
def test_names_of_identifiers(name):
    assert told(name) == "if it names a person: `privacy: identifier`"


@pytest.mark.parametrize("name", ["zip", "postal_code", "birth_date", "age", "age_group", "sex", "年龄"])
def test_names_of_what_describes_a_person(name):
    assert told(name).startswith("if it describes a person: `privacy: quasi_identifier`")


def test_an_identifier_that_is_read_as_a_number_must_be_text():
    assert told("user_id", "17", "18") == "if it names a person: `type: string, role: other, privacy: identifier`"


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["zoe@example.org", "max.m@firma.de"], "e-mail addresses"),
        (["+49 30 123456", "030/123 4567", "(212) 555-0100 20"], "telephone numbers"),
    ],
)
def test_values_that_give_themselves_away(texts, says):
    assert told("contact", *texts).startswith(f"{says}: consider")


@pytest.mark.parametrize(
    ("name", "texts"),
    [("usage", ["1", "2"]), ("page", ["a"]), ("telemetry", ["x"]), ("rusage", ["x"]), ("storage", ["x"]), ("product_id", ["p1"]),
     ("code", ["12-34", "2026-01-31"]), ("note", ["ask max@firma.de", "none"])],
)  # fmt: skip
def test_what_is_nobodys(name, texts):
    assert told(name, *texts) == ""
