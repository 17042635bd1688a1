"""What a checkpoint is made of: `part-….safetensors` of each rank, and `manifest.json`, written last, which makes it one."""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex, TensorProperties, TensorStorageMetadata

from pipelines_lib.training.checkpoints.files import Piece

FORMAT = "sluice checkpoint 1"
MANIFEST = "manifest.json"
_SEAL = "sha256"

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.complex64: "C64",
}
"""What a tensor may hold, and what safetensors calls it."""
Shapes = dict[str, torch.Size]
"""Tensors by name, in the order in which they stand in memory."""
_DTYPE_OF = {name: dtype for dtype, name in DTYPES.items()}


class Damaged(Exception):
    """Why a checkpoint can't be read, as the end of a sentence that begins with its name."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Chunk(_Entry):
    """A piece of a tensor: where it begins in it, its shape, and the part that holds it under the tensor's name."""

    offsets: list[int]
    sizes: list[int]
    part: str


class Entry(_Entry):
    """A tensor."""

    dtype: str
    shape: list[int]
    chunks: list[Chunk]


class Part(_Entry):
    """A file."""

    sha256: str
    size: int


class Manifest(_Entry):
    """What a checkpoint holds."""

    format: str
    fingerprint: str
    step: int
    progress: dict[str, JsonValue]
    parts: dict[str, Part]
    tensors: dict[str, Entry]

    @classmethod
    def from_bytes(cls, data: bytes) -> "Manifest":
        """The reverse of `sealed`. Raises `Damaged`."""
        try:
            document = json.loads(data)
        except ValueError:
            raise Damaged("its manifest is no JSON") from None
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise Damaged(f"its manifest has another format than {FORMAT!r}, the one that this version of Sluice reads")
        if document.pop(_SEAL, None) != _sha256(document):
            raise Damaged("its manifest was changed after it was written")
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise Damaged(f"its manifest lacks {'.'.join(str(place) for place in error.errors()[0]['loc'])}") from None

    def metadata(self) -> Metadata:
        """As torch.distributed.checkpoint plans with it; which part holds a chunk stands in `storage_data`."""
        tensors: dict[str, Any] = {
            name: TensorStorageMetadata(
                properties=TensorProperties(dtype=_DTYPE_OF[entry.dtype]),
                size=torch.Size(entry.shape),
                chunks=[ChunkStorageMetadata(torch.Size(chunk.offsets), torch.Size(chunk.sizes)) for chunk in entry.chunks],
            )
            for name, entry in self.tensors.items()
        }
        where = {MetadataIndex(name, chunk.offsets): chunk.part for name, entry in self.tensors.items() for chunk in entry.chunks}
        return Metadata(tensors, storage_data=where)


def safetensors(blocks: Collection[tuple[Any, Shapes]]) -> Iterator[Piece]:
    """The file of tensors that stand in `blocks` of host memory one after the other, piece by piece.

    Eight bytes with the header's length, the header as JSON, the numbers; wide ones first, so that each stands at a multiple of its
    width. (safetensors' own writer copies all of them first.)
    """
    ordered = sorted(blocks, key=lambda block: -block[0].itemsize)
    header, end = {}, 0
    for block, shapes in ordered:
        for name, shape in shapes.items():
            begin, end = end, end + shape.numel() * block.itemsize
            header[name] = {"dtype": DTYPES[block.dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for block, _ in ordered:
        if block.numel():
            # A single number may have any stride, and then no view as bytes.
            flat = block.detach().contiguous().as_strided((block.numel(),), (1,))
            yield memoryview(flat.view(torch.uint8).numpy())


def sealed(document: Mapping[str, JsonValue]) -> bytes:
    """A manifest's file: JSON with a hash of all the rest beside it, since a changed number would still be JSON."""
    return _text({**document, _SEAL: _sha256(document)}).encode()


def _sha256(document: Mapping[str, JsonValue]) -> str:
    return hashlib.sha256(_text(document).encode()).hexdigest()


def _text(document: Mapping[str, JsonValue]) -> str:
    return json.dumps(document, sort_keys=True, allow_nan=False)
