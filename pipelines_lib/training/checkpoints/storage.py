"""How torch.distributed.checkpoint writes and reads our checkpoints.

It plans who writes what (a replicated tensor once, a sharded one where its shards are) and who reads what, also for another number
of ranks. Its own writers keep that plan as pickle or, those for safetensors, not at all, and know no hashes; so here are a
writer and a reader of ours, at the place that it leaves for them.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue
from safetensors import safe_open
from torch.distributed.checkpoint import DefaultSavePlanner, StorageReader, StorageWriter
from torch.distributed.checkpoint.metadata import (
    STATE_DICT_TYPE,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from pipelines_lib.errors import ConfigError
from pipelines_lib.training.checkpoints.copies import Copies
from pipelines_lib.training.checkpoints.files import Piece, Place
from pipelines_lib.training.checkpoints.format import DTYPES, FORMAT, MANIFEST, Damaged, Manifest, Part, Shapes, safetensors, sealed


class Planner(DefaultSavePlanner):
    """Plans for a state of one entry that holds all tensors by their names: what lies on the top is logged one by one, which takes longer
    than to write a small model."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    def set_up_planner(self, state_dict: STATE_DICT_TYPE, storage_meta: StorageMeta | None = None, is_coordinator: bool = False) -> None:
        """Take the tensors out."""
        [tensors] = state_dict.values()
        super().set_up_planner(tensors, storage_meta, is_coordinator)


@dataclass(frozen=True)
class Written:
    """What a rank says of a block that it wrote."""

    name: str
    """Of the part, which all its blocks share."""
    part: Part
    shapes: Shapes | None
    """The tensors in a buffer; None for a piece of a sharded tensor."""


class Writer(StorageWriter):
    """Writes the checkpoint of `step`. Parts get a number that no earlier attempt at this step had, so that none is overwritten
    which the manifest of an earlier one still stands for."""

    def __init__(
        self,
        place: Place,
        step: int,
        *,
        fingerprint: str,
        progress: dict[str, JsonValue],
        copies: Copies,
        written: Callable[[Collection[str]], None],
    ) -> None:
        self._place, self._step, self._fingerprint, self._progress = place, step, fingerprint, progress
        self._copies = copies
        self._written = written
        """Called on the first rank with the names of the parts when the manifest is there."""

    def reset(self, checkpoint_id: Any = None) -> None:
        """Nothing: a writer writes one checkpoint."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing: the coordinator is the one that is asked for the global plan."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """As it is."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Tell each rank the name of its part."""
        found = (re.fullmatch(r"part-(\d+)-\d+\.safetensors", name) for name in names_of(self._place.files(), self._step))
        attempt = max((int(match[1]) + 1 for match in found if match), default=0)
        return [replace(plan, storage_data=f"part-{attempt:03d}-{rank:05d}.safetensors") for rank, plan in enumerate(plans)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> "Future[list[WriteResult]]":
        """This rank's part. It is hashed on its way."""
        if not plan.items:
            return _done([])
        buffers = self._copies.buffers
        shapes = [buffers[item.index.fqn].shapes if item.index.fqn in buffers else None for item in plan.items]
        blocks = [
            (block := planner.resolve_data(item), held or {item.index.fqn: block.shape})
            for item, held in zip(plan.items, shapes, strict=True)
        ]
        digest, size = hashlib.sha256(), 0

        def hashed() -> Iterator[Piece]:
            nonlocal size
            for piece in safetensors(blocks):
                digest.update(piece)
                size += len(piece)
                yield piece

        self._place.write(f"{folder_of(self._step)}/{plan.storage_data}", hashed())
        part = Part(sha256=digest.hexdigest(), size=size)
        return _done(
            [
                WriteResult(item.index, block.nbytes, Written(plan.storage_data, part, held))
                for item, (block, _), held in zip(plan.items, blocks, shapes, strict=True)
            ]
        )

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """The manifest: from here on it is a checkpoint."""
        written = {(each.index.fqn, each.index.offset): each.storage_data for rank in results for each in rank}
        parts = {each.name: each.part for each in written.values()}
        self._check_that_all_are_here(parts)
        document: dict[str, JsonValue] = {
            "format": FORMAT,
            "fingerprint": self._fingerprint,
            "step": self._step,
            "progress": self._progress,
            "parts": {name: part.model_dump() for name, part in parts.items()},
            "tensors": dict(_entries(metadata, written)),
        }
        self._place.write(f"{folder_of(self._step)}/{MANIFEST}", [sealed(document)])
        self._written(parts)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:  # noqa: ARG003 - torch asks where it picks a writer itself
        """Never picked by an address."""
        return False

    def _check_that_all_are_here(self, parts: Mapping[str, Part]) -> None:
        sizes = names_of(self._place.files(), self._step)
        for name, part in parts.items():
            if sizes.get(name) != part.size:
                raise ConfigError(
                    f"{self._place}/{folder_of(self._step)}/{name}: the first worker does not see this part, which another one has written; "
                    "checkpoints must lie in a folder that all workers share, or in an object store"
                )


class Reader(StorageReader):
    """Reads what `manifest` says, each part after a look at its hash."""

    def __init__(self, place: Place, manifest: Manifest) -> None:
        self._place, self._manifest = place, manifest
        self._where: dict[MetadataIndex, str] = {}

    def reset(self, checkpoint_id: Any = None) -> None:
        """Nothing: a reader reads one checkpoint."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:  # noqa: ARG002 - torch's signature
        """The manifest's."""
        return self._manifest.metadata()

    def set_up_storage_reader(
        self,
        metadata: Metadata,
        is_coordinator: bool,  # noqa: ARG002 - torch's signature
        *args: Any,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Remember where chunks are."""
        self._where = metadata.storage_data

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """As it is."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """As they are."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> "Future[None]":
        """Part by part. Raises `Damaged`."""
        by_part: dict[str, list[ReadItem]] = {}
        for item in plan.items:
            by_part.setdefault(self._where[item.storage_index], []).append(item)
        for name, items in by_part.items():
            with checked(self._place, self._manifest, name) as path, safe_open(path, framework="pt") as part:
                for item in items:
                    _fill(planner, item, part)
        return _done(None)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:  # noqa: ARG003 - torch asks where it picks a reader itself
        """Never picked by an address."""
        return False


@contextmanager
def checked(place: Place, manifest: Manifest, name: str) -> Iterator[Path]:
    """The part `name`, once its hash is the manifest's. Raises `Damaged`."""
    expected = manifest.parts[name]
    try:
        with place.opened(f"{folder_of(manifest.step)}/{name}") as path:
            if (size := path.stat().st_size) != expected.size:
                raise Damaged(f"{name} has {size:,} bytes of {expected.size:,}")
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected.sha256:
                    raise Damaged(f"{name} differs from its hash in the manifest")
            yield path
    except FileNotFoundError:
        raise Damaged(f"{name} is missing") from None


def folder_of(step: int) -> str:
    """Name of the folder of a step's checkpoint."""
    return f"step-{step:09d}"


def names_of(files: Mapping[str, int], step: int) -> dict[str, int]:
    """Those of `files` that lie in the folder of `step`, by their names in it."""
    folder = f"{folder_of(step)}/"
    return {name.removeprefix(folder): size for name, size in files.items() if name.startswith(folder)}


def _entries(metadata: Metadata, written: Mapping[tuple[str, torch.Size | None], Written]) -> Iterator[tuple[str, JsonValue]]:
    """Each tensor as the manifest's `Entry` reads it."""
    for name, about in metadata.state_dict_metadata.items():
        assert isinstance(about, TensorStorageMetadata)
        dtype = DTYPES[about.properties.dtype]
        first = written[name, about.chunks[0].offsets]
        for each, shape in (first.shapes or {}).items():
            yield each, {"dtype": dtype, "shape": list(shape), "chunks": [_chunk([0] * len(shape), shape, first)]}
        if first.shapes is None:
            chunks = [_chunk(chunk.offsets, chunk.sizes, written[name, chunk.offsets]) for chunk in about.chunks]
            yield name, {"dtype": dtype, "shape": list(about.size), "chunks": chunks}


def _chunk(offsets: Sequence[int], sizes: Sequence[int], written: Written) -> JsonValue:
    return {"offsets": list(offsets), "sizes": list(sizes), "part": written.name}


def _fill(planner: LoadPlanner, item: ReadItem, part: Any) -> None:
    """Copy what `item` asks for into the tensor that is to hold it."""
    name = item.storage_index.fqn
    target = planner.resolve_tensor(item).detach()
    if target.dim():
        source = part.get_slice(name)[tuple(slice(at, at + n) for at, n in zip(item.storage_offsets, item.lengths, strict=True))]
    else:
        source = part.get_tensor(name)
    target.copy_(source)
    planner.commit_tensor(item, target)


def _done(value: Any) -> Any:
    future: Future[Any] = Future()
    future.set_result(value)
    return future
