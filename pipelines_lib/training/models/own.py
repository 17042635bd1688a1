"""A model of the user's own: `model(shape, settings)` of `hooks.py`, tried before anything is spent on it.

def model(shape, settings):  # pipelines_lib.training.models.shape.Shape, pipelines_lib.use_case.Model
    return torch.nn.Module   # whose forward takes the inputs by name and returns logits [n, shape.n_outputs]
"""

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipelines_lib.errors import ConfigError
from pipelines_lib.training.models.shape import Shape
from pipelines_lib.use_case import Model

_TOLERANCE = 1e-3
"""Largest difference between a row's answer alone and among others, relative to its size: kernels for other sizes round otherwise."""


def own_model(hooks: ModuleType, shape: Shape, settings: Model, sample: Mapping[str, NDArray[Any]], *, private: bool = False) -> nn.Module:
    """What the function returns. Raises `ConfigError` where it can't be trained or exported, as `sample`, a few rows' inputs, shows.

    `private`: the rows are about people, so what the model's own errors say of them is not told.
    """
    where = str(hooks.__file__)
    function = getattr(hooks, "model", None)
    if not callable(function):
        raise ConfigError(f"{where} has no function model(shape, settings), which `training.model.type: hooks` calls; write it")
    try:
        model = function(shape, settings)
    except Exception as error:  # noqa: BLE001 - whatever a user's function raises is bad input, and is told
        _fail(where, f"failed with {_told(error)}", "mend it", error)
    if not isinstance(model, nn.Module):
        _fail(where, f"returned a {type(model).__name__}", "return a torch.nn.Module")
    inputs = {name: torch.from_numpy(np.ascontiguousarray(array[:64])) for name, array in sample.items()}
    # The trial draws of the generator (dropout) must not decide the training's first batch.
    with torch.random.fork_rng(devices=[]):
        trial = _Trial(model, inputs, where, private)
        trial.train(shape)
        trial.answer()
    return model


@dataclass(frozen=True)
class _Trial:
    """A model and a few rows to try it on."""

    model: nn.Module
    inputs: Mapping[str, torch.Tensor]
    where: str
    private: bool

    def train(self, shape: Shape) -> None:
        """One step's forward and backward pass, without the step."""
        trained = {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        if not trained:
            _fail(self.where, "returned a module without a parameter to train", "give it layers, and leave requires_grad on")
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        logits = self._logits(self.model.train())
        self._check_logits(logits, shape)
        if changed := [name for name, buffer in self.model.named_buffers() if not torch.equal(buffers[name], buffer)]:
            _fail(
                self.where,
                f"changes its buffer {changed[0]!r} as it trains, as batch norm does, and such figures follow from how a batch was shared out",
                "use LayerNorm, whose answer to a row depends on the row alone",
            )
        logits.float().square().sum().backward()
        if idle := [name for name, parameter in trained.items() if parameter.grad is None]:
            _fail(
                self.where,
                f"has parameters that take no part in the answer ({', '.join(idle[:5])}), for whose gradient ranks would wait in vain",
                "use them, or switch their requires_grad off",
            )
        if wild := [name for name, parameter in trained.items() if not bool(torch.isfinite(parameter.grad).all())]:
            _fail(self.where, f"has gradients that are not finite ({', '.join(wild[:5])})", "look for a root or a logarithm at 0")
        self.model.zero_grad(set_to_none=True)

    def _check_logits(self, logits: Any, shape: Shape) -> None:
        n = len(next(iter(self.inputs.values())))
        if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != (n, shape.n_outputs) or not logits.is_floating_point():
            found = f"{list(logits.shape)} of {logits.dtype}" if isinstance(logits, torch.Tensor) else f"a {type(logits).__name__}"
            _fail(
                self.where,
                f"answers {n} rows with {found}",
                f"return float logits [n, {shape.n_outputs}], one for each class, before any softmax, or the value of a regression [n, 1]",
            )
        if not bool(torch.isfinite(logits).all()):
            remedy = "initialise it smaller, or look for a division by 0"
            _fail(self.where, "gives logits that are not finite with the weights it starts with", remedy)
        if not logits.requires_grad:
            remedy = "compute them with the parameters, and without torch.no_grad"
            _fail(self.where, "gives logits that no parameter had a part in", remedy)

    @torch.no_grad()
    def answer(self) -> None:
        """A served row comes alone."""
        among, alone = (self._logits(self.model.eval(), n)[0] for n in (None, 1))
        difference = float(((among - alone).abs() / among.abs().clamp(min=1.0)).max())
        if not difference <= _TOLERANCE:
            _fail(
                self.where,
                f"answers a row that comes alone otherwise than among others (by {difference:.1e})",
                "normalise within a row, never over the batch, and draw nothing at random in eval()",
            )
        self.model.train()

    def _logits(self, model: nn.Module, n: int | None = None) -> Any:
        inputs = {name: tensor[:n] for name, tensor in self.inputs.items()}
        try:
            return model(**inputs)
        except Exception as error:  # noqa: BLE001 - as above
            takes = ", ".join(f"{name} {list(tensor.shape)} {tensor.dtype}" for name, tensor in inputs.items()).replace("torch.", "")
            remedy = "give forward a parameter for each, by these names"
            told = _told(error, private=self.private)
            _fail(self.where, f"failed with {told} as it was given {takes}", remedy, None if self.private else error)


def _told(error: Exception, *, private: bool = False) -> str:
    """What went wrong, and in which line of whose file."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    message = "its message may quote values of columns with `privacy`" if private else str(error)
    return f"{type(error).__name__}: {message} ({place.filename}:{place.lineno})"


def _fail(where: str, what: str, remedy: str, error: Exception | None = None) -> NoReturn:
    raise ConfigError(f"{where}: model(shape, settings) {what}; {remedy}") from error
