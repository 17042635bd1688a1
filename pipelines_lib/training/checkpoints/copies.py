"""Copies in host memory, which are written while training changes the originals.

Replicated tensors are packed: many small ones into few buffers, since planning a write costs more than writing some kilobytes. In the
part each stands under its own name again. Buffers are kept from one checkpoint to the next.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.tensor import DTensor

from pipelines_lib.errors import ConfigError
from pipelines_lib.training.checkpoints.format import DTYPES, Shapes

BUFFER = 1 << 26
"""Bytes of a buffer; a bigger tensor has one of its own. Ranks share the buffers out among them."""


@dataclass(frozen=True)
class Buffer:
    """One after the other in memory: tensors of one type."""

    memory: torch.Tensor
    shapes: Shapes
    views: dict[str, torch.Tensor]
    """Where."""


class Copies(DefaultStager):
    """Copies `{"tensors": …}` to host memory. On CUDA the device copies into pinned memory, and only its end is waited for."""

    def __init__(self) -> None:
        self._pinned = torch.cuda.is_available()
        super().__init__(
            StagingOptions(
                use_pinned_memory=self._pinned, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=self._pinned
            )
        )
        self.buffers: dict[str, Buffer] = {}
        """By the names that torch.distributed.checkpoint plans with; of those that have one name on several ranks it writes one."""
        self._packed: list[tuple[str, torch.Size, torch.dtype]] = []

    def stage(self, state_dict: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Buffers and sharded tensors. Raises `ConfigError` where a tensor holds what a checkpoint can't."""
        tensors: Mapping[str, torch.Tensor] = state_dict["tensors"]
        for name, tensor in tensors.items():
            _check(name, tensor)
        plain = {name: tensor.detach() for name, tensor in tensors.items() if not isinstance(tensor, DTensor)}
        self._pack(plain)
        for buffer in self.buffers.values():
            for name, view in buffer.views.items():
                view.copy_(plain[name], non_blocking=self._pinned)
        sharded = {name: tensor.detach() for name, tensor in tensors.items() if isinstance(tensor, DTensor)}
        # It waits for the device's copies, of the plain tensors too.
        staged: dict[str, Any] = super().stage(sharded, **kwargs)
        return {"tensors": {name: buffer.memory for name, buffer in self.buffers.items()} | staged}

    def _pack(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Have a place for each of the tensors: the one that it had, as long as none has changed."""
        packed = [(name, tensor.shape, tensor.dtype) for name, tensor in tensors.items()]
        if packed == self._packed:
            return
        self._packed = packed
        by_type: dict[torch.dtype, list[Shapes]] = {}
        for name, shape, dtype in packed:
            groups = by_type.setdefault(dtype, [{}])
            if (_n_numbers(groups[-1]) + shape.numel()) * dtype.itemsize > BUFFER:
                groups.append({})
            groups[-1][name] = shape
        self.buffers = {
            _name(shapes, dtype): self._buffer(shapes, dtype) for dtype, groups in by_type.items() for shapes in groups if shapes
        }

    def _buffer(self, shapes: Shapes, dtype: torch.dtype) -> Buffer:
        memory = torch.empty(_n_numbers(shapes), dtype=dtype, pin_memory=self._pinned)
        pieces = memory.split([shape.numel() for shape in shapes.values()])
        return Buffer(memory, shapes, {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)})


def _name(shapes: Shapes, dtype: torch.dtype) -> str:
    """The same on ranks that hold the same: the first one may have tensors that others lack."""
    held = json.dumps([DTYPES[dtype], shapes])
    return f"buffer {hashlib.sha256(held.encode()).hexdigest()}"


def _n_numbers(shapes: Shapes) -> int:
    return sum(shape.numel() for shape in shapes.values())


def _check(name: str, tensor: torch.Tensor) -> None:
    if tensor.dtype not in DTYPES:
        raise ConfigError(
            f"the model's tensor {name} holds {tensor.dtype}, which a checkpoint can't; use one of {', '.join(map(str, DTYPES))}"
        )
