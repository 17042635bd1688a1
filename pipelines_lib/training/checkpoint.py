"""Checkpoints: safetensors and JSON, complete when the manifest with every part's hash is written, last.

A folder a checkpoint, `step-000000200`; a process killed while writing leaves one without a manifest, which is never read.
"""

import hashlib
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import JsonValue
from safetensors.torch import load, save

from pipelines_lib.errors import DataError
from pipelines_lib.store import read_json, write_bytes, write_json

log = logging.getLogger("sluice")

KEEP = 2
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """Everything a training needs to go on as if it had not stopped."""

    step: int
    state: dict[str, JsonValue]
    """Where the loop stands: small numbers."""
    tensors: dict[str, Tensors]
    """Part name (`model`, `best`, `optimizer`) to its tensors."""


class Checkpoints:
    """The checkpoints of one training, below `folder`. `fingerprint` says which training: another's are not read."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder = folder
        self._fingerprint = fingerprint

    def write(self, checkpoint: Checkpoint) -> None:
        """Write whole, and forget all but the newest KEEP. Rank 0 alone calls this."""
        folder = self._path(checkpoint.step)
        parts = {f"{name}.safetensors": save(_contiguous(tensors)) for name, tensors in checkpoint.tensors.items()}
        for name, data in parts.items():
            write_bytes(folder / name, data)
        write_json(folder / "state.json", checkpoint.state)
        hashes = {name: _sha256(folder / name) for name in [*parts, "state.json"]}
        write_json(folder / "manifest.json", {"fingerprint": self._fingerprint, "step": checkpoint.step, "files": dict(hashes)})
        for old in self._steps()[:-KEEP]:
            self._remove(old)

    def newest(self) -> int | None:
        """Step of the newest complete, undamaged checkpoint of this training, or None. Says why it skips one, and removes it,
        so that it never counts among those to keep. Rank 0 alone calls this."""
        for step in reversed(self._steps()):
            problem = self._problem(step)
            if problem is None:
                return step
            log.warning("checkpoint %s is skipped and removed: %s", self._path(step), problem)
            self._remove(step)
        return None

    def read(self, step: int) -> Checkpoint:
        """The checkpoint of `step`. Raises `DataError` where it is damaged."""
        if problem := self._problem(step):
            raise DataError(f"checkpoint {self._path(step)}: {problem}; delete the folder and run the stage again")
        folder = self._path(step)
        state = read_json(folder / "state.json")
        assert isinstance(state, dict)
        tensors = {path.stem: load(path.read_bytes()) for path in sorted(folder.glob("*.safetensors"))}
        return Checkpoint(step, state, tensors)

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


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """The optimizer's state, flat: `<parameter number>.<name>`. What is no tensor is made one."""
    return {
        f"{place}.{name}": torch.as_tensor(value)
        for place, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """The reverse of `optimizer_tensors`; settings such as the learning rate stay the optimizer's own."""
    state: dict[int, Tensors] = {}
    for key, value in tensors.items():
        place, name = key.split(".", 1)
        state.setdefault(int(place), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _contiguous(tensors: Tensors) -> Tensors:
    # A copy: safetensors refuses tensors that share memory.
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
