"""The strategy `async`: a parameter server with bounded staleness.

Rank 0 keeps the weights and the optimizer; each rank, rank 0 too, fetches a piece of work with the weights of now, and brings
back its gradient, which is applied at once, however far the others are. A fast worker does more pieces than a slow one. The
bound is that of Ho et al. (2013), More Effective Distributed ML via a Stale Synchronous Parallel Parameter Server: between
fetching weights and applying the gradient computed on them lie at most `training.staleness` updates.

Which gradient comes first is up to the machines, so two trainings are alike within noise, and not bit for bit.
"""

import copy
import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from pipelines_lib.training.distributed import World
from pipelines_lib.training.strategies import BatchOf, Strategy, Tensors, Work, adamw, optimizer_tensors
from pipelines_lib.use_case import Training

_END = -1
_FETCH = [-1.0, 0.0, 0.0, 0.0]
Ticket = tuple[int, int]
"""Step, and which of its pieces."""


class Queue:
    """Pieces of work, and how stale a gradient may become. Knows numbers alone; all methods may be called from any thread."""

    def __init__(self, staleness: int) -> None:
        self._staleness = staleness
        self._changed = threading.Condition()
        self._todo: deque[Ticket] = deque()
        self._out: dict[Ticket, int] = {}
        """Pieces that are being worked on, and the version of the weights they were given with."""
        self._failure: BaseException | None = None
        self.version = 0
        self.stalest = 0

    def fill(self, tickets: list[Ticket]) -> None:
        """Hand these out next, in order."""
        with self._changed:
            self._todo.extend(tickets)
            self._changed.notify_all()

    def fetch(self, read: Callable[[], None]) -> Ticket | None:
        """The next piece, with `read` called at its version; None where none is left."""
        with self._changed:
            self._raise()
            if not self._todo:
                return None
            ticket = self._todo.popleft()
            self._out[ticket] = self.version
            read()
            return ticket

    def bring(self, ticket: Ticket, apply: Callable[[], bool]) -> None:
        """Call `apply`, which says whether it changed the weights, once that leaves nobody else's gradient too stale."""
        with self._changed:
            while not self._may_apply(ticket):
                self._raise()
                self._changed.wait()
            self._raise()
            behind = self.version - self._out.pop(ticket)
            if apply():
                self.version += 1
                self.stalest = max(self.stalest, behind)
            self._changed.notify_all()

    def drain(self) -> None:
        """Wait until every piece is done."""
        with self._changed:
            while self._todo or self._out:
                self._raise()
                self._changed.wait()
            self._raise()

    def fail(self, error: BaseException) -> None:
        """Wake whoever waits with `error`."""
        with self._changed:
            self._failure = error
            self._changed.notify_all()

    def _may_apply(self, ticket: Ticket) -> bool:
        """Whether the others, applied oldest first after this one, would all be within the bound. The oldest always may."""
        others = sorted(version for other, version in self._out.items() if other != ticket)
        return all(self.version + 1 + place - version <= self._staleness for place, version in enumerate(others))

    def _raise(self) -> None:
        if self._failure is not None:
            raise RuntimeError("a thread of the parameter server has failed") from self._failure


class Asynchronous(Strategy):
    """Every rank works against the parameter server of rank 0, each with its own copy of the weights."""

    looks_ahead = False

    def __init__(self, model: nn.Module, world: World, settings: Training) -> None:
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        super().__init__(model, world, settings)
        # The optimizer's state is on rank 0 alone; what all ranks hold, they must hold alike to share out who writes it.
        self.writes = world.is_first
        self._group = world.group()
        self._queue = Queue(settings.staleness)
        self._ticket: Ticket | None = None
        # The weights that count, on rank 0. They are no worker's: one is always in the middle of using its own.
        self._server = copy.deepcopy(model) if world.is_first else None
        self._updates = None if self._server is None else adamw(self._server, settings, world.device)

    @property
    def stalest(self) -> int:
        """The largest number of updates that a gradient was behind so far; on rank 0."""
        return self._queue.stalest

    def work(self, batch_of: BatchOf, first: int, upto: int) -> Iterator[Work]:
        """Pieces as they come: of each global batch there are as many as ranks."""
        batches = {step: np.array_split(batch_of(step), self.world.size) for step in range(first, upto)}
        threads = []
        if self.world.is_first:
            self._queue.fill([(step, piece) for step, pieces in batches.items() for piece in range(len(pieces)) if len(pieces[piece])])
            threads = [threading.Thread(target=self._serve, args=(rank,), daemon=True) for rank in range(1, self.world.size)]
            for thread in threads:
                thread.start()
        while (ticket := self._fetch()) is not None:
            self._ticket = ticket
            places = batches[ticket[0]][ticket[1]]
            yield Work(ticket[0], places, len(places), places[:1])
            if self._ticket is not None:  # the loss scale was too large for this gradient, so the optimizer did not step
                self._bring(useful=False)
        if threads:
            self._queue.drain()
            for thread in threads:
                thread.join()

    def settle(self) -> None:
        """The server's weights, to every rank."""
        weights = torch.empty(sum(parameter.numel() for parameter in self._parameters)) if self._server is None else self._weights()
        if self.world.size > 1:
            dist.broadcast(weights, src=0, group=self._group)
        self._load(weights)
        super().settle()

    def tensors(self) -> Tensors:
        """The weights, and on rank 0, which alone has one, the optimizer's state."""
        weights = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self._server is None or self._updates is None:
            return weights
        return weights | optimizer_tensors(self._updates, self._server)

    def restored(self) -> None:
        """The server goes on from the weights that were read."""
        if self._server is not None:
            self._server.load_state_dict(self.model.state_dict())

    def _optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return _Bring(model, self._bring, self.settings.learning_rate)

    # A rank's side.

    def _fetch(self) -> Ticket | None:
        """The next piece, with the weights of now; None where no more is left."""
        if self._server is not None:
            weights: list[torch.Tensor] = []
            ticket = self._queue.fetch(lambda: weights.append(self._weights()))
        else:
            dist.send(torch.tensor(_FETCH, dtype=torch.float64), dst=0, group=self._group)
            answer = torch.empty(2, dtype=torch.int64)
            dist.recv(answer, src=0, group=self._group)
            ticket = None if answer[0] == _END else (int(answer[0]), int(answer[1]))
            weights = [torch.empty(sum(parameter.numel() for parameter in self._parameters))]
            if ticket is not None:
                dist.recv(weights[0], src=0, group=self._group)
        if ticket is not None:
            self._load(weights[0])
        return ticket

    def _bring(self, useful: bool = True) -> None:
        """Bring the gradient of the piece at hand."""
        assert self._ticket is not None
        ticket, self._ticket = self._ticket, None
        gradient = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in self._parameters]).cpu()
        rate = float(self.optimizer.param_groups[0]["lr"])
        if self.world.is_first:
            self._queue.bring(ticket, partial(self._apply, gradient, rate) if useful else _nothing)
            return
        dist.send(torch.tensor([*ticket, float(useful), rate], dtype=torch.float64), dst=0, group=self._group)
        dist.send(gradient, dst=0, group=self._group)

    @torch.no_grad()
    def _load(self, weights: torch.Tensor) -> None:
        """Flat weights into this rank's model."""
        for parameter, values in zip(self._parameters, weights.split([p.numel() for p in self._parameters]), strict=True):
            parameter.copy_(values.view_as(parameter))

    # The server's side, on rank 0.

    def _serve(self, rank: int) -> None:
        """Answer `rank` until no piece is left; a thread of rank 0."""
        try:
            while True:
                said = torch.empty(4, dtype=torch.float64)
                dist.recv(said, src=rank, group=self._group)
                if said[0] == _END:
                    if not self._give(rank):
                        return
                    continue
                gradient = torch.empty(sum(parameter.numel() for parameter in self._parameters))
                dist.recv(gradient, src=rank, group=self._group)
                step, piece, useful, rate = said.tolist()
                self._queue.bring((int(step), int(piece)), partial(self._apply, gradient, rate) if useful else _nothing)
        except Exception as error:  # noqa: BLE001 - it is raised where the main thread waits
            self._queue.fail(error)

    def _give(self, rank: int) -> bool:
        """A piece and the weights to `rank`; whether there was one."""
        weights: list[torch.Tensor] = []
        ticket = self._queue.fetch(lambda: weights.append(self._weights()))
        dist.send(torch.tensor(ticket or (_END, _END)), dst=rank, group=self._group)
        if ticket is not None:
            dist.send(weights[0], dst=rank, group=self._group)
        return ticket is not None

    def _weights(self) -> torch.Tensor:
        """The server's weights, flat, in host memory: a copy."""
        assert self._server is not None
        return torch.cat([p.detach().reshape(-1) for p in self._server.parameters() if p.requires_grad]).cpu().clone()

    def _apply(self, gradient: torch.Tensor, rate: float) -> bool:
        """One step of the optimizer that counts."""
        assert self._server is not None
        assert self._updates is not None
        theirs = [parameter for parameter in self._server.parameters() if parameter.requires_grad]
        for parameter, values in zip(theirs, gradient.split([p.numel() for p in theirs]), strict=True):
            parameter.grad = values.view_as(parameter).to(parameter.device)
        self._updates.param_groups[0]["lr"] = rate
        self._updates.step()
        return True


def _nothing() -> bool:
    """A piece whose gradient is not used."""
    return False


class _Bring(torch.optim.Optimizer):
    """An optimizer to the loop and the loss scale, whose step brings the gradient to the server."""

    def __init__(self, model: nn.Module, bring: Callable[[], None], learning_rate: float) -> None:
        super().__init__(model.parameters(), {"lr": learning_rate})
        self._bring = bring

    def step(self, closure: Any = None) -> None:  # noqa: ARG002 - the base class's signature
        """Bring it."""
        self._bring()
