"""Language as numbers: tokens, hashed into a fixed number of buckets (feature hashing, Weinberger et al. 2009).

Nothing is learned, so a word never seen in training has an id too, and a transform carries no word list.
"""

import re
import unicodedata
import zlib

PADDING = 0

# A word, or one character of a script that writes no spaces between words (Chinese, Japanese).
_TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[^\W\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+")


def tokens(text: str, limit: int) -> list[str]:
    """The first `limit` tokens of `text`: words in lower case, Chinese and Japanese characters one by one."""
    # Full-width and half-width forms of a letter are the same letter (NFKC).
    found: list[str] = []
    for match in _TOKEN.finditer(unicodedata.normalize("NFKC", text).lower()):
        if len(found) == limit:
            break
        found.append(match.group())
    return found


def token_id(token: str, buckets: int, salt: str) -> int:
    """Bucket of a token, 1 … buckets - 1 (0 is padding); `salt` keeps the words of two columns apart."""
    # CRC-32 and not hash(): the same in every process, on every machine. A lone surrogate is text too.
    return 1 + zlib.crc32(f"{salt}\x1f{token}".encode("utf-8", "surrogatepass")) % (buckets - 1)
