"""One text in several spellings. Apart from the settings, since an edge device has it too."""

import unicodedata
from collections.abc import Collection


def normal(text: str, wanted: Collection[str]) -> str:
    """`text` after what is `wanted` of `nfkc`, `lower` and `blanks`, without blanks around it. Twice is the same as once.

    Python's own, so that the `clean` layer and a served row mean the same by it.
    """
    if "nfkc" in wanted:
        text = unicodedata.normalize("NFKC", text)
    if "lower" in wanted:
        text = text.lower()
        if "nfkc" in wanted:  # a lower-case letter may have another normal form
            text = unicodedata.normalize("NFKC", text)
    return " ".join(text.split()) if "blanks" in wanted else text.strip()
