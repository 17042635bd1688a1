"""A snapshot's rows as tensors, and the order in which an epoch sees them."""

import hashlib
import json
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from pipelines_lib.data.sides import TRAIN, VALIDATION
from pipelines_lib.data.snapshot import Snapshot
from pipelines_lib.features.arrow import Features, feature_columns
from pipelines_lib.features.transform import FORMAT, FeatureTransform
from pipelines_lib.store import read_json, write_json, write_text
from pipelines_lib.training import arrays
from pipelines_lib.training.objective import Objective
from pipelines_lib.use_case import Shuffle, UseCase

Inputs = dict[str, torch.Tensor]
Places = NDArray[np.int64]

BLOCK_ROWS = 4096
WINDOW_BLOCKS = 64
LIMIT = Path("/sys/fs/cgroup/memory.max")
_TRANSFORM = "transform.json"
_INPUTS = "inputs.json"
_LAYOUT = 1
"""Of the files of a side; another one where they, or what is in them, change."""
_ROW_IDS = pa.schema([("row_id", pa.string())])
_PIECE_ROWS = 1 << 16
"""Rows that are transformed at a time."""
_AHEAD = 3
"""Batches that are gathered before they are asked for."""


@dataclass(frozen=True)
class Rows:
    """One side of a snapshot."""

    inputs: Inputs
    """`numeric` float32 [n, d], `categorical` int64 [n, k], `text` int64 [n, L], `series` float32 [n, T, 2C]; those that are not empty."""
    labels: torch.Tensor
    """Class places int64 [n], values float32 [n], or 1 and 0 for each class, float32 [n, C]."""
    row_ids: pa.ChunkedArray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def n_bytes(self) -> int:
        """Of inputs and labels."""
        return sum(tensor.nbytes for tensor in (*self.inputs.values(), self.labels))

    def ids(self, places: Places) -> list[str]:
        """The row ids at `places`."""
        return [self.row_ids[int(place)].as_py() for place in places]

    def take(self, places: Places) -> tuple[Inputs, torch.Tensor]:
        """Inputs and labels of the rows at `places`."""
        index = torch.from_numpy(places)
        return {name: tensor[index] for name, tensor in self.inputs.items()}, self.labels[index]


def rows_of(arrays: Mapping[str, NDArray[Any]], labels: NDArray[Any], row_ids: pa.ChunkedArray) -> Rows:
    """Tensors over the memory of `arrays` and `labels`."""
    return Rows({name: torch.from_numpy(array) for name, array in arrays.items()}, torch.from_numpy(labels), row_ids)


class Order(Protocol):
    """The places of an epoch's rows, one slice at a time."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice) -> Places: ...


def order(n_rows: int, seed: int, epoch: int, shuffle: Shuffle = "rows") -> Order:
    """Every row once: a function of seed and epoch alone, so that every rank agrees on it, and a resume in the middle of an epoch too."""
    return _Blocks(n_rows, seed, epoch) if shuffle == "blocks" else np.random.default_rng([seed, epoch]).permutation(n_rows)


class _Blocks:
    """Blocks of neighbouring rows in random order, and the rows of a few blocks at a time in random order.

    Rows then come from the disk in long runs, and a window of 64 blocks is all that has to stay in memory. A batch is drawn from
    64 places of the data, which for gradient descent is nearly as good as a full shuffle (CorgiPile: Xu et al., SIGMOD 2022).
    """

    def __init__(self, n_rows: int, seed: int, epoch: int) -> None:
        self._n_rows, self._seed, self._epoch = n_rows, seed, epoch
        blocks = np.random.default_rng([seed, epoch]).permutation(math.ceil(n_rows / BLOCK_ROWS))
        self._windows = [blocks[start : start + WINDOW_BLOCKS] for start in range(0, len(blocks), WINDOW_BLOCKS)]
        self._ends = np.cumsum([self._length(window) for window in self._windows], dtype=np.int64)
        self._latest: tuple[int, Places] = (-1, np.empty(0, np.int64))

    def __len__(self) -> int:
        return self._n_rows

    def __getitem__(self, part: slice) -> Places:
        start, stop, step = part.indices(self._n_rows)
        assert step == 1, "an epoch is gone through forwards"
        found = [np.empty(0, np.int64)]
        number = int(np.searchsorted(self._ends, start, side="right"))
        while start < stop:
            first = int(self._ends[number - 1]) if number else 0
            end = min(stop, int(self._ends[number]))
            found.append(self._window(number)[start - first : end - first])
            number, start = number + 1, end
        return np.concatenate(found)

    def _length(self, window: Places) -> int:
        """Rows of the blocks; the data's last block may be shorter than the others."""
        return int(np.minimum((window + 1) * BLOCK_ROWS, self._n_rows).sum() - (window * BLOCK_ROWS).sum())

    def _window(self, number: int) -> Places:
        """The rows of a window in their order; the latest is kept, since several batches come from it."""
        latest, rows = self._latest
        if latest != number:
            firsts = self._windows[number] * BLOCK_ROWS
            rows = (firsts[:, None] + np.arange(BLOCK_ROWS)).ravel()
            rows = rows[rows < self._n_rows]
            # From 1: a list of seeds that ends in 0 seeds like the list without it.
            np.random.default_rng([self._seed, self._epoch, number + 1]).shuffle(rows)
            self._latest = (number, rows)
        return rows


def prefetch(rows: Rows, places: Iterable[Places], device: torch.device) -> Iterator[tuple[Inputs, torch.Tensor]]:
    """Inputs and labels of the rows at each of `places`, in that order, on `device`.

    Where that takes long (the device has a memory of its own, or the rows do not fit into memory) a thread gathers the next ones
    while these are worked on. Elsewhere handing them over would take longer than gathering them.
    """
    pin = device.type == "cuda"
    ahead = device.type != "cpu" or rows.n_bytes > memory() / 2
    for inputs, labels in _gathered_ahead(rows, places, pin) if ahead else map(rows.take, places):
        # From pinned memory the copy runs beside the device's work; work that needs it waits for it, since both are in one stream.
        yield {name: tensor.to(device, non_blocking=pin) for name, tensor in inputs.items()}, labels.to(device, non_blocking=pin)


def _gathered_ahead(rows: Rows, places: Iterable[Places], pin: bool) -> Iterator[tuple[Inputs, torch.Tensor]]:
    """The same in host memory, by a thread that is up to `_AHEAD` ahead. What it raises is raised in its turn; it ends with the iterator."""

    def gather(some: Places) -> tuple[Inputs, torch.Tensor]:
        inputs, labels = rows.take(some)
        return ({name: tensor.pin_memory() for name, tensor in inputs.items()}, labels.pin_memory()) if pin else (inputs, labels)

    waiting: deque[Future[tuple[Inputs, torch.Tensor]]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="sluice-rows") as thread:
        try:
            for some in places:
                waiting.append(thread.submit(gather, some))
                if len(waiting) > _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            thread.shutdown(wait=False, cancel_futures=True)


def memory() -> int:
    """Bytes of memory that this process may fill: the machine's, or what its control group allows."""
    allowed = LIMIT.read_text(encoding="ascii").strip() if LIMIT.exists() else "max"
    total = int(psutil.virtual_memory().total)
    return total if allowed == "max" else min(total, int(allowed))


@dataclass(frozen=True)
class Prepared:
    """Everything that training needs to know of a snapshot. Every rank has the same."""

    transform: FeatureTransform
    train: Rows
    validation: Rows
    objective: Objective
    sample: dict[str, NDArray[Any]]
    """Inputs of a few rows, at least two, to try an export on."""


def prepare(snapshot: Snapshot, use_case: UseCase, folder: Path) -> Prepared:
    """Fit the transform on the training rows alone, and leave inputs and labels as arrays below `folder`, which belongs to this job.

    The first process of a machine does it, unless an earlier try has, and the others wait; all map the same files. It holds one
    column, or one batch of rows, in memory, however many rows there are. Raises `DataError` where the snapshot's rows are not
    those it was taken of, `Unavailable` where the first process does not get on.
    """
    at = arrays.shared(
        folder, _key(snapshot, use_case), lambda new, beat: _write(snapshot.told(beat), use_case, new), use_case.training.timeout
    )
    transform = FeatureTransform.from_json((at / _TRANSFORM).read_text(encoding="utf-8"))
    train, validation = (_mapped(at, side) for side in (TRAIN, VALIDATION))
    sample = {name: torch.cat([train.inputs[name][:64], validation.inputs[name][:64]]).numpy() for name in train.inputs}
    return Prepared(transform, train, validation, _objective(snapshot, use_case), sample)


def _key(snapshot: Snapshot, use_case: UseCase) -> str:
    """What the arrays follow from: the rows, which know how they were cleaned, and what a model may ask of its transform."""
    model = use_case.training.model.model_dump(mode="json")
    decides = [snapshot.ref.content_hash, use_case.feature_types, use_case.task, use_case.series, model, FORMAT, _LAYOUT]
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:16]


def _objective(snapshot: Snapshot, use_case: UseCase) -> Objective:
    separator = use_case.label.separator
    classes = () if use_case.task == "regression" else tuple(snapshot.classes(separator))
    return Objective.of(use_case.task, classes, snapshot.column("label", TRAIN), separator)


def _write(snapshot: Snapshot, use_case: UseCase, folder: Path) -> None:
    """The transform, and the arrays of both sides."""
    snapshot, types = snapshot.verified(), use_case.feature_types
    features = Features(lambda name: snapshot.column(name, TRAIN), snapshot.column_names, types)
    model = use_case.training.model
    transform = FeatureTransform.fit(features, types, use_case.clean, use_case.series, pieces=model.pieces, grams=model.text == "grams")
    write_text(folder / _TRANSFORM, transform.to_json())
    objective, sizes = _objective(snapshot, use_case), snapshot.sizes()
    with ExitStack() as files:
        sides = {side: files.enter_context(_SideWriter(folder, side, sizes[side])) for side in (TRAIN, VALIDATION)}
        for rows in _in_pieces(snapshot.batches([*types, "label", "row_id", "split"])):
            for side, writer in sides.items():
                mine = rows.filter(pc.equal(rows["split"], side))
                if mine.num_rows:
                    writer.add(transform.apply(feature_columns(mine, types)), objective.encode(mine["label"]), mine["row_id"])
        write_json(folder / _INPUTS, list(sides[TRAIN].inputs))


def _in_pieces(batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
    for batch in batches:
        for start in range(0, batch.num_rows, _PIECE_ROWS):
            yield batch.slice(start, _PIECE_ROWS)


class _SideWriter(ExitStack):
    """The files of one side: `<side>-<input>.npy`, `<side>-labels.npy` and `<side>-row_ids.arrow`."""

    def __init__(self, folder: Path, side: str, n_rows: int) -> None:
        super().__init__()
        self._folder, self._side, self._n_rows = folder, side, n_rows
        self.inputs: tuple[str, ...] = ()
        """Their names, in the transform's order."""
        self._arrays: dict[str, arrays.ArrayWriter] = {}
        self._row_ids = self.enter_context(pa.ipc.new_file(str(folder / f"{side}-row_ids.arrow"), _ROW_IDS))

    def add(self, inputs: Mapping[str, NDArray[Any]], labels: NDArray[Any], row_ids: pa.ChunkedArray) -> None:
        """The next rows."""
        self.inputs = tuple(inputs)
        for name, rows in {**{f"inputs-{name}": rows for name, rows in inputs.items()}, "labels": labels}.items():
            if name not in self._arrays:
                self._arrays[name] = self.enter_context(arrays.ArrayWriter(self._folder / f"{self._side}-{name}.npy", self._n_rows))
            self._arrays[name].add(rows)
        self._row_ids.write_table(pa.table([row_ids], schema=_ROW_IDS))


def _mapped(folder: Path, side: str) -> Rows:
    names: Any = read_json(folder / _INPUTS)
    inputs = {name: arrays.mapped(folder / f"{side}-inputs-{name}.npy") for name in names}
    row_ids = pa.ipc.open_file(pa.memory_map(str(folder / f"{side}-row_ids.arrow"))).read_all()["row_id"]
    return Rows(inputs, arrays.mapped(folder / f"{side}-labels.npy"), row_ids)
