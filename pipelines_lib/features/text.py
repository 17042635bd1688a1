"""Language as numbers: tokens, hashed into a fixed number of buckets (feature hashing, Weinberger et al. 2009).

Nothing is learned, so a word never seen in training has an id too, and a transform carries no word list.
"""

import re
import unicodedata
import zlib
from itertools import islice, pairwise

PADDING = 0

# A word, or one character of a script that writes no spaces between words (Chinese, Japanese).
_TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[^\W\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+")
# The same among ASCII letters, which is faster to find.
_ASCII_TOKEN = re.compile(r"\w+", re.ASCII)
_LONG = 2_000
"""Characters from which it is faster to stop at the limit than to find all tokens at once."""
_MOST_WORDS = 256
"""Words of a text, repeated ones too, that grams are made of. Not the limit, or a gram would come and go with it."""


def tokens(text: str, limit: int) -> list[str]:
    """The first `limit` tokens of `text`: words in lower case, Chinese and Japanese characters one by one."""
    # Full-width and half-width forms of a letter are the same letter (NFKC).
    pattern, text = (_ASCII_TOKEN, text) if text.isascii() else (_TOKEN, unicodedata.normalize("NFKC", text))
    if len(text) > _LONG:
        return [match.group() for match in islice(pattern.finditer(text.lower()), limit)]
    found: list[str] = pattern.findall(text.lower())
    return found[:limit]


def token_id(token: str, buckets: int, salt: str) -> int:
    """Bucket of a token, 1 … buckets - 1 (0 is padding); `salt` keeps the words of two columns apart."""
    # CRC-32 and not hash(): the same in every process, on every machine. A lone surrogate is text too.
    return 1 + zlib.crc32(f"{salt}\x1f{token}".encode("utf-8", "surrogatepass")) % (buckets - 1)


def text_grams(text: str, limit: int) -> list[str]:
    """The first `limit` distinct ones of a text's words, then of their pairs, then of the words' runs of three letters.

    Word pairs after Joulin et al. (2016), pieces of words after Bojanowski et al., Enriching Word Vectors with Subword Information (2017).
    A pair holds a blank and a piece begins with one, so that neither is taken for a word. In Chinese, pairs are of characters.
    """
    words = tokens(text, _MOST_WORDS)
    found = dict.fromkeys(words)
    found.update(dict.fromkeys(f"{first} {second}" for first, second in pairwise(words)))
    for word in words:
        if len(found) >= limit:
            break
        # The marks at both ends tell a beginning from an ending; one letter or character has no pieces.
        marked = f"<{word}>" if len(word) > 1 else ""
        found.update(dict.fromkeys(f" {marked[place : place + 3]}" for place in range(len(marked) - 2)))
    return list(islice(found, limit))
