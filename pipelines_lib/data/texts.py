"""Texts as Arrow keeps them: the bytes of all, one behind the other, and where each begins."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def bytes_of(texts: pa.Array) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """(offsets [n + 1], bytes): text i is `bytes[offsets[i]:offsets[i + 1]]`. No copy. Under a null anything may lie."""
    _, offsets, data = texts.buffers()
    kind = np.int64 if pa.types.is_large_string(texts.type) else np.int32
    starts = np.frombuffer(offsets, kind)[texts.offset : texts.offset + len(texts) + 1] if offsets else np.zeros(1, kind)
    return starts, np.frombuffer(data, np.uint8) if data else np.empty(0, np.uint8)
