"""Names that a use case can use, made from those in a file."""

import re
import unicodedata
from collections.abc import Iterable

from pipelines_lib.use_case import RESERVED_COLUMNS

_LONGEST = 60


def column_names(sources: Iterable[str]) -> dict[str, str]:
    """Source name to column name: snake case, unique, none that Sluice keeps for itself.

    Accents are dropped (née → nee). A script that has no Latin spelling is kept: a reader of Chinese reads 年龄 best as 年龄.
    """
    names: dict[str, str] = {}
    for source in sources:
        wanted = name = snake_case(source)
        copy = 2
        while name in names.values():
            name, copy = f"{wanted}_{copy}", copy + 1
        names[source] = name
    return names


def snake_case(source: str) -> str:
    """`Air temperature [K]` → `air_temperature_k`, `nameOrig` → `name_orig`, `2019` → `c_2019`, `label` → `label_column`."""
    text = "".join(c for c in unicodedata.normalize("NFKD", source) if not unicodedata.combining(c))
    text = unicodedata.normalize("NFKC", text)
    text = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", text)
    text = re.sub(r"\W+|_+", "_", text).strip("_").lower()[:_LONGEST].strip("_")
    if not re.match(r"[^\W\d]", text):
        text = f"c_{text}".rstrip("_")
    return f"{text}_column" if text in RESERVED_COLUMNS else text
