"""Columns that look as if they were about a person. Suggested, never decided: only who owns the data knows."""

import re

from pipelines_lib.scaffold.survey import Facts

_SAMPLE = 200
_SHARE = 0.8
"""Of the sampled values that must look like an address or a number, so that a stray one in a free text is none."""

_PERSON = "user|customer|client|patient|member|account|person|subject|student|employee|driver|visitor|applicant|用户|客户|患者|会员|病人"
_IDENTIFIER = re.compile(
    rf"(.*_)?({_PERSON})(_?(id|uuid|no|nr|num|number|key|code|name|编号|号|名))?|(.*_)?(e_?mail|phone|mobile|telephone|tel|fax|ssn|passport|iban|nhs_number)(_.*)?"
    r"|(.*_)?(first|last|full|given|family|sur)_?name|(.*_)?(street|address)|.*(姓名|电话|手机|邮箱|身份证|地址).*"
)
_QUASI = re.compile(r"(.*_)?(zip|zip_?code|post_?code|postal_code|birth.*|dob|age|gender|sex|nationality)(_.*)?|.*(邮编|出生|年龄|性别).*")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_PHONE = re.compile(r"\+\d[\d ()./-]{6,}\d|\(?\d{2,5}\)?[ /-]\d{3,}([ /-]\d{2,})+")


def suggestion(column: Facts) -> str:
    """What to consider for the column, as a comment; empty where nothing suggests that it is about a person."""
    if (what := _what_values_are(column)) is not None:
        return f"{what}: consider {_identifier(column)}"
    if _IDENTIFIER.fullmatch(column.name):
        return f"if it names a person: {_identifier(column)}"
    if _QUASI.fullmatch(column.name):
        return "if it describes a person: `privacy: quasi_identifier`, with `protect` to make it coarser"
    return ""


def _identifier(column: Facts) -> str:
    """Hashes are text, whatever the identifier was."""
    return "`privacy: identifier`" if column.type == "string" else "`type: string, role: other, privacy: identifier`"


def _what_values_are(column: Facts) -> str | None:
    if column.type not in ("string", "text"):
        return None
    texts = list(column.counts)[:_SAMPLE]
    for what, pattern in (("e-mail addresses", _EMAIL), ("telephone numbers", _PHONE)):
        if texts and sum(pattern.fullmatch(text) is not None for text in texts) >= _SHARE * len(texts):
            return what
    return None
