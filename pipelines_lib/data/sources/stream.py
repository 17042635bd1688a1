"""A source's file as a stream of bytes, unpacked as it is read.

Whether and how it is packed is told by its first bytes: a name promises less.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa

from pipelines_lib.errors import DataError, Unavailable

BLOCK_BYTES = 1 << 24
"""How much of a file is looked at in one go: some 200,000 rows of 80 characters."""

LONGEST = 1 << 28
"""Bytes of a record above which a file is taken for something else than was said; or a small packed file could fill the memory."""

_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True)
class File:
    """A file that lies on this machine for as long as it is read."""

    name: str
    """What a person knows it by: its path, or the address it was fetched from."""
    path: Path

    def compression(self) -> str | None:
        """gzip, zstd, or None for a plain file."""
        with self._open() as plain:
            first = plain.read(4)
        return next((name for magic, name in _MAGIC.items() if first.startswith(magic)), None)

    def blocks(self, size: int = BLOCK_BYTES) -> Iterator[bytes]:
        """Its content in blocks of `size` bytes, the last one shorter. Raises `DataError` where it can't be unpacked."""
        packing = self.compression()
        if packing is None:
            with self._open() as plain:
                while block := plain.read(size):
                    yield block
            return
        try:
            with pa.OSFile(str(self.path)) as packed, pa.CompressedInputStream(packed, packing) as unpacked:
                while block := unpacked.read(size):
                    yield block
        except OSError as error:
            raise DataError(
                f"{self.name}: starts as a {packing} file, and can't be unpacked ({error}); have it written again, whole"
            ) from error

    def _open(self) -> IO[bytes]:
        """Raises `Unavailable` where it has gone since it was found."""
        try:
            return self.path.open("rb", buffering=0)
        except FileNotFoundError as error:
            raise Unavailable(
                f"{self.name}: was there when reading began, and is gone; let it be written elsewhere and renamed to its place, and run ingest again"
            ) from error


def check_length(name: str, n_bytes: int, number: int) -> None:
    """Raises `DataError` where the beginning of record `number` of file `name` is longer than any record."""
    if n_bytes > LONGEST:
        raise DataError(
            f"{name}: the record that begins at number {number} is longer than {LONGEST >> 20} MiB, so its end is not where it was looked for; "
            "correct how `source` says that the file is written (encoding, format), or write it in shorter records"
        )
