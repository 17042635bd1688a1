"""Texts as a profile sees them: shares of hashed tokens, and the region of an embedding space that a text lies in.

Neither learns anything, so the profiles of two days merge, and no word that somebody wrote is kept.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

from pipelines_lib.features.text import token_id
from pipelines_lib.monitoring.summaries import Categories

MAX_WORDS = 1000
"""Words counted of one text; a Chinese or Japanese character counts as one."""
BUCKETS = 128
"""Into which tokens are hashed, for the embedding."""
TOKEN_BUCKETS = 32
"""Into which they are counted: with more, a bucket of a small window would hold too little for the χ² law."""
_PLANES = 6
"""Planes through the embedding space; they cut it into 64 regions."""
_PIECE = 10_000
"""Texts that are looked at at once; bounds the memory."""
_SALT = "profile"

Floats = npt.NDArray[np.float64]


def shares_of(words: Sequence[Sequence[str]], repeats: npt.NDArray[np.int64]) -> Iterator[tuple[Floats, Floats]]:
    """Of each text with a token, the shares of its tokens in each bucket [n, BUCKETS], and for how many rows it stands [n]; a piece at a time, at least one."""
    bucket_of: dict[str, int] = {}
    for start in range(0, max(1, len(words)), _PIECE):
        piece, weights = words[start : start + _PIECE], repeats[start : start + _PIECE].astype(np.float64)
        for word in set(chain.from_iterable(piece)).difference(bucket_of):
            bucket_of[word] = token_id(word, BUCKETS + 1, _SALT) - 1
        lengths = np.array([len(found) for found in piece], np.int64)
        rows = np.repeat(np.arange(len(piece)), lengths)
        buckets = np.fromiter(map(bucket_of.__getitem__, chain.from_iterable(piece)), np.int64, len(rows))
        counts = np.bincount(rows * BUCKETS + buckets, minlength=len(piece) * BUCKETS).reshape(-1, BUCKETS)
        there = lengths > 0
        yield counts[there] / lengths[there, None], weights[there]


def token_shares(shares: Floats) -> Floats:
    """The same in TOKEN_BUCKETS buckets, [n, TOKEN_BUCKETS]."""
    folded: Floats = shares.reshape(len(shares), BUCKETS // TOKEN_BUCKETS, TOKEN_BUCKETS).sum(axis=1)
    return folded


def clusters_of(shares: Floats, repeats: Floats) -> Categories:
    """Rows by region of the embedding space."""
    found: Counter[str] = Counter()
    for region, n in zip(region_of(shares), repeats.tolist(), strict=True):
        found[region] += int(n)
    return Categories.of(found.keys(), found.values())


def region_of(shares: Floats) -> list[str]:
    """The region of the embedding space that each text lies in [n], by the `shares` of its tokens [n, BUCKETS].

    A text's embedding is a random projection of its tokens (random indexing, Kanerva et al. 2000), and its region says on which
    side of each of a few planes that lies (Charikar 2002): texts of similar words tend to share a region. Square roots keep the common words from
    outweighing all others.
    """
    planes = np.random.Generator(np.random.PCG64(7)).normal(size=(BUCKETS, _PLANES))
    # Every language has its common words, which would put all texts on one side; planes that sum to nothing take less notice of them.
    planes -= planes.mean(axis=0)
    sides = np.sqrt(shares) @ planes > 0
    return [f"{region:02d}" for region in (sides @ (1 << np.arange(_PLANES))).tolist()]
