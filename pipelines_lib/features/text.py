"""Language as numbers: tokens, hashed into a fixed number of buckets (feature hashing, Weinberger et al. 2009).

Nothing is learned, so a word never seen in training has an id too, and a transform carries no word list.
"""

import re
import unicodedata
import zlib
from itertools import islice

PADDING = 0

# A word, or one character of a script that writes no spaces between words (Chinese, Japanese).
_TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[^\W\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+")

_LONG = 2_000
"""Characters from which it is faster to stop at the limit than to find all tokens at once."""


def tokens(text: str, limit: int) -> list[str]:
    """The first `limit` tokens of `text`: words in lower case, Chinese and Japanese characters one by one."""
    # Full-width and half-width forms of a letter are the same letter (NFKC).
    text = text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).lower()
    if len(text) > _LONG:
        return [match.group() for match in islice(_TOKEN.finditer(text), limit)]
    found: list[str] = _TOKEN.findall(text)
    return found[:limit]


def token_id(token: str, buckets: int, salt: str) -> int:
    """Bucket of a token, 1 … buckets - 1 (0 is padding); `salt` keeps the words of two columns apart."""
    # CRC-32 and not hash(): the same in every process, on every machine. A lone surrogate is text too.
    return 1 + zlib.crc32(f"{salt}\x1f{token}".encode("utf-8", "surrogatepass")) % (buckets - 1)
