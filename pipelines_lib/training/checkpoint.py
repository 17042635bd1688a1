"""Checkpoints: safetensors and JSON, complete when the manifest with every part's hash is written, last.

A folder a checkpoint, `step-000000200`; a process killed while writing leaves one without a manifest, which is never read.
"""

import hashlib
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from pydantic import JsonValue
from safetensors.torch import load, save
from torch.distributed.tensor import DTensor, distribute_tensor

from pipelines_lib.errors import DataError
from pipelines_lib.store import read_json, write_bytes, write_json

log = logging.getLogger("sluice")

_NONE = -1
_TENSORS = "tensors.safetensors"


class Checkpoints:
    """The checkpoints of one training, below the folder `place`. `fingerprint` says which training: another's are not read.

    Every rank calls every method; the first one writes.
    """

    def __init__(self, place: str, fingerprint: str, *, keep: int, group: dist.ProcessGroup | None) -> None:
        self._folder = Path(place)
        self._fingerprint = fingerprint
        self._keep = keep
        self._group = group

    def begin(self, step: int, tensors: Mapping[str, torch.Tensor], progress: Mapping[str, JsonValue]) -> None:
        """Write whole, and forget all but the newest."""
        whole = {name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor for name, tensor in tensors.items()}
        if self._is_first():
            self._write(step, whole, progress)

    def wait(self) -> bool:
        """Whether the newest that was begun is complete."""
        return True

    def newest(self) -> int | None:
        """Step of the newest complete, undamaged checkpoint of this training, or None. Says why it skips one, and removes it,
        so that it never counts among those to keep."""
        found = torch.tensor(self._newest() if self._is_first() else _NONE)
        if self._group is not None:
            dist.broadcast(found, src=0, group=self._group)
        return None if found == _NONE else int(found)

    def load(self, step: int, tensors: Mapping[str, torch.Tensor]) -> dict[str, JsonValue]:
        """Fill `tensors` from the checkpoint of `step`, and return its progress. Raises `DataError` where it is damaged."""
        if problem := self._problem(step):
            raise DataError(f"checkpoint {self._path(step)}: {problem}; delete the folder and run the stage again")
        found = load((self._path(step) / _TENSORS).read_bytes())
        with torch.no_grad():
            for name, tensor in tensors.items():
                value = found[name].to(tensor.device)
                if isinstance(tensor, DTensor):
                    value = distribute_tensor(value, tensor.device_mesh, tensor.placements)
                tensor.copy_(value)
        state = read_json(self._path(step) / "state.json")
        assert isinstance(state, dict)
        return state

    def _is_first(self) -> bool:
        return self._group is None or dist.get_rank() == 0

    def _write(self, step: int, tensors: Mapping[str, torch.Tensor], progress: Mapping[str, JsonValue]) -> None:
        folder = self._path(step)
        # Copies: safetensors refuses tensors that share memory.
        write_bytes(folder / _TENSORS, save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}))
        write_json(folder / "state.json", dict(progress))
        hashes = {name: _sha256(folder / name) for name in (_TENSORS, "state.json")}
        write_json(folder / "manifest.json", {"fingerprint": self._fingerprint, "step": step, "files": dict(hashes)})
        for old in self._steps()[: -self._keep]:
            self._remove(old)

    def _newest(self) -> int:
        for step in reversed(self._steps()):
            problem = self._problem(step)
            if problem is None:
                return step
            log.warning("checkpoint %s is skipped and removed: %s", self._path(step), problem)
            self._remove(step)
        return _NONE

    def _path(self, step: int) -> Path:
        return self._folder / f"step-{step:09d}"

    def _remove(self, step: int) -> None:
        # The manifest goes first: what is half removed must not look complete.
        (self._path(step) / "manifest.json").unlink(missing_ok=True)
        shutil.rmtree(self._path(step))

    def _steps(self) -> list[int]:
        names = (path.name.removeprefix("step-") for path in self._folder.glob("step-*"))
        return sorted(int(name) for name in names if name.isdecimal())

    def _problem(self, step: int) -> str | None:
        folder = self._path(step)
        if not (folder / "manifest.json").exists():
            return "it has no manifest, so it was never finished"
        try:
            manifest = read_json(folder / "manifest.json")
        except (DataError, UnicodeDecodeError):
            return "its manifest is no JSON"
        if not isinstance(manifest, dict) or not isinstance(files := manifest.get("files"), dict):
            return "its manifest lists no files"
        if manifest.get("fingerprint") != self._fingerprint:
            return "it belongs to another snapshot or other training settings"
        wrong = [name for name, expected in files.items() if not (folder / name).is_file() or _sha256(folder / name) != expected]
        return f"damaged: {', '.join(wrong)} differ from the manifest" if wrong else None


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
