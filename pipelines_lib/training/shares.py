"""Who does how much of a batch: workers of unequal speed get unequal shares, so that all are done at the same time.

The gradient does not depend on it: it is that of the whole batch however it is shared out.
"""

import copy
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pipelines_lib.errors import ConfigError
from pipelines_lib.training.dataset import Rows
from pipelines_lib.training.distributed import World
from pipelines_lib.training.objective import Objective
from pipelines_lib.training.precision import autocast
from pipelines_lib.use_case import Training

WORTH = 0.25
"""Shares change where that cuts a step's computing time by more than this, so that equal machines with nothing else to do keep equal shares."""
_TRIES, _SECONDS = 6, 0.1
Shares = tuple[float, ...]
"""One for each rank; they sum to 1."""


def equal(size: int) -> Shares:
    """The same for each of `size` ranks."""
    return (1 / size,) * size


def agreed(settings: Training, world: World, current: Shares | None, speed: float | None) -> Shares:
    """The shares to go on with. `current`: those of the checkpoint, if there is one; `speed`: this rank's, in rows a second, if measured.

    Every rank calls this. Raises `ConfigError` where the settings list another number of shares than there are ranks.
    """
    if not isinstance(settings.shares, str) and settings.strategy != "async":
        given = np.asarray(settings.shares, float)
        if len(given) != world.size:
            raise ConfigError(
                f"training.shares has {len(given)} proportions, and this training was started with {world.size} worker(s); start it with "
                f"{len(given)}, or set shares to `measured` or `equal`"
            )
        return tuple(given / given.sum())
    kept = current if current is not None and len(current) == world.size else equal(world.size)
    return kept if speed is None else better(kept, world.all(speed))


def better(current: Shares, speeds: Sequence[float]) -> Shares:
    """Shares in proportion to `speeds`, where they are worth the change, else `current`."""
    total = sum(speeds)
    longest = max(share / speed for share, speed in zip(current, speeds, strict=True))
    gain = 1 - (1 / total) / longest
    return tuple(speed / total for speed in speeds) if gain > WORTH else current


def cut(batch: NDArray[np.int64], shares: Shares, rank: int) -> NDArray[np.int64]:
    """The part of `batch` that `rank` does: within one row of its share. The parts of all ranks make the batch, in order."""
    bounds = np.rint(np.cumsum((0.0, *shares)) * len(batch)).astype(np.int64)
    bounds[-1] = len(batch)
    return batch[bounds[rank] : bounds[rank + 1]]


def measured(model: nn.Module, objective: Objective, rows: Rows, settings: Training, world: World) -> float | None:
    """Rows a second that this rank computes gradients of, none of which is used; None where there is nothing to share out.

    The best of several tries, each a tenth of a second at least: what else runs on the machine makes a try slower, never faster.
    """
    if world.size == 1 or settings.shares != "measured" or settings.strategy == "async":
        return None
    trial = copy.deepcopy(model).to(world.device).train()
    share = max(1, settings.batch_size // world.size // settings.accumulate)
    inputs, labels = rows.take(np.arange(min(share, len(rows))))
    inputs, labels = {name: tensor.to(world.device) for name, tensor in inputs.items()}, labels.to(world.device)
    best = 0.0
    world.sum(0.0)  # all at once, as in training, where they share what a machine has
    for _ in range(_TRIES):
        n_rows, started = 0, time.perf_counter()
        while (seconds := time.perf_counter() - started) < _SECONDS or not n_rows:
            trial.zero_grad(set_to_none=True)
            with autocast(settings, world.device):
                losses = objective.loss(trial(**inputs), labels)
            losses.sum().backward()
            world.synchronize()
            n_rows += len(labels)
        best = max(best, n_rows / seconds)
    return best
