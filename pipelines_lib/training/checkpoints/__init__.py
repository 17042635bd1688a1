"""Checkpoints: written in the background while training goes on, complete when the manifest with every part's hash is there.

A folder a checkpoint, `step-000000200`. A process that is killed while it writes leaves one without a manifest, which is never read.
"""

import json
import logging
import warnings
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from pydantic import JsonValue
from torch.distributed.checkpoint.api import CheckpointException

from pipelines_lib.errors import DataError, SluiceError, Unavailable
from pipelines_lib.training.checkpoints.copies import Copies
from pipelines_lib.training.checkpoints.files import place_of
from pipelines_lib.training.checkpoints.format import DTYPES, Damaged, Manifest
from pipelines_lib.training.checkpoints.steps import Steps
from pipelines_lib.training.checkpoints.storage import Planner, Reader, Writer, folder_of

log = logging.getLogger("sluice")


class Checkpoints:
    """The checkpoints of one training at `place`: a folder that all ranks see, or s3://bucket/prefix.

    `fingerprint` says which training: another's are not read. `keep` of them stay. Every rank calls every method. Collectives run
    on `group`, a gloo group for checkpoints alone, since a thread of its own uses it; None stands for a single process.
    """

    def __init__(self, place: str, connection: str | None = None, *, fingerprint: str, keep: int, group: dist.ProcessGroup | None) -> None:
        self._place = place_of(place, connection)
        self._steps = Steps(self._place, fingerprint)
        self._fingerprint, self._keep, self._group = fingerprint, keep, group
        self._rank: int = 0 if group is None else dist.get_rank(group)
        self._size: int = 1 if group is None else dist.get_world_size(group)
        self._copies = Copies()
        self._under_way: Future[Any] | None = None
        self._step = 0
        self._is_complete = False
        self._refused: dict[int, str] = {}
        """Rank to why it could not write the last checkpoint; empty where all could. Kept by the first rank."""

    def begin(self, step: int, tensors: Mapping[str, torch.Tensor], progress: Mapping[str, JsonValue]) -> None:
        """Copy `tensors` to host memory and return; write them in the background. Waits first for the checkpoint before.

        A plain tensor is the same on every rank that gives any; a sharded one is a `DTensor`. Where a checkpoint can't be written (a full disk, a
        store that does not answer), `wait` warns, its parts are removed, and training goes on.
        """
        self.wait()
        self._step, self._is_complete = step, False
        if self._group is None:
            _one_process_is_meant()
        writer = Writer(
            self._place,
            step,
            fingerprint=self._fingerprint,
            progress=json.loads(json.dumps(progress, allow_nan=False)),  # a copy
            copies=self._copies,
            written=self._written,
        )
        self._under_way = dcp.async_save(
            {"tensors": dict(tensors)},
            storage_writer=writer,
            planner=Planner(),
            process_group=self._group,
            async_stager=self._copies,
            no_dist=self._group is None,
        )

    def wait(self) -> bool:
        """Until the checkpoint under way is complete or has failed. Returns whether the one that was begun last is complete."""
        if self._under_way is not None:
            future, self._under_way = self._under_way, None
            try:
                future.result()
                self._is_complete = True
                self._written_again()
            except CheckpointException as error:
                self._give_up(error)
        return self._is_complete

    def newest(self) -> int | None:
        """Step of the newest complete, undamaged checkpoint of this training, or None: the same on every rank.

        Each rank looks at its share of the parts. Another checkpoint is skipped with a warning that says why, and removed, so that it
        never counts among those to keep.
        """
        if self._is_first:
            self._place.sweep()
        while (step := self._from_first(self._steps.newest)) is not None:
            problem = self._steps.damage(self._manifest(step), self._rank, self._size)
            if not self._any(problem is not None):
                self._steps.trust(step)
                return step
            if self._is_first:
                self._steps.drop(step, problem or "another worker found a part damaged, and says which")
            elif problem:
                log.warning("checkpoint %s: %s", self._steps.name(step), problem)
        return None

    def load(self, step: int, tensors: Mapping[str, torch.Tensor]) -> dict[str, JsonValue]:
        """Fill `tensors` in place from the checkpoint of `step`, whatever the number of ranks that wrote it; returns its progress.

        The first rank asks for all of them; another may do with fewer. Raises `DataError` where it does not hold these tensors, and `Unavailable` where it was damaged since `newest` found it.
        """
        manifest = self._manifest(step)
        _check_that_they_fit(self._steps.name(step), manifest, tensors, all_of_them=self._is_first)
        if self._group is None:
            _one_process_is_meant()
        try:
            dcp.load(
                dict(tensors),
                storage_reader=Reader(self._place, manifest),
                planner=dcp.DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
                process_group=self._group,
                no_dist=self._group is None,
            )
        except CheckpointException as error:
            raise self._explained(step, error) from error
        return manifest.progress

    @property
    def _is_first(self) -> bool:
        return self._rank == 0

    def _manifest(self, step: int) -> Manifest:
        """Of a checkpoint that the first rank has found."""
        try:
            return self._steps.manifest(step)
        except Damaged as problem:
            raise Unavailable(
                f"checkpoint {self._steps.name(step)}: {problem}, for worker {self._rank} of {self._size}, and a moment ago it was there for "
                "the first one. Checkpoints must lie in a folder that all workers share, or in an object store; if they do, run the stage again"
            ) from None

    def _written(self, parts: Collection[str]) -> None:
        """After the manifest, on the first rank: what is not needed any more goes."""
        try:
            self._steps.trust(self._step)
            self._steps.clean(self._step, parts)
            self._steps.retain(self._keep)
        except (OSError, SluiceError) as error:
            log.warning("checkpoint %s is complete, but older ones could not be removed: %s", self._steps.name(self._step), error)

    def _give_up(self, error: CheckpointException) -> None:
        """Say why a checkpoint could not be written and remove its parts. Raises what is no fault of the storage."""
        reasons = {rank: reason for rank, (reason, _) in error.failures.items()}
        for reason in reasons.values():
            if not isinstance(reason, OSError | SluiceError):
                raise reason from error
        if not self._is_first:
            return
        name, level = self._steps.name(self._step), logging.DEBUG
        refused = {rank: str(reason).replace(folder_of(self._step), "step") for rank, reason in sorted(reasons.items())}
        if refused != self._refused:
            self._refused, level = refused, logging.WARNING
        told = "; ".join(f"worker {rank}: {reason}" for rank, reason in sorted(reasons.items()))
        log.log(level, "checkpoint %s could not be written, and training goes on without it: %s (said once until it changes)", name, told)
        try:
            self._steps.clean(self._step, self._steps.parts(self._step))
            self._place.sweep()
        except (OSError, SluiceError) as left:
            log.log(level, "what was written of checkpoint %s is left there until the next start: %s", name, left)

    def _written_again(self) -> None:
        if self._refused:
            self._refused = {}
            log.info("checkpoints can be written again; the first is %s", self._steps.name(self._step))

    def _explained(self, step: int, error: CheckpointException) -> Exception:
        """Why the checkpoint of `step` could not be read: the first rank's reason that is known."""
        _, (reason, _) = min(error.failures.items())
        if isinstance(reason, Damaged):
            return Unavailable(
                f"checkpoint {self._steps.name(step)}: {reason}, which was not so a moment ago; run the stage again, which skips it"
            )
        return reason if isinstance(reason, Exception) else RuntimeError(f"checkpoint {self._steps.name(step)} could not be read: {reason}")

    def _from_first(self, value: Callable[[], int | None]) -> int | None:
        """What `value()` is on the first rank, on every rank."""
        found = value() if self._is_first else None
        if self._group is None:
            return found
        box = torch.tensor([-1 if found is None else found])
        dist.broadcast(box, group=self._group, group_src=0)
        return None if (step := int(box)) < 0 else step

    def _any(self, value: bool) -> bool:
        """Whether it is so on any rank."""
        if self._group is None:
            return value
        box = torch.tensor([int(value)])
        dist.all_reduce(box, op=dist.ReduceOp.MAX, group=self._group)
        return bool(box)


def _check_that_they_fit(where: str, manifest: Manifest, tensors: Mapping[str, torch.Tensor], *, all_of_them: bool) -> None:
    """Raises `DataError` unless the checkpoint holds the same tensors by name, shape and type, and, with `all_of_them`, no others."""
    others = manifest.tensors.keys() - tensors.keys() if all_of_them else set()
    wrong = sorted((tensors.keys() - manifest.tensors.keys()) | others) or [
        name
        for name, tensor in tensors.items()
        if (manifest.tensors[name].dtype, manifest.tensors[name].shape) != (DTYPES.get(tensor.dtype), list(tensor.shape))
    ]
    if wrong:
        raise DataError(
            f"checkpoint {where} and the model differ in {', '.join(wrong[:5])}{f' and {len(wrong) - 5} more' if len(wrong) > 5 else ''}: "
            "it was written by another model or another version of Sluice; remove it, and the training starts anew"
        )


def _one_process_is_meant() -> None:
    """Keep torch.distributed.checkpoint quiet about there being one: it would say so at each checkpoint."""
    warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
