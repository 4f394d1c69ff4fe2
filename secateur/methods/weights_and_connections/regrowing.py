"""Masks that change while the network trains: weights come back where they grow beneath their masks.

Source: Guo, Yao and Chen 2016, "Dynamic Network Surgery for Efficient DNNs", arXiv:1608.04493.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from pydantic import ConfigDict
from torch import Tensor, nn

from secateur.errors import UsageError
from secateur.randomness import generator_for
from secateur.sparse import Masks
from secateur.sparse.zeroing import bits_like, zero_where_dead_
from secateur.training import TrainSettings

Decide = Callable[[nn.Module, Masks, float, float], Masks]
"""(model with its dense weights, masks so far, share of the way to the target, half of the dead zone) → new masks."""


@dataclass(frozen=True, kw_only=True)
class Regrow:
    """How weights go and come back in training, before the masks are final."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    epochs: int = 20  # passes over the training data with masks that change
    every: int = 16  # steps between two looks at the masks
    ramp: float = 0.5  # share of these epochs in which the target is approached; 0: it holds from the first look
    band: float = 0.1  # half of the dead zone between going and coming back, in shares of the threshold
    decay: float = 0.0  # γ: a look at step t is taken with probability (1 + γ·t)^(-1); 0: every one
    l1: float = 0.0  # λ of the L1 penalty on the weights beneath, loss per unit of |w|
    training: TrainSettings | None = None  # None: as in the dense training

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        for name, least in (("epochs", 1), ("every", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"regrow.{name} is {getattr(self, name)}, but must be at least {least}")
        for name in ("ramp", "band"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"regrow.{name} is {getattr(self, name)}, but must be at least 0 and below 1")
        for name in ("decay", "l1"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UsageError(f"regrow.{name} is {getattr(self, name)}, but must be a finite number of at least 0")

    def way(self, epoch: int) -> float:
        """Return the share of the way to the target in ``epoch`` (from 0), fast at first (Zhu & Gupta 2017, Eq. 1).

        Source of the curve: arXiv:1710.01878; Dynamic Network Surgery itself has its thresholds from the beginning.
        """
        rising = self.ramp * self.epochs
        return 1.0 if rising == 0 else 1 - (1 - min(1.0, (epoch + 1) / rising)) ** 3


class Surgery:
    """A training hook: the network runs with masked weights, and the gradients train the dense ones beneath.

    What the backward pass gives a removed weight is the gradient of the loss with respect to the masked weight
    (arXiv:1608.04493, Eq. 3): right before the optimiser's step the dense weights take its place, and after the step
    the masks are applied again. Momentum and weight decay act on the dense weights.

    At the end of the last epoch the masks are made once more, without a dead zone, and are final.
    """

    def __init__(self, masks: Masks, decide: Decide, settings: Regrow, *, seed: int) -> None:
        """Begin with ``masks``, under which usually everything stays."""
        self.masks = masks
        self._decide = decide
        self._settings = settings
        self._seed = seed
        self._steps = 0
        self._epoch = 0
        self._dense: dict[str, Tensor] = {}
        self._live: dict[str, nn.Parameter] = {}
        self._bits: dict[str, Tensor] = {}

    def begin(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Look up the weights; those beneath begin as they are, or as the checkpoint has them."""
        del optimizer
        parameters = self.masks.parameters_of(model)
        self._live = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
        if set(self._live) != set(parameters):
            frozen = sorted(set(parameters) - set(self._live))
            raise UsageError(f"{frozen[0]} is frozen, but masks can only change where weights are trained")
        if not self._dense:
            self._dense = {name: parameter.detach().clone() for name, parameter in self._live.items()}
        self._dense = {name: self._dense[name].to(parameter) for name, parameter in self._live.items()}
        self._mask(self.masks)

    def after_backward(self, model: nn.Module) -> None:
        """Put the dense weights where the optimiser's step will move them."""
        del model
        self._uncover()

    def after_step(self, model: nn.Module) -> None:
        """Keep the dense weights, look at the masks if it is time, and apply them."""
        for name, parameter in self._live.items():
            self._dense[name].copy_(parameter.detach())
        self._steps += 1
        if self._steps % self._settings.every == 0 and self._looks():
            way = self._settings.way(self._epoch)
            self._mask(self._decide(model, self.masks, way, self._settings.band))
        else:
            self._cover()

    def after_epoch(self, model: nn.Module, epoch: int) -> None:
        """Make the masks final after the last epoch."""
        self._epoch = epoch + 1
        if self._epoch == self._settings.epochs:
            self._uncover()
            self._mask(self._decide(model, self.masks, 1.0, 0.0))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the dense weights, the masks and the clock."""
        state = {f"dense.{name}": value for name, value in self._dense.items()}
        state |= {f"mask.{name}": value for name, value in as_bits(self.masks).items()}
        return {**state, "clock": torch.tensor([self._steps, self._epoch])}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what :meth:`state_dict` returned."""
        self._steps, self._epoch = (int(value) for value in state["clock"].tolist())
        begun = "dense."
        self._dense = {name.removeprefix(begun): value for name, value in state.items() if name.startswith(begun)}
        self.masks = from_bits({name: state[f"mask.{name}"].cpu() for name in self.masks}, self.masks.shapes)

    def _looks(self) -> bool:
        """Whether a look is taken at this step (arXiv:1608.04493, §3.3: seldom, once most is settled)."""
        if not self._settings.decay:
            return True
        draw = float(torch.rand((), generator=generator_for(self._seed, "surgery", self._steps)))
        return draw < 1 / (1 + self._settings.decay * self._steps)

    def _uncover(self) -> None:
        with torch.no_grad():
            for name, parameter in self._live.items():
                parameter.copy_(self._dense[name])

    def _mask(self, masks: Masks) -> None:
        self.masks = masks
        self._bits = {name: bits_like(parameter, masks[name]) for name, parameter in self._live.items()}
        self._cover()

    def _cover(self) -> None:
        for name, parameter in self._live.items():
            zero_where_dead_(parameter, self._bits[name])


def as_bits(masks: Masks) -> dict[str, Tensor]:
    """Return masks as bytes of eight weights each, for a file."""
    return {name: torch.from_numpy(np.packbits(masks[name].reshape(-1).numpy())) for name in masks}


def from_bits(bits: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> Masks:
    """Return what :func:`as_bits` wrote, for weights of these shapes."""
    return Masks.packed(shapes, {name: bits[name].numpy() for name in shapes})
