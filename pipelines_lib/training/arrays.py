"""Arrays on the disk of a machine that trains: plain .npy files, written once, batch by batch, and mapped by each of its processes.

What is mapped is read when it is touched, is in memory once for all processes, and leaves it again where memory is short.
"""

import os
import secrets
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines_lib.errors import BadInput, DataError, Held, Unavailable
from pipelines_lib.store import read_json, write_json, write_text

MANIFEST = "manifest.json"
"""File to its size; written last."""
_BEAT = "beat"
_SECONDS_BETWEEN_BEATS = 1.0
_SECONDS_BETWEEN_LOOKS = 0.05

Beat = Callable[[], None]


class ArrayWriter:
    """One array, written from its first row to its last. In a `with` block, which ends when the file is on the disk."""

    def __init__(self, path: Path, n_rows: int) -> None:
        self._path, self._n_rows, self._n_written = path, n_rows, 0
        self._shape: tuple[Any, ...] | None = None

    def __enter__(self) -> Self:
        # Written, not mapped: a full disk is then an error here, and not the end of the process.
        self._file = self._path.open("wb")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._file:
            if kind is None:
                assert self._n_written == self._n_rows, f"{self._path}: {self._n_written} of {self._n_rows} rows were written"
                self._file.flush()
                os.fsync(self._file.fileno())

    def add(self, rows: NDArray[Any]) -> None:
        """The next rows; all have the type and shape of the first ones."""
        if self._shape is None:
            self._shape = (rows.dtype, *rows.shape[1:])
            header = {"descr": np.lib.format.dtype_to_descr(rows.dtype), "fortran_order": False, "shape": (self._n_rows, *rows.shape[1:])}
            np.lib.format.write_array_header_2_0(self._file, header)
        assert self._shape == (rows.dtype, *rows.shape[1:]), f"{self._path}: {self._shape} goes on as {rows.dtype}, {rows.shape[1:]}"
        self._file.write(np.ascontiguousarray(rows).data)
        self._n_written += len(rows)


def mapped(path: Path) -> torch.Tensor:
    """The array at `path`, not to be written to."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    with warnings.catch_warnings():
        # A private mapping that may be written to would need as much memory as the file is long to be promised.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(array)


def shared(folder: Path, key: str, write: Callable[[Path, Beat], None], timeout: timedelta) -> Path:
    """`folder/key` once it is whole. The machine's first process calls `write(folder to fill, beat)`, unless an earlier try did; the others wait.

    `write` calls `beat` as it gets on. Raises `Unavailable` where the first process has not got on for `timeout`.
    """
    target = folder / key
    if os.environ.get("LOCAL_RANK", "0") != "0":
        _wait(target, timeout)
    elif not _is_whole(target):
        _fill(target, write)
    return target


@contextmanager
def discarded_after(folder: Path) -> Iterator[None]:
    """Remove the arrays below `folder` at the end of the block, unless what ended it is tried again."""
    try:
        yield
    except (BadInput, Held):
        discard(folder)
        raise
    discard(folder)


def discard(folder: Path) -> None:
    """Remove the arrays below `folder`, whoever maps them; done by the machine's first process."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        shutil.rmtree(folder, ignore_errors=True)


def _fill(target: Path, write: Callable[[Path, Beat], None]) -> None:
    folder = target.parent
    # What tries that were killed, or read other rows, have left.
    shutil.rmtree(folder, ignore_errors=True)
    being_filled = folder / f".{secrets.token_hex(8)}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700)  # rows about people may lie here, on a disk that others use too
    being_filled.mkdir()
    try:
        write(being_filled, _Beat(folder / _BEAT))
        write_json(being_filled / MANIFEST, {path.name: path.stat().st_size for path in being_filled.iterdir()})
        os.replace(being_filled, target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


class _Beat:
    """Lets the other processes see that this one gets on."""

    def __init__(self, path: Path) -> None:
        self._path, self._n, self._last = path, 0, -_SECONDS_BETWEEN_BEATS

    def __call__(self) -> None:
        self._n += 1
        if time.monotonic() - self._last >= _SECONDS_BETWEEN_BEATS:
            write_text(self._path, str(self._n))
            self._last = time.monotonic()


def _wait(target: Path, timeout: timedelta) -> None:
    beat, since = "", time.monotonic()
    while not _is_whole(target):
        with suppress(FileNotFoundError):
            if (latest := (target.parent / _BEAT).read_text(encoding="ascii")) != beat:
                beat, since = latest, time.monotonic()
        if time.monotonic() - since > timeout.total_seconds():
            raise Unavailable(
                f"{target}: the first process of this machine, which writes the arrays that all of its processes train on, has not got on for "
                f"{timeout.total_seconds():g} s; its log says where it stands. Where reading a column takes longer than that, raise training.timeout"
            )
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _is_whole(target: Path) -> bool:
    """Whether every file that the manifest names is there, as long as it says."""
    try:
        sizes: Any = read_json(target / MANIFEST)
        return all((target / name).stat().st_size == size for name, size in sizes.items())
    except (FileNotFoundError, DataError):
        return False
