"""Bytes of a text file as UTF-8, block by block: its encoding is found out, or declared.

An undeclared encoding costs a pass over the file: whether it is UTF-8 shows at its last byte. That pass moves at the speed of
memory. An encoding other than UTF-8 is recognised by charset-normalizer and tried on the whole file before it is believed.
"""

import codecs
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines_lib.data.sources.stream import File, check_length
from pipelines_lib.errors import DataError

SAMPLE_BYTES = 1 << 20
_GUESS_BYTES = 1 << 18
_GUESSES = 5
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_UTF8 = ("utf-8", "utf-8-sig")


@dataclass(frozen=True)
class TextFile:
    """A text file whose encoding is known."""

    file: File
    encoding: str
    """A Python codec's name."""
    declared: bool
    setting: str | None
    """The setting that declares the encoding, for messages; None where there is none."""
    sample: str
    """Its beginning, without a byte order mark."""

    def blocks(self) -> Iterator[bytes]:
        """Its content as UTF-8 without a byte order mark. Raises `DataError` where it is not in its encoding, or no text."""
        first = True
        blocks = self.file.blocks()
        try:
            for block in blocks if self.encoding in _UTF8 and not self.declared else _as_utf8(blocks, self.encoding):
                if b"\0" in block:
                    raise self.is_no_text()
                yield block.removeprefix(codecs.BOM_UTF8) if first else block
                first = False
        except _NotInEncodingError as error:
            raise DataError(
                f"{self.file.name}: byte {error.place} is not {self.encoding}, which {'is declared' if self.declared else 'was detected'}; "
                f"{_remedy(self.setting)}"
            ) from error

    def is_no_text(self) -> DataError:
        """The error where NUL characters stand in it."""
        return DataError(
            f"{self.file.name}: holds NUL characters when read as {self.encoding}, so it is no text file, "
            f"or UTF-16 without a mark; {_remedy(self.setting)}"
        )


def _remedy(setting: str | None) -> str:
    return "write the file in UTF-8" if setting is None else f"set {setting} to what the file is in"


def text_file(file: File, declared: str | None, setting: str | None) -> TextFile:
    """`file` with its encoding, which `setting` declares where there is such a setting. Raises `DataError` where it holds nothing, or its encoding can't be told."""
    head = next(file.blocks(SAMPLE_BYTES), b"")
    encoding = declared or next((name for mark, name in _MARKS if head.startswith(mark)), None) or _encoding(file, head, setting)
    try:
        sample = codecs.getincrementaldecoder(encoding)(errors="replace").decode(head)
    except LookupError as error:
        raise DataError(
            f"{file.name}: {setting} {encoding!r} is no encoding that Python knows; write one such as utf-8, gb18030, cp1252"
        ) from error
    text = TextFile(file, encoding, declared is not None, setting, sample.removeprefix("\ufeff"))
    if "\0" in text.sample:
        raise text.is_no_text()
    if not text.sample.strip() and not any(block.strip() for block in text.blocks()):
        raise DataError(f"{file.name}: the file is empty. Write it again at its source")
    return text


def whole_lines(text: TextFile) -> Iterator[bytes]:
    """Its blocks, cut behind line feeds. Raises `DataError` over a line that never ends."""
    rest = b""
    n_lines = 0
    for block in text.blocks():
        cut = block.rfind(b"\n") + 1
        if cut:
            n_lines += block.count(b"\n")
            yield rest + block[:cut]
        rest = block[cut:] if cut else rest + block
        check_length(text.file.name, len(rest), n_lines + 1)
    if rest:
        yield rest


def lines(block: bytes) -> pa.StringArray:
    """The lines of a block that begins with a line, without their ends."""
    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + 1
    if not len(ends) or ends[-1] != len(block):
        ends = np.append(ends, len(block))
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    whole = pa.StringArray.from_buffers(len(ends), pa.py_buffer(offsets), pa.py_buffer(block))
    return pc.utf8_rtrim(whole, characters="\r\n")


class _NotInEncodingError(Exception):
    def __init__(self, place: int) -> None:
        self.place = place


def _as_utf8(blocks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """Blocks that are UTF-8 pass as they are, once they have been looked at."""
    decoder = codecs.getincrementaldecoder(encoding)()
    is_utf8 = codecs.lookup(encoding).name in _UTF8
    seen = pending = 0
    for block in _and_end(blocks):
        if is_utf8 and not pending and block.isascii():
            seen += len(block)
            yield block
            continue
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise _NotInEncodingError(seen - pending + error.start) from error
        seen += len(block)
        pending = len(decoder.getstate()[0])
        yield block if is_utf8 else text.encode("utf-8")


def _and_end(blocks: Iterator[bytes]) -> Iterator[bytes]:
    yield from blocks
    yield b""


def _broken_at(file: File, encoding: str) -> int | None:
    """Place of the first byte that is not in the encoding."""
    try:
        deque(_as_utf8(file.blocks(), encoding), maxlen=0)
    except _NotInEncodingError as error:
        return error.place
    return None


def _encoding(file: File, head: bytes, setting: str | None) -> str:
    """UTF-8 where the whole file is; else the likeliest of charset-normalizer's that the whole file is in."""
    place = _broken_at(file, "utf-8")
    if place is None:
        return "utf-8-sig" if head.startswith(codecs.BOM_UTF8) else "utf-8"
    guesses = _guesses(_around(file, place))
    for encoding in guesses:
        if _broken_at(file, encoding) is None:
            return encoding
    recognised = f"{', '.join(guesses)}, which it is not either" if guesses else "no encoding either"
    raise DataError(f"{file.name}: not UTF-8 (byte {place}), and charset-normalizer recognises {recognised}; {_remedy(setting)}")


def _around(file: File, place: int) -> bytes:
    """What tells the encoding: the file's beginning, or where the byte at `place` lies further on, the lines about that."""
    seen = 0
    window = b""
    for block in file.blocks(_GUESS_BYTES):
        window = (window + block)[-2 * _GUESS_BYTES :]
        seen += len(block)
        if seen > place + _GUESS_BYTES:
            # A character that is cut in two would mislead.
            window = window[: window.rfind(b"\n") + 1] or window
            break
    return window if seen <= 2 * _GUESS_BYTES else window[window.find(b"\n") + 1 :]


def _guesses(data: bytes) -> list[str]:
    """The likeliest encodings, best first."""
    from charset_normalizer import from_bytes  # noqa: PLC0415 - only a file that is not UTF-8 needs it

    # Only Macs of before 2001 ended lines so; their code page looks like several others to statistics.
    mac = ["mac_roman"] if b"\r" in data and b"\n" not in data else []
    matches = list(from_bytes(data))
    if not matches:
        return mac
    best = [m.encoding for m in matches if (m.chaos, m.coherence) == (matches[0].chaos, matches[0].coherence)]
    # Equal evidence, told apart by the alphabet: Western Windows is the likelier of the code pages that agree.
    western = "cp1252" in best or data.decode(best[0]) == data.decode("cp1252", errors="replace")
    return list(dict.fromkeys([*mac, *(["cp1252"] if western else []), *(match.encoding for match in matches)]))[:_GUESSES]
